//! The ledger's file, as its only writer sees it: commits, and commits that fail.

use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnection;

use crate::ledger::crash::CrashedCall;
use crate::ledger::rules::state::{Changes, Now, State};
use crate::metrics::Metrics;
use crate::store::sqlite::batch_log::BatchLog;
use crate::store::sqlite::call_holds::CallHolds;
use crate::store::sqlite::connection::Writer;
use crate::store::sqlite::load;
use crate::store::sqlite::write::{Batch, Log};

/// How long to wait between two attempts to write to a failing disk.
pub(crate) const RETRY_EVERY: Duration = Duration::from_millis(250);

/// The file. If a commit fails, its connection is closed, and the next commit opens another.
#[derive(Debug)]
pub(crate) struct Disk {
    pub writer: Writer,
    /// How many batches the file has committed as rows.
    pub commits: i64,
    pub call_holds: CallHolds,
    /// Whether it is unknown if the last commit was written, because it failed and the file could not be read to find
    /// out. Nothing is decided until the file can be read.
    pub in_doubt: bool,
    log: BatchLog,
    /// The earliest time of the next commit; set only while commits fail.
    failing_until: Option<Instant>,
    metrics: Metrics,
}

impl Disk {
    /// Creates the view of the file behind `writer`, which has committed `commits` batches.
    pub fn new(writer: Writer, commits: i64, metrics: Metrics) -> Self {
        Self {
            writer,
            commits,
            call_holds: CallHolds::default(),
            in_doubt: false,
            log: BatchLog::default(),
            failing_until: None,
            metrics,
        }
    }

    /// True while commits fail.
    pub fn is_failing(&self) -> bool {
        self.failing_until.is_some()
    }

    /// Whether it is too early for the next attempt to write to a failing disk.
    pub fn is_resting(&self) -> bool {
        self.failing_until.is_some_and(|until| Instant::now() < until)
    }

    /// Postpones the next attempt.
    pub fn rest(&mut self) {
        self.failing_until = Some(Instant::now() + RETRY_EVERY);
    }

    /// Commits the rows of `changes`. The result is like that of [`Disk::settle`].
    pub async fn commit(&mut self, state: &State, changes: &Changes, now: Now, log: Log) -> bool {
        if self.is_resting() {
            return false;
        }
        let batch = self.next_batch(state, changes, now, log);
        self.write(&batch, changes).await
    }

    /// Makes the transaction of the next commit. No other commit may come before it.
    pub fn next_batch(&self, state: &State, changes: &Changes, now: Now, log: Log) -> Batch {
        let now = Now { commit: self.commits.saturating_add(1), ..now };
        Batch::new(state, &self.call_holds, changes, now, log)
    }

    /// Runs the transaction of the next commit, which was made of `changes`. The result is like that of
    /// [`Disk::settle`].
    pub async fn write(&mut self, batch: &Batch, changes: &Changes) -> bool {
        if self.is_resting() {
            return false;
        }
        let started = Instant::now();
        let result = match self.writer.get().await {
            Ok(connection) => batch.write(&changes.entries, connection).await,
            Err(error) => Err(error),
        };
        self.settle(result, changes, started.elapsed()).await
    }

    /// Takes the result of the next commit, which wrote `changes` and took `took`. Returns false if they were not
    /// written, or if that is unknown. In the latter case `in_doubt` is true.
    pub async fn settle(
        &mut self,
        result: Result<(), sqlx::Error>,
        changes: &Changes,
        took: Duration,
    ) -> bool {
        let written = match result {
            Ok(()) => true,
            Err(error) => {
                let _broken = self.begin_to_fail(&error);
                let next = self.commits.saturating_add(1);
                let counted = self.count_commits().await;
                self.is_written(counted.map(|done| done >= next))
            }
        };
        if written {
            self.count(self.commits.saturating_add(1), changes);
        }
        self.note_commit(written, took);
        written
    }

    /// Counts commit number `commit`, which wrote `changes`.
    pub fn count(&mut self, commit: i64, changes: &Changes) {
        self.commits = commit;
        self.call_holds.count(commit, changes);
        changes.crashed.values().for_each(CrashedCall::log);
    }

    /// Commits the changes of a batch of calls to the log. The result is like that of
    /// [`Disk::commit`]. While commits fail, a tick finds out when they succeed again.
    pub async fn append(&mut self, state: &State, changes: &Changes, now: Now) -> bool {
        if self.is_failing() {
            return false;
        }
        let started = Instant::now();
        let result = match self.writer.get().await {
            Ok(connection) => self.log.append(connection, state, changes, now).await,
            Err(error) => Err(error),
        };
        let written = match result {
            Ok(()) => true,
            Err(error) => {
                let _broken = self.begin_to_fail(&error);
                let found = match self.writer.get().await {
                    Ok(connection) => self.log.has_next(connection).await,
                    Err(error) => Err(error),
                };
                if found.is_err() {
                    self.writer.discard();
                }
                self.is_written(found)
            }
        };
        if written {
            self.log.count();
        }
        self.note_commit(written, started.elapsed());
        written
    }

    /// Counts the batches that the file has committed as rows.
    ///
    /// # Errors
    /// Fails if the file cannot be read. Its connection is then discarded.
    pub async fn count_commits(&mut self) -> Result<i64, sqlx::Error> {
        let counted = match self.writer.get().await {
            Ok(connection) => load::commits(connection).await,
            Err(error) => Err(error),
        };
        if counted.is_err() {
            self.writer.discard();
        }
        counted
    }

    /// Discards the connection of a commit that failed. The caller must close it after the next one
    /// is open: the last connection to close deletes the file of shared memory, and a full disk has
    /// no room for a new one.
    fn begin_to_fail(&mut self, error: &sqlx::Error) -> Option<SqliteConnection> {
        if self.failing_until.is_none() {
            tracing::error!(%error, "the ledger cannot write; holds are refused with 503 until it can");
        }
        self.writer.discard()
    }

    /// Decides from `found`, which was read from the file, whether a failed commit was written. If
    /// the file cannot be read, the ledger is in doubt.
    fn is_written(&mut self, found: Result<bool, sqlx::Error>) -> bool {
        found.unwrap_or_else(|_| {
            self.in_doubt = true;
            false
        })
    }

    /// Records the outcome of a commit for the metrics and the next attempt.
    fn note_commit(&mut self, written: bool, took: Duration) {
        if !written {
            self.rest();
            self.metrics.ledger_up.set(0);
            return;
        }
        if self.failing_until.take().is_some() {
            tracing::info!("the ledger can write again");
            self.metrics.ledger_up.set(1);
        }
        self.metrics.ledger_commit_seconds.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::connection::{connect, migrate};

    #[tokio::test]
    async fn every_commit_waits_for_the_disk_but_the_one_that_empties_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.db");
        let mut connection = connect(&path).await.unwrap();
        migrate(&mut connection).await.unwrap();
        let mut disk = Disk::new(Writer::new(&path, connection), 0, Metrics::new().unwrap());
        for log in [Log::Stays, Log::Emptied, Log::Stays] {
            let now = Now { wall_ms: 0, ledger_ms: 0, commit: disk.commits + 1 };
            assert!(disk.commit(&State::default(), &Changes::default(), now, log).await);
            let connection = disk.writer.get().await.unwrap();
            let synchronous: i64 =
                sqlx::query_scalar("PRAGMA synchronous").fetch_one(connection).await.unwrap();
            assert_eq!(synchronous, 2, "FULL after {log:?}");
        }
    }
}
