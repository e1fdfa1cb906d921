//! From the stream into Postgres's tables. Any gateway may do this at any time: the place of an elected syncer may have
//! expired while it still writes.
use super::state::{HOLDS, Place, Read, State, batch_at};
use super::variant::Variant;

/// A gateway learns how far Postgres has come.
pub fn hear(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let postgres = &state.postgres;
    let one = &mut state.gateways[gateway];
    // Elsewhere nothing depends on it.
    let matters = variant.faults.rewinds + variant.faults.young_rewinds > 0;
    if !matters || one.epoch != postgres.epoch || one.heard >= postgres.checkpoint {
        return None;
    }
    one.heard = postgres.checkpoint;
    Some(state)
}

/// A gateway hears that Redis has fewer batches than Postgres.
pub fn notice_rewind(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let one = state.gateways[gateway];
    let is_rewound = state.redis.accepts(one.epoch) && state.redis.data.seq < one.heard;
    if !variant.heeds_watermark || !is_rewound || !state.postgres.is_open(one.epoch) {
        return None;
    }
    state.give_up(one.epoch);
    Some(state)
}

/// A syncer reads the checkpoint, and the stream from there on.
pub fn read(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let epoch = state.gateways[gateway].epoch;
    let (postgres, stream) = (state.postgres, state.redis.data.stream);
    if gateway >= variant.syncers || !postgres.is_open(epoch) {
        return None;
    }
    let at = |seq: u8| batch_at(&stream, Place { epoch, seq });
    let before = if postgres.checkpoint == 0 { 0 } else { at(postgres.checkpoint) };
    let after = postgres.checkpoint;
    let mut batches = [0; HOLDS];
    for (batch, seq) in batches.iter_mut().zip(after + 1..) {
        *batch = at(seq);
        if *batch == 0 {
            break;
        }
    }
    let is_fork = before != 0 && before != postgres.digest;
    let has_gap =
        batches[0] == 0 && stream.iter().any(|place| place.epoch == epoch && place.seq > after);
    if (is_fork && variant.compares_stream) || has_gap {
        state.give_up(epoch);
        return Some(state);
    }
    let read = Some(Read { epoch, after, batches });
    if batches[0] == 0 || state.gateways[gateway].read == read {
        return None;
    }
    state.gateways[gateway].read = read;
    Some(state)
}

/// Its transaction locks the shard's row, and writes what continues the checkpoint.
pub fn write(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    if state.recovery.is_some() {
        return None;
    }
    let read = state.gateways[gateway].read.take()?;
    let postgres = &state.postgres;
    if postgres.epoch != read.epoch {
        return Some(state);
    }
    let numbered = (read.after + 1..).zip(read.batches).filter(|(_, batch)| *batch != 0);
    let checkpoint = if variant.continues_checkpoint { postgres.checkpoint } else { read.after };
    // The batch that this syncer has read under the number of the checkpoint.
    let own = numbered.clone().find(|(seq, _)| *seq == checkpoint);
    let differs = own.is_some_and(|(_, batch)| batch != postgres.digest);
    if variant.compares_read && variant.continues_checkpoint && differs {
        return Some(state);
    }
    let new: Vec<_> = numbered.filter(|(seq, _)| *seq > checkpoint).collect();
    let continues = new.iter().zip(checkpoint + 1..).all(|((seq, _), next)| *seq == next);
    if !continues {
        return Some(state);
    }
    for (seq, batch) in new {
        let index = usize::from(batch) - 1;
        state.is_doubled |= state.postgres.folded[index] != Place::default();
        state.postgres.folded[index] = Place { epoch: read.epoch, seq };
        (state.postgres.checkpoint, state.postgres.digest) = (seq, batch);
    }
    if !variant.keeps_stream {
        trim(&mut state);
    }
    Some(state)
}

/// Removes from the stream what Postgres has.
pub fn trim(state: &mut State) {
    let postgres = state.postgres;
    for place in &mut state.redis.data.stream {
        if !postgres.is_to_come(*place) {
            *place = Place::default();
        }
    }
}
