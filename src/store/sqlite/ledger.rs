//! The embedded ledger: balances in memory, one writer, SQLite for what must last.
//!
//! A batch is decided in memory first. In `strict` it counts only once SQLite has committed it
//! with `synchronous=FULL`; when that fails, memory goes back to what it was and the callers
//! hear that the ledger is unavailable. In `relaxed` the operations of calls (hold, renew,
//! capture, release) are answered at once and written within [`FLUSH_EVERY`]; when that fails,
//! they stay in memory until it works, and no new hold is granted meanwhile. Everything rare
//! (grants, keys) is on disk before it is answered, in both.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;

use crate::metrics::Metrics;
use crate::store::sqlite::read::SqliteReader;
use crate::store::sqlite::{left, load};

use crate::ledger::backend::{Backend, Expired, IsLive};
use crate::ledger::clock::Clock;
use crate::ledger::config::LedgerConfig;
use crate::ledger::crash::{AfterCrash, CrashedCall};
use crate::ledger::operation::{Operation, Origin, Outcome, Refusal};
use crate::ledger::rules;
use crate::ledger::rules::state::{Changes, Known, Lookups, Now, State};
use crate::ledger::{CALL_TTL_MS, Durability, LedgerError};
use crate::store::sqlite::call_holds::CallHolds;
use crate::store::sqlite::file_rights;
use crate::store::sqlite::lock::LedgerLock;
use crate::store::sqlite::write::Batch;

/// How long an acknowledged operation of a call may wait for the disk in `relaxed`. Half of what
/// is promised, so that the commit itself fits in the other half.
const FLUSH_EVERY: Duration = Duration::from_millis(25);

/// How often holds are looked over for expiry.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// How long a failing disk is left alone between two attempts.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// How long the closing of the file waits for reads that are still under way.
const READS_END_WITHIN: Duration = Duration::from_secs(2);

/// The writer.
#[derive(Debug)]
pub struct SqliteLedger {
    path: PathBuf,
    durability: Durability,
    after_crash: AfterCrash,
    /// `None` after a failure, until it can be opened again.
    pub(super) connection: Option<SqliteConnection>,
    /// How many batches the file has committed.
    commits: i64,
    pub(super) state: State,
    call_holds: CallHolds,
    /// Acknowledged, and not yet written (`relaxed` only).
    pinned: Changes,
    clock: Clock,
    metrics: Metrics,
    /// Since when something has been waiting in `pinned`.
    pinned_since: Option<Instant>,
    pub(super) last_purge: Option<Instant>,
    /// Set while the disk refuses: when it may be tried again.
    failing_until: Option<Instant>,
    /// Set after a commit that failed while the file could not be read: it may have been written
    /// all the same. Until that is known, nothing is decided.
    in_doubt: bool,
    /// What reads beside it, and is closed before it.
    reader: SqliteReader,
    /// Held for life: one writer per file.
    _lock: LedgerLock,
}

impl SqliteLedger {
    /// Opens the ledger at `path` with everything else at its default.
    ///
    /// # Errors
    /// As [`SqliteLedger::open_as`].
    pub async fn open(
        path: &Path,
        durability: Durability,
        metrics: Metrics,
    ) -> Result<Self, LedgerError> {
        let path = path.to_owned();
        let config = LedgerConfig { path, durability, ..LedgerConfig::default() };
        Self::open_as(&config, metrics).await
    }

