//! The answers that are kept for retries, in a separate file beside the ledger's.
//!
//! One task owns the writing connection. It takes all answers that wait and writes them in one commit, so one sync of
//! the disk serves many calls. Reads have other connections.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::sqlite::{SqliteAutoVacuum, SqlitePool, SqlitePoolOptions};
use sqlx::{Connection as _, Row as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::ledger::operation::HoldId;
use crate::ledger::{Answers, Kept, LedgerError, wall_ms};
use crate::store::replays::{ReplayInbox, ReplaySender, replay_channel};
use crate::store::sqlite::connection::{self, Writer};
use crate::store::sqlite::file_rights;
use crate::store::sqlite::replays;

/// The ending of the file's name, after the ledger's.
const ENDING: &str = "-answers";

/// How often answers whose time is up are deleted.
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// How many answers are deleted in one statement.
const SLICE: i64 = 500;

/// The most answers in one commit.
const MOST: usize = 256;

/// How many answers may wait to be written. Further callers wait before they pass on their answers.
const WAITING: usize = 256;

/// The bytes that an answer's row and indexes add to its size.
const ROW_BYTES: u64 = 128;

/// How long closing waits for reads that are under way.
const READS_END_WITHIN: Duration = Duration::from_secs(2);

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS answers ( \
     call TEXT NOT NULL UNIQUE, sealed BLOB NOT NULL, until INTEGER NOT NULL) STRICT; \
     CREATE INDEX IF NOT EXISTS answers_by_age ON answers (until)";

/// The path of the file with the answers of the ledger at `path`.
pub(crate) fn file_beside(path: &Path) -> PathBuf {
    file_rights::beside(&file_rights::real_path(path), ENDING)
}

/// The ledger's own secret. It is never printed.
#[derive(Clone, Copy)]
pub(crate) struct LedgerSecret(pub [u8; 32]);

impl fmt::Debug for LedgerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LedgerSecret")
    }
}

/// The kept answers of an embedded ledger. Cheap to clone; all clones share one file.
#[derive(Clone, Debug)]
pub struct SqliteAnswers {
    secret: LedgerSecret,
    writer: mpsc::Sender<Request>,
    reader: SqlitePool,
    replays: ReplaySender,
}

impl SqliteAnswers {
    /// Opens the answers of the ledger at `path`, or makes their file. All answers together take at most `max_total`
    /// bytes. The file is closed when the last clone is dropped.
    ///
    /// # Errors
    /// Fails if the file cannot be read or written.
    pub(crate) async fn open(
        path: &Path,
        secret: LedgerSecret,
        max_total: u64,
    ) -> Result<Self, LedgerError> {
        let path = file_beside(path);
        file_rights::secure(&path);
        let opened = async {
            let options = connection::writing(&path).auto_vacuum(SqliteAutoVacuum::Incremental);
            let mut connection = SqliteConnection::connect_with(&options).await?;
            sqlx::raw_sql(SCHEMA).execute(&mut connection).await?;
            sqlx::raw_sql(replays::SCHEMA).execute(&mut connection).await?;
            let mut file = File { writer: Writer::new(&path, connection), max_total, total: 0 };
            file.purge().await?;
            file.total = file.count().await?;
            Ok(file)
        };
        let file = opened.await.map_err(|error: LedgerError| error.on_opening(&path))?;
        let (writer, requests) = mpsc::channel(WAITING);
        let options = connection::options(&path).read_only(true);
        let reader = SqlitePoolOptions::new().max_connections(4).connect_lazy_with(options);
        let (replays, inbox) = replay_channel();
        tokio::spawn(file.run(requests, inbox, reader.clone()));
        Ok(Self { secret, writer, reader, replays })
    }
}

#[async_trait]
impl Answers for SqliteAnswers {
    fn secret(&self) -> &[u8; 32] {
        &self.secret.0
    }

    async fn keep(&self, call: &HoldId, sealed: Bytes, until_ms: i64) -> Result<Kept, LedgerError> {
        let (reply, replied) = oneshot::channel();
        let closed = || LedgerError::from(sqlx::Error::WorkerCrashed);
        let request = Request { call: call.clone(), sealed, until_ms, reply };
        self.writer.send(request).await.map_err(|_| closed())?;
        replied.await.map_err(|_| closed())
    }

    async fn read(&self, call: &HoldId) -> Result<Option<Bytes>, LedgerError> {
        let kept = sqlx::query("SELECT sealed FROM answers WHERE call = ? AND until > ?");
        let row = kept.bind(call.as_str()).bind(wall_ms()).fetch_optional(&self.reader).await?;
        let sealed = row.map(|row| row.try_get::<Vec<u8>, _>("sealed")).transpose()?;
        Ok(sealed.map(Bytes::from))
    }

    fn count_replay(&self, call: &HoldId) {
        self.replays.count(call);
    }
}

/// An answer that waits to be written. If it could not be written, the channel closes without a reply.
struct Request {
    call: HoldId,
    sealed: Bytes,
    until_ms: i64,
    reply: oneshot::Sender<Kept>,
}

/// The file, as the task that writes it sees it.
struct File {
    writer: Writer,
    max_total: u64,
    /// The sum of the answers' sizes (see [`size`]), in bytes.
    total: u64,
}

