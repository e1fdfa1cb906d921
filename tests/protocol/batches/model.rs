//! The actions that can happen next.
use stateright::{Model, Property};

use super::properties;
use super::state::{GATEWAYS, State};
use super::variant::Variant;
use super::{appends, faults, recovery, sync};

/// An action. Its number is that of a hold or a gateway.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    Decide(usize),
    LoseReply(usize),
    BeginAppend(usize),
    CommitAppend(usize),
    CommitAppendUnheard(usize),
    Repeat(usize),
    AwaitFolded(usize),

    Hear(usize),
    NoticeRewind(usize),
    ReadStream(usize),
    WriteBatches(usize),
    GiveUp(usize),
    NoticeFailover(usize),
    Follow(usize),
    Restart(usize),

    BeginRecovery,
    LockAppends,
    OpenEpoch,
    CommitEpoch,
    LoseRecovery,

    CopyRedis,
    FailRedisOver,
    Rewind,
    RewindYoung,
    CopyPostgres,
    FailPostgresOver,
    AskForRecovery,
}

impl Action {
    /// Whether this is a fault, so that it need not happen.
    pub fn is_fault(self) -> bool {
        use Action::*;
        matches!(
            self,
            LoseReply(_)
                | CommitAppendUnheard(_)
                | Restart(_)
                | LoseRecovery
                | CopyRedis
                | FailRedisOver
                | Rewind
                | RewindYoung
                | CopyPostgres
                | FailPostgresOver
                | AskForRecovery
        )
    }

    fn apply(self, variant: &Variant, state: State) -> Option<State> {
        use Action::*;
        match self {
            Decide(hold) => appends::decide(variant, state, hold),
            LoseReply(hold) => appends::lose_reply(state, hold),
            BeginAppend(hold) => appends::begin(variant, state, hold),
            CommitAppend(hold) => appends::commit(variant, state, hold, true),
            CommitAppendUnheard(hold) => appends::commit(variant, state, hold, false),
            Repeat(hold) => appends::repeat(variant, state, hold),
            AwaitFolded(hold) => appends::await_folded(state, hold),

            Hear(gateway) => sync::hear(variant, state, gateway),
            NoticeRewind(gateway) => sync::notice_rewind(variant, state, gateway),
            ReadStream(gateway) => sync::read(variant, state, gateway),
            WriteBatches(gateway) => sync::write(variant, state, gateway),
            GiveUp(gateway) => recovery::give_up(state, gateway),
            NoticeFailover(gateway) => recovery::notice_failover(variant, state, gateway),
            Follow(gateway) => recovery::follow(variant, state, gateway),
            Restart(gateway) => faults::restart(state, gateway),

            BeginRecovery => recovery::begin(variant, state),
            LockAppends => recovery::lock(variant, state),
            OpenEpoch => recovery::open(variant, state),
            CommitEpoch => recovery::commit(variant, state),
            LoseRecovery => recovery::abort(state),

            CopyRedis => faults::copy_redis(state),
            FailRedisOver => faults::fail_redis_over(state),
            Rewind => faults::rewind(state, false),
            RewindYoung => faults::rewind(state, true),
            CopyPostgres => faults::copy_postgres(state),
            FailPostgresOver => faults::fail_postgres_over(state),
            AskForRecovery => faults::ask_for_recovery(state),
        }
    }
}

/// A variant, and the actions it knows.
#[derive(Clone, Debug)]
pub struct Batches {
    pub variant: Variant,
    actions: Vec<Action>,
}

impl Batches {
    pub fn new(variant: Variant) -> Self {
        use Action::*;
        let of_holds = [
            Decide,
            LoseReply,
            BeginAppend,
            CommitAppend,
            CommitAppendUnheard,
            Repeat,
            AwaitFolded,
        ];
        let of_gateways =
            [Hear, NoticeRewind, ReadStream, WriteBatches, GiveUp, NoticeFailover, Follow, Restart];
        let others = [
            BeginRecovery,
            LockAppends,
            OpenEpoch,
            CommitEpoch,
            LoseRecovery,
            CopyRedis,
            FailRedisOver,
            Rewind,
            RewindYoung,
            CopyPostgres,
            FailPostgresOver,
            AskForRecovery,
        ];
        let holds = (0..variant.holds).flat_map(|hold| of_holds.map(|action| action(hold)));
        let gateways = (0..GATEWAYS).flat_map(|one| of_gateways.map(|action| action(one)));
        let actions = holds.chain(gateways).chain(others).collect();
        Self { variant, actions }
    }
}

impl Model for Batches {
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
        properties::all()
    }
}
