//! The changes of answered operations whose rows are not written yet.
//!
//! In `relaxed` a task writes rows while the pipeline decides further operations: a call would otherwise wait for the
//! disk forty times a second. There are at most two sets of such changes: those of the commit that the task writes, and
//! those that were decided since that commit was made. One commit is written at a time, and a commit that fails is
//! written again before the next one is made. So a crash loses the end of what was decided, and nothing before it.
//!
//! In `strict` the pipeline writes the rows itself. They are in the log of batches already, and the log of the next
//! batch could not be written meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnection;
use tokio::task::JoinHandle;

use crate::ledger::rules::state::{Changes, Now, State};
use crate::store::sqlite::disk::Disk;
use crate::store::sqlite::lock::LedgerLock;
use crate::store::sqlite::write::{Batch, Log};
use crate::store::sqlite::written::Written;

/// How long an answered operation of a call may wait until its rows are written. In `relaxed`, if the commit before
/// takes longer than that, nothing is decided until the commit ends. So the changes that a crash loses were decided
/// within twice this time, the 50 ms that are promised.
const FLUSH_EVERY: Duration = Duration::from_millis(25);

/// The changes of answered operations whose rows are not written yet. In `strict` the log has all of them.
#[derive(Debug)]
pub(crate) struct Unwritten {
    /// The changes since the pending commit was made.
    pub changes: Changes,
    /// The time since which `changes` has not been empty.
    since: Option<Instant>,
    pending: Option<Pending>,
    /// Tells readers up to which batch the rows can be read.
    written: Written,
}

/// The commit that comes next.
#[derive(Debug)]
struct Pending {
    rows: Arc<Rows>,
    /// The task that writes the rows. `None` before it starts, and after a failure.
    task: Option<JoinHandle<Attempt>>,
}

/// The rows of one commit.
#[derive(Debug)]
struct Rows {
    batch: Batch,
    changes: Changes,
    /// The time at which the oldest of the operations was answered.
    since: Instant,
    /// The number of answered batches that are written once this commit is.
    answered: u64,
}

/// The end of a task that wrote rows.
#[derive(Debug)]
struct Attempt {
    connection: SqliteConnection,
    result: Result<(), sqlx::Error>,
    took: Duration,
}

impl Unwritten {
    /// Creates an empty set of changes. `written` tells readers what is written.
    pub fn new(written: Written) -> Self {
        Self { changes: Changes::default(), since: None, pending: None, written }
    }

