//! Natural batching: one task takes everything that is queued, has it decided as one batch,
//! answers all, and takes what has queued up meanwhile. A lone request waits for nobody; under
//! load the batch grows by itself.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::metrics::Metrics;

use super::backend::Backend;
use super::hold::LiveHolds;
use super::operation::{Operation, Outcome, Refusal};

/// The largest batch: enough to make the commit's cost vanish, small enough to answer soon.
const MAX_BATCH: usize = 1024;

/// How often a batch lets others in before it is decided; each time the runtime has served whoever
/// was ready.
const MAX_ROUNDS: usize = 16;

/// How long that may take under load: a round serves every ready call, and with thousands of them
/// what `relaxed` has promised to write within 50 ms must not wait for all.
const GATHER_LIMIT: Duration = Duration::from_millis(3);

/// How long a stopping pipeline goes on trying to write what calls have settled.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long its backend gets after that at the least: to hand over what it has where one of its servers is away.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// One operation on its way to the ledger.
#[derive(Debug)]
pub(crate) struct Request {
    pub operation: Operation,
    /// Who waits for the outcome. Without one, the operation is the end of a hold: nobody waits,
    /// and it is tried until it is done.
    pub reply: Option<oneshot::Sender<Outcome>>,
}

/// What goes through the queue.
#[derive(Debug)]
pub(crate) enum Message {
    Request(Request),
    Stop,
}

/// The task that owns the backend.
#[derive(Debug)]
pub struct Pipeline {
    task: JoinHandle<bool>,
    queue: mpsc::UnboundedSender<Message>,
}

impl Pipeline {
    pub(crate) fn start<B: Backend>(
        backend: B,
        live: Arc<LiveHolds>,
        metrics: Metrics,
    ) -> (Self, mpsc::UnboundedSender<Message>) {
        let (queue, messages) = mpsc::unbounded_channel();
        let worker = Worker { backend, live, metrics, unsettled: Vec::new() };
        let task = tokio::spawn(worker.run(messages));
        (Self { task, queue: queue.clone() }, queue)
    }

    /// Decides everything that was asked before, writes it, and closes the ledger. False where
    /// something could not be written, or the task died.
    pub async fn stop(self) -> bool {
        // A closed queue means that the task has ended, which is what is asked for.
        let _ = self.queue.send(Message::Stop);
        self.task.await.unwrap_or(false)
    }
}

