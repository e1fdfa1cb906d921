//! Writing an embedded ledger into Postgres, in one transaction, so that no gateway ever sees half
//! of it.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;

use crate::ledger::LedgerError;
use crate::ledger::report::{Difference, ReconcileReport};
use crate::store::cluster::import::error::{ImportError, Imported};
use crate::store::cluster::import::tables::{TABLES, Table};
use crate::store::cluster::postgres::{
    Month, Store, lock_appends, make_partition, read_checkpoint, reconcile_in,
};
use crate::store::sql::rows::Column as _;
use crate::store::sqlite::export::Source;

/// How long the transaction may stay idle while the file is read. A slow disk needs this time.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// How many bytes of JSON are sent at once: some thousands of rows.
const BATCH_BYTES: usize = 1 << 20;

/// The tables that have no row in an empty ledger.
const EMPTY: [&str; 13] = [
    "accounts",
    "operations",
    "calls",
    "entries",
    "holds",
    "redo",
    "owed",
    "api_keys",
    "stripe_events",
    "payments",
    "stripe_customers",
    "freezes",
    "claims",
];

/// Copies everything from `source`. `sent` is the source's report, which the copy's report must
/// equal.
pub(crate) async fn write_ledger(
    store: &Store,
    source: &mut Source,
    sent: &ReconcileReport,
) -> Result<Imported, ImportError> {
    let mut transaction = store.begin(IDLE_LIMIT, Duration::ZERO).await?;
    let on: &mut PgConnection = transaction.connection()?;
    // While these locks are held, no epoch opens, no gateway joins, and no batch is appended.
    read_checkpoint(store, "FOR UPDATE", on).await?;
    lock_appends(store, on).await?;
    let (id, commits) = source.identity().await?;
    if was_imported(store, source, &id, commits, on).await? {
        return Ok(Imported::Before);
    }
    must_be_at_rest(store, on).await?;
    must_be_empty(store, on).await?;
    let months: BTreeSet<_> = source.days().await?.into_iter().map(Month::of).collect();
    for month in months {
        make_partition(store, month, on).await?;
    }
    let mut moved = Vec::with_capacity(TABLES.len());
    for table in &TABLES {
        let rows = copy_table(store, table, source, on).await?;
        tracing::info!(rows, "moved {}", table.name);
        moved.push((table.name, rows));
    }
    store
        .query(
            "UPDATE {s}.ledger SET id = $1, imported_commits = $2, secret = coalesce($3, secret), \
             key_changes = key_changes + 1",
        )
        .bind(id)
        .bind(commits)
        .bind(source.secret().await?)
        .execute(&mut *on)
        .await?;
    // Redis may have data of the empty ledger. This statement ends the epoch that those data belong to.
    store
        .query(
            "UPDATE {s}.shards SET epoch = epoch + (epoch > 0)::int, nonce = '', checkpoint = 0, \
         digest = '', recovering = true",
        )
        .execute(&mut *on)
        .await?;
    on.execute(store.sql("ANALYZE {s}.accounts, {s}.entries, {s}.operations, {s}.holds")).await?;
    compare(sent, &reconcile_in(store, on).await?)?;
    transaction.commit().await?;
    Ok(Imported::Moved(moved))
}

/// Whether an earlier import has copied this ledger to the target.
///
/// # Errors
/// Fails if a gateway has used the source since that import.
async fn was_imported(
    store: &Store,
    source: &Source,
    id: &str,
    commits: i64,
    on: &mut PgConnection,
) -> Result<bool, ImportError> {
    let row = store.query("SELECT id, imported_commits FROM {s}.ledger").fetch_one(on).await?;
    match row.optional_int("imported_commits")? {
        Some(then) if row.text("id")? == id => match commits.saturating_sub(then) {
            0 => Ok(true),
            since => Err(ImportError::WentOn { path: source.path.clone(), commits: since }),
        },
        _ => Ok(false),
    }
}

/// Checks that no gateway serves the target.
///
/// # Errors
/// Fails if a gateway has a lease.
async fn must_be_at_rest(store: &Store, on: &mut PgConnection) -> Result<(), ImportError> {
    let serving =
        "SELECT count(*) AS serving FROM {s}.gateways WHERE lease_until > clock_timestamp()";
    match store.query(serving).fetch_one(on).await?.count("serving")? {
        0 => Ok(()),
        gateways => Err(ImportError::Served { schema: store.schema().to_owned(), gateways }),
    }
}

/// Checks that the target has no rows.
///
/// # Errors
/// Fails if a table has a row.
async fn must_be_empty(store: &Store, on: &mut PgConnection) -> Result<(), ImportError> {
    for what in EMPTY {
        let rows = format!("SELECT EXISTS (SELECT 1 FROM {{s}}.{what}) AS found");
        if store.query(&rows).fetch_one(&mut *on).await?.flag("found")? {
            return Err(ImportError::NotEmpty { schema: store.schema().to_owned(), what });
        }
    }
    Ok(())
}

/// Copies a table; returns the number of its rows.
async fn copy_table(
    store: &Store,
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
            let write = store.query(table.write).bind(std::mem::take(&mut batch));
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

/// Compares the report of the source with that of the copy.
///
/// # Errors
/// Fails if they differ, or the copy does not add up.
fn compare(sent: &ReconcileReport, arrived: &ReconcileReport) -> Result<(), ImportError> {
    let unlike = |what| Err(ImportError::Unlike { what });
    if let Some(Difference { account, what }) = arrived.differences.first() {
        return unlike(format!("{account}: {what}"));
    }
    let counts = |report: &ReconcileReport| {
        [report.accounts, report.entries, report.live_holds, report.debts]
    };
    let names = ["accounts", "entries", "live holds", "accounts in debt"];
    for (name, (sent, arrived)) in
        names.into_iter().zip(counts(sent).into_iter().zip(counts(arrived)))
    {
        if sent != arrived {
            return unlike(format!("{arrived} of {sent} {name}"));
        }
    }
    Ok(())
}

/// Makes JSON whose texts Postgres can store: each NUL becomes U+FFFD.
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
            // A backslash and the character after it are skipped together, so an escaped backslash
            // is not taken for the start of an escape.
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
