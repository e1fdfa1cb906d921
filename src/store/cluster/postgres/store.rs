//! The connection pool of the cluster ledger's database, and the way to run a transaction on it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, Postgres, Row as _};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::Secret;
use crate::ledger::{LedgerConfig, LedgerError};
use crate::store::cluster::postgres::hosts::{ASK_AFTER, Hosts, takes_writes};
use crate::store::cluster::postgres::transaction::Transaction;
use crate::store::postgres_address::PostgresAddress;
use crate::store::tls_files::TlsFiles;

/// How long one transaction may take before the database counts as unreachable.
pub(crate) const LIMIT: Duration = Duration::from_millis(1500);

/// The time after [`LIMIT`] at which Postgres itself ends a statement that is still running.
const END_AFTER: Duration = Duration::from_millis(500);

/// How long a transaction may stay idle before Postgres ends it.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

/// The most connections for single statements: one for each batch of the pipeline in flight. All other batches take
/// turns with these.
const KEPT: u32 = 2;

/// How often Postgres is asked for a sign of life while long work is under way.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// The number of such questions in a row without an answer after which Postgres counts as unreachable.
const SILENCES: usize = 2;

/// The longest work on one connection, such as a recovery.
const LONG_LIMIT: Duration = Duration::from_secs(120);

/// The time before the next attempt if a connection led to a standby.
const STANDBY_PAUSE: Duration = Duration::from_millis(250);

/// A pool of connections to the ledger's own schema.
///
/// The store itself only runs transactions. The ledger's own work is functions over it, by file:
///
/// | file | functions |
/// |---|---|
/// | `migrate` | `migrate`, `agree_on_settings` |
/// | `shard` | `checkpoint`: how far the stream of batches has been written; `server_identity` |
/// | `syncers` | `elect`, `step_down`: which gateway writes the batches |
/// | `append` | `append`: the batches that `strict` waits for, as texts; `lock_appends` |
/// | `batches` | `write_batches`: the batches that Redis decided, into entries and holds |
/// | `calls` | `known_charges`, `make_call_partitions`, `forget_calls`: the ids of calls' charges |
/// | `entries` | the tables `entries`, `operations`, `calls` and `accounts`, which all writers share |
/// | `grants` | `decide`: grants, refunds and keys |
/// | `deliveries` | `deliveries`, `remove_deliveries`: the changes that Redis has to apply |
/// | `claims` | `charged_claims`, `charged_claims_after`, `left_calls`, `purge_claims` |
/// | `answers`, `replays` | `keep_answers`, `read_answer`, `write_replays`, `read_replays`: answers for retries |
/// | `payments` | the tables of payments for `decide`; `event`, `events`, `payment`, `unpaid`, `buyers`, `customer`, `ledger_id` |
/// | `leases` | `join`, `renew`, `rejoin`, `leave`, `lost_gateways`, `remove_gone`, `layout_users` |
/// | `recovery` | `give_up`, `give_up_unless_reached`, `check_in`, `begin_recovery`: the way to the next epoch |
/// | `owed` | `leave_owed`, `recover_if_owed`: charges that a gateway could not write before it stopped |
/// | `holds` | `call_holds`, `accounts_with_holds`, `release_expired`, `expire_released`, `purge_ended_holds` |
/// | `lookup` | `cold_accounts`, `fates`: what Redis asks for on a cache miss; `exist` |
/// | `read` | `account`, `accounts`, `entries`, `keys`, `keys_since`, `own_keys`, `crashed` |
/// | `compare`, `recovery_plan` | `stored_accounts`, `snapshot`: consistent reads that change nothing |
/// | `reconcile`, `repair` | `reconcile`, `repair` |
/// | `fold`, `months`, `partitions` | `fold`, `make_partitions` |
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pool: PgPool,
    hosts: Arc<Hosts>,
    schema: Arc<str>,
    /// False from a failure until a transaction succeeds again, so that a batch does not wait for a
    /// database that is known to be unreachable.
    up: Arc<AtomicBool>,
    /// Whether the newest transaction began but did not finish in time.
    was_slow: Arc<AtomicBool>,
    /// Idle connections for [`Store::run`]. The pool would ping each returned connection, which costs a round trip.
    kept: Arc<Mutex<Vec<PgConnection>>>,
    /// The permits to run a single statement.
    running: Arc<Semaphore>,
}