/// Lets everybody who is ready to ask do so before the batch is decided: a commit costs the same for
/// one as for many. Where nobody is ready this takes no time, so a lone request waits for nobody.
async fn gather(messages: &mut mpsc::UnboundedReceiver<Message>, inbox: &mut Vec<Message>) {
    let limit = Instant::now() + GATHER_LIMIT;
    for _ in 0..MAX_ROUNDS {
        let before = inbox.len();
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

/// True where a call was cut off before its hold was granted: there is nothing to end.
fn is_void(operation: &Operation, refusal: Refusal) -> bool {
    matches!((operation, refusal), (Operation::Abandon { .. }, Refusal::UnknownHold))
}

struct Worker<B> {
    backend: B,
    live: Arc<LiveHolds>,
    metrics: Metrics,
    /// Ends of holds that could not be written yet, oldest first.
    unsettled: Vec<Operation>,
}

impl<B: Backend> Worker<B> {
    async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) -> bool {
        let mut inbox = Vec::with_capacity(MAX_BATCH);
        let mut tick_at = Instant::now() + self.backend.tick_after();
        // Kept from one batch to the next: setting a timer to an earlier time wakes the runtime.
        let mut timer = pin!(tokio::time::sleep_until(tick_at));
        loop {
            tokio::select! {
                biased;
                taken = messages.recv_many(&mut inbox, MAX_BATCH) => {
                    gather(&mut messages, &mut inbox).await;
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
                () = &mut timer => {}
            }
            if Instant::now() >= tick_at {
                self.tick().await;
                tick_at = Instant::now() + self.backend.tick_after();
            }
            if tick_at < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(tick_at);
            }
        }
    }

    async fn tick(&mut self) {
        if !self.unsettled.is_empty() {
            self.decide(std::iter::empty()).await;
        }
        let live = &self.live;
        for expired in self.backend.tick(&|hold| live.contains(hold)).await {
            self.metrics.holds.with_label_values(&[&*expired.route, "expired"]).inc();
            tracing::warn!(hold = %expired.hold, route = %expired.route, "a hold expired");
        }
    }

    async fn decide(&mut self, messages: impl Iterator<Item = Message>) {
        let mut operations = std::mem::take(&mut self.unsettled);
        let retried = operations.len();
        let mut replies = Vec::new();
        for message in messages {
            if let Message::Request(Request { operation, reply }) = message {
                operations.push(operation);
                replies.push(reply);
            }
        }
        if operations.is_empty() {
            return;
        }
        self.metrics.ledger_batch_size.observe(operations.len() as f64);
        let outcomes = self.backend.apply(&operations).await;
        debug_assert_eq!(outcomes.len(), operations.len());
        let replies = std::iter::repeat_with(|| None).take(retried).chain(replies);
        for ((operation, outcome), reply) in operations.into_iter().zip(outcomes).zip(replies) {
            match (reply, outcome) {
                // Its caller has gone: the guard has sent, or will send, what undoes it.
                (Some(reply), outcome) => drop(reply.send(outcome)),
                (None, Outcome::Refused(Refusal::Unavailable)) => self.unsettled.push(operation),
                (None, outcome) => {
                    if let Outcome::Refused(refusal) = outcome
                        && !is_void(&operation, refusal)
                    {
                        tracing::error!(?operation, %refusal, "a hold could not be ended");
                    }
                    if let Some(hold) = operation.ends() {
                        self.live.remove(hold);
                    }
                }
            }
        }
    }

    async fn stop(mut self) -> bool {
        let limit = Instant::now() + STOP_LIMIT;
        // What waits is either here or, acknowledged already, with the backend: that gets its time in any case.
        while !self.unsettled.is_empty() && Instant::now() < limit {
            self.backend.hand_over(&mut self.unsettled).await;
            if !self.unsettled.is_empty() {
                tokio::time::sleep(self.backend.tick_after()).await;
                self.tick().await;
            }
        }
        let limit = limit.max(Instant::now() + CLOSE_LIMIT);
        let is_closed = loop {
            if !self.unsettled.is_empty() {
                self.backend.hand_over(&mut self.unsettled).await;
            }
            // What is unsettled then is lost.
            let is_late = Instant::now() >= limit;
            if (self.unsettled.is_empty() || is_late) && self.backend.close().await {
                break true;
            }
            if is_late {
                break false;
            }
            tokio::time::sleep(self.backend.tick_after()).await;
            self.tick().await;
        };
        for operation in &self.unsettled {
            tracing::error!(?operation, "stopped with the end of a hold unwritten");
        }
        is_closed && self.unsettled.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::AccountId;

    fn question() -> Message {
        let account: AccountId = "alice".parse().unwrap();
        Message::Request(Request { operation: Operation::Balance { account }, reply: None })
    }

    /// Callers that are ready again as soon as they have asked; each is served for `each` a round.
    /// Returns how many asked before the batch was decided.
    async fn gathered(callers: usize, each: Duration) -> usize {
        let (queue, mut messages) = mpsc::unbounded_channel();
        for _ in 0..callers {
            let queue = queue.clone();
            tokio::spawn(async move {
                while queue.send(question()).is_ok() {
                    // This thread is busy; nobody else runs meanwhile.
                    std::thread::sleep(each);
                    tokio::task::yield_now().await;
                }
            });
        }
        let mut inbox = vec![question()];
        gather(&mut messages, &mut inbox).await;
        inbox.len() - 1
    }

    #[tokio::test]
    async fn a_lone_request_waits_for_nobody() {
        assert_eq!(gathered(0, Duration::ZERO).await, 0);
    }

    #[tokio::test]
    async fn whoever_is_ready_asks_before_the_batch_is_decided() {
        assert!(gathered(8, Duration::ZERO).await >= 8);
    }

    /// One round of these takes 8 ms. Another would keep those waiting who have asked already.
    #[tokio::test]
    async fn a_batch_is_not_gathered_beyond_its_limit() {
        assert_eq!(gathered(8, Duration::from_millis(1)).await, 8);
    }

    #[tokio::test]
    async fn a_batch_is_never_larger_than_what_is_committed_in_one_go() {
        assert!(gathered(3 * MAX_BATCH, Duration::ZERO).await < MAX_BATCH);
    }
}