    /// True if every answered operation is written.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.pending.is_none()
    }

    /// The number of commits that are made and not written yet.
    pub fn commits(&self) -> i64 {
        self.pending.is_some().into()
    }

    /// The time at which the oldest operation that is not written was answered.
    pub fn since(&self) -> Option<Instant> {
        self.pending.as_ref().map(|pending| pending.rows.since).or(self.since)
    }

    /// The time until the changes are to be written, or until a task that writes is to be looked at. `None` if nothing
    /// waits to be written.
    pub fn due_after(&self) -> Option<Duration> {
        match self.since {
            Some(since) => Some(FLUSH_EVERY.saturating_sub(since.elapsed())),
            None => self.pending.is_some().then_some(FLUSH_EVERY),
        }
    }

    /// Counts a batch that is about to be answered, if it has added to the changes.
    pub fn count_answered(&mut self) {
        if !self.changes.is_empty() {
            self.since.get_or_insert_with(Instant::now);
            self.written.count_answered();
        }
    }

    /// Forgets all changes, because the state was read from the file, which has them.
    pub fn forget(&mut self) {
        (self.changes, self.since, self.pending) = (Changes::default(), None, None);
        self.written.count_written(self.written.answered());
    }

    /// Starts a task that writes the changes, and returns without waiting for it. If the task before still writes, the
    /// changes wait until they are due, and this function then waits for that task.
    ///
    /// The task shares the ledger's lock: if the ledger is dropped, nobody opens the file before the write has ended.
    pub async fn write_beside(
        &mut self,
        disk: &mut Disk,
        state: &mut State,
        now: Now,
        lock: &Arc<LedgerLock>,
    ) {
        if self.is_writing() && self.due_after().is_some_and(|after| !after.is_zero()) {
            return;
        }
        self.finish(disk, state).await;
        if disk.is_failing() || !self.make_commit(disk, state, now, Log::Stays) {
            return;
        }
        let Some(pending) = &mut self.pending else { return };
        let rows = Arc::clone(&pending.rows);
        match disk.writer.lend().await {
            Ok(connection) => {
                let (written, lock) = (self.written.clone(), Arc::clone(lock));
                pending.task = Some(tokio::spawn(rows.write(connection, written, lock)));
            }
            Err(error) => {
                let written = disk.settle(Err(error), &rows.changes, Duration::ZERO).await;
                self.forget_if(written, state);
            }
        }
    }

    /// Takes the result of the task, if it has ended. Waits only if it failed: the file then tells whether it was
    /// written.
    pub async fn look(&mut self, disk: &mut Disk, state: &mut State) {
        let task = self.pending.as_ref().and_then(|pending| pending.task.as_ref());
        if task.is_some_and(JoinHandle::is_finished) {
            self.finish(disk, state).await;
        }
    }

    /// Waits for the task, if there is one, and takes its result. The writer has its connection afterwards.
    pub async fn finish(&mut self, disk: &mut Disk, state: &mut State) {
        let Some(pending) = &mut self.pending else { return };
        let Some(task) = &mut pending.task else { return };
        let ended = task.await;
        pending.task = None;
        let (connection, result, took) = match ended {
            Ok(Attempt { connection, result, took }) => (Some(connection), result, took),
            Err(error) => {
                tracing::error!(%error, "the task that writes the ledger's rows ended early");
                (None, Err(sqlx::Error::WorkerCrashed), Duration::ZERO)
            }
        };
        disk.writer.take_back(connection);
        let rows = Arc::clone(&pending.rows);
        let written = disk.settle(result, &rows.changes, took).await;
        self.forget_if(written, state);
    }

    /// Writes all changes. Returns true if none is left.
    pub async fn flush(&mut self, disk: &mut Disk, state: &mut State, now: Now, log: Log) -> bool {
        self.finish(disk, state).await;
        while !disk.in_doubt && self.make_commit(disk, state, now, log) {
            let Some(pending) = &self.pending else { return false };
            let rows = Arc::clone(&pending.rows);
            let written = disk.write(&rows.batch, &rows.changes).await;
            self.forget_if(written, state);
            if !written {
                return false;
            }
        }
        self.is_empty()
    }

    /// Counts the pending commit as commit number `commit`: it failed, and is in the file all the same.
    pub fn count_found(&mut self, commit: i64, disk: &mut Disk, state: &mut State) {
        if let Some(pending) = &self.pending {
            disk.count(commit, &pending.rows.changes);
        }
        self.forget_if(true, state);
    }

    fn is_writing(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.task.is_some())
    }

    /// Makes a commit of the changes, unless one is pending. Returns false if there is nothing to write.
    fn make_commit(&mut self, disk: &Disk, state: &State, now: Now, log: Log) -> bool {
        if self.pending.is_none() && !self.changes.is_empty() {
            let changes = std::mem::take(&mut self.changes);
            let batch = disk.next_batch(state, &changes, now, log);
            let since = self.since.take().unwrap_or_else(Instant::now);
            let rows = Rows { batch, changes, since, answered: self.written.answered() };
            self.pending = Some(Pending { rows: Arc::new(rows), task: None });
        }
        self.pending.is_some()
    }

    /// Forgets the pending commit if it was `written`.
    fn forget_if(&mut self, written: bool, state: &mut State) {
        if !written {
            return;
        }
        let Some(Pending { rows, .. }) = self.pending.take() else { return };
        // A claim that has changed since the commit was made is not in the file yet as it is now.
        let claims = rows.changes.claims.keys().filter(|id| !self.changes.claims.contains_key(id));
        state.claims.forget_written(claims);
        self.written.count_written(rows.answered);
    }
}

impl Rows {
    /// Writes the rows with a connection that was lent.
    async fn write(
        self: Arc<Self>,
        mut connection: SqliteConnection,
        written: Written,
        _lock: Arc<LedgerLock>,
    ) -> Attempt {
        let started = Instant::now();
        let result = self.batch.write(&self.changes.entries, &mut connection).await;
        if result.is_ok() {
            // Readers need not wait until the pipeline takes the result.
            written.count_written(self.answered);
        }
        Attempt { connection, result, took: started.elapsed() }
    }
}