    /// Opens the ledger of `config`, or makes it, under a lock that is held until it is dropped. The
    /// holds of calls that a crash left end as the config says.
    ///
    /// # Errors
    /// Where another process has it, or it cannot be read or written.
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
        let mut connection = load::connect(path).await?;
        load::check_version(&mut connection).await?;
        load::migrate(&mut connection).await?;
        let (mut state, mut commits) = load::state(&mut connection, clock.now(0)).await?;
        let now = clock.now(commits.saturating_add(1));
        let left = left::end_left_calls(&mut connection, &mut state, after_crash, now).await?;
        if !left.is_empty() {
            commits = now.commit;
            left::count(&left, &metrics);
        }
        metrics.ledger_up.set(1);
        Ok(Self {
            path: path.to_owned(),
            durability,
            after_crash,
            connection: Some(connection),
            commits,
            state,
            call_holds: CallHolds::default(),
            pinned: Changes::default(),
            clock,
            metrics,
            pinned_since: None,
            last_purge: None,
            failing_until: None,
            in_doubt: false,
            reader: SqliteReader::new(path),
            _lock: lock,
        })
    }

    /// A reader of the same file; it sees what is committed, until the ledger is closed.
    pub fn reader(&self) -> SqliteReader {
        self.reader.clone()
    }

    /// Decides operations that are acknowledged from memory.
    fn apply_pinned(&mut self, batch: &[Operation], known: &mut Known) -> Vec<Outcome> {
        let now = self.now();
        let outcomes = batch
            .iter()
            .map(|operation| match operation {
                // What is acknowledged now could not be written soon: grant nothing more.
                Operation::Hold(_) if self.is_failing() => Outcome::Refused(Refusal::Unavailable),
                _ => rules::decide(operation, &mut self.state, known, &mut self.pinned, now),
            })
            .collect();
        self.pinned.forget_undo();
        if !self.pinned.is_empty() {
            self.pinned_since.get_or_insert_with(Instant::now);
        }
        outcomes
    }

    /// Decides operations that count only once they are on disk, between others that look at
    /// the file as a whole. Stops at the first failure: `known` counts on what was to be written.
    async fn apply_unpinned(&mut self, batch: &[Operation], known: &mut Known) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        if self.flush().await {
            for part in batch.chunk_by(|a, b| !concerns_disk(a) && !concerns_disk(b)) {
                match part {
                    [Operation::Audit] => outcomes.push(self.audit().await),
                    [Operation::Fold { before_ms, from }] => {
                        outcomes.push(self.fold(*before_ms, from.as_ref()).await);
                    }
                    _ => match self.apply_durably(part, known).await {
                        Some(decided) => outcomes.extend(decided),
                        None => break,
                    },
                }
            }
        }
        outcomes
    }

    /// Decides a run of operations that count only once they are on disk; `None` where it did
    /// not take them.
    async fn apply_durably(
        &mut self,
        run: &[Operation],
        known: &mut Known,
    ) -> Option<Vec<Outcome>> {
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

    pub(super) fn now(&self) -> Now {
        self.clock.now(self.commits.saturating_add(1))
    }

    /// True while a failing disk is left alone.
    fn is_resting(&self) -> bool {
        self.failing_until.is_some_and(|until| Instant::now() < until)
    }

    /// How old the oldest acknowledged, unwritten operation is; 0 in `strict`, always.
    fn record_lag(&self) {
        let lag = self.pinned_since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        self.metrics.ledger_sync_lag_seconds.set(lag);
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing_until.is_some()
    }

    /// Writes what waits. True where nothing waits any more.
    async fn flush(&mut self) -> bool {
        if self.pinned.is_empty() {
            return true;
        }
        if self.in_doubt {
            return false;
        }
        let pinned = std::mem::take(&mut self.pinned);
        let written = self.commit(&pinned, self.now()).await;
        if written {
            self.pinned_since = None;
        } else {
            self.pinned = pinned;
        }
        written
    }

    /// Commits `changes`; false where the disk did not take them (and then nothing of them is
    /// there).
    async fn commit(&mut self, changes: &Changes, now: Now) -> bool {
        if self.is_resting() {
            return false;
        }
        let started = Instant::now();
        let next = self.commits.saturating_add(1);
        let result = match self.take_connection().await {
            Ok(mut connection) => {
                let (state, calls) = (&self.state, &self.call_holds);
                let batch = Batch::new(state, calls, changes, Now { commit: next, ..now });
                let result = batch.write(&mut connection).await;
                self.connection = Some(connection);
                result
            }
            Err(error) => Err(error),
        };
        let written = match result {
            Ok(()) => true,
            Err(error) => self.settle_failure(next, error).await,
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

    /// After a failed commit: was it written after all? The file's own count tells.
    async fn settle_failure(&mut self, next: i64, error: sqlx::Error) -> bool {
        if self.failing_until.is_none() {
            tracing::error!(%error, "the ledger cannot write; holds are refused with 503 until it can");
        }
        // Closed only after the next one is open: the last to close takes the shared memory's
        // file away, and a full disk has no room for another.
        let _broken = self.connection.take();
        match self.count_commits().await {
            Ok(done) => done >= next,
            Err(_) => {
                self.in_doubt = true;
                false
            }
        }
    }

    /// Finds out whether the commit in doubt was written. False while that cannot be known.
    async fn settle_doubt(&mut self) -> bool {
        if !self.in_doubt {
            return true;
        }
        if self.is_resting() {
            return false;
        }
        match self.reread().await {
            Ok(()) => self.in_doubt = false,
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be read");
                self.connection = None;
                self.failing_until = Some(Instant::now() + RETRY_EVERY);
            }
        }
        !self.in_doubt
    }

    /// Brings memory up to the file, where the file has one commit more than memory counted.
    async fn reread(&mut self) -> Result<(), LedgerError> {
        let done = self.count_commits().await?;
        if done > self.commits {
            if self.pinned.is_empty() {
                // Its callers heard that nothing changed, and memory went back with them; what
                // they ask again is found to be done.
                let now = self.now();
                self.state = load::state(self.connect().await?, now).await?.0;
                self.call_holds = CallHolds::of(&self.state);
            } else {
                let pinned = std::mem::take(&mut self.pinned);
                self.call_holds.count(done, &pinned);
                self.pinned_since = None;
            }
            self.commits = done;
        }
        Ok(())
    }

    async fn count_commits(&mut self) -> Result<i64, sqlx::Error> {
        let counted = match self.connect().await {
            Ok(connection) => load::commits(connection).await,
            Err(error) => Err(error),
        };
        if counted.is_err() {
            self.connection = None;
        }
        counted
    }

    async fn take_connection(&mut self) -> Result<SqliteConnection, sqlx::Error> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => load::connect(&self.path).await,
        }
    }

    pub(super) async fn connect(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        let connection = self.take_connection().await?;
        Ok(self.connection.insert(connection))
    }

    /// What the disk knows of the ids that memory does not.
    async fn look_up(&mut self, wanted: &Lookups) -> Option<Known> {
        if wanted.is_empty() {
            return Some(Known::default());
        }
        // The disk must know what memory has acknowledged before it is asked.
        if !self.flush().await {
            return None;
        }
        let found = match self.connect().await {
            Ok(connection) => load::known(connection, wanted).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(known) => Some(known),
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be read");
                self.connection = None;
                None
            }
        }
    }
}