impl Store {
    /// Makes the pool for an address. Connections are opened when they are needed, so this does not reach the
    /// database.
    ///
    /// # Errors
    /// Fails if the address or one of the files of TLS cannot be read.
    pub fn new(url: &Secret, config: &LedgerConfig) -> Result<Self, LedgerError> {
        let files = TlsFiles::of_postgres(config);
        files.check()?;
        let mut address = PostgresAddress::parse(url).map_err(|_| unreadable_address())?;
        address = address.with_files(url, &files);
        address.hosts = address.hosts.into_iter().map(as_needed).collect();
        let first = address.hosts.first().cloned().ok_or_else(unreadable_address)?;
        let mut options = PgPoolOptions::new()
            .max_connections(config.postgres_connections.saturating_sub(KEPT).max(1))
            .acquire_timeout(LIMIT)
            .test_before_acquire(false);
        if address.is_read_write {
            options = options.after_connect(|connection, _| Box::pin(refuse_standby(connection)));
        }
        let (up, was_slow) = (Arc::new(AtomicBool::new(true)), Arc::default());
        Ok(Self {
            pool: options.connect_lazy_with(first),
            hosts: Arc::new(Hosts::new(address)),
            schema: config.postgres_schema.as_str().into(),
            up,
            was_slow,
            kept: Arc::default(),
            running: Arc::new(Semaphore::new(KEPT as usize)),
        })
    }

    /// Takes a connection of the pool. If connecting takes a while, the other hosts of the address are asked.
    async fn acquire(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        match self.hosts.are_several() {
            false => self.pool.acquire().await,
            // Boxed, because it is rare and would make every transaction's future larger.
            true => Box::pin(self.acquire_of_several()).await,
        }
    }

    async fn acquire_of_several(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let mut acquiring = std::pin::pin!(self.pool.acquire());
        let first = tokio::time::timeout(ASK_AFTER, &mut acquiring).await;
        if let Ok(Ok(connection)) = first {
            return Ok(connection);
        }
        if self.hosts.find(&self.pool).await {
            self.drop_idle();
            return self.pool.acquire().await;
        }
        match first {
            Ok(failed) => failed,
            Err(_) => acquiring.await,
        }
    }

    /// Closes all idle connections: they may be broken like the one that has just failed, or lead to another host.
    fn drop_idle(&self) {
        while let Some(connection) = self.pool.try_acquire() {
            drop(connection.detach());
        }
        self.lock_kept().clear();
    }

    /// False while the database is known to be unreachable.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// The schema's name.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// A statement with the schema in place of `{s}`. The name of the schema was checked with the
    /// config: it has only lower-case letters, digits and `_`.
    pub fn sql(&self, text: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(text.replace("{s}", &self.schema))
    }

