//! The life of a call: hold, forward, capture or release.
use crate::state::{Call, Gateway, Process, Record, State};
use crate::variant::{Append, Extension, LeaseCheck, Variant};

/// In the variants without timeouts sending and deciding are one step.
pub fn send_hold(variant: &Variant, mut state: State, call: usize) -> Option<State> {
    let may = variant.faults.timeouts > 0 && state.calls[call] == Call::Waiting;
    if !may || !serves(variant, &state, call) {
        return None;
    }
    state.calls[call] = Call::Sent { epoch: state.gateway_of(call).epoch };
    Some(state)
}

/// The caller hears 503. The guard will release a hold that may yet come.
pub fn time_out(mut state: State, call: usize) -> Option<State> {
    let Call::Sent { epoch } = state.calls[call] else { return None };
    state.faults.timeouts = state.faults.timeouts.checked_sub(1)?;
    state.calls[call] = Call::Failed { hold_on_its_way: Some(epoch), release_due: true };
    Some(state)
}

/// The hold reaches Redis, perhaps when nobody waits for it any more.
pub fn decide_hold(variant: &Variant, mut state: State, call: usize) -> Option<State> {
    let epoch = match state.calls[call] {
        Call::Waiting if variant.faults.timeouts == 0 && serves(variant, &state, call) => {
            state.gateway_of(call).epoch
        }
        Call::Sent { epoch } => epoch,
        Call::Failed { hold_on_its_way: Some(epoch), .. } => epoch,
        _ => return None,
    };
    let node = state.node_of(State::owner(call));
    if !node.data.is_hot || !node.accepts(epoch, variant.fence) {
        return None;
    }
    let granted = node.data.hold(call);
    state.calls[call] = match state.calls[call] {
        Call::Failed { release_due, .. } => Call::Failed { hold_on_its_way: None, release_due },
        _ if granted => Call::Granted { lapsed: false },
        _ => Call::Refused,
    };
    Some(state)
}

/// The gateway reads the reply, writes it into its ring, looks at its lease and forwards; or
/// answers 503 and gives the hold back.
pub fn forward(variant: &Variant, mut state: State, call: usize) -> Option<State> {
    let Call::Granted { lapsed } = state.calls[call] else { return None };
    let gateway = state.gateway_of(call);
    if !gateway.is_running() {
        return None;
    }
    let may_forward = believes(variant, gateway, lapsed);
    if may_forward && variant.is_strict() && durable(variant, &state, call) == Record::Unknown {
        return None;
    }
    note_in_ring(variant, &mut state, call, Record::Held);
    state.calls[call] = if may_forward { Call::Forwarded } else { Call::RELEASING };
    Some(state)
}

/// Redis extends the hold of a call that runs. If Redis refuses, the call goes on as it was.
pub fn extend(variant: &Variant, mut state: State, call: usize) -> Option<State> {
    let may = state.calls[call] == Call::Forwarded && serves(variant, &state, call);
    if call > 0 || !may || !reaches_account(variant, &mut state, call) {
        return None;
    }
    if !state.node_of(State::owner(call)).data.extend(call) {
        return None;
    }
    state.calls[call] = Call::Extending { lapsed: false };
    Some(state)
}

/// The gateway reads the reply to an extension like the reply to a hold. If it may not believe the reply, the call
/// goes on with the hold that it had.
pub fn go_further(variant: &Variant, mut state: State, call: usize) -> Option<State> {
    let Call::Extending { lapsed } = state.calls[call] else { return None };
    let gateway = state.gateway_of(call);
    if !gateway.is_running() {
        return None;
    }
    let may = believes(variant, gateway, lapsed);
    let is_durable = !matches!(durable(variant, &state, call), Record::Unknown | Record::Held);
    let waits = variant.is_strict() && variant.extension != Extension::NotAwaited;
    if may && waits && !is_durable {
        return None;
    }
    if variant.extension != Extension::NotInRing {
        note_in_ring(variant, &mut state, call, Record::HeldTwo);
    }
    state.calls[call] = if may { Call::Extended } else { Call::Forwarded };
    Some(state)
}

