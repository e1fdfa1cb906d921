//! From one epoch to the next, statement by statement.
use super::state::{Gateway, Hold, Place, Places, Recovery, State, batch_at};
use super::variant::{Append, Variant};

/// A gateway finds that Redis does not have the epoch's data.
pub fn give_up(mut state: State, gateway: usize) -> Option<State> {
    let epoch = state.gateways[gateway].epoch;
    if state.redis.accepts(epoch) || !state.postgres.is_open(epoch) || state.recovery.is_some() {
        return None;
    }
    state.give_up(epoch);
    Some(state)
}

/// A gateway finds that it talks to another Postgres than the one on which the epoch began, or that this Postgres lacks
/// batches that it had.
pub fn notice_failover(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let (postgres, one) = (&state.postgres, state.gateways[gateway]);
    let is_another = postgres.server != postgres.epoch_server || one.heard > postgres.checkpoint;
    let may = variant.notices_failover && is_another && postgres.is_open(one.epoch);
    if !may || state.recovery.is_some() {
        return None;
    }
    state.give_up(one.epoch);
    Some(state)
}

/// A gateway serves the epoch that Postgres has open.
pub fn follow(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let postgres = state.postgres;
    let one = &mut state.gateways[gateway];
    if postgres.is_recovering || one.epoch == postgres.epoch {
        return None;
    }
    let heard = if variant.joins_with_watermark { postgres.checkpoint } else { 0 };
    *one = Gateway { epoch: postgres.epoch, heard, read: one.read };
    Some(state)
}

/// A recovery locks the shard's row, and waits for the lock of the appends.
pub fn begin(variant: &Variant, mut state: State) -> Option<State> {
    if !state.postgres.is_recovering || state.recovery.is_some() {
        return None;
    }
    let appends = state.postgres.appends;
    state.recovery = Some(Recovery::Waits(appends));
    if variant.reads_after_lock { lock(variant, state) } else { Some(state) }
}

/// It has the lock: no append is under way that has it too.
pub fn lock(variant: &Variant, mut state: State) -> Option<State> {
    let Some(Recovery::Waits(seen)) = state.recovery else { return None };
    let is_shared = variant.append == Append::LockThenLook
        && state.holds.iter().any(|hold| matches!(hold, Hold::Appending { .. }));
    if is_shared {
        return None;
    }
    state.recovery = Some(Recovery::Locked((!variant.reads_after_lock).then_some(seen)));
    Some(state)
}

/// It reads the appends and the stream, and begins the next epoch in Redis.
pub fn open(variant: &Variant, mut state: State) -> Option<State> {
    let Some(Recovery::Locked(seen)) = state.recovery else { return None };
    let replayed = replayed(variant, &state, seen.unwrap_or(state.postgres.appends));
    let data = &mut state.redis.data;
    let newest = if variant.counts_from_redis { data.epoch } else { 0 };
    let number = state.postgres.epoch.max(newest) + 1;
    state.is_reused |= data.epoch >= number;
    // The ids of a stream only grow.
    if data.stream.iter().any(|place| place.epoch >= number) {
        data.stream = Places::default();
    }
    (data.epoch, data.seq) = (number, 0);
    state.redis.script = number;
    state.recovery = Some(Recovery::Opened { number, replayed });
    Some(state)
}

/// The batches that Postgres does not have and that are left somewhere. Where two have one place, the appended one
/// counts, since it may have been answered.
fn replayed(variant: &Variant, state: &State, appends: Places) -> Places {
    let (postgres, stream) = (&state.postgres, &state.redis.data.stream);
    let checkpoint = Place { epoch: postgres.epoch, seq: postgres.checkpoint };
    let own = if checkpoint.seq == 0 { 0 } else { batch_at(stream, checkpoint) };
    let is_fork = own != 0 && own != postgres.digest;
    let mut replayed = Places::default();
    for (index, place) in replayed.iter_mut().enumerate() {
        let (appended, streamed) = (appends[index], stream[index]);
        let is_known = streamed.epoch == postgres.epoch || variant.replays_later_epochs;
        if appended.epoch == postgres.epoch && postgres.is_to_come(appended) {
            *place = appended;
        } else if !is_fork
            && is_known
            && postgres.is_to_come(streamed)
            && batch_at(&appends, streamed) == 0
        {
            *place = streamed;
        }
    }
    replayed
}

/// Postgres commits the next epoch, with the batches that were replayed.
pub fn commit(variant: &Variant, mut state: State) -> Option<State> {
    let Some(Recovery::Opened { number, replayed }) = state.recovery else { return None };
    state.recovery = None;
    let postgres = &mut state.postgres;
    for (folded, place) in postgres.folded.iter_mut().zip(replayed) {
        // By its ids each operation counts once.
        if *folded == Place::default() {
            *folded = place;
        }
    }
    (postgres.epoch, postgres.is_recovering) = (number, false);
    (postgres.checkpoint, postgres.digest) = (0, 0);
    postgres.appends = Places::default();
    postgres.epoch_server = postgres.server;
    if !variant.keeps_stream {
        super::sync::trim(&mut state);
    }
    Some(state)
}

/// The transaction is lost, and what it did in Redis stays.
pub fn abort(mut state: State) -> Option<State> {
    let Some(Recovery::Opened { .. }) = state.recovery else { return None };
    state.faults.aborts = state.faults.aborts.checked_sub(1)?;
    state.recovery = None;
    Some(state)
}
