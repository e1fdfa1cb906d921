//! Taking in an embedded ledger: one transaction, so that no gateway ever sees half of it.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;

use crate::ledger::LedgerError;
use crate::ledger::report::ReconcileReport;
use crate::store::cluster::import::{ImportError, Imported, TABLES, Table, compare};
use crate::store::sql::rows::Column as _;
use crate::store::sqlite::export::Source;

use crate::store::cluster::postgres::Store;
use crate::store::cluster::postgres::partitions::Month;

/// For how long the file may be silent: a slow disk is no reason to give up.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// How much is sent at once: some thousands of rows.
const BATCH_BYTES: usize = 1 << 20;

/// What an empty ledger has no row of.
const EMPTY: [&str; 11] = [
    "accounts",
    "operations",
    "entries",
    "holds",
    "redo",
    "owed",
    "api_keys",
    "stripe_events",
    "payments",
    "stripe_customers",
    "freezes",
];

impl Store {
    /// Takes in all that `source` has, of which `sent` says what must arrive.
    pub async fn import(
        &self,
        source: &mut Source,
        sent: &ReconcileReport,
    ) -> Result<Imported, ImportError> {
        let mut transaction = self.begin(IDLE_LIMIT, Duration::ZERO).await?;
        let on: &mut PgConnection = &mut transaction;
        // From here on no epoch opens, and no gateway joins.
        self.read_checkpoint("FOR UPDATE", on).await?;
        let (id, commits) = source.identity().await?;
        if self.was_imported(source, &id, commits, on).await? {
            return Ok(Imported::Before);
        }
        self.must_be_at_rest(on).await?;
        self.must_be_empty(on).await?;
        let months: BTreeSet<_> = source.days().await?.into_iter().map(Month::of).collect();
        for month in months {
            self.make_partition(month, on).await?;
        }
        let mut moved = Vec::with_capacity(TABLES.len());
        for table in &TABLES {
            let rows = self.copy(table, source, on).await?;
            tracing::info!(rows, "moved {}", table.name);
            moved.push((table.name, rows));
        }
        self.query(
            "UPDATE {s}.ledger SET id = $1, imported_commits = $2, key_changes = key_changes + 1",
        )
        .bind(id)
        .bind(commits)
        .execute(&mut *on)
        .await?;
        // What a Redis remembers of the empty ledger is of an epoch that nobody opens again.
        self.query(
            "UPDATE {s}.shards SET epoch = epoch + (epoch > 0)::int, nonce = '', checkpoint = 0, \
             digest = '', recovering = true",
        )
        .execute(&mut *on)
        .await?;
        on.execute(self.sql("ANALYZE {s}.accounts, {s}.entries, {s}.operations, {s}.holds"))
            .await?;
        compare(sent, &self.examine_in(on).await?)?;
        transaction.commit().await?;
        Ok(Imported::Moved(moved))
    }

    /// True where an earlier import took in all of it.
    async fn was_imported(
        &self,
        source: &Source,
        id: &str,
        commits: i64,
        on: &mut PgConnection,
    ) -> Result<bool, ImportError> {
        let row = self.query("SELECT id, imported_commits FROM {s}.ledger").fetch_one(on).await?;
        match row.optional_int("imported_commits")? {
            Some(then) if row.text("id")? == id => match commits.saturating_sub(then) {
                0 => Ok(true),
                since => Err(ImportError::WentOn { path: source.path.clone(), commits: since }),
            },
            _ => Ok(false),
        }
    }

    async fn must_be_at_rest(&self, on: &mut PgConnection) -> Result<(), ImportError> {
        let serving =
            "SELECT count(*) AS serving FROM {s}.gateways WHERE lease_until > clock_timestamp()";
        match self.query(serving).fetch_one(on).await?.count("serving")? {
            0 => Ok(()),
            gateways => Err(ImportError::Served { schema: self.schema.to_string(), gateways }),
        }
    }

    async fn must_be_empty(&self, on: &mut PgConnection) -> Result<(), ImportError> {
        for what in EMPTY {
            let rows = format!("SELECT EXISTS (SELECT 1 FROM {{s}}.{what}) AS found");
            if self.query(&rows).fetch_one(&mut *on).await?.flag("found")? {
                return Err(ImportError::NotEmpty { schema: self.schema.to_string(), what });
            }
        }
        Ok(())
    }

    /// Copies a table; how many rows it had.
    async fn copy(
        &self,
        table: &Table,
        source: &mut Source,
        on: &mut PgConnection,
    ) -> Result<u64, LedgerError> {
        let mut rows = source.rows(table.read);
        let (mut batch, mut waiting, mut copied) = (String::new(), 0, 0);
        loop {
            let row = rows.try_next().await?;
            if let Some(row) = &row {
                batch.push(if batch.is_empty() { '[' } else { ',' });
                batch.push_str(&storable_json(row));
                waiting += 1;
            }
            if waiting > 0 && (row.is_none() || batch.len() >= BATCH_BYTES) {
                batch.push(']');
                let write = self.query(table.write).bind(std::mem::take(&mut batch));
                let written = write.execute(&mut *on).await?.rows_affected();
                if written != waiting {
                    let what = format!("{written} of {waiting} {} were written", table.name);
                    return Err(LedgerError::Corrupt { what });
                }
                copied += std::mem::take(&mut waiting);
            }
            if row.is_none() {
                return Ok(copied);
            }
        }
    }
}

/// JSON whose texts Postgres can store: it has no room for a NUL, which is shown as what cannot be
/// shown.
fn storable_json(json: &str) -> Cow<'_, str> {
    const NUL: &str = "\\u0000";
    if !json.contains(NUL) {
        return json.into();
    }
    let mut storable = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        storable.push_str(&rest[..at]);
        let (escaped, after) = match rest[at..].strip_prefix(NUL) {
            Some(after) => ("\\ufffd", after),
            // Every escape begins with two characters of one byte.
            None => rest[at..].split_at((rest.len() - at).min(2)),
        };
        storable.push_str(escaped);
        rest = after;
    }
    storable.push_str(rest);
    storable.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_nul_is_replaced_and_nothing_else(text in "[\\\\u0\0\"a-cé\n]*") {
            let json = serde_json::to_string(&text).unwrap();
            let storable: String = serde_json::from_str(&storable_json(&json)).unwrap();
            prop_assert_eq!(storable, text.replace('\0', "\u{fffd}"));
        }
    }
}
