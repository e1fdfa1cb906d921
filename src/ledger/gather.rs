//! How a batch gathers operations before it is decided.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::ledger::queue::Message;

/// The largest batch, in operations. It is large enough that the cost of a commit hardly counts,
/// and small enough that callers get their reply soon.
pub(super) const MAX_BATCH: usize = 1024;

/// How many times the pipeline lets other tasks run, so that they queue more operations, before it
/// decides a batch. Each time, the runtime runs every task that is ready.
const MAX_ROUNDS: usize = 16;

/// How long these rounds may take in total. With thousands of ready tasks, many rounds would delay
/// the writes that `relaxed` promises within 50 ms.
const GATHER_LIMIT: Duration = Duration::from_millis(3);

/// Lets every task that is ready queue its operation before the batch is decided, because a commit
/// costs the same for one operation as for many. If no task is ready, this takes no time, so a lone
/// request does not wait. Stops early once the batch `is_enough`.
pub(super) async fn gather(
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
pub(super) async fn wait_for_caller(
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

/// How the last batch went, for a backend whose batches wait for the disk.
pub(super) struct Pace {
    /// The time at which it was decided.
    pub began: Instant,
    /// How long the backend took for it.
    pub took: Duration,
}

impl Pace {
    /// Whether a commit takes less than half of the time between two batches. On a disk so slow that all running calls
    /// would wait before the commit ends, larger batches are better, and no number of callers is enough.
    pub fn is_quick(&self) -> bool {
        2 * self.took < self.began.elapsed()
    }
}

/// Whether a batch has half of the running calls, and at least `fewest`, while `live` holds have not ended. The other
/// calls have work to do meanwhile, so that neither the thread nor the store waits for the other.
pub(super) fn is_half(inbox: &[Message], live: usize, fewest: usize) -> bool {
    let ends = inbox.iter().filter(|message| message.is_end()).count();
    let (callers, running) = (inbox.len() - ends, live.saturating_sub(ends));
    callers >= fewest && 2 * callers >= running
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::account::AccountId;
    use crate::ledger::operation::Operation;
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
    fn half_of_the_running_calls_are_a_batch_where_they_are_enough() {
        // Two callers, and the end of a call that has had its answer.
        let inbox = [request_of_caller(), request(), request_of_caller()];
        assert!(is_half(&inbox, 1 + 4, 2));
        assert!(!is_half(&inbox, 1 + 5, 2));
        assert!(!is_half(&inbox, 1 + 4, 3), "fewer callers wait for others that are ready");
    }

    #[test]
    fn a_disk_is_quick_where_a_commit_leaves_time_between_two_batches() {
        let ago = |took: u64, secs: u64| Pace {
            began: Instant::now() - Duration::from_secs(secs),
            took: Duration::from_secs(took),
        };
        assert!(ago(1, 10).is_quick());
        assert!(!ago(9, 10).is_quick(), "a commit takes as long as the calls do");
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
