//! The embedded ledger: balances in memory, one writer, and SQLite for the data that must last.
//!
//! A batch is decided in memory first. In `strict` its outcomes count once SQLite has committed it with
//! `synchronous=FULL`; if the commit fails, memory is rolled back and the operations are refused as
//! unavailable. In `relaxed` the operations of calls (hold, renew, capture, release) are answered at
//! once and written within [`FLUSH_EVERY`]; if a commit fails, they stay in memory until one succeeds,
//! and no new hold is granted meanwhile. In both modes, grants, keys and everything else are on disk
//! before they are answered.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::ledger::CALL_TTL_MS;
use crate::ledger::backend::{Backend, Expired, IsLive};
use crate::ledger::clock::Clock;
use crate::ledger::config::LedgerConfig;
use crate::ledger::crash::{AfterCrash, CrashedCall};
use crate::ledger::operation::{Operation, Origin, Outcome, Refusal};
use crate::ledger::report::FoldCursor;
use crate::ledger::rules;
use crate::ledger::rules::state::{Changes, Known, Lookups, Now, State};
use crate::ledger::{Durability, LedgerError};
use crate::metrics::Metrics;
use crate::store::sqlite::call_holds::CallHolds;
use crate::store::sqlite::connection::{self, Writer};
use crate::store::sqlite::fold::fold_slice;
use crate::store::sqlite::left_calls::{count_left_calls, end_left_calls};
use crate::store::sqlite::lock::LedgerLock;
use crate::store::sqlite::purge::Purge;
use crate::store::sqlite::read::SqliteReader;
use crate::store::sqlite::write::Batch;
use crate::store::sqlite::{compare, file_rights, load};

/// How long an answered operation of a call may wait to be written in `relaxed`: half of the
/// promised time, so that the commit itself fits into the other half.
const FLUSH_EVERY: Duration = Duration::from_millis(25);

/// How often expired holds are looked for.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// How long to wait between two attempts to write to a failing disk.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// How long closing the file waits for reads that are under way.
const READS_END_WITHIN: Duration = Duration::from_secs(2);

/// The embedded ledger. A file has one of these, which is its only writer.
#[derive(Debug)]
pub struct SqliteLedger {
    durability: Durability,
    after_crash: AfterCrash,
    writer: Writer,
    /// The number of batches that the file has committed.
    commits: i64,
    state: State,
    call_holds: CallHolds,
    /// The changes of operations that were answered and are not written yet (`relaxed` only).
    unwritten: Changes,
    clock: Clock,
    metrics: Metrics,
    /// The moment since which `unwritten` has not been empty.
    unwritten_since: Option<Instant>,
    purge: Purge,
    /// The earliest time of the next commit; set only while commits fail.
    failing_until: Option<Instant>,
    /// True after a commit failed and the file could not be read to find out whether the commit was
    /// written after all. While this is true, nothing is decided.
    in_doubt: bool,
    /// The reader of the same file, which is closed before the writer.
    reader: SqliteReader,
    /// The lock, held as long as the ledger, so that a file has one writer.
    _lock: LedgerLock,
}

impl SqliteLedger {
    /// Opens the ledger at `path`, with the defaults for all other settings.
    ///
    /// # Errors
    /// The same as for [`SqliteLedger::open_as`].
    pub async fn open(
        path: &Path,
        durability: Durability,
        metrics: Metrics,
    ) -> Result<Self, LedgerError> {
        let path = path.to_owned();
        let config = LedgerConfig { path, durability, ..LedgerConfig::default() };
        Self::open_as(&config, metrics).await
    }

    /// Opens the ledger of `config`, or makes it, under a lock that is held until the ledger is
    /// dropped. The holds of calls that a crash left are ended as `after_crash` says.
    ///
    /// # Errors
    /// Where another process has the ledger, or its file cannot be read or written.
    pub async fn open_as(config: &LedgerConfig, metrics: Metrics) -> Result<Self, LedgerError> {
        let lock = LedgerLock::take(&config.path)?;
        file_rights::secure(&config.path);
        let opened = Self::open_locked(config, lock, metrics).await;
        opened.map_err(|error| error.on_opening(&config.path))
    }

