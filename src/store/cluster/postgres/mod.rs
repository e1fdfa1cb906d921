//! The database of the cluster ledger: it decides what is rare and remembers everything.
//!
//! It may stand behind PgBouncer in transaction mode, so nothing outlives a transaction here: every
//! statement runs inside one, none is prepared under a name, and every table is named with its schema.

mod audit;
mod compare;
mod fold;
mod grants;
mod import;
mod leases;
mod lookup;
mod migrate;
mod months;
mod owed;
mod partitions;
mod payments;
mod read;
mod recovery_plan;
mod repair;
mod settle;

use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Postgres, Transaction};

use crate::config::Secret;

use crate::ledger::LedgerError;

pub(crate) use compare::StoredAccount;
pub(crate) use grants::Delivery;
pub(crate) use leases::{CallHold, LEASE, Others, Recovery};
pub(crate) use lookup::{ColdAccount, Fate};
pub(crate) use read::LISTED;
pub(crate) use recovery_plan::Survey;
pub(crate) use settle::{Checkpoint, NumberedBatch, Settled, digest};

/// How long one transaction may take before the database counts as away.
const LIMIT: Duration = Duration::from_millis(1500);

/// How long after that Postgres ends a statement that is still at it.
const END_AFTER: Duration = Duration::from_millis(500);

/// For how long a transaction may do nothing.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

/// Connections of one gateway: the batches, the syncer, the lease, and a few readers.
const CONNECTIONS: u32 = 8;

/// A pool of connections, and the schema that the ledger has to itself.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pool: PgPool,
    schema: Arc<str>,
    /// False from a failure on until something works again, so that a batch does not wait for a
    /// database that is known to be away.
    up: Arc<AtomicBool>,
}

impl Store {
    /// Looks nobody up yet: connections are made when they are needed.
    pub fn new(url: &Secret, schema: &str) -> Result<Self, LedgerError> {
        let options = PgConnectOptions::from_str(url.expose())?
            .statement_cache_capacity(0)
            // PgBouncer takes no connection that asks for it, and no float is read here.
            .extra_float_digits(None)
            .application_name("farebox")
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(LIMIT)
            .test_before_acquire(false)
            .connect_lazy_with(options);
        Ok(Self { pool, schema: schema.into(), up: Arc::new(AtomicBool::new(true)) })
    }

    /// False while the database is known to be away.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// A statement with the schema in place of `{s}`. The name was checked with the config: small
    /// letters, digits and `_`.
    fn sql(&self, text: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(text.replace("{s}", &self.schema))
    }

    fn query<'q>(&self, text: &str) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(self.sql(text)).persistent(false)
    }

    /// Runs `work` as one transaction, in a limited time, and notes whether the database is there.
    async fn transact<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.transact_within(LIMIT, work).await
    }

    /// Begins a transaction that Postgres itself ends when nothing is heard for `idle`: a gateway that
    /// is stopped in the middle of one (SIGSTOP, a frozen machine) must not keep its locks. Nor must a
    /// statement that nobody waits for any more: Postgres ends one that takes longer than `statement` (zero:
    /// no limit).
    async fn begin(
        &self,
        idle: Duration,
        statement: Duration,
    ) -> Result<Transaction<'static, Postgres>, LedgerError> {
        let begin = format!(
            "BEGIN; SET LOCAL idle_in_transaction_session_timeout = {}; \
             SET LOCAL statement_timeout = {}",
            idle.as_millis(),
            statement.as_millis()
        );
        // However long the transaction may take: PgBouncer takes connections where it has none to
        // Postgres, and lets this wait.
        let begun = tokio::time::timeout(LIMIT, self.pool.begin_with(AssertSqlSafe(begin))).await;
        Ok(begun.map_err(|_| LedgerError::Slow { what: "Postgres" })??)
    }

    async fn transact_within<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let run = async {
            let mut transaction = self.begin(IDLE_LIMIT, limit + END_AFTER).await?;
            let done = work(&mut transaction).await?;
            transaction.commit().await?;
            Ok(done)
        };
        let result = match tokio::time::timeout(limit, run).await {
            Ok(result) => result.map_err(LedgerError::of_a_transaction),
            Err(_) => Err(LedgerError::Slow { what: "Postgres" }),
        };
        let is_away = result.as_ref().is_err_and(LedgerError::is_outage);
        if self.up.swap(!is_away, Ordering::Relaxed) == is_away
            && let Err(error) = &result
        {
            tracing::error!(%error, "Postgres is away");
        }
        result
    }
}

/// True for what another transaction caused, and a second attempt may not meet.
fn is_race(error: &LedgerError) -> bool {
    let LedgerError::Database(failure) = error else { return false };
    // A unique key, a serialization failure, a deadlock.
    matches!(failure.code(), Some("23505" | "40001" | "40P01"))
}
