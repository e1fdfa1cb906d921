//! Bringing the schema up to date, from any number of gateways at once.

use sha2::{Digest as _, Sha256};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use std::time::Duration;

use crate::ledger::config::Durability;
use crate::ledger::{LedgerError, wall_ms};

use super::Store;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// How long a migration may take: a later one may rewrite a table.
const MIGRATION_LIMIT: Duration = Duration::from_secs(600);

/// How many months of partitions stand ready, the current one included.
const MONTHS_AHEAD: i64 = 3;

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
        for migration in MIGRATIONS.iter() {
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
        let newest = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
        match applied.iter().find(|(version, _)| *version > newest) {
            Some((version, _)) => Err(sqlx::migrate::MigrateError::VersionMissing(*version).into()),
            None => Ok(()),
        }
    }

    /// Waits for the lock of this name in this schema, and has it until the transaction ends.
    pub(super) async fn lock(&self, name: &str, on: &mut PgConnection) -> Result<(), LedgerError> {
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

    /// Makes the partitions of the months to come.
    pub async fn make_partitions(&self) -> Result<(), LedgerError> {
        let (year, month) = month_of(wall_ms());
        for ahead in 0..MONTHS_AHEAD {
            self.transact(async |on| self.make_partition((year, month + ahead), on).await).await?;
        }
        Ok(())
    }

    /// Makes the partition of a month, where there is none.
    pub(super) async fn make_partition(
        &self,
        (year, month): (i64, i64),
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        let (from, upto) = (start_of(year, month), start_of(year, month + 1));
        let (year, month) = month_of(from);
        let name = format!("entries_{year:04}_{month:02}");
        self.lock("partitions", on).await?;
        let found = self
            .query("SELECT to_regclass($1) IS NOT NULL AS found")
            .bind(format!("{}.{name}", self.schema));
        if found.fetch_one(&mut *on).await?.try_get("found")? {
            return Ok(());
        }
        let sql = format!(
            "CREATE TABLE {{s}}.{name} PARTITION OF {{s}}.entries FOR VALUES FROM ({from}) TO ({upto})"
        );
        on.execute(self.sql(&sql)).await?;
        Ok(())
    }
}

/// The year and the month (from 1) of a moment in milliseconds since 1970.
pub(super) fn month_of(at_ms: i64) -> (i64, i64) {
    let at = time::OffsetDateTime::from_unix_timestamp(at_ms.div_euclid(1000));
    let at = at.unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    (i64::from(at.year()), i64::from(u8::from(at.month())))
}

/// When a month begins, in milliseconds since 1970; month 13 is the next January.
fn start_of(year: i64, month: i64) -> i64 {
    let (year, month) = (year + (month - 1).div_euclid(12), (month - 1).rem_euclid(12) + 1);
    // Days from 1970 to the first of a month, by the calendar's own rule: years begin in March, so
    // that the leap day comes last.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = years.div_euclid(4) - years.div_euclid(100) + years.div_euclid(400);
    let days = years * 365 + leaps + (153 * months + 2) / 5 - 719_468;
    days * 86_400_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_each_other_without_a_gap() {
        assert_eq!(start_of(1970, 1), 0);
        for n in 0..2400 {
            let from = start_of(1970, 1 + n);
            assert_eq!(month_of(from), (1970 + n / 12, 1 + n % 12));
            assert_eq!(
                month_of(from - 1),
                (1970 + (n - 1).div_euclid(12), 1 + (n - 1).rem_euclid(12))
            );
        }
    }
}
