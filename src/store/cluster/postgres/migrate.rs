//! Bringing the schema up to date, from any number of gateways at once.

use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use std::time::Duration;

use crate::ledger::LedgerError;
use crate::ledger::config::Durability;
use crate::store::sql::migrations::POSTGRES;

use crate::store::cluster::postgres::Store;

/// How long a migration may take: a later one may rewrite a table.
const MIGRATION_LIMIT: Duration = Duration::from_secs(600);

impl Store {
    /// Makes the schema or brings it up to date, in one transaction under a lock of that transaction:
    /// sqlx's own runner holds a session's lock, which PgBouncer would leave behind.
    pub async fn migrate(&self) -> Result<(), LedgerError> {
        self.transact_within(MIGRATION_LIMIT, async |on| {
            self.lock("migrate", on).await?;
            on.execute(self.sql("CREATE SCHEMA IF NOT EXISTS {s}")).await?;
            on.execute(self.sql("SET LOCAL search_path = {s}")).await?;
            on.execute(self.sql(
                "CREATE TABLE IF NOT EXISTS {s}.migrations (version BIGINT PRIMARY KEY, \
                 checksum BYTEA NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())",
            ))
            .await?;
            self.apply_missing(on).await
        })
        .await
    }

    async fn apply_missing(&self, on: &mut PgConnection) -> Result<(), LedgerError> {
        let rows = self.query("SELECT version, checksum FROM {s}.migrations").fetch_all(&mut *on);
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
            self.query("INSERT INTO {s}.migrations (version, checksum) VALUES ($1, $2)")
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

    /// Waits for the lock of this name in this schema, and has it until the transaction ends.
    pub(crate) async fn lock(&self, name: &str, on: &mut PgConnection) -> Result<(), LedgerError> {
        let digest = Sha256::digest(format!("farebox:{}:{name}", self.schema));
        let mut key = [0; 8];
        key.copy_from_slice(&digest[..8]);
        self.query("SELECT pg_advisory_xact_lock($1)")
            .bind(i64::from_le_bytes(key))
            .execute(on)
            .await?;
        Ok(())
    }

    /// Settles what all gateways must agree on, with the first that comes.
    ///
    /// # Errors
    /// [`LedgerError::Disagrees`] where it was settled otherwise.
    pub async fn agree(&self, durability: Durability) -> Result<(), LedgerError> {
        let row = self
            .transact(async |on| {
                self.query(
                    "INSERT INTO {s}.ledger (one, durability, shards) VALUES (1, $1, 1) \
                     ON CONFLICT DO NOTHING",
                )
                .bind(durability.as_str())
                .execute(&mut *on)
                .await?;
                self.query(
                    "INSERT INTO {s}.shards (id, epoch, nonce, checkpoint, digest, recovering) \
                     VALUES (0, 0, '', 0, '', true) ON CONFLICT DO NOTHING",
                )
                .execute(&mut *on)
                .await?;
                Ok(self.query("SELECT durability, shards FROM {s}.ledger").fetch_one(on).await?)
            })
            .await?;
        let (stored, shards): (String, i32) = (row.try_get("durability")?, row.try_get("shards")?);
        if stored != durability.as_str() {
            return Err(LedgerError::Disagrees {
                what: format!(
                    "it was made with durability = {stored:?}, this gateway has {:?}",
                    durability.as_str()
                ),
                hint: "write the same under [ledger], on every gateway",
            });
        }
        if shards != 1 {
            return Err(LedgerError::Disagrees {
                what: format!("it has {shards} shards, and this version knows one"),
                hint: "run the version that made it",
            });
        }
        Ok(())
    }
}
