//! The actions that can happen next. Each has a function that says when the action can happen, and
//! what it does.
use crate::state::{GATEWAYS, State};
use crate::variant::{Append, Extension, Variant};
use crate::{appends, calls, faults, recovery, upkeep};

/// An action. Its number is that of a gateway or a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    SendHold(usize),
    TimeOut(usize),
    DecideHold(usize),
    Forward(usize),
    Extend(usize),
    GoFurther(usize),
    Capture(usize),
    UpstreamFails(usize),
    Release(usize),
    Expire(usize),
    BeginAppend(usize),
    CommitAppend(usize),

    TakeNonce(usize),
    ReadPostgres(usize),
    Hydrate(usize),
    Retire,
    ReadOutbox(usize),
    CommitBatch,
    Grant,
    DeliverGrant,
    DeliverLateCapture(usize),

    Raise(usize),
    CheckIn(usize),
    Open(usize),

    Replicate,
    Failover,
    Switchover,
    Wipe,
    Split,
    Rejoin,
    Crash(usize),
    Pause(usize),
    Continue(usize),
    LosePostgres(usize),
    FindPostgres(usize),
    LeaseRunsOut(usize),
    RenewLease(usize),
}

/// An action of a gateway or a call, and whether it happens in a variant at all.
type Kind = (fn(usize) -> Action, bool);

impl Action {
    /// Every action that some state of this variant may allow.
    pub fn all(variant: &Variant) -> Vec<Self> {
        use Action::*;
        let faults = &variant.faults;
        let extends = variant.extension != Extension::Never;
        let appends = variant.append != Append::Never;
        let of_calls: [Kind; 12] = [
            (SendHold, faults.timeouts > 0),
            (TimeOut, faults.timeouts > 0),
            (DecideHold, true),
            (Forward, true),
            (Extend, extends),
            (GoFurther, extends),
            (Capture, true),
            (UpstreamFails, faults.upstream_failures > 0),
            (Release, true),
            (Expire, true),
            (BeginAppend, appends),
            (DeliverLateCapture, true),
        ];
        let of_gateways: [Kind; 15] = [
            (CommitAppend, appends),
            (TakeNonce, variant.bounds.small_steps),
            (ReadPostgres, variant.bounds.small_steps),
            (Hydrate, true),
            (ReadOutbox, true),
            (Raise, true),
            (CheckIn, true),
            (Open, true),
            (Crash, faults.crashes > 0),
            (Pause, faults.pauses > 0),
            (Continue, faults.pauses > 0),
            (LosePostgres, faults.postgres_cuts > 0),
            (FindPostgres, faults.postgres_cuts > 0),
            (LeaseRunsOut, true),
            (RenewLease, true),
        ];
        let others = [
            (Retire, true),
            (CommitBatch, variant.bounds.small_steps),
            (Grant, variant.bounds.later_grants > 0),
            (DeliverGrant, variant.bounds.later_grants > 0),
            (Replicate, faults.failovers + faults.switchovers + faults.splits > 0),
            (Failover, faults.failovers > 0),
            (Switchover, faults.switchovers > 0),
            (Wipe, faults.wipes > 0),
            (Split, faults.splits > 0),
            (Rejoin, faults.splits > 0),
        ];
        let calls = (0..variant.bounds.calls)
            .flat_map(|call| of_calls.map(|(action, happens)| (action(call), happens)));
        let gateways = (0..GATEWAYS)
            .flat_map(|one| of_gateways.map(|(action, happens)| (action(one), happens)));
        let candidates = calls.chain(gateways).chain(others);
        candidates.filter(|(_, happens)| *happens).map(|(action, _)| action).collect()
    }

    /// The state after the action, or `None` if it cannot happen.
    pub fn apply(self, variant: &Variant, state: State) -> Option<State> {
        use Action::*;
        match self {
            SendHold(call) => calls::send_hold(variant, state, call),
            TimeOut(call) => calls::time_out(state, call),
            DecideHold(call) => calls::decide_hold(variant, state, call),
            Forward(call) => calls::forward(variant, state, call),
            Extend(call) => calls::extend(variant, state, call),
            GoFurther(call) => calls::go_further(variant, state, call),
            Capture(call) => calls::capture(variant, state, call),
            UpstreamFails(call) => calls::upstream_fails(state, call),
            Release(call) => calls::release(variant, state, call),
            Expire(call) => calls::expire(variant, state, call),
            BeginAppend(call) => appends::begin(state, call),
            CommitAppend(gateway) => appends::commit(state, gateway),

            TakeNonce(gateway) => upkeep::take_nonce(variant, state, gateway),
            ReadPostgres(gateway) => upkeep::read_postgres(variant, state, gateway),
            Hydrate(gateway) => upkeep::hydrate(variant, state, gateway),
            Retire => upkeep::retire(variant, state),
            ReadOutbox(gateway) => upkeep::read_outbox(variant, state, gateway),
            CommitBatch => upkeep::commit_batch(state),
            Grant => upkeep::grant(variant, state),
            DeliverGrant => upkeep::deliver_grant(variant, state),
            DeliverLateCapture(call) => upkeep::deliver_late_capture(variant, state, call),

            Raise(gateway) => recovery::raise(variant, state, gateway),
            CheckIn(gateway) => recovery::check_in(variant, state, gateway),
            Open(gateway) => recovery::open(variant, state, gateway),

            Replicate => faults::replicate(state),
            Failover => faults::failover(state),
            Switchover => faults::switchover(state),
            Wipe => faults::wipe(state),
            Split => faults::split(state),
            Rejoin => faults::rejoin(state),
            Crash(gateway) => faults::crash(variant, state, gateway),
            Pause(gateway) => faults::pause(state, gateway),
            Continue(gateway) => faults::go_on(state, gateway),
            LosePostgres(gateway) => faults::lose_postgres(state, gateway),
            FindPostgres(gateway) => faults::find_postgres(state, gateway),
            LeaseRunsOut(gateway) => faults::lease_runs_out(variant, state, gateway),
            RenewLease(gateway) => faults::renew_lease(state, gateway),
        }
    }
}
