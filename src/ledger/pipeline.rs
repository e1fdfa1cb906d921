//! Natural batching. One task takes all operations in the queue, lets the backend decide them as
//! one batch, and replies to all callers. Then it takes the operations that were queued during that
//! time. A lone request does not wait, and under load the batches grow by themselves. A backend may
//! decide a batch while the one before becomes durable. It may also set operations aside that wait for something rare:
//! they are decided beside the pipeline, which decides other batches meanwhile. Later operations that depend on them wait,
//! and join the pipeline again when an operation beside it is decided.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::ledger::backend::{Aside, Backend, Begun, Expired, Outcomes, Ticked};
use crate::ledger::batch::{Batch, Waiting};
use crate::ledger::live::LiveHolds;
use crate::ledger::operation::Operation;
use crate::ledger::queue::{Message, Queue};
use crate::metrics::Metrics;

/// The largest batch, in operations. It is large enough that the cost of a commit hardly counts,
/// and small enough that callers get their reply soon.
const MAX_BATCH: usize = 1024;

/// The most batches that are in flight: one that becomes durable, and one that is being decided or waits for that too.
/// More would make the batches smaller and the commits more, and no call faster.
const MAX_IN_FLIGHT: usize = 2;

/// How many times the pipeline lets other tasks run, so that they queue more operations, before it
/// decides a batch. Each time, the runtime runs every task that is ready.
const MAX_ROUNDS: usize = 16;

/// How long these rounds may take in total. With thousands of ready tasks, many rounds would delay
/// the writes that `relaxed` promises within 50 ms.
const GATHER_LIMIT: Duration = Duration::from_millis(3);

/// How long a stopping pipeline tries again to write the ends of calls' holds.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The least time that the backend gets to close, after [`STOP_LIMIT`]. If one of its servers is
/// unreachable, it needs this time to hand over the ends of holds that are not written.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// The longest that a stop takes. If both servers of the backend are slow, a single step of it takes seconds.
const STOP_TAKES: Duration = Duration::from_secs(25);

/// The task that owns the backend.
#[derive(Debug)]
pub struct Pipeline {
    task: JoinHandle<bool>,
    queue: Queue,
}

impl Pipeline {
    /// Starts the task on the current runtime; returns it with the sending end of its queue.
    pub(crate) fn start<B: Backend>(
        backend: B,
        live: Arc<LiveHolds>,
        metrics: Metrics,
    ) -> (Self, Queue) {
        let (queue, messages) = Queue::new();
        let worker = Worker {
            backend,
            live,
            metrics,
            unsettled: Vec::new(),
            put_off: Vec::new(),
            committing: JoinSet::new(),
            aside: JoinSet::new(),
            waiting: Waiting::default(),
            ticking: JoinSet::new(),
            pace: Pace { began: Instant::now(), took: Duration::ZERO },
        };
        let task = tokio::spawn(worker.run(messages));
        (Self { task, queue: queue.clone() }, queue)
    }

    /// Decides all operations that were requested before, writes them, and closes the ledger.
    /// Returns false if something could not be written, or if the task died.
    pub async fn stop(self) -> bool {
        self.queue.stop();
        self.task.await.unwrap_or(false)
    }
}

/// Lets every task that is ready queue its operation before the batch is decided, because a commit
/// costs the same for one operation as for many. If no task is ready, this takes no time, so a lone
/// request does not wait. Stops early once the batch `is_enough`.
async fn gather(
    messages: &mut mpsc::UnboundedReceiver<Message>,
    inbox: &mut Vec<Message>,
    is_enough: impl Fn(&[Message]) -> bool,
) {
    let limit = Instant::now() + GATHER_LIMIT;
    for _ in 0..MAX_ROUNDS {
        let before = inbox.len();
        if is_enough(inbox) {
            return;
        }
        tokio::task::yield_now().await;
        while inbox.len() < MAX_BATCH
            && let Ok(message) = messages.try_recv()
        {
            inbox.push(message);
        }
        if inbox.len() == before || Instant::now() >= limit {
            return;
        }
    }
}

/// Waits for an operation whose caller waits, for at most `limit`, where there are only ends of calls' holds. A
/// commit of these alone would keep the next call waiting.
async fn wait_for_caller(
    messages: &mut mpsc::UnboundedReceiver<Message>,
    inbox: &mut Vec<Message>,
    limit: Duration,
    is_enough: impl Fn(&[Message]) -> bool,
) {
    let until = Instant::now() + limit;
    while inbox.len() < MAX_BATCH && inbox.iter().all(Message::is_end) {
        let room = MAX_BATCH - inbox.len();
        match tokio::time::timeout_at(until, messages.recv_many(inbox, room)).await {
            Ok(1..) => gather(messages, inbox, &is_enough).await,
            Ok(0) | Err(_) => return,
        }
    }
}

