//! Decides the operations that wait for Postgres beside the pipeline, so that they delay no other call.
//!
//! | kind | waits for |
//! |---|---|
//! | calls of a cold account | Postgres, which has the account; then they are decided in Redis |
//! | holds of the API | Postgres, which must have them in its tables |
//! | newcomers | Postgres, which makes their accounts |
//! | grants, purchases, keys | the rows that they change |
//!
//! Each kind has a limit on how many groups are decided at once, so that they leave connections of the pool for the
//! syncer and the lease. The other groups wait in order. An operation that waits longer than [`LIMIT`] is refused, and
//! so is every operation that needs an unreachable store.
//!
//! Operations that name the same account, hold, claim or id are decided in the order in which they were requested. To
//! ensure this, a group takes a turn for each of these names, and every later operation with the same name waits for
//! that turn. Apart from that, two groups are decided as independently as if two gateways had decided them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::ledger::backend::{Aside, Later};
use crate::ledger::operation::{Operation, Origin, Outcome, Refusal};
use crate::store::cluster::shared::Shared;
use crate::store::cluster::turns::{self, Key, Turn, Turns};
use crate::store::cluster::work;

/// How long an operation may wait beside the pipeline before it is refused.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// The most groups with calls of cold accounts that are decided at once.
const COLD: usize = 2;

/// The most groups of newcomers that are decided at once.
const NEWCOMERS: usize = 1;

/// The most groups of the API's holds that are decided at once. Each group is decided as one batch.
const API: usize = 1;

/// The most groups of grants, purchases and keys that are decided at once.
const GRANTS: usize = 2;

/// The way in which an operation is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// In Redis, by the pipeline.
    Call,
    /// In Redis, and then in Postgres's tables.
    Api,
    /// In Postgres, unless Redis has the account.
    Newcomer,
    /// In Postgres.
    Grant,
    /// By itself, never together with other operations.
    Audit,
}

impl Way {
    pub fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Hold(_)
            | Operation::Extend { .. }
            | Operation::Renew { .. }
            | Operation::Capture { .. }
            | Operation::Release { .. }
            | Operation::Abandon { .. }
            | Operation::MarkClaim { .. }
            | Operation::Leave { .. }
            | Operation::Balance { .. } => match operation.origin() {
                Some(Origin::Api) => Self::Api,
                Some(Origin::Call) | None => Self::Call,
            },
            Operation::Open { .. } => Self::Newcomer,
            Operation::Post(_)
            | Operation::Refund { .. }
            | Operation::RefundPart { .. }
            | Operation::Import(_)
            | Operation::PutKeys(_)
            | Operation::RevokeKey { .. }
            | Operation::RecordEvent(_)
            | Operation::EndEvent { .. }
            | Operation::TakeFacts(_)
            | Operation::RecordCustomer { .. }
            | Operation::Thaw { .. }
            | Operation::Fold { .. } => Self::Grant,
            Operation::Audit => Self::Audit,
        }
    }
}

/// The limits and the turns of one gateway.
#[derive(Debug)]
pub(crate) struct Beside {
    cold: Arc<Semaphore>,
    newcomers: Arc<Semaphore>,
    api: Arc<Semaphore>,
    grants: Arc<Semaphore>,
    turns: Turns,
}

/// Some operations of a batch that go the same way.
pub(crate) struct Group {
    way: Way,
    places: Vec<usize>,
    operations: Arc<[Operation]>,
    turn: Turn,
    room: Option<Arc<Semaphore>>,
}

impl Beside {
    pub fn new() -> Self {
        Self {
            cold: Arc::new(Semaphore::new(COLD)),
            newcomers: Arc::new(Semaphore::new(NEWCOMERS)),
            api: Arc::new(Semaphore::new(API)),
            grants: Arc::new(Semaphore::new(GRANTS)),
            turns: Turns::default(),
        }
    }

    /// Whether the pipeline decides the whole batch: it has only calls, and none of them has to wait for its turn.
    pub fn leaves_all(&mut self, batch: &[Operation]) -> bool {
        self.turns.forget_ended();
        batch.iter().all(|operation| Way::of(operation) == Way::Call)
            && (self.turns.is_empty() || self.left(batch).len() == batch.len())
    }

