//! Faults of the two stores and of gateways.
use super::state::{Gateway, Hold, Postgres, State};

/// The replica of Redis has caught up, or somebody makes a copy of the data.
pub fn copy_redis(mut state: State) -> Option<State> {
    let left = state.faults;
    let matters = left.redis_failovers + left.rewinds + left.young_rewinds > 0;
    if !matters || state.redis.older == state.redis.data {
        return None;
    }
    state.redis.older = state.redis.data;
    Some(state)
}

/// The replica is the master now. It does not have the scripts.
pub fn fail_redis_over(mut state: State) -> Option<State> {
    state.faults.redis_failovers = state.faults.redis_failovers.checked_sub(1)?;
    state.redis.data = state.redis.older;
    state.redis.script = 0;
    Some(state)
}

/// The older data take the place of the data, in the same process and in the same epoch.
pub fn rewind(mut state: State, is_young: bool) -> Option<State> {
    let left = if is_young { &mut state.faults.young_rewinds } else { &mut state.faults.rewinds };
    *left = left.checked_sub(1)?;
    let (data, older) = (state.redis.data, state.redis.older);
    let goes_back = state.redis.accepts(older.epoch) && older.seq < data.seq;
    let mut serving = state.gateways.iter().filter(|one| one.epoch == data.epoch);
    let is_known = serving.all(|one| one.heard > older.seq);
    if !goes_back || !(is_young || is_known) {
        return None;
    }
    state.redis.data = older;
    Some(state)
}

/// The standby has caught up.
pub fn copy_postgres(mut state: State) -> Option<State> {
    if state.faults.postgres_failovers == 0 || state.standby == state.postgres {
        return None;
    }
    state.standby = state.postgres;
    Some(state)
}

/// The standby is the primary now, and every transaction is lost.
pub fn fail_postgres_over(mut state: State) -> Option<State> {
    state.faults.postgres_failovers = state.faults.postgres_failovers.checked_sub(1)?;
    state.postgres = Postgres { server: state.postgres.server + 1, ..state.standby };
    state.recovery = None;
    for hold in &mut state.holds {
        if let Hold::Appending { .. } = hold {
            *hold = Hold::Unsure;
        }
    }
    Some(state)
}

/// Somebody asks for a recovery, or a gateway of another layout takes over.
pub fn ask_for_recovery(mut state: State) -> Option<State> {
    if state.postgres.is_recovering {
        return None;
    }
    state.faults.recoveries = state.faults.recoveries.checked_sub(1)?;
    state.postgres.is_recovering = true;
    Some(state)
}

/// A gateway is killed, and starts again. A transaction of its that Postgres has may still commit; that it does not is
/// the worse case.
pub fn restart(mut state: State, gateway: usize) -> Option<State> {
    state.faults.restarts = state.faults.restarts.checked_sub(1)?;
    state.gateways[gateway] = Gateway::default();
    for (number, hold) in state.holds.iter_mut().enumerate() {
        let is_over = matches!(hold, Hold::Answered(_) | Hold::Waiting);
        if State::owner(number) == gateway && !is_over {
            *hold = Hold::Failed;
        }
    }
    Some(state)
}
