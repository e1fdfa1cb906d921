//! Natural batching. One task takes all operations in the queue, lets the backend decide them as
//! one batch, and replies to all callers. Then it takes the operations that were queued during that
//! time. A lone request does not wait, and under load the batches grow by themselves. A backend may
//! decide a batch while the one before becomes durable. It may also set operations aside that wait for something rare:
//! they are decided beside the pipeline, which decides other batches meanwhile. Later operations that depend on them wait,
//! and join the pipeline again when an operation beside it is decided.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::ledger::backend::{Aside, Backend, Begun, Expired, Outcomes, Ticked};
use crate::ledger::batch::{Batch, Waiting};
use crate::ledger::gather::{MAX_BATCH, Pace, gather, is_half, wait_for_caller};
use crate::ledger::live::LiveHolds;
use crate::ledger::operation::Operation;
use crate::ledger::queue::{Message, Queue};
use crate::metrics::Metrics;

/// The most batches that are in flight: one that becomes durable, and one that is being decided or waits for that too.
/// More would make the batches smaller and the commits more, and no call faster.
const MAX_IN_FLIGHT: usize = 2;

/// How long a stopping pipeline waits for operations that are not decided, or not durable, at first and later again. After
/// that it gives them up, so that it has time to hand over the ends of holds among them.
const STOP_WAITS: Duration = Duration::from_secs(6);
const STOP_WAITS_AGAIN: Duration = Duration::from_secs(3);

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
            deciding: None,
            give_up: watch::Sender::new(false),
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
    /// The batch that the backend is deciding.
    deciding: Option<Arc<Vec<Operation>>>,
    /// Becomes true where a stop gives up what is not decided or not durable. The tasks of `committing` and `aside` then
    /// end at once.
    give_up: watch::Sender<bool>,
    pace: Pace,
}