impl File {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut replays: ReplayInbox,
        reader: SqlitePool,
    ) {
        let mut inbox = Vec::with_capacity(MOST);
        let mut purge = tokio::time::interval(PURGE_EVERY);
        purge.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                taken = requests.recv_many(&mut inbox, MOST) => {
                    if taken == 0 {
                        break;
                    }
                    if let Err(error) = self.write(inbox.drain(..)).await {
                        tracing::error!(%error, "answers could not be kept for retries");
                        self.start_anew().await;
                    }
                }
                true = replays.is_woken() => self.write_replays(&replays).await,
                _ = purge.tick() => {
                    self.write_replays(&replays).await;
                    if let Err(error) = self.purge().await {
                        tracing::warn!(%error, "old answers could not be deleted");
                        self.start_anew().await;
                    }
                }
            }
        }
        self.write_replays(&replays).await;
        // The last connection to close deletes the WAL. A reader's connection cannot do that, so it closes first.
        let _ = tokio::time::timeout(READS_END_WITHIN, reader.close()).await;
        self.writer.close().await;
    }

    /// Writes requests in one commit, and replies once it is durable. After an error nothing is written, and the
    /// channels of the callers close without a reply.
    async fn write(&mut self, requests: impl Iterator<Item = Request>) -> Result<(), sqlx::Error> {
        let requests: Vec<_> = requests.collect();
        let wanted = requests.iter().map(|request| size(request.sealed.len()));
        if self.total.saturating_add(wanted.sum()) > self.max_total {
            self.purge().await?;
        }
        let mut total = self.total;
        let mut done = Vec::with_capacity(requests.len());
        let mut transaction = self.writer.get().await?.begin_with("BEGIN IMMEDIATE").await?;
        for Request { call, sealed, until_ms, reply } in requests {
            let with = total.saturating_add(size(sealed.len()));
            if with > self.max_total {
                let kept = sqlx::query("SELECT EXISTS (SELECT 1 FROM answers WHERE call = ?)");
                let kept = kept.bind(call.as_str()).fetch_one(&mut *transaction).await?;
                done.push((reply, if kept.try_get(0)? { Kept::Yes } else { Kept::NoRoom }));
                continue;
            }
            let added = sqlx::query(
                "INSERT INTO answers (call, sealed, until) VALUES (?, ?, ?) \
                 ON CONFLICT (call) DO NOTHING",
            );
            let added = added.bind(call.as_str()).bind(&sealed[..]).bind(until_ms);
            if added.execute(&mut *transaction).await?.rows_affected() > 0 {
                total = with;
            }
            done.push((reply, Kept::Yes));
        }
        transaction.commit().await?;
        self.total = total;
        for (reply, kept) in done {
            // The caller may be gone.
            let _ = reply.send(kept);
        }
        Ok(())
    }

    /// Writes the replays that wait. After an error they keep waiting.
    async fn write_replays(&mut self, inbox: &ReplayInbox) {
        let counts = inbox.take();
        if counts.is_empty() {
            return;
        }
        let written = match self.writer.get().await {
            Ok(connection) => replays::write(&counts, connection).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "replays could not be counted; they are counted later");
            inbox.give_back(counts);
            self.start_anew().await;
        }
    }

    /// Deletes the answers whose time is up, and gives their pages back to the disk.
    async fn purge(&mut self) -> Result<(), sqlx::Error> {
        loop {
            let gone = sqlx::query(
                "DELETE FROM answers WHERE rowid IN \
                 (SELECT rowid FROM answers WHERE until <= ? ORDER BY until LIMIT ?) \
                 RETURNING length(sealed)",
            );
            let connection = self.writer.get().await?;
            let gone = gone.bind(wall_ms()).bind(SLICE).fetch_all(&mut *connection).await?;
            for row in &gone {
                let freed = size(row.try_get::<i64, _>(0)? as usize);
                self.total = self.total.saturating_sub(freed);
            }
            if !gone.is_empty() {
                sqlx::raw_sql("PRAGMA incremental_vacuum").execute(connection).await?;
            }
            if (gone.len() as i64) < SLICE {
                return replays::purge(self.writer.get().await?).await;
            }
        }
    }

    /// Adds up the sizes of the answers in the file (see [`size`]), in bytes.
    async fn count(&mut self) -> Result<u64, sqlx::Error> {
        let sum = sqlx::query("SELECT count(*), coalesce(sum(length(sealed)), 0) FROM answers");
        let row = sum.fetch_one(self.writer.get().await?).await?;
        let (rows, bytes): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        Ok(bytes.unsigned_abs().saturating_add(rows.unsigned_abs().saturating_mul(ROW_BYTES)))
    }

    /// Opens the file again after a failure, and counts its answers anew: the failed commit may have been written all
    /// the same.
    async fn start_anew(&mut self) {
        // The last connection to close deletes the file of shared memory. A full disk has no room for a new one, which
        // readers need as well. So the broken connection closes after the next one is open.
        let _broken = self.writer.discard();
        match self.count().await {
            Ok(total) => self.total = total,
            Err(error) => {
                tracing::warn!(%error, "the kept answers cannot be read");
                self.writer.discard();
            }
        }
    }
}

/// The bytes by which an answer of `sealed` bytes counts towards `max_total`.
fn size(sealed: usize) -> u64 {
    (sealed as u64).saturating_add(ROW_BYTES)
}