    async fn open_locked(
        config: &LedgerConfig,
        lock: LedgerLock,
        metrics: Metrics,
    ) -> Result<Self, LedgerError> {
        let (path, durability, after_crash) =
            (config.path.as_path(), config.durability, config.after_crash);
        let clock = Clock::start();
        let mut connection = connection::connect(path).await?;
        connection::check_version(&mut connection).await?;
        connection::migrate(&mut connection).await?;
        let (mut state, mut commits) = load::state(&mut connection, clock.now(0)).await?;
        let now = clock.now(commits.saturating_add(1));
        let left = end_left_calls(&mut connection, &mut state, after_crash, now).await?;
        if !left.is_empty() {
            commits = now.commit;
            count_left_calls(&left, &metrics);
        }
        metrics.ledger_up.set(1);
        Ok(Self {
            durability,
            after_crash,
            writer: Writer::new(path, connection),
            commits,
            state,
            call_holds: CallHolds::default(),
            unwritten: Changes::default(),
            clock,
            metrics,
            unwritten_since: None,
            purge: Purge::default(),
            failing_until: None,
            in_doubt: false,
            reader: SqliteReader::new(path),
            _lock: lock,
        })
    }

    /// A reader of the same file. It sees only committed changes, and works until the ledger is closed.
    pub fn reader(&self) -> SqliteReader {
        self.reader.clone()
    }

    /// Decides operations that are answered before they are written.
    fn apply_in_memory(&mut self, batch: &[Operation], known: &mut Known) -> Vec<Outcome> {
        let now = self.now();
        let outcomes = batch
            .iter()
            .map(|operation| match operation {
                // A hold that is granted now could not be written soon.
                Operation::Hold(_) if self.is_failing() => Outcome::Refused(Refusal::Unavailable),
                _ => rules::decide(operation, &mut self.state, known, &mut self.unwritten, now),
            })
            .collect();
        self.unwritten.forget_undo();
        if !self.unwritten.is_empty() {
            self.unwritten_since.get_or_insert_with(Instant::now);
        }
        outcomes
    }

