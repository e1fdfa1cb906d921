//! Opens the stores of the cluster ledger: Redis, and the database with its schema.

use std::time::{Duration, Instant};

use crate::config::Secret;
use crate::ledger::LedgerError;
use crate::ledger::config::LedgerConfig;
use crate::store::cluster::postgres::{self, Store};
use crate::store::cluster::redis::connection::Redis;
use crate::store::cluster::redis::fitness;
use crate::store::tls_files::TlsFiles;

/// How long a start waits for Postgres.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The time between two attempts.
pub(crate) const RETRY_EVERY: Duration = Duration::from_millis(500);

/// How often it is logged that an attempt is still waiting.
const LOG_EVERY: Duration = Duration::from_secs(3);

/// Makes the schema of a cluster ledger, or brings it up to date. Several processes may do so at
/// once.
///
/// # Errors
/// Fails if Postgres cannot be reached or refuses.
pub async fn migrate_cluster(config: &LedgerConfig) -> Result<(), LedgerError> {
    retry_outages(|| async { make_partitions(&migrate(config).await?).await }).await
}

/// Opens the database for an import, after a check that there is a Redis to serve the ledger.
pub(crate) async fn import_target(config: &LedgerConfig) -> Result<Store, LedgerError> {
    let redis = open_redis(config)?;
    redis.wait().await?;
    fitness::check(&redis).await?;
    retry_outages(|| open_database(config)).await
}

/// Opens the database, brings its schema up to date, and checks the settings that all gateways share.
pub(crate) async fn open_database(config: &LedgerConfig) -> Result<Store, LedgerError> {
    let store = migrate(config).await?;
    postgres::agree_on_settings(&store, config.durability).await?;
    make_partitions(&store).await?;
    Ok(store)
}

async fn make_partitions(store: &Store) -> Result<(), LedgerError> {
    postgres::make_partitions(store).await?;
    postgres::make_call_partitions(store).await
}

async fn migrate(config: &LedgerConfig) -> Result<Store, LedgerError> {
    let store = database(config)?;
    postgres::migrate(&store).await?;
    Ok(store)
}

/// The database of the config, without a connection yet.
pub(crate) fn database(config: &LedgerConfig) -> Result<Store, LedgerError> {
    Store::new(required(config.postgres_url.as_ref(), "postgres_url")?, config)
}

/// The Redis of the config, which begins to connect.
pub(crate) fn open_redis(config: &LedgerConfig) -> Result<Redis, LedgerError> {
    let url = required(config.redis_url.as_ref(), "redis_url")?;
    Redis::new(url, &TlsFiles::of_redis(config))
}

fn required<'a>(url: Option<&'a Secret>, key: &'static str) -> Result<&'a Secret, LedgerError> {
    url.ok_or_else(|| LedgerError::Disagrees {
        what: format!("`{key}` is missing"),
        hint: "set it under [ledger]",
    })
}

/// Retries until Postgres is reachable, because it may still be starting.
///
/// # Errors
/// Fails with the error of the last attempt, after [`PATIENCE`] or if Postgres replies with another
/// error.
pub(crate) async fn retry_outages<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, LedgerError>
where
    F: Future<Output = Result<T, LedgerError>>,
{
    let limit = Instant::now() + PATIENCE;
    loop {
        match log_while_waiting(attempt()).await {
            Err(error) if error.is_outage() && Instant::now() < limit => {
                tracing::warn!(%error, "the start waits for Postgres");
                tokio::time::sleep(RETRY_EVERY).await;
            }
            result => return result,
        }
    }
}

/// Logs from time to time that an attempt is still waiting. It may wait until another gateway has
/// migrated the schema.
async fn log_while_waiting<T>(attempt: impl Future<Output = T>) -> T {
    let mut attempt = std::pin::pin!(attempt);
    loop {
        if let Ok(result) = tokio::time::timeout(LOG_EVERY, &mut attempt).await {
            return result;
        }
        tracing::warn!("the start waits for Postgres, or for another gateway that migrates it");
    }
}