    /// A query with the schema in place of `{s}`, which is never prepared under a name.
    pub fn query<'q>(&self, text: &str) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(self.sql(text)).persistent(false)
    }

    /// Runs `work` as one transaction within [`LIMIT`], and records whether the database is
    /// reachable.
    pub async fn transact<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.transact_within(LIMIT, work).await
    }

    /// Runs `work` as one transaction within `limit`, and records whether the database is
    /// reachable.
    pub async fn transact_within<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let started = Instant::now();
        let begun = self.begin(IDLE_LIMIT, limit + END_AFTER).await;
        let has_begun = begun.is_ok();
        let result = match begun {
            Ok(mut transaction) => {
                let run = async {
                    let done = work(transaction.connection()?).await?;
                    transaction.commit().await?;
                    Ok(done)
                };
                let left = limit.saturating_sub(started.elapsed());
                // The future is boxed, so that the futures of all callers stay small.
                match tokio::time::timeout(left, Box::pin(run)).await {
                    Ok(result) => {
                        transaction.note_idle();
                        result.map_err(LedgerError::of_a_transaction)
                    }
                    Err(_) => Err(self.give_up(&mut transaction)),
                }
            }
            Err(error) => Err(error),
        };
        self.note(has_begun, result.as_ref().err());
        result
    }

    /// Runs one statement as a transaction of its own, in one round trip, and returns its row. The statement must not
    /// wait for a row that others may lock: if there is no answer within [`LIMIT`], the database counts as unreachable.
    pub async fn run(&self, sql: String) -> Result<PgRow, LedgerError> {
        // The statements of one text are one transaction, which ends with the last of them.
        let ends_after = (LIMIT + END_AFTER).as_millis();
        let sql = format!(
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {ends_after}; {sql}"
        );
        let _permit = self.permit_to_run().await?;
        let run = async {
            let kept = self.lock_kept().pop();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.acquire().await?.detach(),
            };
            let row = connection.fetch_one(AssertSqlSafe(sql)).await?;
            self.lock_kept().push(connection);
            Ok(row)
        };
        let result = match tokio::time::timeout(LIMIT, Box::pin(run)).await {
            Ok(result) => result.map_err(|error| match error {
                sqlx::Error::PoolTimedOut => LedgerError::Slow { what: "Postgres" },
                error => LedgerError::of_a_transaction(error.into()),
            }),
            Err(_) => Err(LedgerError::Slow { what: "Postgres" }),
        };
        if result.is_err() {
            // The other kept connections may be broken like this one.
            self.lock_kept().clear();
        }
        self.note(false, result.as_ref().err());
        result
    }

    /// Waits for the permit to run a single statement. The time of this wait says nothing about the database.
    async fn permit_to_run(&self) -> Result<SemaphorePermit<'_>, LedgerError> {
        if let Ok(permit) = self.running.try_acquire() {
            return Ok(permit);
        }
        match tokio::time::timeout(LIMIT, self.running.acquire()).await {
            // The statements before may have found out that the database is unreachable.
            Ok(Ok(permit)) if self.is_up() => Ok(permit),
            _ => Err(LedgerError::Slow { what: "Postgres" }),
        }
    }

    fn lock_kept(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records whether the database is reachable. If one transaction began and took too long, the database still counts
    /// as reachable, because the transaction may have had much to do; a second such transaction in a row makes it count
    /// as unreachable. An error about a locked row, or about another writer, is an answer, so the database is reachable.
    fn note(&self, has_begun: bool, error: Option<&LedgerError>) {
        let error =
            error.filter(|error| !matches!(error, LedgerError::RowLocked | LedgerError::Behind));
        let is_slow = has_begun && matches!(error, Some(LedgerError::Slow { .. }));
        let was_slow = self.was_slow.swap(is_slow, Ordering::Relaxed);
        let is_away = error.is_some_and(LedgerError::is_outage) && (was_slow || !is_slow);
        if is_slow && !is_away {
            return;
        }
        if self.up.swap(!is_away, Ordering::Relaxed) == is_away
            && let Some(error) = error
        {
            tracing::error!(
                %error,
                "Postgres is away: `strict` answers 503, `relaxed` goes on up to `unsynced_cap`; see that it runs and \
                 can be reached"
            );
        }
    }

    /// Begins a transaction that Postgres itself ends after `idle` without a statement. So a gateway that is stopped in
    /// the middle of a transaction (SIGSTOP, a frozen machine) does not keep its locks. Postgres also ends the
    /// transaction when a statement takes longer than `statement` (zero: no limit), because the gateway no longer waits
    /// for it. Each later use of the transaction needs a limit of its own.
    pub async fn begin(
        &self,
        idle: Duration,
        statement: Duration,
    ) -> Result<Transaction, LedgerError> {
        let started = Instant::now();
        let connection = match tokio::time::timeout(LIMIT, self.acquire()).await {
            Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => {
                return Err(LedgerError::Slow { what: "Postgres" });
            }
            Ok(acquired) => acquired?,
        };
        let mut transaction = Transaction::on(connection);
        // PgBouncer accepts a connection and leaves `BEGIN` waiting even if it has no connection to
        // Postgres. So this step has the short limit, however long the transaction may take.
        let left = LIMIT.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, transaction.begin(idle, statement)).await {
            Ok(begun) => begun.map(|()| transaction),
            Err(_) => Err(self.give_up(&mut transaction)),
        }
    }

    /// Closes a connection on which Postgres did not answer in time, and all idle connections. If the network lost this
    /// connection without notice, it lost the others as well, and each of them would cost a caller [`LIMIT`].
    fn give_up(&self, transaction: &mut Transaction) -> LedgerError {
        transaction.discard();
        self.drop_idle();
        LedgerError::Slow { what: "Postgres" }
    }

    /// Waits for work on a separate connection, which may take long. The wait continues as long as Postgres answers on
    /// other connections, and at most [`LONG_LIMIT`].
    pub async fn while_it_answers<T>(
        &self,
        work: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        let (began, mut silences) = (Instant::now(), 0);
        let mut work = std::pin::pin!(work);
        while silences < SILENCES && began.elapsed() < LONG_LIMIT {
            if let Ok(done) = tokio::time::timeout(ASK_EVERY, &mut work).await {
                return done;
            }
            let answers = self.transact(async |on| Ok(self.query("SELECT 1").execute(on).await?));
            silences = if answers.await.is_ok() { 0 } else { silences + 1 };
        }
        Err(LedgerError::Slow { what: "Postgres" })
    }

    /// Waits for the advisory lock of this name in this schema. The lock ends with the transaction.
    pub async fn lock(&self, name: &str, on: &mut PgConnection) -> Result<(), LedgerError> {
        let key = self.lock_key(name);
        self.query("SELECT pg_advisory_xact_lock($1)").bind(key).execute(on).await?;
        Ok(())
    }

    /// Takes the advisory lock of this name in this schema if it is free. Returns whether it was.
    pub async fn try_lock(&self, name: &str, on: &mut PgConnection) -> Result<bool, LedgerError> {
        let lock = self.query("SELECT pg_try_advisory_xact_lock($1)").bind(self.lock_key(name));
        Ok(lock.fetch_one(on).await?.try_get(0)?)
    }

    /// The key of the advisory lock of this name in this schema.
    pub fn lock_key(&self, name: &str) -> i64 {
        let digest = Sha256::digest(format!("farebox:{}:{name}", self.schema));
        let mut key = [0; 8];
        key.copy_from_slice(&digest[..8]);
        i64::from_le_bytes(key)
    }
}

/// Sets the client's options that PgBouncer and the ledger's statements need.
fn as_needed(options: PgConnectOptions) -> PgConnectOptions {
    options
        .statement_cache_capacity(0)
        // PgBouncer refuses connections that set this option, and the ledger reads no floats.
        .extra_float_digits(None)
        .application_name("farebox")
        .disable_statement_logging()
}

/// Refuses a new connection that leads to a standby. The pool tries again after that.
async fn refuse_standby(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    if takes_writes(connection).await? {
        return Ok(());
    }
    // Without this pause the pool would retry at once, and log each attempt.
    tokio::time::sleep(STANDBY_PAUSE).await;
    Err(sqlx::Error::Configuration("this host of `postgres_url` is a standby".into()))
}

fn unreadable_address() -> LedgerError {
    LedgerError::Disagrees {
        what: "the address of Postgres cannot be read".to_owned(),
        hint: "`farebox check` says where",
    }
}

/// Whether another transaction caused the error (a unique key, a serialization failure, or a
/// deadlock), so that a second attempt may succeed.
pub(crate) fn is_race(error: &LedgerError) -> bool {
    let LedgerError::Database(failure) = error else { return false };
    matches!(failure.code(), Some("23505" | "40001" | "40P01"))
}