pub fn capture(variant: &Variant, mut state: State, call: usize) -> Option<State> {
    let ended = state.calls[call];
    if !ended.is_in_flight() || !reaches_account(variant, &mut state, call) {
        return None;
    }
    let record = state.node_of(State::owner(call)).data.capture(call, ended.owed());
    note_in_ring(variant, &mut state, call, record);
    state.calls[call] = if ended.owed() == 2 { Call::CapturedTwo } else { Call::Captured };
    Some(state)
}

pub fn upstream_fails(mut state: State, call: usize) -> Option<State> {
    if !state.calls[call].is_in_flight() || !state.gateway_of(call).is_running() {
        return None;
    }
    state.faults.upstream_failures = state.faults.upstream_failures.checked_sub(1)?;
    state.calls[call] = Call::RELEASING;
    Some(state)
}

pub fn release(variant: &Variant, mut state: State, call: usize) -> Option<State> {
    let Call::Failed { release_due: true, hold_on_its_way } = state.calls[call] else {
        return None;
    };
    if !reaches_account(variant, &mut state, call) {
        return None;
    }
    let record = state.node_of(State::owner(call)).data.release(call, variant);
    note_in_ring(variant, &mut state, call, record);
    state.calls[call] = Call::Failed { hold_on_its_way, release_due: false };
    Some(state)
}

/// Expires a hold that is not renewed. Either its gateway is stopped, and the gateway's lease, which is shorter, has
/// run out; or its call has ended, and a recovery brought the hold back.
pub fn expire(variant: &Variant, mut state: State, call: usize) -> Option<State> {
    let owner = *state.gateway_of(call);
    let master = &mut state.nodes[state.master];
    let is_held = master.data.is_hot && master.data.records[call].is_live();
    let is_stopped = owner.process != Process::Running && !owner.has_lease;
    let is_left = is_stopped || (state.calls[call] == Call::ENDED && state.postgres.epoch > 1);
    if !is_held || !is_left || !master.accepts(state.postgres.epoch, variant.fence) {
        return None;
    }
    master.data.release(call, variant);
    state.excused[call] |= state.calls[call].owed() > 0;
    state.end_reply(call);
    Some(state)
}

/// The record that a strict gateway knows to be in Postgres.
fn durable(variant: &Variant, state: &State, call: usize) -> Record {
    match variant.append {
        Append::Never => state.postgres.records[call],
        _ => state.known_appends[call],
    }
}

/// Whether the gateway believes a reply, by the variant's check of the lease.
fn believes(variant: &Variant, gateway: &Gateway, lapsed: bool) -> bool {
    match variant.lease_check {
        LeaseCheck::Never => true,
        LeaseCheck::AnyLease => gateway.has_lease,
        LeaseCheck::SameLease => gateway.has_lease && !lapsed,
        LeaseCheck::ReplyAge => !lapsed,
    }
}

/// A gateway takes new calls only while it has its lease.
fn serves(variant: &Variant, state: &State, call: usize) -> bool {
    let gateway = state.gateway_of(call);
    let needs_lease = !matches!(variant.lease_check, LeaseCheck::Never | LeaseCheck::ReplyAge);
    gateway.is_running() && (gateway.has_lease || !needs_lease)
}

/// The call's gateway runs and its Redis has the account and takes its batches.
fn reaches_account(variant: &Variant, state: &mut State, call: usize) -> bool {
    let gateway = *state.gateway_of(call);
    let node = state.node_of(State::owner(call));
    gateway.is_running() && node.data.is_hot && node.accepts(gateway.epoch, variant.fence)
}

fn note_in_ring(variant: &Variant, state: &mut State, call: usize, record: Record) {
    if variant.redo_ring {
        state.rings[call] = record;
        state.trim_rings();
    }
}
