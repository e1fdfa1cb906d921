//! From the decision of Redis to the answer, by an append.
use super::state::{Hold, Place, Recovery, State, batch_at};
use super::variant::{Append, Variant};

/// Redis decides the hold, and adds its batch to the stream.
pub fn decide(variant: &Variant, mut state: State, hold: usize) -> Option<State> {
    let gateway = state.gateways[State::owner(hold)];
    if state.holds[hold] != Hold::Waiting || !state.redis.accepts(gateway.epoch) {
        return None;
    }
    let data = &mut state.redis.data;
    let newest = Place { epoch: data.epoch, seq: data.seq };
    let place = Place { seq: data.seq + 1, ..newest };
    state.before[hold] = if newest.seq == 0 { 0 } else { batch_at(&data.stream, newest) };
    data.seq = place.seq;
    data.stream[hold] = place;
    state.holds[hold] = Hold::Decided(place);
    if place.seq <= gateway.heard {
        if variant.heeds_watermark {
            state.holds[hold] = Hold::Failed;
            state.give_up(place.epoch);
        } else {
            // The gateway takes the batch for durable.
            state.holds[hold] = Hold::Answered(place);
        }
    }
    Some(state)
}

/// The reply of Redis gets lost.
pub fn lose_reply(mut state: State, hold: usize) -> Option<State> {
    let Hold::Decided(_) = state.holds[hold] else { return None };
    state.faults.losses = state.faults.losses.checked_sub(1)?;
    state.holds[hold] = Hold::Unsure;
    Some(state)
}

/// The transaction of the append begins: it takes the lock, and looks whether its epoch is open.
pub fn begin(variant: &Variant, mut state: State, hold: usize) -> Option<State> {
    let Hold::Decided(place) = state.holds[hold] else { return None };
    if variant.append == Append::Never {
        return None;
    }
    // It tries to take the lock and does not wait for it.
    let is_refused = variant.append == Append::LockThenLook && has_lock(&state);
    let was_open = state.postgres.is_open(place.epoch);
    state.holds[hold] = if is_refused { Hold::Failed } else { Hold::Appending { place, was_open } };
    Some(state)
}

/// The transaction commits. The gateway hears of it, or the answer gets lost.
pub fn commit(variant: &Variant, mut state: State, hold: usize, is_heard: bool) -> Option<State> {
    let Hold::Appending { place, was_open } = state.holds[hold] else { return None };
    if !is_heard {
        state.faults.losses = state.faults.losses.checked_sub(1)?;
    }
    let is_open = match variant.append {
        Append::LockThenLook | Append::NoLock | Append::Never => was_open,
        // The lock is taken only now, long after the snapshot.
        Append::OneStatement => was_open && !has_lock(&state),
    };
    let (answered, not_answered) = (Hold::Answered(place), Hold::Failed);
    let is_folded = state.postgres.epoch == place.epoch && place.seq <= state.postgres.checkpoint;
    let other = batch_at(&state.postgres.appends, place);
    state.holds[hold] = if !is_open {
        not_answered
    } else if is_folded {
        answered
    } else if other == 0 {
        state.postgres.appends[hold] = place;
        answered
    } else if variant.compares_appends {
        state.give_up(place.epoch);
        not_answered
    } else {
        answered
    };
    if !is_heard && state.holds[hold] == answered {
        state.holds[hold] = Hold::Unsure;
    }
    Some(state)
}

/// The caller asks again, and Redis says that it had decided the hold before.
pub fn repeat(variant: &Variant, mut state: State, hold: usize) -> Option<State> {
    let gateway = state.gateways[State::owner(hold)];
    let data = state.redis.data;
    let is_known = data.stream[hold].epoch == data.epoch;
    if state.holds[hold] != Hold::Unsure || !state.redis.accepts(gateway.epoch) || !is_known {
        return None;
    }
    let newest = Place { epoch: data.epoch, seq: data.seq };
    state.holds[hold] = match variant.awaits_repeated {
        true => Hold::Repeated(newest),
        false => Hold::Answered(data.stream[hold]),
    };
    Some(state)
}

/// Postgres has folded everything up to the batch that was the newest at the repetition.
pub fn await_folded(mut state: State, hold: usize) -> Option<State> {
    let Hold::Repeated(newest) = state.holds[hold] else { return None };
    let postgres = &state.postgres;
    if postgres.epoch != newest.epoch {
        state.holds[hold] = Hold::Failed;
        return Some(state);
    }
    if postgres.checkpoint < newest.seq {
        return None;
    }
    state.holds[hold] = Hold::Answered(newest);
    Some(state)
}

/// Whether a recovery has the lock of the appends.
fn has_lock(state: &State) -> bool {
    matches!(state.recovery, Some(Recovery::Locked(_) | Recovery::Opened { .. }))
}
