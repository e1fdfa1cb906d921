//! Properties that must always hold, and situations that a run must have seen for that to mean anything.
use stateright::Property;

use super::model::Grants;
use super::state::{Errand, GATEWAYS, GRANTS, State, Warming};

/// Invariant 7.
pub const AGREEMENT: &str = "at rest, Redis has the balance that Postgres has decided";
/// Invariant 3.
pub const ONCE: &str = "no grant is twice in a balance";

pub const ALWAYS: [&str; 2] = [AGREEMENT, ONCE];

pub const REPLACED: &str = "an account is brought anew, and has the right balance";
pub const NUMBER_AGAIN: &str = "a number is given again to another grant";
pub const SAME_AGAIN: &str = "a grant that got lost is made again, and Redis had it";
pub const LOST: &str = "Redis has a grant that Postgres has lost";

pub fn all() -> Vec<Property<Grants>> {
    vec![
        Property::always(AGREEMENT, |model: &Grants, state: &State| {
            !is_at_rest(model, state) || agrees(state)
        }),
        Property::always(ONCE, |_, state: &State| {
            state.hot.is_none_or(|hot| hot.balance.0.iter().all(|times| *times <= 1))
        }),
        Property::sometimes(REPLACED, |model: &Grants, state: &State| {
            state.is_replaced && state.hot.is_some() && is_at_rest(model, state) && agrees(state)
        }),
        Property::sometimes(NUMBER_AGAIN, |_, state: &State| {
            let decided = state.postgres.decided;
            state.hot.is_some_and(|hot| hot.number == decided.number() && hot.digest != decided)
        }),
        Property::sometimes(SAME_AGAIN, |_, state: &State| {
            let number = state.postgres.decided.number();
            let is_queued = number > 0 && state.postgres.queued[usize::from(number) - 1];
            let has_it = state.hot.is_some_and(|hot| hot.digest == state.postgres.decided);
            state.failovers_left == 0
                && is_queued
                && has_it
                && state.errands == [Errand::None; GATEWAYS]
        }),
        Property::sometimes(LOST, |_, state: &State| {
            let decided = state.postgres.decided.balance();
            state
                .hot
                .is_some_and(|hot| (0..GRANTS).any(|grant| hot.balance.0[grant] > decided.0[grant]))
        }),
    ]
}

/// Nothing is queued or on its way, and a failover that happened was noticed. One that shows in no sign is found by
/// the next grant.
fn is_at_rest(model: &Grants, state: &State) -> bool {
    let is_noticed =
        !state.is_another || (!model.variant.notices_failover && state.is_granted_since);
    is_noticed
        && state.warming == Warming::No
        && state.errands == [Errand::None; GATEWAYS]
        && !state.postgres.queued.contains(&true)
}

fn agrees(state: &State) -> bool {
    state.hot.is_none_or(|hot| hot.balance == state.postgres.decided.balance())
}