    /// The places of the operations that the pipeline decides: calls that need not wait for an operation beside the
    /// pipeline.
    pub fn left(&self, batch: &[Operation]) -> Vec<usize> {
        let mut aside = HashSet::new();
        let is_left = |place: &usize| {
            let keys = turns::keys(&batch[*place]);
            let follows = self.turns.has_any(&keys) || keys.iter().any(|key| aside.contains(key));
            let is_left = Way::of(&batch[*place]) == Way::Call && !follows;
            if !is_left {
                aside.extend(keys);
            }
            is_left
        };
        (0..batch.len()).filter(is_left).collect()
    }

    /// Takes a turn for these operations: after all earlier operations that name the same things, and before all later
    /// ones.
    pub fn turn(&mut self, operations: &[Operation]) -> Turn {
        self.turns.take(operations)
    }

    /// Groups the operations of a batch that the pipeline has not decided. A later group may have to wait for an
    /// earlier one, never the other way round.
    pub fn groups(&mut self, batch: &[Operation], is_decided: &[bool]) -> Vec<Group> {
        let mut groups: Vec<(Way, Vec<usize>)> = Vec::new();
        // `open` has, for each way, the group that need not wait; `newest` has, for each key, the newest group.
        let (mut open, mut newest) = (Vec::<usize>::new(), HashMap::<Key, usize>::new());
        for place in (0..batch.len()).filter(|place| !is_decided[*place]) {
            let (way, keys) = (Way::of(&batch[place]), turns::keys(&batch[place]));
            let before: HashSet<_> =
                keys.iter().filter_map(|key| newest.get(key).copied()).collect();
            let is_free = before.is_empty() && !self.turns.has_any(&keys);
            // An operation that has to wait joins only the group that it would wait for, so that no other account waits
            // for it.
            let joins = match is_free {
                true => open.iter().copied().find(|group| groups[*group].0 == way),
                false if before.len() == 1 => {
                    before.iter().copied().find(|group| groups[*group].0 == way)
                }
                false => None,
            };
            let group = joins.unwrap_or_else(|| {
                groups.push((way, Vec::new()));
                groups.len() - 1
            });
            if is_free && joins.is_none() {
                open.push(group);
            }
            groups[group].1.push(place);
            newest.extend(keys.into_iter().map(|key| (key, group)));
        }
        groups.into_iter().map(|(way, places)| self.group(way, batch, places)).collect()
    }

    fn group(&mut self, way: Way, batch: &[Operation], places: Vec<usize>) -> Group {
        let operations: Arc<[_]> = places.iter().map(|place| batch[*place].clone()).collect();
        let turn = self.turns.take(&operations);
        Group { way, places, operations, turn, room: self.room(way) }
    }

    /// The semaphore that limits this way. Audits have none: an operator asks for one only now and then.
    fn room(&self, way: Way) -> Option<Arc<Semaphore>> {
        match way {
            Way::Call => Some(self.cold.clone()),
            Way::Newcomer => Some(self.newcomers.clone()),
            Way::Api => Some(self.api.clone()),
            Way::Grant => Some(self.grants.clone()),
            Way::Audit => None,
        }
    }
}

impl Group {
    /// Makes `decide` decide the group once its turn has come and its semaphore has room. Operations that wait too long
    /// are refused. Redis may have granted their holds already, so the holds of calls are released.
    pub fn start<F>(
        self,
        shared: Arc<Shared>,
        decide: impl FnOnce(Arc<Shared>, Way, Arc<[Operation]>) -> F + Send + 'static,
    ) -> Aside
    where
        F: Future<Output = Vec<Outcome>> + Send,
    {
        let Self { way, places, operations, mut turn, room } = self;
        let outcomes: Later<_> = Box::pin(async move {
            let decided = async {
                turn.comes().await;
                let _room = match room {
                    // The semaphore is never closed.
                    Some(room) => room.acquire_owned().await.ok(),
                    None => None,
                };
                decide(shared.clone(), way, operations.clone()).await
            };
            let decided = tokio::time::timeout(LIMIT, decided).await;
            decided.unwrap_or_else(|_| {
                tracing::warn!(?way, "operations waited too long for Postgres; they get 503");
                shared.debts.owe(operations.iter().filter_map(work::release_of));
                vec![Outcome::Refused(Refusal::Unavailable); operations.len()]
            })
        });
        Aside { places, outcomes }
    }
}
