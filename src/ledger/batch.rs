//! Operations with the callers who wait for their outcomes: a batch, and the operations that wait to join one.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use ahash::HashSet;
use futures_util::FutureExt as _;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::ledger::backend::Later;
use crate::ledger::live::LiveHolds;
use crate::ledger::operation::{HoldId, NewHold, Operation, Origin, Outcome, Refusal};
use crate::ledger::queue::Queued;

/// How long an operation may wait for others that are decided beside the pipeline.
const WAITS_AT_MOST: Duration = Duration::from_secs(5);

/// How many operations may wait. The caller of one more hears at once that the ledger is unavailable. The ends of calls'
/// holds wait in any case.
const MOST_WAIT: usize = 4096;

/// The channel to the caller of an operation. No caller waits for the end of a call's hold.
type Reply = Option<oneshot::Sender<Outcome>>;

/// A batch and the callers who wait for its outcomes.
#[derive(Default)]
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

    /// Answers the callers once the outcomes are known. If the work panics, or if `give_up` becomes true first, all
    /// operations are refused as unavailable. Returns the ends of holds that could not be written.
    pub async fn answer_later(
        self,
        outcomes: Later<Vec<Outcome>>,
        live: Arc<LiveHolds>,
        mut give_up: watch::Receiver<bool>,
    ) -> Vec<Operation> {
        let outcomes = tokio::select! {
            biased;
            outcomes = AssertUnwindSafe(outcomes).catch_unwind() => outcomes,
            _ = give_up.wait_for(|give_up| *give_up) => return self.refuse(&live),
        };
        match outcomes {
            Ok(outcomes) => self.answer(outcomes, &live),
            Err(_) => {
                tracing::error!(
                    operations = self.operations.len(),
                    "the ledger's work on some operations panicked; callers get 503, and ends of holds are tried again: \
                     please report the panic, which stands in the lines before"
                );
                self.refuse(&live)
            }
        }
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

/// The hold that a call asks for.
fn call_hold(operation: &Operation) -> Option<&HoldId> {
    match operation {
        Operation::Hold(NewHold { id, origin: Origin::Call, .. }) => Some(id),
        _ => None,
    }
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
    /// Whether an operation was refused the last time that some had to wait, because too many waited.
    is_full: bool,
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

    /// Whether no operation waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether there are operations that may join the pipeline again.
    pub fn may_rejoin(&self) -> bool {
        self.may_rejoin && !self.queue.is_empty()
    }

    /// Begins the next batch: with all operations that wait, if they may join again, and else with none.
    pub fn begin_batch(&mut self, live: &LiveHolds) -> NewBatch {
        let mut batch = NewBatch::default();
        if std::mem::take(&mut self.may_rejoin) {
            self.forget_cut_off(live);
            let waited = self.queue.drain(..).map(|Waiter { operation, reply, since }| {
                batch.operations.push(operation);
                batch.replies.push(reply);
                since
            });
            batch.waited = Some(waited.collect());
        }
        batch
    }

    /// Takes the operations at these places out of a batch, and refuses those for which there is no room. `waited` is what
    /// [`NewBatch::finish`] returned with the batch.
    pub fn add(&mut self, batch: &mut Batch, places: &[usize], waited: Option<&[Instant]>) {
        let (now, mut refused) = (Instant::now(), 0);
        for place in places {
            let mut reply = batch.replies[*place].take();
            if self.queue.len() >= MOST_WAIT
                && let Some(reply) = reply.take()
            {
                drop(reply.send(Outcome::Refused(Refusal::Unavailable)));
                refused += 1;
                continue;
            }
            self.queue.push(Waiter {
                operation: batch.operations[*place].clone(),
                reply,
                since: waited.and_then(|waited| waited.get(*place).copied()).unwrap_or(now),
            });
        }
        if refused > 0 && !self.is_full {
            tracing::warn!(
                waiting = self.queue.len(),
                "too many operations wait for others of the same account or id; more of them get 503 at once: see what \
                 keeps rows locked or slows Postgres down"
            );
        }
        self.is_full = refused > 0;
    }

    /// Refuses the operations that have waited too long. Returns the ends of holds among them.
    pub fn give_up_old(&mut self, live: &LiveHolds) -> Vec<Operation> {
        let waiting = self.queue.len();
        self.forget_cut_off(live);
        self.may_rejoin |= self.queue.len() < waiting;
        let late = "operations waited too long for others of the same account or id; they get 503: see what keeps rows \
                    locked or slows Postgres down";
        self.give_up(live, late, |waiter| waiter.since.elapsed() >= WAITS_AT_MOST)
    }

    /// Refuses all operations, at a stop. Returns the ends of holds among them.
    pub fn give_up_all(&mut self, live: &LiveHolds) -> Vec<Operation> {
        self.give_up(
            live,
            "the ledger stops while operations wait for others; they get 503",
            |_| true,
        )
    }

    /// Refuses the operations that set credits aside, at a stop.
    pub fn refuse_holds(&mut self, live: &LiveHolds) {
        self.give_up(live, "the ledger stops while new holds wait; they get 503", |waiter| {
            waiter.operation.takes_credits()
        });
    }

    /// Removes the holds of calls that were cut off while they waited, together with the ends of these holds. The backend
    /// has seen neither.
    fn forget_cut_off(&mut self, live: &LiveHolds) {
        let is_cut_off = |waiter: &&Waiter| waiter.reply.as_ref().is_some_and(|r| r.is_closed());
        let cut_off = self.queue.iter().filter(is_cut_off).filter_map(|w| call_hold(&w.operation));
        let cut_off: HashSet<_> = cut_off.cloned().collect();
        if cut_off.is_empty() {
            return;
        }
        let ends = self.queue.iter().filter(|waiter| waiter.reply.is_none());
        let ended = ends.filter_map(|waiter| waiter.operation.ends());
        let ended: HashSet<_> = ended.filter(|hold| cut_off.contains(*hold)).cloned().collect();
        self.queue.retain(|Waiter { operation, .. }| {
            let hold = call_hold(operation).or_else(|| operation.ends());
            !hold.is_some_and(|hold| ended.contains(hold))
        });
        ended.iter().for_each(|hold| live.remove(hold));
    }

    fn give_up(
        &mut self,
        live: &LiveHolds,
        why: &str,
        is_given_up: impl Fn(&Waiter) -> bool,
    ) -> Vec<Operation> {
        let (mut operations, mut replies) = (Vec::new(), Vec::new());
        for Waiter { operation, reply, .. } in
            self.queue.extract_if(.., |waiter| is_given_up(waiter))
        {
            operations.push(operation);
            replies.push(reply);
        }
        if operations.is_empty() {
            return operations;
        }
        // The others of the queue may have waited for these.
        self.may_rejoin = true;
        tracing::warn!(operations = operations.len(), "{why}");
        Batch { operations: Arc::new(operations), replies }.refuse(live)
    }
}
