//! The answers that are kept for retries, in Postgres.
//!
//! One task writes the answers. It takes all answers that wait and writes them in one transaction. So a gateway that
//! keeps many answers needs one connection for them, and leaves the others to the ledger. Reads have a limit of their
//! own.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::ledger::operation::HoldId;
use crate::ledger::{Answers, Kept, LedgerError, wall_ms};
use crate::store::cluster::postgres::{self, NewAnswer, Store};
use crate::store::replays::{ReplayInbox, ReplaySender, replay_channel};

/// The most answers in one transaction.
const MOST: usize = 64;

/// The most bytes in one transaction, unless a single answer has more.
const MOST_BYTES: usize = 4 << 20;

/// How many answers may wait to be written. Further callers wait before they pass on their answers.
const WAITING: usize = 64;

/// The least time between two deletions of old answers by the writing task. The janitor deletes old answers as well.
const PURGE_EVERY: Duration = Duration::from_secs(10);

/// The time until replays are written again after a failure.
const REPLAYS_AGAIN: Duration = Duration::from_secs(5);

/// How many answers are read at once.
const READS: usize = 2;

/// The kept answers of a cluster ledger. Cheap to clone; all clones share one task.
#[derive(Clone)]
pub struct ClusterAnswers {
    store: Store,
    secret: [u8; 32],
    writer: mpsc::Sender<Request>,
    reads: Arc<Semaphore>,
    replays: ReplaySender,
}

impl fmt::Debug for ClusterAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret is never printed.
        f.debug_struct("ClusterAnswers").finish_non_exhaustive()
    }
}

impl ClusterAnswers {
    /// Opens the answers of a ledger. The answers of all gateways together take at most `max_total` bytes. `gateway` is
    /// this gateway's own number.
    ///
    /// # Errors
    /// Fails if Postgres cannot be reached, or if a new ledger needs a secret and the system has no random numbers.
    pub(crate) async fn open(
        store: Store,
        gateway: i64,
        max_total: u64,
    ) -> Result<Self, LedgerError> {
        let secret = postgres::secret(&store).await?;
        postgres::make_answer_partitions(&store).await?;
        let (writer, requests) = mpsc::channel(WAITING);
        let max_total = i64::try_from(max_total).unwrap_or(i64::MAX);
        let writer_task = Writer { store: store.clone(), gateway, max_total, purged: None };
        tokio::spawn(writer_task.run(requests));
        let (replays, inbox) = replay_channel();
        tokio::spawn(write_replays(store.clone(), inbox));
        let reads = Arc::new(Semaphore::new(READS));
        Ok(Self { store, secret, writer, reads, replays })
    }
}

#[async_trait]
impl Answers for ClusterAnswers {
    fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    async fn keep(&self, call: &HoldId, sealed: Bytes, until_ms: i64) -> Result<Kept, LedgerError> {
        let (reply, replied) = oneshot::channel();
        let answer = NewAnswer { call: call.clone(), sealed, until_ms };
        self.writer.send(Request { answer, reply }).await.map_err(|_| away())?;
        replied.await.map_err(|_| away())
    }

    async fn read(&self, call: &HoldId) -> Result<Option<Bytes>, LedgerError> {
        let _place = self.reads.acquire().await.map_err(|_| away())?;
        postgres::read_answer(&self.store, call, wall_ms()).await
    }

    fn count_replay(&self, call: &HoldId) {
        self.replays.count(call);
    }
}

/// An answer that waits to be written. If it could not be written, the channel closes without a reply.
struct Request {
    answer: NewAnswer,
    reply: oneshot::Sender<Kept>,
}

/// The task that writes answers. It ends with the last clone of [`ClusterAnswers`].
struct Writer {
    store: Store,
    gateway: i64,
    max_total: i64,
    /// The time at which old answers were last deleted to make room.
    purged: Option<Instant>,
}

impl Writer {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let (mut inbox, mut taken) = (Vec::new(), Vec::new());
        while !inbox.is_empty() || requests.recv_many(&mut inbox, MOST).await > 0 {
            let mut bytes = 0_usize;
            let fit = inbox.iter().take_while(|request: &&Request| {
                bytes = bytes.saturating_add(request.answer.sealed.len());
                bytes <= MOST_BYTES
            });
            let fit = fit.count().max(1);
            taken.extend(inbox.drain(..fit));
            self.write(&mut taken).await;
        }
    }

    /// Writes some answers, and replies once they are durable.
    async fn write(&mut self, requests: &mut Vec<Request>) {
        let (answers, replies): (Vec<_>, Vec<_>) =
            requests.drain(..).map(|request| (request.answer, request.reply)).unzip();
        let mut kept = self.keep(&answers).await;
        if matches!(&kept, Ok(kept) if kept.contains(&Kept::NoRoom)) && self.purge().await {
            // The answers that the first attempt kept do not change.
            kept = self.keep(&answers).await;
        }
        match kept {
            Ok(kept) => {
                for (reply, kept) in replies.into_iter().zip(kept) {
                    // The caller may be gone.
                    let _ = reply.send(kept);
                }
            }
            Err(error) => tracing::error!(
                %error,
                answers = answers.len(),
                "answers could not be kept for retries, so a retry of these calls hears that its answer was not kept; \
                 see what Postgres says"
            ),
        }
    }

    async fn keep(&self, answers: &[NewAnswer]) -> Result<Vec<Kept>, LedgerError> {
        postgres::keep_answers(&self.store, answers, self.gateway, self.max_total).await
    }

    /// Deletes the answers whose time is up, unless the last attempt was a moment ago. Returns whether they were
    /// deleted.
    async fn purge(&mut self) -> bool {
        if self.purged.is_some_and(|at| at.elapsed() < PURGE_EVERY) {
            return false;
        }
        self.purged = Some(Instant::now());
        let purged = postgres::purge_answers(&self.store).await;
        if let Err(error) = &purged {
            tracing::warn!(%error, "old answers could not be deleted; a gateway tries again within a minute");
        }
        purged.is_ok()
    }
}

/// Writes how often this gateway sent answers again. Ends with the last clone of [`ClusterAnswers`].
async fn write_replays(store: Store, mut inbox: ReplayInbox) {
    while inbox.is_woken().await {
        loop {
            let counts = inbox.take();
            if counts.is_empty() {
                break;
            }
            if let Err(error) = postgres::write_replays(&store, &counts).await {
                tracing::warn!(%error, "replays could not be counted; they are counted later");
                if inbox.is_abandoned() {
                    return;
                }
                inbox.give_back(counts);
                tokio::time::sleep(REPLAYS_AGAIN).await;
            }
        }
    }
}

fn away() -> LedgerError {
    LedgerError::Slow { what: "Postgres" }
}