    /// Decides operations that are answered once they are on disk. An operation on the whole file is
    /// decided alone, and each run of other operations is one commit. Stops at the first failure, since
    /// `known` assumes that the runs before are written.
    async fn apply_on_disk(&mut self, batch: &[Operation], known: &mut Known) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        if self.flush().await {
            for part in batch.chunk_by(|a, b| !is_on_whole_file(a) && !is_on_whole_file(b)) {
                match part {
                    [Operation::Audit] => outcomes.push(self.audit().await),
                    [Operation::Fold { before_ms, from }] => {
                        outcomes.push(self.fold(*before_ms, from.as_ref()).await);
                    }
                    _ => match self.apply_run(part, known).await {
                        Some(decided) => outcomes.extend(decided),
                        None => break,
                    },
                }
            }
        }
        outcomes
    }

    /// Decides a run of operations and commits it; `None` where the commit failed.
    async fn apply_run(&mut self, run: &[Operation], known: &mut Known) -> Option<Vec<Outcome>> {
        let now = self.now();
        let mut changes = Changes::default();
        let outcomes: Vec<Outcome> = run
            .iter()
            .map(|operation| rules::decide(operation, &mut self.state, known, &mut changes, now))
            .collect();
        if changes.is_empty() || self.commit(&changes, now).await {
            return Some(outcomes);
        }
        self.state.roll_back(&mut changes);
        None
    }

    /// Compares memory with the file.
    async fn audit(&mut self) -> Outcome {
        let now = self.now();
        let stored = match self.writer.get().await {
            Ok(connection) => load::state(connection, now).await,
            Err(error) => Err(error.into()),
        };
        match stored {
            Ok((stored, _)) => Outcome::Audited(compare::differences(&self.state, &stored)),
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be read");
                self.writer.discard();
                Outcome::Refused(Refusal::Unavailable)
            }
        }
    }

    /// Folds the next slice of the entries older than `before_ms`.
    async fn fold(&mut self, before_ms: i64, from: Option<&FoldCursor>) -> Outcome {
        let folded = match self.writer.get().await {
            Ok(connection) => fold_slice(connection, before_ms, from).await,
            Err(error) => Err(error),
        };
        match folded {
            Ok((report, next)) => Outcome::Folded { report, next },
            Err(error) => {
                tracing::error!(%error, "old entries could not be folded");
                self.writer.discard();
                Outcome::Refused(Refusal::Unavailable)
            }
        }
    }

    fn now(&self) -> Now {
        self.clock.now(self.commits.saturating_add(1))
    }

    /// True while it is too early for the next attempt to write to a failing disk.
    fn is_resting(&self) -> bool {
        self.failing_until.is_some_and(|until| Instant::now() < until)
    }

    /// Records the age of the oldest unwritten operation; always 0 in `strict`.
    fn record_lag(&self) {
        let lag = self.unwritten_since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        self.metrics.ledger_sync_lag_seconds.set(lag);
    }

    /// True while commits fail.
    fn is_failing(&self) -> bool {
        self.failing_until.is_some()
    }

    /// Commits the unwritten changes. True where none are left.
    async fn flush(&mut self) -> bool {
        if self.unwritten.is_empty() {
            return true;
        }
        if self.in_doubt {
            return false;
        }
        let unwritten = std::mem::take(&mut self.unwritten);
        let written = self.commit(&unwritten, self.now()).await;
        if written {
            self.unwritten_since = None;
        } else {
            self.unwritten = unwritten;
        }
        written
    }

    /// Commits `changes`. Returns false if they were not written, or if that is not known; `in_doubt`
    /// is true in the second case.
    async fn commit(&mut self, changes: &Changes, now: Now) -> bool {
        if self.is_resting() {
            return false;
        }
        let started = Instant::now();
        let next = self.commits.saturating_add(1);
        let result = match self.writer.get().await {
            Ok(connection) => {
                let (state, calls) = (&self.state, &self.call_holds);
                let batch = Batch::new(state, calls, changes, Now { commit: next, ..now });
                batch.write(connection).await
            }
            Err(error) => Err(error),
        };
        let written = match result {
            Ok(()) => true,
            Err(error) => self.was_written(next, error).await,
        };
        if written {
            self.commits = next;
            self.call_holds.count(next, changes);
            changes.crashed.values().for_each(CrashedCall::log);
            if self.failing_until.take().is_some() {
                tracing::info!("the ledger can write again");
                self.metrics.ledger_up.set(1);
            }
            self.metrics.ledger_commit_seconds.observe(started.elapsed().as_secs_f64());
        } else {
            self.failing_until = Some(Instant::now() + RETRY_EVERY);
            self.metrics.ledger_up.set(0);
        }
        written
    }

    /// Finds out by the file's count of commits whether the failed commit number `next` was written
    /// after all. Where the file cannot be read, the ledger is in doubt.
    async fn was_written(&mut self, next: i64, error: sqlx::Error) -> bool {
        if self.failing_until.is_none() {
            tracing::error!(%error, "the ledger cannot write; holds are refused with 503 until it can");
        }
        // The broken connection is closed only after the next one is open: the last connection to close
        // deletes the shared memory's file, and a full disk has no room for a new one.
        let _broken = self.writer.discard();
        match self.count_commits().await {
            Ok(done) => done >= next,
            Err(_) => {
                self.in_doubt = true;
                false
            }
        }
    }

    /// Finds out whether the commit in doubt was written. False while the file cannot be read.
    async fn resolve_doubt(&mut self) -> bool {
        if !self.in_doubt {
            return true;
        }
        if self.is_resting() {
            return false;
        }
        match self.catch_up().await {
            Ok(()) => self.in_doubt = false,
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be read");
                self.writer.discard();
                self.failing_until = Some(Instant::now() + RETRY_EVERY);
            }
        }
        !self.in_doubt
    }

    /// Updates memory where the file has one commit more than memory counted.
    async fn catch_up(&mut self) -> Result<(), LedgerError> {
        let done = self.count_commits().await?;
        if done > self.commits {
            if self.unwritten.is_empty() {
                // The commit's operations were refused, and memory was rolled back. If their callers
                // repeat them, they find their entries.
                let now = self.now();
                self.state = load::state(self.writer.get().await?, now).await?.0;
                self.call_holds = CallHolds::of(&self.state);
            } else {
                let written = std::mem::take(&mut self.unwritten);
                self.call_holds.count(done, &written);
                self.unwritten_since = None;
            }
            self.commits = done;
        }
        Ok(())
    }

    async fn count_commits(&mut self) -> Result<i64, sqlx::Error> {
        let counted = match self.writer.get().await {
            Ok(connection) => load::commits(connection).await,
            Err(error) => Err(error),
        };
        if counted.is_err() {
            self.writer.discard();
        }
        counted
    }

    /// Reads the file's rows for the ids that memory does not know; `None` where the file cannot be
    /// read.
    async fn look_up(&mut self, wanted: &Lookups) -> Option<Known> {
        if wanted.is_empty() {
            return Some(Known::default());
        }
        // Answered operations may concern these ids, so they are written first.
        if !self.flush().await {
            return None;
        }
        let found = match self.writer.get().await {
            Ok(connection) => load::known(connection, wanted).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(known) => Some(known),
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be read");
                self.writer.discard();
                None
            }
        }
    }
}

