//! The embedded ledger: balances in memory, one writer, and SQLite for the data that must last.
//!
//! A batch is first decided in memory. In `strict` its outcomes count once SQLite has committed it
//! with `synchronous=FULL`. If the commit fails, memory is rolled back, and the operations are
//! refused as unavailable. The operations of calls (hold, renew, capture, release) are committed as
//! one row of the log of batches (`batch_log.rs`), and their own rows follow within 25 ms.
//!
//! In `relaxed` the operations of calls are answered at once. Their rows are written within 25 ms while further
//! operations are decided (`unwritten.rs`). If a commit fails, they stay in memory until one succeeds, and
//! no new hold is granted until then. In both modes, grants, keys and all other operations are on disk
//! before they are answered.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::ledger::CALL_TTL_MS;
use crate::ledger::backend::{Backend, Expired, IsLive};
use crate::ledger::clock::Clock;
use crate::ledger::config::LedgerConfig;
use crate::ledger::crash::AfterCrash;
use crate::ledger::operation::{Operation, Outcome, Refusal};
use crate::ledger::rules;
use crate::ledger::rules::state::{Changes, Known, Lookups, Now, State};
use crate::ledger::{Durability, LedgerError};
use crate::metrics::Metrics;
use crate::store::sqlite::answers::{LedgerSecret, SqliteAnswers};
use crate::store::sqlite::batch_log;
use crate::store::sqlite::call_holds::CallHolds;
use crate::store::sqlite::claims;
use crate::store::sqlite::connection::{self, Writer};
use crate::store::sqlite::decided::{Decided, is_on_whole_file};
use crate::store::sqlite::disk::{Disk, RETRY_EVERY};
use crate::store::sqlite::left_calls::{count_left_calls, end_left_calls};
use crate::store::sqlite::lock::LedgerLock;
use crate::store::sqlite::purge::Purge;
use crate::store::sqlite::read::SqliteReader;
use crate::store::sqlite::unwritten::Unwritten;
use crate::store::sqlite::write::Log;
use crate::store::sqlite::written::Written;
use crate::store::sqlite::{file_rights, load, whole_file};

/// In `strict`, the rows of entries and ended holds are written at the latest when this many wait.
/// A larger commit would delay the calls that arrive meanwhile.
const FLUSH_AT: usize = 256;

/// How long the end of a call's hold may wait in `strict` for the next hold, which it shares a commit with:
/// about as long as a commit takes on a usual disk.
const ENDS_WAIT: Duration = Duration::from_millis(2);

/// How often expired holds are looked for.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// How long closing the file waits for running reads.
const READS_END_WITHIN: Duration = Duration::from_secs(2);

/// The embedded ledger. For each file there is only one, which is the file's only writer.
#[derive(Debug)]
pub struct SqliteLedger {
    durability: Durability,
    after_crash: AfterCrash,
    state: State,
    disk: Disk,
    unwritten: Unwritten,
    clock: Clock,
    metrics: Metrics,
    purge: Purge,
    /// The reader of the same file. It is closed before the writer.
    reader: SqliteReader,
    /// The file of the ledger.
    path: PathBuf,
    /// The ledger's own secret, for its answers.
    secret: LedgerSecret,
    /// The lock, held as long as the ledger and its last write, so that a file has one writer.
    lock: Arc<LedgerLock>,
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

