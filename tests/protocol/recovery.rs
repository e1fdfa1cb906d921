//! A new epoch after Redis lost data or was replaced.
use crate::state::{Call, Data, Hydrating, Node, Postgres, Record, Records, State};
use crate::variant::{Append, Fence, Variant};

/// A gateway whose batch the master refuses raises the epoch. From here on nothing of the old epoch
/// is committed.
pub fn raise(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let one = &state.gateways[gateway];
    let postgres = &mut state.postgres;
    let may = variant.fence != Fence::None
        && one.can_write_postgres()
        && one.node == state.master
        && one.epoch == postgres.epoch
        && !postgres.is_recovering;
    if !may || state.nodes[state.master].accepts(postgres.epoch, variant.fence) {
        return None;
    }
    postgres.epoch += 1;
    postgres.is_recovering = true;
    Some(state)
}

/// A gateway acknowledges the epoch and hands over its ring in the same transaction.
pub fn check_in(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let one = &mut state.gateways[gateway];
    if !one.can_write_postgres() || one.epoch == state.postgres.epoch {
        return None;
    }
    one.epoch = state.postgres.epoch;
    one.has_lease = true;
    one.hydrating = Hydrating::No;
    for call in State::calls_of(gateway) {
        let redo = std::mem::take(&mut state.rings[call]);
        let known = &mut state.postgres.records[call];
        *known = if state.postgres.is_recovering { known.merged(redo) } else { late(*known, redo) };
        let refused = match state.calls[call] {
            Call::Granted { .. } => Call::RELEASING,
            Call::Extending { .. } => Call::Forwarded,
            other => other,
        };
        if variant.refuses_old_replies {
            state.calls[call] = refused;
        }
    }
    Some(state)
}

/// The record after a replay that comes when the epoch has opened without it: only captures count.
/// A call in flight is captured late when it ends; a hold that was released and then restored
/// expires.
fn late(known: Record, redo: Record) -> Record {
    match (known, redo.is_capture()) {
        (Record::Unknown, true) => redo.late(),
        (known, true) => known.merged(redo),
        (known, false) => known,
    }
}

/// The surviving part of the outbox is synced, and the epoch opens on the master, empty: hydration
/// fills it.
pub fn open(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let epoch = state.postgres.epoch;
    let one = &state.gateways[gateway];
    let has_checked_in = one.can_write_postgres() && one.epoch == epoch;
    let all_known = state.gateways.iter().all(|other| other.epoch == epoch || !other.has_lease);
    let may = state.postgres.is_recovering && has_checked_in && one.node == state.master;
    if !may || (variant.waits_for_leases && !all_known) {
        return None;
    }
    let is_appending = state.appending.iter().flatten().any(|append| append.epoch + 1 == epoch);
    if variant.append == Append::Fenced && is_appending {
        return None;
    }
    let appends = std::mem::take(&mut state.postgres.appends);
    state.postgres.merge(&appends);
    let survivor = state.nodes[state.master].data;
    if survivor.epoch + 1 == epoch {
        state.postgres.merge(&survivor.outbox);
    }
    state.postgres.is_recovering = false;
    state.nodes[state.master] = Node { data: Data::of_epoch(epoch), script: epoch, reign: epoch };
    state.trim_rings();
    state.leave_behind_the_absent();
    Some(state)
}

impl Postgres {
    pub fn merge(&mut self, news: &Records) {
        for (known, news) in self.records.iter_mut().zip(news) {
            *known = known.merged(*news);
        }
    }
}

impl State {
    /// The watermark in each reply trims the rings. The model trims them at once, even in stopped processes, because
    /// only the records that a ring has and Postgres lacks matter.
    pub fn trim_rings(&mut self) {
        for (redo, durable) in self.rings.iter_mut().zip(self.postgres.records) {
            if durable.merged(*redo) == durable {
                *redo = Record::Unknown;
            }
        }
    }

    /// Replies of Redis that the gateway has not looked at are too old from now on.
    pub fn end_reply(&mut self, call: usize) {
        if let Call::Granted { lapsed } | Call::Extending { lapsed } = &mut self.calls[call] {
            *lapsed = true;
        }
    }

    /// The new epoch does not know what the ring of a gateway without a lease knows.
    fn leave_behind_the_absent(&mut self) {
        for (number, gateway) in self.gateways.into_iter().enumerate() {
            if gateway.epoch == self.postgres.epoch || gateway.has_lease {
                continue;
            }
            for call in Self::calls_of(number) {
                self.end_reply(call);
                let known = self.postgres.records[call].debit();
                self.excused[call] |= self.calls[call].owed() > known;
            }
        }
    }
}
