//! Failovers of Postgres, and what the gateways notice.
use super::state::{Errand, State, Warming};
use super::variant::Variant;

/// The standby has caught up.
pub fn copy(mut state: State) -> Option<State> {
    if state.failovers_left == 0 || state.standby == state.postgres {
        return None;
    }
    state.standby = state.postgres;
    Some(state)
}

/// The standby is the primary now.
pub fn fail_over(variant: &Variant, mut state: State) -> Option<State> {
    state.failovers_left = state.failovers_left.checked_sub(1)?;
    state.postgres = state.standby;
    if !variant.stands_still {
        state.errands = Default::default();
    }
    (state.is_another, state.is_granted_since) = (true, false);
    Some(state)
}

/// The next epoch begins with an empty Redis. Its scripts refuse what is on its way from the epoch before; what goes to
/// Postgres arrives.
pub fn notice(variant: &Variant, mut state: State) -> Option<State> {
    if !variant.notices_failover || !state.is_another {
        return None;
    }
    state.is_another = false;
    (state.hot, state.has_nonce, state.warming) = (None, false, Warming::No);
    for errand in &mut state.errands {
        if !matches!(errand, Errand::Applied(_)) {
            *errand = Errand::None;
        }
    }
    Some(state)
}
