//! Grants, their deliveries, and the ways in which the account comes into Redis and leaves it.
use super::state::{Errand, Hot, State, Warming};
use super::variant::Variant;

/// Postgres decides a grant, and queues its delivery in the same transaction. A grant that it has is a repetition, and
/// changes nothing.
pub fn grant(mut state: State, grant: u8) -> Option<State> {
    let postgres = &mut state.postgres;
    if postgres.decided.has(grant) {
        return None;
    }
    state.grants_left = state.grants_left.checked_sub(1)?;
    postgres.queued[usize::from(postgres.decided.number())] = true;
    postgres.decided.push(grant);
    state.is_granted_since = true;
    Some(state)
}

/// A gateway reads a delivery that is queued. Several may be under way at once, so the order is not certain.
pub fn read(mut state: State, gateway: usize, number: u8) -> Option<State> {
    let postgres = &state.postgres;
    let is_queued = postgres.queued[usize::from(number) - 1];
    if state.errands[gateway] != Errand::None || !is_queued {
        return None;
    }
    state.errands[gateway] = Errand::Read(postgres.decided.up_to(number));
    Some(state)
}

/// The command `deliver` of the script.
pub fn apply(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let Errand::Read(digest) = state.errands[gateway] else { return None };
    let number = digest.number();
    let Some(hot) = &mut state.hot else {
        state.has_nonce &= !variant.ends_warming;
        state.errands[gateway] = Errand::Applied(digest);
        return Some(state);
    };
    state.errands[gateway] = if number < hot.number {
        Errand::IsEarlier(digest, hot.number)
    } else if number == hot.number {
        let is_same = hot.digest == digest || !variant.compares_digest;
        if is_same { Errand::Applied(digest) } else { Errand::Differs }
    } else if number > hot.number + 1 {
        Errand::None
    } else if variant.compares_before && hot.digest != digest.up_to(hot.number) {
        Errand::Differs
    } else {
        (hot.number, hot.digest) = (number, digest);
        hot.balance.add(digest.newest());
        Errand::Applied(digest)
    };
    Some(state)
}

/// A gateway compares the number that Redis had with the newest one of Postgres.
pub fn look_behind(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let Errand::IsEarlier(digest, number) = state.errands[gateway] else { return None };
    let is_behind = number > state.postgres.decided.number();
    state.errands[gateway] = match variant.looks_behind && is_behind {
        true => Errand::Differs,
        false => Errand::Applied(digest),
    };
    Some(state)
}

/// A gateway deletes a delivery that Redis has, by its number, in the Postgres that it reaches now.
pub fn delete(mut state: State, gateway: usize) -> Option<State> {
    let Errand::Applied(digest) = state.errands[gateway] else { return None };
    state.errands[gateway] = Errand::None;
    state.postgres.queued[usize::from(digest.number()) - 1] = false;
    Some(state)
}

/// If Redis has a decision that Postgres does not have, a gateway drops the account there.
pub fn bring_anew(mut state: State, gateway: usize) -> Option<State> {
    let Errand::Differs = state.errands[gateway] else { return None };
    state.errands[gateway] = Errand::None;
    if state.hot.is_some_and(|hot| is_missing(&state, hot)) {
        (state.hot, state.has_nonce, state.is_replaced) = (None, false, true);
    }
    Some(state)
}

/// Whether Redis has applied a decision that Postgres does not have, as far as its digests tell.
fn is_missing(state: &State, hot: Hot) -> bool {
    let decided = state.postgres.decided;
    if hot.number > decided.number() {
        return true;
    }
    // Where Redis is behind, only a delivery that is still queued has the digest of the decisions before it.
    let is_told = hot.number == decided.number() || state.postgres.queued[usize::from(hot.number)];
    is_told && decided.up_to(hot.number) != hot.digest
}

/// A gateway that needs the account leaves a nonce.
pub fn announce(mut state: State) -> Option<State> {
    if state.hot.is_some() || state.warming != Warming::No {
        return None;
    }
    (state.has_nonce, state.warming) = (true, Warming::Announced);
    Some(state)
}

/// The gateway reads Postgres.
pub fn read_account(mut state: State) -> Option<State> {
    let Warming::Announced = state.warming else { return None };
    state.warming = Warming::Read(state.postgres.decided);
    Some(state)
}

/// The gateway stores what it has read, if the nonce still stands.
pub fn warm(mut state: State) -> Option<State> {
    let Warming::Read(decided) = state.warming else { return None };
    state.warming = Warming::No;
    if state.has_nonce && state.hot.is_none() {
        state.hot = Some(Hot::of(decided));
    }
    state.has_nonce = false;
    Some(state)
}

/// The account was idle for a day.
pub fn retire(mut state: State) -> Option<State> {
    state.hot.take()?;
    state.has_nonce = false;
    Some(state)
}
