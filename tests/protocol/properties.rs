//! Properties that must always hold, and situations that a run must have seen for that to mean anything.
use stateright::{Model, Property};

use crate::action::Action;
use crate::state::{CALLS, Call, Record, Records, State};
use crate::variant::Variant;

/// Invariants 1 and 6: what was forwarded never exceeds what was granted, but for the debits that
/// come late from a process that was stopped.
pub const NO_OVERSPENDING: &str = "no call is forwarded without a credit";
/// Invariant 10: each acknowledged operation is in some place from which it will reach Postgres.
pub const NO_LOST_DEBIT: &str = "no acknowledged debit is lost";
/// Invariant 7.
pub const AGREEMENT: &str = "at rest, Redis and Postgres agree";
/// Invariant 10, strict.
pub const ON_DISK: &str = "in strict, a forwarded call's hold is in Postgres";
/// Invariant 4, and the guard: nobody's hold stays for ever.
pub const NO_ORPHAN: &str = "without a recovery, no failed call leaves its hold behind";

pub const ALWAYS: [&str; 5] = [NO_OVERSPENDING, NO_LOST_DEBIT, AGREEMENT, ON_DISK, NO_ORPHAN];

pub const CAPTURED: &str = "a call is captured";
pub const REFUSED: &str = "a call is refused";
pub const RECOVERED: &str = "a call is captured after a recovery";
pub const LATE: &str = "a late capture is recorded";
pub const DEBT: &str = "a late capture makes a debt";
pub const TWO_RECOVERIES: &str = "a call is captured after two recoveries";
pub const CRASHED: &str = "a gateway dies with a call in flight";
pub const EXTENDED: &str = "a call captures what its hold was extended to";
pub const EXTENDED_AFTER: &str = "it does so after a recovery";
pub const APPENDED_AFTER: &str = "a batch that was only appended counts after a recovery";
pub const TOMBSTONE: &str = "a hold comes after its release";

/// A variant, and the actions it knows.
pub struct Protocol {
    variant: Variant,
    actions: Vec<Action>,
}

impl Protocol {
    pub fn new(variant: Variant) -> Self {
        Self { variant, actions: Action::all(&variant) }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(&self.variant)]
    }

    fn actions(&self, _state: &State, actions: &mut Vec<Action>) {
        actions.extend(&self.actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        action.apply(&self.variant, *state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NO_OVERSPENDING, |_, state: &State| {
                spent(state) <= state.postgres.granted
            }),
            Property::always(NO_LOST_DEBIT, |_, state: &State| {
                (0..CALLS).all(|call| is_safe(state, call))
            }),
            Property::always(AGREEMENT, agrees_at_rest),
            Property::always(ON_DISK, |model: &Self, state: &State| {
                !model.variant.is_strict() || is_on_disk(state)
            }),
            Property::always(NO_ORPHAN, |_, state: &State| {
                (0..CALLS).all(|call| !is_orphan(state, call))
            }),
            Property::sometimes(CAPTURED, |_, state: &State| state.calls.contains(&Call::Captured)),
            Property::sometimes(REFUSED, |_, state: &State| state.calls.contains(&Call::Refused)),
            Property::sometimes(RECOVERED, |_, state: &State| captured_in_epoch(state, 2)),
            Property::sometimes(TWO_RECOVERIES, |_, state: &State| captured_in_epoch(state, 3)),
            Property::sometimes(EXTENDED, |_, state: &State| {
                state.calls.contains(&Call::CapturedTwo)
            }),
            Property::sometimes(EXTENDED_AFTER, |_, state: &State| {
                let is_open = state.postgres.epoch == 2 && !state.postgres.is_recovering;
                let outbox = state.nodes[state.master].data.outbox;
                is_open && outbox.contains(&Record::CapturedTwo)
            }),
            Property::sometimes(LATE, |_, state: &State| {
                state.postgres.records.iter().any(|record| *record == record.late())
            }),
            Property::sometimes(DEBT, |_, state: &State| debits(state) > state.postgres.granted),
            Property::sometimes(CRASHED, |_, state: &State| state.calls.contains(&Call::Lost)),
            Property::sometimes(APPENDED_AFTER, |_, state: &State| {
                let postgres = &state.postgres;
                let appended = postgres.appends.iter().filter(|append| **append != Record::Unknown);
                postgres.is_recovering && appended.count() > 0
            }),
            Property::sometimes(TOMBSTONE, |_, state: &State| {
                (0..CALLS).any(|call| met_tombstone(state, call))
            }),
        ]
    }
}

/// Credits that upstreams have worked for, without the excused ones.
fn spent(state: &State) -> u8 {
    let calls = state.calls.iter().zip(state.excused);
    calls.filter(|(_, excused)| !excused).map(|(call, _)| call.owed()).sum()
}

fn debits(state: &State) -> u8 {
    sum(&state.postgres.records)
}

fn sum(records: &Records) -> u8 {
    records.iter().map(|record| record.debit()).sum()
}

/// A captured call's debit is in Postgres, in the master's outbox or in a ring that lives.
fn is_safe(state: &State, call: usize) -> bool {
    let master = &state.nodes[state.master].data;
    let postgres = &state.postgres;
    let places =
        [postgres.records[call], postgres.appends[call], master.outbox[call], state.rings[call]];
    let owed = state.calls[call].owed();
    let has_it = |record: &Record| record.is_capture() && record.debit() >= owed;
    !state.calls[call].is_captured() || places.iter().any(has_it)
}

fn agrees_at_rest(model: &Protocol, state: &State) -> bool {
    let master = &state.nodes[state.master];
    let postgres = &state.postgres;
    let is_served = master.accepts(postgres.epoch, model.variant.fence) && master.data.is_hot;
    let is_undelivered =
        |(redis, postgres): (&Record, &Record)| postgres.is_capture() && !redis.is_capture();
    let at_rest = is_served
        && !postgres.is_recovering
        && master.data.is_synced()
        && postgres.delivered == postgres.granted
        && !master.data.records.iter().zip(&postgres.records).any(is_undelivered);
    let same_debits = sum(&master.data.records) == debits(state);
    !at_rest || (same_debits && master.data.granted == postgres.granted)
}

fn is_on_disk(state: &State) -> bool {
    let postgres = &state.postgres;
    let known = postgres.records.iter().zip(postgres.appends);
    let known = known.map(|(record, append)| record.merged(append));
    let mut calls = state.calls.iter().zip(known);
    let is_known = |(call, record): (&Call, Record)| match call {
        Call::Forwarded | Call::Extending { .. } => record != Record::Unknown,
        Call::Extended => !matches!(record, Record::Unknown | Record::Held),
        _ => true,
    };
    calls.all(is_known)
}

/// The call has ended and no message is on its way, so that only time would end the hold.
fn is_orphan(state: &State, call: usize) -> bool {
    let master = &state.nodes[state.master];
    let is_held = master.data.records[call].is_live();
    let is_first_epoch = state.postgres.epoch == 1 && master.reign == 1;
    state.calls[call] == Call::ENDED
        && is_held
        && is_first_epoch
        && state.gateway_of(call).is_running()
}

fn captured_in_epoch(state: &State, epoch: u8) -> bool {
    let postgres = &state.postgres;
    let is_open = postgres.epoch == epoch && !postgres.is_recovering;
    is_open && state.nodes[state.master].data.outbox.contains(&Record::Captured)
}

/// The caller was told 503, the release overtook the hold, and the hold was refused.
fn met_tombstone(state: &State, call: usize) -> bool {
    let tombstone = state.nodes[state.master].data.records[call] == Record::Released;
    state.calls[call] == Call::ENDED && tombstone
}