struct Worker<B> {
    backend: B,
    live: Arc<LiveHolds>,
    metrics: Metrics,
    /// Ends of holds that could not be written so far, oldest first.
    unsettled: Vec<Operation>,
    /// The same, of operations that were set aside. They are tried again at the next tick and not with the next batch,
    /// because they would be set aside again.
    put_off: Vec<Operation>,
    /// Batches that are decided and become durable. Each answers its callers, and returns its ends of holds that could
    /// not be written.
    committing: JoinSet<Vec<Operation>>,
    /// Operations that were set aside. Each group answers its callers, and returns the same.
    aside: JoinSet<Vec<Operation>>,
    /// Operations that wait for one of these groups.
    waiting: Waiting,
    /// The work of a tick that goes on beside the batches; at most one.
    ticking: JoinSet<Vec<Expired>>,
    pace: Pace,
}

/// How the last batch went, for a backend whose batches wait for the disk.
struct Pace {
    /// The time at which it was decided.
    began: Instant,
    /// How long the backend took for it.
    took: Duration,
}

impl Pace {
    /// Whether a batch has enough callers to be committed, while `live` holds have not ended. Half of the running
    /// calls are enough: the others have work to do during the commit, so that neither the thread nor the disk
    /// waits for the other. On a disk so slow that they would all wait before the commit ends, larger batches
    /// are better, and no number is enough.
    fn is_enough(&self, inbox: &[Message], live: usize) -> bool {
        let ends = inbox.iter().filter(|message| message.is_end()).count();
        let (callers, running) = (inbox.len() - ends, live.saturating_sub(ends));
        2 * callers >= running && 2 * self.took < self.began.elapsed()
    }
}

