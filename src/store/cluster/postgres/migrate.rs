//! Migrates the schema, safely even if any number of gateways do so at once, and compares the
//! settings that gateways must share.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use crate::ledger::LedgerError;
use crate::ledger::config::Durability;
use crate::store::cluster::postgres::partitions::{LOCK_LIMIT, has_table, is_locked};
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::migrations::POSTGRES;

/// How long a migration may take. Even one that rewrites a table must fit.
const MIGRATION_LIMIT: Duration = Duration::from_secs(600);

/// The time between two attempts to migrate, while others have a table locked.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Makes the schema or brings it up to date. Gateways of an earlier version may serve meanwhile.
/// While a request for an exclusive lock waits, all later queries wait behind it. So a request that
/// is not granted soon is taken back and repeated later, because a dump may keep its lock for very
/// long.
pub(crate) async fn migrate(store: &Store) -> Result<(), LedgerError> {
    let limit = Instant::now() + MIGRATION_LIMIT;
    loop {
        match migrate_once(store).await {
            Err(error) if is_locked(&error) && Instant::now() < limit => {
                tracing::warn!(
                    "the schema cannot be brought up to date yet, since a long transaction reads the \
                     ledger's tables; it is tried again"
                );
                tokio::time::sleep(RETRY_EVERY).await;
            }
            migrated => return migrated,
        }
    }
}

/// Migrates in one transaction, under a lock for this ledger's migrations that ends with the
/// transaction. sqlx's own migrator locks the session instead. Behind PgBouncer such a lock would
/// stay on a shared connection.
async fn migrate_once(store: &Store) -> Result<(), LedgerError> {
    store
        .transact_within(MIGRATION_LIMIT, async |on| {
            store.lock("migrate", on).await?;
            make_table(store, on).await?;
            on.execute(store.sql("SET LOCAL search_path = {s}")).await?;
            on.execute(LOCK_LIMIT).await?;
            apply_missing(store, on).await
        })
        .await
}

/// Makes the schema and the table of migrations, if they do not exist. Postgres checks the right to create before it looks
/// whether there is anything to create, and the role of a gateway may have no such right.
async fn make_table(store: &Store, on: &mut PgConnection) -> Result<(), LedgerError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1) AS found";
    let found = store.query(sql).bind(store.schema()).fetch_one(&mut *on).await?;
    if !found.try_get::<bool, _>("found")? {
        on.execute(store.sql("CREATE SCHEMA {s}")).await?;
    }
    if !has_table(store, "migrations", on).await? {
        on.execute(store.sql(
            "CREATE TABLE {s}.migrations (version BIGINT PRIMARY KEY, \
             checksum BYTEA NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())",
        ))
        .await?;
    }
    Ok(())
}

/// Applies the migrations that are missing.
///
/// # Errors
/// Fails if an applied migration differs from the one of this version, or is newer.
async fn apply_missing(store: &Store, on: &mut PgConnection) -> Result<(), LedgerError> {
    let rows = store.query("SELECT version, checksum FROM {s}.migrations").fetch_all(&mut *on);
    let mut applied: Vec<(i64, Vec<u8>)> = Vec::new();
    for row in rows.await? {
        applied.push((row.try_get("version")?, row.try_get("checksum")?));
    }
    for migration in POSTGRES.iter() {
        let known = applied.iter().find(|(version, _)| *version == migration.version);
        if let Some((version, checksum)) = known {
            if *checksum != *migration.checksum {
                return Err(sqlx::migrate::MigrateError::VersionMismatch(*version).into());
            }
            continue;
        }
        on.execute(AssertSqlSafe(migration.sql.as_str().to_owned())).await?;
        store
            .query("INSERT INTO {s}.migrations (version, checksum) VALUES ($1, $2)")
            .bind(migration.version)
            .bind(&*migration.checksum)
            .execute(&mut *on)
            .await?;
    }
    let newest = POSTGRES.iter().map(|migration| migration.version).max().unwrap_or(0);
    match applied.iter().find(|(version, _)| *version > newest) {
        Some((version, _)) => Err(sqlx::migrate::MigrateError::VersionMissing(*version).into()),
        None => Ok(()),
    }
}

/// Stores the settings that all gateways must share, or compares them with those that an earlier
/// gateway stored.
///
/// # Errors
/// [`LedgerError::Disagrees`] if the stored settings are different.
pub(crate) async fn agree_on_settings(
    store: &Store,
    durability: Durability,
) -> Result<(), LedgerError> {
    let row = store
        .transact(async |on| {
            store
                .query(
                    "INSERT INTO {s}.ledger (one, durability, shards) VALUES (1, $1, 1) \
                 ON CONFLICT DO NOTHING",
                )
                .bind(durability.as_str())
                .execute(&mut *on)
                .await?;
            store
                .query(
                    "INSERT INTO {s}.shards (id, epoch, nonce, checkpoint, digest, recovering) \
                 VALUES (0, 0, '', 0, '', true) ON CONFLICT DO NOTHING",
                )
                .execute(&mut *on)
                .await?;
            Ok(store.query("SELECT durability, shards FROM {s}.ledger").fetch_one(on).await?)
        })
        .await?;
    let (stored, shards): (String, i32) = (row.try_get("durability")?, row.try_get("shards")?);
    if stored != durability.as_str() {
        return Err(LedgerError::Disagrees {
            what: format!(
                "it was made with durability = {stored:?}, and this gateway has {:?}",
                durability.as_str()
            ),
            hint: "set the same value under [ledger] on every gateway",
        });
    }
    if shards != 1 {
        return Err(LedgerError::Disagrees {
            what: format!("it has {shards} shards, and this version supports one"),
            hint: "run the version of Farebox that made it",
        });
    }
    Ok(())
}