    /// Opens or makes the ledger of `config`, under a lock that is held until the ledger is
    /// dropped. If a crash left holds of calls, they are ended as `after_crash` says.
    ///
    /// # Errors
    /// Fails if another process has the ledger, or its file cannot be read or written.
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
        batch_log::replay(&mut connection).await?;
        let secret = LedgerSecret(claims::secret(&mut connection).await?);
        let (mut state, mut commits) = load::state(&mut connection, clock.now(0)).await?;
        let now = clock.now(commits.saturating_add(1));
        let left = end_left_calls(&mut connection, &mut state, after_crash, now).await?;
        if !left.is_empty() {
            commits = now.commit;
            count_left_calls(&left, &metrics);
        }
        metrics.ledger_up.set(1);
        let written = Written::default();
        Ok(Self {
            durability,
            after_crash,
            state,
            disk: Disk::new(Writer::new(path, connection), commits, metrics.clone()),
            reader: SqliteReader::behind(path, written.clone()),
            unwritten: Unwritten::new(written),
            clock,
            metrics,
            purge: Purge::default(),
            path: path.to_owned(),
            secret,
            lock: Arc::new(lock),
        })
    }

    /// A reader of the same file. It sees only committed changes, and works until the ledger is
    /// closed.
    pub fn reader(&self) -> SqliteReader {
        self.reader.clone()
    }

    /// Opens the file with the answers that this ledger keeps for retries; together they take at most
    /// `max_total` bytes.
    ///
    /// # Errors
    /// Where the file cannot be read or written.
    pub async fn answers(&self, max_total: u64) -> Result<SqliteAnswers, LedgerError> {
        SqliteAnswers::open(&self.path, self.secret, max_total).await
    }

    /// Decides operations that are answered before they are written.
    fn apply_in_memory(&mut self, batch: &[Operation], known: &mut Known) -> Vec<Outcome> {
        let now = self.now();
        let changes = &mut self.unwritten.changes;
        let outcomes = batch
            .iter()
            .map(|operation| match operation {
                // If these credits were set aside now, that could not be written soon.
                operation if operation.takes_credits() && self.disk.is_failing() => {
                    Outcome::Refused(Refusal::Unavailable)
                }
                _ => rules::decide(operation, &mut self.state, known, changes, now),
            })
            .collect();
        changes.forget_undo();
        self.unwritten.count_answered();
        outcomes
    }

    /// Decides operations of calls, which count once their batch is in the log.
    async fn apply_by_log(&mut self, batch: &[Operation], known: &mut Known) -> Vec<Outcome> {
        let now = self.now();
        let mut changes = Changes::default();
        let outcomes: Vec<Outcome> = batch
            .iter()
            .map(|operation| rules::decide(operation, &mut self.state, known, &mut changes, now))
            .collect();
        if changes.is_empty() {
            return outcomes;
        }
        if !self.disk.append(&self.state, &changes, now).await {
            self.state.roll_back(&mut changes);
            return Vec::new();
        }
        self.unwritten.changes.add_calls(changes);
        self.unwritten.count_answered();
        outcomes
    }

    /// Decides operations that count once they are on disk. Operations on the whole file separate
    /// them into runs. Stops at the first failure, because `known` assumes that the earlier runs
    /// are written.
    async fn apply_on_disk(&mut self, batch: &[Operation], known: &mut Known) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        if self.flush().await {
            for part in batch.chunk_by(|a, b| !is_on_whole_file(a) && !is_on_whole_file(b)) {
                match part {
                    [Operation::Audit] => {
                        let now = self.now();
                        outcomes.push(whole_file::audit(&mut self.disk, &self.state, now).await);
                    }
                    [Operation::Fold { before_ms, from }] => {
                        let from = from.as_ref();
                        outcomes.push(whole_file::fold(&mut self.disk, *before_ms, from).await);
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

    /// Decides a run of operations and commits it; `None` if the commit failed.
    async fn apply_run(&mut self, run: &[Operation], known: &mut Known) -> Option<Vec<Outcome>> {
        let now = self.now();
        let mut changes = Changes::default();
        let outcomes: Vec<Outcome> = run
            .iter()
            .map(|operation| rules::decide(operation, &mut self.state, known, &mut changes, now))
            .collect();
        if changes.is_empty() || self.commit(&changes, now, Log::Stays).await {
            return Some(outcomes);
        }
        self.state.roll_back(&mut changes);
        None
    }

    /// This moment, with the number of the commit that will write the next changes.
    fn now(&self) -> Now {
        let made = self.disk.commits.saturating_add(self.unwritten.commits());
        self.clock.now(made.saturating_add(1))
    }

    /// Records the age of the oldest operation that is answered but not on disk. In `strict` it is
    /// always 0.
    fn record_lag(&self) {
        let since = self.unwritten.since().filter(|_| self.durability == Durability::Relaxed);
        let lag = since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        self.metrics.ledger_sync_lag_seconds.set(lag);
    }

    /// In `strict`, whether many rows wait to be written.
    fn has_much_unwritten(&self) -> bool {
        let changes = &self.unwritten.changes;
        self.durability == Durability::Strict
            && changes.entries.len() + changes.ended.len() >= FLUSH_AT
    }

    /// Commits the rows of `changes`, as [`Disk::commit`] does. Nothing that waits to be written may be left
    /// out of them.
    async fn commit(&mut self, changes: &Changes, now: Now, log: Log) -> bool {
        let written = self.disk.commit(&self.state, changes, now, log).await;
        if written {
            self.state.claims.forget_written(changes.claims.keys());
        }
        written
    }

    /// Commits the unwritten changes. Returns true if none are left.
    async fn flush(&mut self) -> bool {
        let log = match self.durability {
            // The log has all of these changes.
            Durability::Strict => Log::Emptied,
            Durability::Relaxed => Log::Stays,
        };
        let now = self.now();
        self.unwritten.flush(&mut self.disk, &mut self.state, now, log).await
    }

    /// Whether a hold has to expire or to be renewed, or old rows are to be deleted.
    fn is_upkeep_due(&self, now: Now) -> bool {
        now.ledger_ms >= self.state.next_expiry_ms || self.purge.is_due()
    }

    /// Finds out whether the commit in doubt was written. Returns false while the file cannot be
    /// read.
    async fn resolve_doubt(&mut self) -> bool {
        if !self.disk.in_doubt {
            return true;
        }
        if self.disk.is_resting() {
            return false;
        }
        match self.catch_up().await {
            Ok(()) => self.disk.in_doubt = false,
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be read");
                self.disk.writer.discard();
                self.disk.rest();
            }
        }
        !self.disk.in_doubt
    }

    /// Updates memory, if the file has one commit more than memory has counted.
    async fn catch_up(&mut self) -> Result<(), LedgerError> {
        // In `strict` every answered operation is in the file, either as rows or in the log.
        if self.unwritten.is_empty() || self.durability == Durability::Strict {
            // Memory was rolled back and the callers were refused, but the file may have the
            // commit. So memory is loaded from the file again. A caller that repeats its operation
            // finds the entry.
            let now = self.now();
            let connection = self.disk.writer.get().await?;
            batch_log::replay(connection).await?;
            let (state, commits) = load::state(connection, now).await?;
            self.disk.call_holds = CallHolds::of(&state);
            (self.state, self.disk.commits) = (state, commits);
            self.unwritten.forget();
            return Ok(());
        }
        let done = self.disk.count_commits().await?;
        if done > self.disk.commits {
            self.unwritten.count_found(done, &mut self.disk, &mut self.state);
        }
        Ok(())
    }

    /// Reads what the file has of ids that memory does not know; `None` where it cannot be read.
    async fn look_up(&mut self, wanted: &Lookups, decided: Decided) -> Option<Known> {
        if wanted.is_empty() {
            return Some(Known::default());
        }
        // Answered operations may concern these ids, so they are written first. Memory has the claims of
        // such operations for as long as they are not written.
        let may_be_unwritten = wanted.are_claims() && decided != Decided::OnDisk;
        if may_be_unwritten {
            self.unwritten.finish(&mut self.disk, &mut self.state).await;
        } else if !self.flush().await {
            return None;
        }
        let found = match self.disk.writer.get().await {
            Ok(connection) => load::known(connection, wanted).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(known) => Some(known),
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be read");
                self.disk.writer.discard();
                None
            }
        }
    }
}

impl Backend for SqliteLedger {
    fn after_crash(&self) -> AfterCrash {
        self.after_crash
    }

    async fn apply(&mut self, batch: &[Operation]) -> Vec<Outcome> {
        let unavailable = Outcome::Refused(Refusal::Unavailable);
        self.unwritten.look(&mut self.disk, &mut self.state).await;
        if !self.resolve_doubt().await {
            return vec![unavailable; batch.len()];
        }
        let wanted = Lookups::of(batch, &self.state);
        let durability = self.durability;
        let decided = Decided::of(batch, durability, &wanted);
        let Some(mut known) = self.look_up(&wanted, decided).await else {
            return vec![unavailable; batch.len()];
        };
        let mut outcomes = match decided {
            Decided::InMemory => self.apply_in_memory(batch, &mut known),
            Decided::ByLog => self.apply_by_log(batch, &mut known).await,
            Decided::OnDisk => self.apply_on_disk(batch, &mut known).await,
        };
        outcomes.resize(batch.len(), unavailable);
        // A tick writes the rows of calls, after the batch was answered.
        self.record_lag();
        outcomes
    }

    async fn tick(&mut self, is_live: &IsLive<'_>) -> Vec<Expired> {
        self.unwritten.look(&mut self.disk, &mut self.state).await;
        if !self.resolve_doubt().await {
            return Vec::new();
        }
        let now = self.now();
        self.state.forget_early_releases(now.ledger_ms);
        self.state.claims.forget_left(now.wall_ms);
        let can_wait = !self.disk.is_failing() && !self.is_upkeep_due(now);
        if self.durability == Durability::Relaxed && can_wait {
            self.unwritten.write_beside(&mut self.disk, &mut self.state, now, &self.lock).await;
            self.record_lag();
            return Vec::new();
        }
        // An empty commit probes a failing disk, so that the first call after the failure succeeds.
        if self.disk.is_failing() && self.unwritten.is_empty() {
            self.commit(&Changes::default(), now, Log::Stays).await;
        }
        let flushed = self.flush().await;
        let mut expired = Vec::new();
        if flushed && !self.disk.is_failing() {
            let mut changes = Changes::default();
            for hold in self.state.expired(now.ledger_ms) {
                if is_live(&hold) {
                    rules::renew(&hold, CALL_TTL_MS, &mut self.state, &mut changes, now);
                } else if let Some(live) = rules::expire(&hold, &mut self.state, &mut changes, now)
                {
                    expired.push(Expired { hold, route: live.route });
                }
            }
            if !changes.is_empty() && !self.commit(&changes, now, Log::Stays).await {
                self.state.roll_back(&mut changes);
                expired.clear();
            }
            if !self.disk.is_failing() {
                self.purge.run_if_due(&mut self.disk.writer, now).await;
            }
        }
        self.record_lag();
        expired
    }

    fn tick_after(&self) -> Duration {
        if self.disk.is_failing() {
            RETRY_EVERY
        } else if self.has_much_unwritten() {
            Duration::ZERO
        } else {
            self.unwritten.due_after().unwrap_or(SWEEP_EVERY)
        }
    }

    fn ends_wait(&self) -> Duration {
        match self.durability {
            Durability::Strict => ENDS_WAIT,
            Durability::Relaxed => Duration::ZERO,
        }
    }

    fn fewest_callers(&self) -> Option<usize> {
        (self.durability == Durability::Strict).then_some(0)
    }

    async fn close(&mut self) -> bool {
        self.unwritten.finish(&mut self.disk, &mut self.state).await;
        if !self.resolve_doubt().await || !self.flush().await {
            return false;
        }
        // The last connection to close deletes the WAL, and a reader's connection cannot do that.
        if tokio::time::timeout(READS_END_WITHIN, self.reader.close()).await.is_err() {
            tracing::warn!(
                "the ledger was closed while reads were under way; its WAL stays beside it"
            );
        }
        self.disk.writer.close().await;
        true
    }
}