impl<B: Backend> Worker<B> {
    async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) -> bool {
        let mut inbox = Vec::with_capacity(MAX_BATCH);
        let mut tick_at = Instant::now() + self.backend.tick_after();
        // One timer serves all batches, because setting a timer to an earlier time wakes the
        // runtime up.
        let mut timer = pin!(tokio::time::sleep_until(tick_at));
        loop {
            let mut is_closed = false;
            tokio::select! {
                biased;
                Some(left) = self.committing.join_next() => self.note_committed(left),
                Some(left) = self.aside.join_next() => {
                    self.note_aside(left);
                    // Those that waited for these operations join again together.
                    while let Some(left) = self.aside.try_join_next() {
                        self.note_aside(left);
                    }
                    self.note_decided();
                }
                Some(expired) = self.ticking.join_next() => self.note_ticked(expired),
                taken = messages.recv_many(&mut inbox, MAX_BATCH), if self.has_room() => {
                    is_closed = taken == 0;
                    let limit = self.backend.ends_wait();
                    let fewest = self.backend.fewest_callers();
                    let is_enough = |inbox: &[Message]| {
                        let is_quick = limit.is_zero() || self.pace.is_quick();
                        is_quick && fewest.is_some_and(|few| is_half(inbox, self.live.len(), few))
                    };
                    gather(&mut messages, &mut inbox, is_enough).await;
                    if !limit.is_zero() {
                        wait_for_caller(&mut messages, &mut inbox, limit, is_enough).await;
                    }
                }
                () = &mut timer, if self.has_room() => {}
            }
            let rejoins = self.waiting.may_rejoin() && self.has_room();
            if rejoins {
                // If those that wait took every free place for themselves, the queued operations would starve.
                while inbox.len() < MAX_BATCH
                    && let Ok(message) = messages.try_recv()
                {
                    inbox.push(message);
                }
            }
            let stopping = is_closed || inbox.iter().any(|m| matches!(m, Message::Stop));
            if stopping {
                messages.close();
            }
            if rejoins || !inbox.is_empty() {
                self.decide(inbox.drain(..)).await;
                tick_at = tick_at.min(Instant::now() + self.backend.tick_after());
            }
            if stopping && messages.is_empty() {
                return self.stop().await;
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
        if let Some(owed) = self.backend.owed() {
            self.set_aside(Batch::default(), vec![owed], &[]);
        }
        if !self.waiting.is_empty() {
            self.note_decided();
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
        let mut batch = self.waiting.begin_batch(&self.live);
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
        self.deciding = Some(batch.operations.clone());
        let begun = self.backend.begin(&batch.operations, waited.is_some()).await;
        self.deciding = None;
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
                let (live, give_up) = (self.live.clone(), self.give_up.subscribe());
                self.committing.spawn(batch.answer_later(outcomes, live, give_up));
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
            let (live, give_up) = (self.live.clone(), self.give_up.subscribe());
            self.aside.spawn(batch.part(&places).answer_later(outcomes, live, give_up));
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
        match left {
            Ok(left) => self.put_off.extend(left),
            // The callers of these operations have heard that the ledger is unavailable.
            Err(error) => {
                tracing::error!(%error, "operations that were set aside were not answered")
            }
        }
    }

    fn note_ticked(&mut self, expired: Result<Vec<Expired>, JoinError>) {
        match expired {
            Ok(expired) => self.note_expired(&expired),
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(%error, "the holds whose time is up were not ended"),
        }
        self.note_decided();
    }

    /// Operations beside the batches are decided, and others may have waited for them.
    fn note_decided(&mut self) {
        if self.backend.lets_rejoin() {
            self.waiting.note_decided();
        }
    }

    /// Waits until one more of the batches that were decided is answered.
    async fn wait_for_committed(&mut self) {
        if let Some(left) = self.committing.join_next().await {
            self.note_committed(left);
        }
    }

    /// Waits until a batch is answered, or something beside the batches has ended. Returns false if there is nothing to
    /// wait for.
    async fn wait_for_one(&mut self) -> bool {
        tokio::select! {
            Some(left) = self.committing.join_next() => self.note_committed(left),
            Some(left) = self.aside.join_next() => {
                self.note_aside(left);
                self.note_decided();
            }
            Some(expired) = self.ticking.join_next() => self.note_ticked(expired),
            else => return false,
        }
        true
    }

    /// Waits until all operations are decided and answered. Gives up those that are not after this time.
    async fn wait_for_all(&mut self, most: Duration) {
        let until = Instant::now() + most;
        loop {
            self.put_off.extend(self.waiting.give_up_old(&self.live));
            if self.waiting.may_rejoin() && self.has_room() && Instant::now() < until {
                self.decide(std::iter::empty()).await;
            }
            let Ok(true) = tokio::time::timeout_at(until, self.wait_for_one()).await else { break };
        }
        self.give_up().await;
    }

    /// Refuses all operations that are not decided and answered. The ends of holds among them are unsettled then.
    async fn give_up(&mut self) {
        self.give_up.send_replace(true);
        while !self.committing.is_empty() {
            self.wait_for_committed().await;
        }
        while let Some(left) = self.aside.join_next().await {
            self.note_aside(left);
        }
        self.give_up.send_replace(false);
        // The holds whose time is up are ended by another gateway, or after the next start.
        self.ticking.shutdown().await;
        self.put_off.extend(self.waiting.give_up_all(&self.live));
        self.unsettled.append(&mut self.put_off);
    }

    async fn stop(mut self) -> bool {
        // No call goes on any more, so none needs a new hold.
        self.waiting.refuse_holds(&self.live);
        let is_closed = tokio::time::timeout(STOP_TAKES, self.close()).await;
        if is_closed.is_err() {
            tracing::error!(
                "the ledger's servers are too slow; stopped before everything was written"
            );
        }
        // Nothing is left of these unless the stop took too long.
        self.give_up().await;
        if let Some(deciding) = self.deciding.take() {
            self.unsettled.extend(deciding.iter().filter(|one| one.ends().is_some()).cloned());
        }
        for operation in &self.unsettled {
            tracing::error!(?operation, "stopped with the end of a hold unwritten");
        }
        is_closed == Ok(true) && self.unsettled.is_empty()
    }

    /// Writes everything, and closes the backend. Returns whether it is closed.
    async fn close(&mut self) -> bool {
        let limit = Instant::now() + STOP_LIMIT;
        self.wait_for_all(STOP_WAITS).await;
        // This loop retries the ends of holds that the backend has not accepted yet. The ends that
        // it has accepted are written below, within the time that the backend gets to close.
        while !self.unsettled.is_empty() && Instant::now() < limit {
            self.backend.hand_over(&mut self.unsettled).await;
            if !self.unsettled.is_empty() {
                tokio::time::sleep(self.backend.tick_after()).await;
                self.tick().await;
                self.wait_for_all(STOP_WAITS_AGAIN).await;
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
            self.wait_for_all(STOP_WAITS_AGAIN).await;
        }
    }
}
