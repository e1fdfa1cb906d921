//! Work behind the calls: hydration, retirement, sync, grants.
use crate::state::{Batch, Hydrating, Record, State};
use crate::variant::{Hydration, Retirement, Variant};

pub fn take_nonce(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let one = state.gateways[gateway];
    let node = state.node_of(gateway);
    let may = variant.hydration == Hydration::Nonce
        && variant.bounds.small_steps
        && one.can_write_postgres()
        && node.accepts(one.epoch, variant.fence);
    if !may || node.data.is_hot {
        return None;
    }
    node.data.nonce = Some(gateway);
    state.gateways[gateway].hydrating = Hydrating::HasNonce;
    Some(state)
}

pub fn read_postgres(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let one = state.gateways[gateway];
    let may = match variant.hydration {
        Hydration::Nonce => one.hydrating == Hydrating::HasNonce,
        Hydration::SetIfAbsent => !state.node_of(gateway).data.is_hot,
    };
    if !may || !variant.bounds.small_steps || !one.can_write_postgres() {
        return None;
    }
    let postgres = &state.postgres;
    let read = Hydrating::HasRead { records: postgres.records, granted: postgres.granted };
    state.gateways[gateway].hydrating = read;
    Some(state)
}

pub fn hydrate(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let one = state.gateways[gateway];
    let postgres = state.postgres;
    let node = state.node_of(gateway);
    let data = &mut node.data;
    let (records, granted) = match one.hydrating {
        Hydrating::HasRead { records, granted } => (records, granted),
        _ if !variant.bounds.small_steps && one.can_write_postgres() => {
            data.nonce = Some(gateway);
            (postgres.records, postgres.granted)
        }
        _ => return None,
    };
    let stands = match variant.hydration {
        Hydration::Nonce => data.nonce == Some(gateway) && data.is_synced(),
        Hydration::SetIfAbsent => true,
    };
    if data.is_hot || !one.is_running() || !node.accepts(one.epoch, variant.fence) {
        return None;
    }
    state.gateways[gateway].hydrating = Hydrating::No;
    if stands {
        let data = &mut state.node_of(gateway).data;
        (data.is_hot, data.records, data.granted, data.nonce) = (true, records, granted, None);
    }
    Some(state)
}

pub fn retire(variant: &Variant, mut state: State) -> Option<State> {
    let master = &mut state.nodes[state.master];
    let may = match variant.retirement {
        Retirement::TimeToLive => true,
        Retirement::WhenDurable => {
            master.data.is_synced() && !master.data.records.iter().any(|record| record.is_live())
        }
    };
    if !may || !master.data.is_hot || !master.accepts(state.postgres.epoch, variant.fence) {
        return None;
    }
    master.data.forget_account();
    Some(state)
}

/// A syncer reads the outbox after its checkpoint, which is in its own epoch. A second syncer that reads takes the
/// place of the first: the checkpoint then refuses the first one's commits.
pub fn read_outbox(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let one = state.gateways[gateway];
    let data = state.node_of(gateway).data;
    if data.is_synced() || data.epoch != one.epoch || !one.can_write_postgres() {
        return None;
    }
    state.syncing = Some(Batch { records: data.outbox, node: one.node, epoch: one.epoch });
    if variant.bounds.small_steps { Some(state) } else { commit_batch(state) }
}

/// The transaction fails in another epoch. Redis trims what is durable.
pub fn commit_batch(mut state: State) -> Option<State> {
    let batch = state.syncing.take()?;
    if batch.epoch != state.postgres.epoch || state.postgres.is_recovering {
        return Some(state);
    }
    state.postgres.merge(&batch.records);
    state.forget_folded();
    let outbox = &mut state.nodes[batch.node].data.outbox;
    for (left, done) in outbox.iter_mut().zip(batch.records) {
        if *left == done {
            *left = Record::Unknown;
        }
    }
    state.trim_rings();
    Some(state)
}

pub fn grant(variant: &Variant, mut state: State) -> Option<State> {
    let bounds = variant.bounds;
    if state.postgres.granted == bounds.first_grant + bounds.later_grants {
        return None;
    }
    state.postgres.granted += 1;
    Some(state)
}

/// The next grant in order. A cold account needs none: hydration will read it, unless it has read.
pub fn deliver_grant(variant: &Variant, mut state: State) -> Option<State> {
    let next = state.postgres.delivered + 1;
    let master = &mut state.nodes[state.master];
    let may = next <= state.postgres.granted && !state.postgres.is_recovering;
    if !may || !master.accepts(state.postgres.epoch, variant.fence) {
        return None;
    }
    let data = &mut master.data;
    if !data.is_hot && variant.delivery_ends_hydration {
        data.nonce = None;
    }
    if data.is_hot && data.granted + 1 == next {
        data.granted = next;
    }
    state.postgres.delivered = next;
    Some(state)
}

/// A capture that a late ring brought to Postgres reaches Redis as a grant does.
pub fn deliver_late_capture(variant: &Variant, mut state: State, call: usize) -> Option<State> {
    let record = state.postgres.records[call];
    let master = &mut state.nodes[state.master];
    let is_missing = record.is_capture() && !master.data.records[call].is_capture();
    let may = is_missing && !state.postgres.is_recovering && master.data.is_hot;
    if !may || !master.accepts(state.postgres.epoch, variant.fence) {
        return None;
    }
    master.data.records[call] = record;
    Some(state)
}