impl<B: Backend> Worker<B> {
    async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) -> bool {
        let mut inbox = Vec::with_capacity(MAX_BATCH);
        let mut tick_at = Instant::now() + self.backend.tick_after();
        // One timer serves all batches, because setting a timer to an earlier time wakes the
        // runtime up.
        let mut timer = pin!(tokio::time::sleep_until(tick_at));
        loop {
            tokio::select! {
                biased;
                Some(left) = self.committing.join_next() => self.note_committed(left),
                Some(left) = self.aside.join_next() => {
                    self.note_aside(left);
                    // Those that waited for these operations join again together.
                    while let Some(left) = self.aside.try_join_next() {
                        self.note_aside(left);
                    }
                }
                Some(expired) = self.ticking.join_next() => self.note_ticked(expired),
                taken = messages.recv_many(&mut inbox, MAX_BATCH), if self.has_room() => {
                    let limit = self.backend.ends_wait();
                    if limit.is_zero() {
                        gather(&mut messages, &mut inbox, |_| false).await;
                    } else {
                        let is_enough = |inbox: &[Message]| self.pace.is_enough(inbox, self.live.len());
                        gather(&mut messages, &mut inbox, is_enough).await;
                        wait_for_caller(&mut messages, &mut inbox, limit, is_enough).await;
                    }
                    let stopping = taken == 0 || inbox.iter().any(|m| matches!(m, Message::Stop));
                    if stopping {
                        messages.close();
                    }
                    self.decide(inbox.drain(..)).await;
                    if stopping && messages.is_empty() {
                        return self.stop().await;
                    }
                    tick_at = tick_at.min(Instant::now() + self.backend.tick_after());
                }
                () = &mut timer, if self.has_room() => {}
            }
            if self.waiting.may_rejoin() && self.has_room() {
                self.decide(std::iter::empty()).await;
            }
            if Instant::now() >= tick_at && self.has_room() {
                self.tick().await;
                tick_at = Instant::now() + self.backend.tick_after();
            }
            if tick_at < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(tick_at);
            }
        }
    }

    async fn tick(&mut self) {
        self.unsettled.append(&mut self.put_off);
        self.put_off = self.waiting.give_up_old(&self.live);
        if !self.unsettled.is_empty() {
            self.decide(std::iter::empty()).await;
        }
        while !self.has_room() {
            self.wait_for_committed().await;
        }
        if !self.ticking.is_empty() {
            return;
        }
        let live = &self.live;
        match self.backend.begin_tick(&|hold| live.contains(hold)).await {
            Ticked::Done(expired) => self.note_expired(&expired),
            Ticked::Going(rest) => drop(self.ticking.spawn(rest)),
        }
    }

    fn note_expired(&self, expired: &[Expired]) {
        for expired in expired {
            self.metrics.holds.with_label_values(&[&*expired.route, "expired"]).inc();
            tracing::warn!(hold = %expired.hold, route = %expired.route, "a hold expired");
        }
    }

    async fn decide(&mut self, messages: impl Iterator<Item = Message>) {
        let mut batch = self.waiting.begin_batch();
        batch.add_ends(&mut self.unsettled);
        for message in messages {
            if let Message::Operation(queued) = message {
                batch.push(queued);
            }
        }
        let len = batch.len();
        let (mut batch, waited) = batch.finish();
        if len == 0 {
            if waited.is_some() {
                self.waiting.note_decided();
            }
            return;
        }
        self.metrics.ledger_batch_size.observe(len as f64);
        self.pace.began = Instant::now();
        let begun = self.backend.begin(&batch.operations, waited.is_some()).await;
        self.pace.took = self.pace.began.elapsed();
        let Begun { outcomes, aside, waiting } = begun;
        if !aside.is_empty() || !waiting.is_empty() {
            self.waiting.add(&mut batch, &waiting, waited.as_deref());
            batch = self.set_aside(batch, aside, &waiting);
        }
        match outcomes {
            Outcomes::Ready(outcomes) => {
                self.unsettled.extend(batch.answer(outcomes, &self.live));
            }
            Outcomes::Committing(outcomes) => {
                let live = self.live.clone();
                self.committing.spawn(async move { batch.answer(outcomes.await, &live) });
            }
        }
    }

    /// Lets some operations of a batch be decided beside the batches. Returns the rest of the batch, without the
    /// operations at the places in `waiting`.
    fn set_aside(&mut self, mut batch: Batch, aside: Vec<Aside>, waiting: &[usize]) -> Batch {
        let mut is_left = vec![true; batch.operations.len()];
        waiting.iter().for_each(|place| is_left[*place] = false);
        for Aside { places, outcomes } in aside {
            places.iter().for_each(|place| is_left[*place] = false);
            let (part, live) = (batch.part(&places), self.live.clone());
            self.aside.spawn(async move { part.answer(outcomes.await, &live) });
        }
        let left: Vec<_> = (0..is_left.len()).filter(|place| is_left[*place]).collect();
        batch.part(&left)
    }

    /// True where another batch may be decided.
    fn has_room(&self) -> bool {
        self.committing.len() < MAX_IN_FLIGHT
    }

    fn note_committed(&mut self, left: Result<Vec<Operation>, JoinError>) {
        match left {
            Ok(left) => self.unsettled.extend(left),
            // The callers of this batch have heard that the ledger is unavailable.
            Err(error) => tracing::error!(%error, "a batch was not answered"),
        }
    }

    fn note_aside(&mut self, left: Result<Vec<Operation>, JoinError>) {
        self.waiting.note_decided();
        match left {
            Ok(left) => self.put_off.extend(left),
            // Their callers have heard that the ledger is unavailable.
            Err(error) => {
                tracing::error!(%error, "operations that were set aside were not answered")
            }
        }
    }

    fn note_ticked(&mut self, expired: Result<Vec<Expired>, JoinError>) {
        self.waiting.note_decided();
        match expired {
            Ok(expired) => self.note_expired(&expired),
            Err(error) => tracing::error!(%error, "the holds whose time is up were not ended"),
        }
    }

    /// Waits until one more of the batches that were decided is answered.
    async fn wait_for_committed(&mut self) {
        if let Some(left) = self.committing.join_next().await {
            self.note_committed(left);
        }
    }

    /// Waits until all of them are answered, and all that goes on beside them has ended.
    async fn wait_for_all(&mut self) {
        loop {
            while !self.committing.is_empty() {
                self.wait_for_committed().await;
            }
            if let Some(left) = self.aside.join_next().await {
                self.note_aside(left);
            } else if let Some(expired) = self.ticking.join_next().await {
                self.note_ticked(expired);
            } else {
                break;
            }
            self.put_off.extend(self.waiting.give_up_old(&self.live));
            if self.waiting.may_rejoin() {
                self.decide(std::iter::empty()).await;
            }
        }
        // Nothing is left that they could wait for.
        self.put_off.extend(self.waiting.give_up_all(&self.live));
        self.unsettled.append(&mut self.put_off);
    }

    async fn stop(mut self) -> bool {
        let is_closed = tokio::time::timeout(STOP_TAKES, self.close()).await;
        if is_closed.is_err() {
            tracing::error!(
                "the ledger's servers are too slow; stopped before everything was written"
            );
        }
        // Nothing is left of these unless the stop took too long.
        self.unsettled.append(&mut self.put_off);
        self.unsettled.extend(self.waiting.give_up_all(&self.live));
        for operation in &self.unsettled {
            tracing::error!(?operation, "stopped with the end of a hold unwritten");
        }
        is_closed == Ok(true) && self.unsettled.is_empty()
    }

    /// Writes everything, and closes the backend. Returns whether it is closed.
    async fn close(&mut self) -> bool {
        let limit = Instant::now() + STOP_LIMIT;
        // Each of these ends within a limit of its own.
        self.wait_for_all().await;
        // This loop retries the ends of holds that the backend has not accepted yet. The ends that
        // it has accepted are written below, within the time that the backend gets to close.
        while !self.unsettled.is_empty() && Instant::now() < limit {
            self.backend.hand_over(&mut self.unsettled).await;
            if !self.unsettled.is_empty() {
                tokio::time::sleep(self.backend.tick_after()).await;
                self.tick().await;
                self.wait_for_all().await;
            }
        }
        let limit = limit.max(Instant::now() + CLOSE_LIMIT);
        loop {
            if !self.unsettled.is_empty() {
                self.backend.hand_over(&mut self.unsettled).await;
            }
            // The ends of holds that are still not written at the limit are lost.
            let is_late = Instant::now() >= limit;
            if (self.unsettled.is_empty() || is_late) && self.backend.close().await {
                return true;
            }
            if is_late {
                return false;
            }
            tokio::time::sleep(self.backend.tick_after()).await;
            self.tick().await;
            self.wait_for_all().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::account::AccountId;
    use crate::ledger::queue::Queued;

    fn request() -> Message {
        let account: AccountId = "alice".parse().unwrap();
        Message::Operation(Queued { operation: Operation::Balance { account }, reply: None })
    }

    fn request_of_caller() -> Message {
        let Message::Operation(mut queued) = request() else { return Message::Stop };
        queued.reply = Some(oneshot::channel().0);
        Message::Operation(queued)
    }

    #[test]
    fn half_of_the_running_calls_are_a_batch_where_the_disk_is_quick() {
        let ago = |took: u64, secs: u64| Pace {
            began: Instant::now() - Duration::from_secs(secs),
            took: Duration::from_secs(took),
        };
        // Two callers, and the end of a call that has had its answer.
        let inbox = [request_of_caller(), request(), request_of_caller()];
        assert!(ago(1, 10).is_enough(&inbox, 1 + 4));
        assert!(!ago(1, 10).is_enough(&inbox, 1 + 5));
        assert!(!ago(9, 10).is_enough(&inbox, 1 + 4), "a commit takes as long as the calls do");
    }

    /// Runs tasks that send a request in each round and are ready again at once; each keeps the thread
    /// busy for `each` in every round. Returns the number of requests in the batch.
    async fn gathered(callers: usize, each: Duration) -> usize {
        let (queue, mut messages) = mpsc::unbounded_channel();
        for _ in 0..callers {
            let queue = queue.clone();
            tokio::spawn(async move {
                while queue.send(request()).is_ok() {
                    // Blocks the thread, so that no other task runs meanwhile.
                    std::thread::sleep(each);
                    tokio::task::yield_now().await;
                }
            });
        }
        let mut inbox = vec![request()];
        gather(&mut messages, &mut inbox, |_| false).await;
        inbox.len() - 1
    }

    #[tokio::test]
    async fn a_lone_request_does_not_wait() {
        assert_eq!(gathered(0, Duration::ZERO).await, 0);
    }

    #[tokio::test]
    async fn every_ready_caller_is_in_the_batch() {
        assert!(gathered(8, Duration::ZERO).await >= 8);
    }

    /// One round of these callers takes 8 ms. A second round would keep the first requests waiting.
    #[tokio::test]
    async fn a_batch_is_not_gathered_beyond_its_limit() {
        assert_eq!(gathered(8, Duration::from_millis(1)).await, 8);
    }

    #[tokio::test]
    async fn a_batch_is_never_larger_than_the_limit() {
        assert!(gathered(3 * MAX_BATCH, Duration::ZERO).await < MAX_BATCH);
    }
}