/// In `relaxed`, operations of calls can be acknowledged from memory; all else waits for the disk.
/// A hold made through the API as well: it outlives a crash, and is captured by its id alone, so
/// one that was lost would lose a debit much later.
fn may_be_pinned(durability: Durability, operation: &Operation) -> bool {
    durability == Durability::Relaxed
        && match operation {
            Operation::Renew { .. } | Operation::Balance { .. } => true,
            other => other.origin() == Some(Origin::Call),
        }
}

/// Operations that look at the file as a whole, between batches.
fn concerns_disk(operation: &Operation) -> bool {
    matches!(operation, Operation::Audit | Operation::Fold { .. })
}

impl Backend for SqliteLedger {
    fn after_crash(&self) -> AfterCrash {
        self.after_crash
    }

    async fn apply(&mut self, batch: &[Operation]) -> Vec<Outcome> {
        let unavailable = Outcome::Refused(Refusal::Unavailable);
        if !self.settle_doubt().await {
            return vec![unavailable; batch.len()];
        }
        let Some(mut known) = self.look_up(&Lookups::of(batch, &self.state)).await else {
            return vec![unavailable; batch.len()];
        };
        // One operation that must wait for the disk, and the whole batch does: it is one commit.
        let durability = self.durability;
        let mut outcomes = if batch.iter().all(|o| may_be_pinned(durability, o)) {
            self.apply_pinned(batch, &mut known)
        } else {
            self.apply_unpinned(batch, &mut known).await
        };
        outcomes.resize(batch.len(), unavailable);
        if self.pinned_since.is_some_and(|since| since.elapsed() >= FLUSH_EVERY) {
            self.flush().await;
        }
        self.record_lag();
        outcomes
    }

    async fn tick(&mut self, is_live: &IsLive<'_>) -> Vec<Expired> {
        if !self.settle_doubt().await {
            return Vec::new();
        }
        let now = self.now();
        self.state.forget_early_releases(now.ledger_ms);
        // A failing disk is probed, so that serving resumes without a call having to fail first.
        if self.is_failing() && self.pinned.is_empty() {
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
            self.purge(now).await;
        }
        self.record_lag();
        expired
    }

    fn tick_after(&self) -> Duration {
        match (self.failing_until, self.pinned_since) {
            (Some(_), _) => RETRY_EVERY,
            (None, Some(since)) => FLUSH_EVERY.saturating_sub(since.elapsed()),
            (None, None) => SWEEP_EVERY,
        }
    }

    async fn close(&mut self) -> bool {
        if !self.settle_doubt().await || !self.flush().await {
            return false;
        }
        // The last to close the file takes its WAL away, and a reader cannot.
        if tokio::time::timeout(READS_END_WITHIN, self.reader.close()).await.is_err() {
            tracing::warn!("the ledger is closed while it is read; its WAL stays");
        }
        if let Some(connection) = self.connection.take() {
            // Closing checkpoints the WAL; a failure there loses nothing.
            if let Err(error) = connection.close().await {
                tracing::warn!(%error, "the ledger's file could not be closed cleanly");
            }
        }
        true
    }
}