/// True for operations that are answered before they are written: those of calls, in `relaxed`. A
/// hold made through the API waits for the disk, since it outlives a crash and is captured by its
/// id alone: if it were lost, a debit would be lost much later.
fn is_answered_from_memory(durability: Durability, operation: &Operation) -> bool {
    durability == Durability::Relaxed
        && match operation {
            Operation::Renew { .. } | Operation::Balance { .. } => true,
            other => other.origin() == Some(Origin::Call),
        }
}

/// True for operations on the whole file, which run between batches.
fn is_on_whole_file(operation: &Operation) -> bool {
    matches!(operation, Operation::Audit | Operation::Fold { .. })
}

impl Backend for SqliteLedger {
    fn after_crash(&self) -> AfterCrash {
        self.after_crash
    }

    async fn apply(&mut self, batch: &[Operation]) -> Vec<Outcome> {
        let unavailable = Outcome::Refused(Refusal::Unavailable);
        if !self.resolve_doubt().await {
            return vec![unavailable; batch.len()];
        }
        let Some(mut known) = self.look_up(&Lookups::of(batch, &self.state)).await else {
            return vec![unavailable; batch.len()];
        };
        // A batch is one commit, so all of it waits for the disk if one operation has to.
        let durability = self.durability;
        let mut outcomes = if batch.iter().all(|o| is_answered_from_memory(durability, o)) {
            self.apply_in_memory(batch, &mut known)
        } else {
            self.apply_on_disk(batch, &mut known).await
        };
        outcomes.resize(batch.len(), unavailable);
        if self.unwritten_since.is_some_and(|since| since.elapsed() >= FLUSH_EVERY) {
            self.flush().await;
        }
        self.record_lag();
        outcomes
    }

    async fn tick(&mut self, is_live: &IsLive<'_>) -> Vec<Expired> {
        if !self.resolve_doubt().await {
            return Vec::new();
        }
        let now = self.now();
        self.state.forget_early_releases(now.ledger_ms);
        // An empty commit probes a failing disk, so that the first call after the failure succeeds.
        if self.is_failing() && self.unwritten.is_empty() {
            self.commit(&Changes::default(), now).await;
        }
        let flushed = self.flush().await;
        let mut expired = Vec::new();
        if flushed && !self.is_failing() {
            let mut changes = Changes::default();
            for hold in self.state.expired(now.ledger_ms) {
                if is_live(&hold) {
                    rules::renew(&hold, CALL_TTL_MS, &mut self.state, &mut changes, now);
                } else if let Some(live) = rules::expire(&hold, &mut self.state, &mut changes, now)
                {
                    expired.push(Expired { hold, route: live.route });
                }
            }
            if !changes.is_empty() && !self.commit(&changes, now).await {
                self.state.roll_back(&mut changes);
                expired.clear();
            }
            if !self.is_failing() {
                self.purge.run_if_due(&mut self.writer, now).await;
            }
        }
        self.record_lag();
        expired
    }

    fn tick_after(&self) -> Duration {
        match (self.failing_until, self.unwritten_since) {
            (Some(_), _) => RETRY_EVERY,
            (None, Some(since)) => FLUSH_EVERY.saturating_sub(since.elapsed()),
            (None, None) => SWEEP_EVERY,
        }
    }

    async fn close(&mut self) -> bool {
        if !self.resolve_doubt().await || !self.flush().await {
            return false;
        }
        // The last connection to close deletes the WAL, which a reader's connection cannot.
        if tokio::time::timeout(READS_END_WITHIN, self.reader.close()).await.is_err() {
            tracing::warn!(
                "the ledger was closed while reads were under way; its WAL stays beside it"
            );
        }
        self.writer.close().await;
        true
    }
}
