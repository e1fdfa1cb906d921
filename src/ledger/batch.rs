//! Operations with the callers who wait for their outcomes: a batch, and the operations that wait to join one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ledger::live::LiveHolds;
use crate::ledger::operation::{Operation, Outcome, Refusal};
use crate::ledger::queue::Queued;

/// How long an operation may wait for others that are decided beside the pipeline.
const WAITS_AT_MOST: Duration = Duration::from_secs(5);

/// The channel to the caller of an operation. No caller waits for the end of a call's hold.
type Reply = Option<oneshot::Sender<Outcome>>;

/// A batch and the callers who wait for its outcomes.
pub(super) struct Batch {
    pub operations: Arc<Vec<Operation>>,
    replies: Vec<Reply>,
}

impl Batch {
    /// Returns the operations at these places, with their callers, as a batch of their own.
    pub fn part(&mut self, places: &[usize]) -> Self {
        let operations = places.iter().map(|place| self.operations[*place].clone()).collect();
        let replies = places.iter().map(|place| self.replies[*place].take()).collect();
        Self { operations: Arc::new(operations), replies }
    }

    /// Answers the callers. Returns the ends of holds that could not be written.
    pub fn answer(self, outcomes: Vec<Outcome>, live: &LiveHolds) -> Vec<Operation> {
        debug_assert_eq!(outcomes.len(), self.operations.len());
        let mut unsettled = Vec::new();
        for ((operation, outcome), reply) in self.operations.iter().zip(outcomes).zip(self.replies)
        {
            match (reply, outcome) {
                // If the caller is gone, its guard has queued the operation that undoes this one.
                (Some(reply), outcome) => drop(reply.send(outcome)),
                (None, Outcome::Refused(Refusal::Unavailable)) => unsettled.push(operation.clone()),
                (None, outcome) => {
                    if let Outcome::Refused(refusal) = outcome
                        && !is_void(operation, refusal)
                    {
                        tracing::error!(?operation, %refusal, "a hold could not be ended");
                    }
                    if let Some(hold) = operation.ends() {
                        live.remove(hold);
                    }
                }
            }
        }
        unsettled
    }

    fn refuse(self, live: &LiveHolds) -> Vec<Operation> {
        let outcomes = vec![Outcome::Refused(Refusal::Unavailable); self.operations.len()];
        self.answer(outcomes, live)
    }
}

/// Whether the operation ends the hold of a call that was cut off before the hold was granted.
/// There is then no hold to end.
fn is_void(operation: &Operation, refusal: Refusal) -> bool {
    matches!((operation, refusal), (Operation::Abandon { .. }, Refusal::UnknownHold))
}

/// A batch that is being put together.
#[derive(Default)]
pub(super) struct NewBatch {
    operations: Vec<Operation>,
    replies: Vec<Reply>,
    /// For the operations at the front that join again: since when each has waited. `None` if those that wait are not
    /// in the batch.
    waited: Option<Vec<Instant>>,
}

impl NewBatch {
    /// Adds ends of holds, for which no caller waits.
    pub fn add_ends(&mut self, ends: &mut Vec<Operation>) {
        self.operations.append(ends);
        self.replies.resize_with(self.operations.len(), || None);
    }

    /// Adds an operation with its caller.
    pub fn push(&mut self, Queued { operation, reply }: Queued) {
        self.operations.push(operation);
        self.replies.push(reply);
    }

    /// The number of operations.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Returns the batch, and since when the operations at its front have waited.
    pub fn finish(self) -> (Batch, Option<Vec<Instant>>) {
        let Self { operations, replies, waited } = self;
        (Batch { operations: Arc::new(operations), replies }, waited)
    }
}

/// Operations that wait until others, beside the pipeline, are decided, in the order in which they were requested.
#[derive(Default)]
pub(super) struct Waiting {
    queue: Vec<Waiter>,
    /// Whether operations beside the pipeline were decided since the ones in the queue were last tried.
    may_rejoin: bool,
}

struct Waiter {
    operation: Operation,
    reply: Reply,
    since: Instant,
}

impl Waiting {
    /// Notes that operations beside the pipeline are decided, so that those that waited for them may join again.
    pub fn note_decided(&mut self) {
        self.may_rejoin = true;
    }

    /// Whether there are operations that may join the pipeline again.
    pub fn may_rejoin(&self) -> bool {
        self.may_rejoin && !self.queue.is_empty()
    }

    /// Begins the next batch: with all operations that wait, if they may join again, and else with none.
    pub fn begin_batch(&mut self) -> NewBatch {
        let mut batch = NewBatch::default();
        if std::mem::take(&mut self.may_rejoin) {
            let waited = self.queue.drain(..).map(|Waiter { operation, reply, since }| {
                batch.operations.push(operation);
                batch.replies.push(reply);
                since
            });
            batch.waited = Some(waited.collect());
        }
        batch
    }

    /// Takes the operations at these places out of a batch. `waited` is what [`NewBatch::finish`] returned with it.
    pub fn add(&mut self, batch: &mut Batch, places: &[usize], waited: Option<&[Instant]>) {
        let now = Instant::now();
        self.queue.extend(places.iter().map(|place| Waiter {
            operation: batch.operations[*place].clone(),
            reply: batch.replies[*place].take(),
            since: waited.and_then(|waited| waited.get(*place).copied()).unwrap_or(now),
        }));
    }

    /// Refuses the operations that have waited too long. Returns the ends of holds among them.
    pub fn give_up_old(&mut self, live: &LiveHolds) -> Vec<Operation> {
        self.give_up(live, |waiter| waiter.since.elapsed() >= WAITS_AT_MOST)
    }

    /// Refuses all operations. Returns the ends of holds among them.
    pub fn give_up_all(&mut self, live: &LiveHolds) -> Vec<Operation> {
        self.give_up(live, |_| true)
    }

    fn give_up(&mut self, live: &LiveHolds, is_old: impl Fn(&Waiter) -> bool) -> Vec<Operation> {
        let (mut operations, mut replies) = (Vec::new(), Vec::new());
        for Waiter { operation, reply, .. } in self.queue.extract_if(.., |waiter| is_old(waiter)) {
            operations.push(operation);
            replies.push(reply);
        }
        if operations.is_empty() {
            return operations;
        }
        // The others of the queue may have waited for these.
        self.may_rejoin = true;
        tracing::warn!(
            operations = operations.len(),
            "operations waited too long for others of the same account or id; they get 503"
        );
        Batch { operations: Arc::new(operations), replies }.refuse(live)
    }
}
