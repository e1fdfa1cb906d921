//! What is decided beside the pipeline, so that it delays no other call.
//!
//! | kind | waits for |
//! |---|---|
//! | calls of a cold account | Postgres, which has the account; then they are decided in Redis |
//! | holds of the API | Postgres, which must have them in its tables |
//! | newcomers | Postgres, which makes their accounts |
//! | grants, purchases, keys | the rows that they change |
//!
//! Each kind has a bound on how many groups are decided at once, so that they leave connections of the pool for the
//! syncer and the lease. The other groups wait in order. What waits longer than [`LIMIT`] is refused, as is everything
//! where a store is away.
//!
//! The order of operations matters only within one account, and only behind operations for which no caller waits: the
//! ends of calls' holds. So a group with calls of a cold account takes a turn for each of its accounts and holds, and
//! whatever comes later for one of these waits for that turn. Grants of one account follow each other in the same way.
//! Everything else is as if another gateway had decided it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::account::AccountId;
use crate::ledger::backend::{Aside, Later};
use crate::ledger::operation::{Operation, Origin, Outcome, Refusal};
use crate::store::cluster::redis::request::BatchItem;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::turns::{Turn, Turns};
use crate::store::cluster::work;

/// How long an operation waits beside the pipeline at most, until it is refused.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// The most groups with calls of cold accounts that are decided at once.
const COLD: usize = 2;

/// The most groups of newcomers.
const NEWCOMERS: usize = 1;

/// The most groups of the API's holds. Each is decided as one batch.
const API: usize = 1;

/// The most groups of grants, purchases and keys.
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

/// The bounds and the turns of one gateway.
#[derive(Debug)]
pub(crate) struct Beside {
    cold: Arc<Semaphore>,
    newcomers: Arc<Semaphore>,
    api: Arc<Semaphore>,
    grants: Arc<Semaphore>,
    /// The turns of groups with calls of cold accounts.
    cold_turns: Turns,
    /// The turns of grants.
    grant_turns: Turns,
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
            cold_turns: Turns::default(),
            grant_turns: Turns::default(),
        }
    }

    /// Whether the pipeline decides the whole batch: it has only calls, and none of them has to wait for its turn.
    pub fn leaves_all(&mut self, batch: &[Operation]) -> bool {
        self.cold_turns.forget_ended();
        batch.iter().all(|operation| self.leaves(operation))
    }

    /// Whether the pipeline decides the operation.
    pub fn leaves(&self, operation: &Operation) -> bool {
        Way::of(operation) == Way::Call && !self.cold_turns.has_any_of(operation)
    }

    /// A turn behind and before everything about these accounts and holds.
    pub fn turn_of_calls(&mut self, operations: &[Operation]) -> Turn {
        self.cold_turns.take(operations)
    }

    /// The groups of the operations that the pipeline does not decide. `cold` are the places of calls that it could not
    /// decide, in order.
    pub fn groups(&mut self, batch: &[Operation], cold: Vec<usize>) -> Vec<Group> {
        self.grant_turns.forget_ended();
        let (mut groups, mut is_cold) = (Vec::new(), vec![false; batch.len()]);
        cold.iter().for_each(|place| is_cold[*place] = true);
        let others = |way| (0..batch.len()).filter(move |place| Way::of(&batch[*place]) == way);
        // Calls of accounts that were cold before. One account does not wait for the turn of another one.
        let mut behind: Vec<(Option<&AccountId>, Vec<usize>)> = Vec::new();
        for place in others(Way::Call).filter(|place| !is_cold[*place]) {
            if self.cold_turns.has_any_of(&batch[place]) {
                let account = BatchItem::Operation(&batch[place]).account();
                match behind.iter_mut().find(|(other, _)| *other == account) {
                    Some((_, places)) => places.push(place),
                    None => behind.push((account, vec![place])),
                }
            }
        }
        if !cold.is_empty() {
            groups.push(self.group(Way::Call, batch, cold));
        }
        for (_, places) in behind {
            groups.push(self.group(Way::Call, batch, places));
        }
        for way in [Way::Newcomer, Way::Api, Way::Grant, Way::Audit] {
            // A new account has no call yet that its opening would have to wait for.
            let waits =
                |place: &usize| way != Way::Newcomer && self.cold_turns.has_any_of(&batch[*place]);
            let (behind, free): (Vec<_>, Vec<_>) = others(way).partition(waits);
            for places in [free, behind].into_iter().filter(|places| !places.is_empty()) {
                groups.push(self.group(way, batch, places));
            }
        }
        groups
    }

    fn group(&mut self, way: Way, batch: &[Operation], places: Vec<usize>) -> Group {
        let operations: Arc<[_]> = places.iter().map(|place| batch[*place].clone()).collect();
        let turn = match way {
            Way::Call => self.cold_turns.take(&operations),
            Way::Newcomer | Way::Audit => Turn::default(),
            Way::Api => self.cold_turns.after(&operations),
            Way::Grant => {
                let mut turn = self.grant_turns.take(&operations);
                turn.also_after(self.cold_turns.after(&operations));
                turn
            }
        };
        Group { way, places, operations, turn, room: self.room(way) }
    }

    /// The bound of this way. An audit needs none: an operator asks for it now and then.
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
    /// Lets `decide` decide the group once its turn has come and there is room. What waits too long is refused; Redis may
    /// have granted its holds, so those of calls are released.
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
                    // Nobody closes it.
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
