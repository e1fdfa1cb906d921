//! Writes new entries with bound values, many rows with each statement.
//!
//! Every call makes an entry. If entries were JSON, SQLite would spend three times as long on parsing as on storing
//! them. A statement for each row would be a message to the driver's thread for each row. So there are statements for a
//! few row counts, each prepared once.

use std::sync::{Arc, LazyLock};

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use crate::ledger::operation::Entry;
use crate::store::sql::rows::usage_column;

/// The columns of a row, and the placeholders of its values. If a row is refused, the whole transaction is rolled back,
/// so SQLite keeps no journal of the statement.
const INSERT: &str = "INSERT OR ROLLBACK INTO entries (account, seq, operation, kind, amount, balance_after, route, reason, \
     created_at, held, model, usage, prices) VALUES ";
const ROW: &str = "(?,?,?,?,?,?,?,?,?,?,?,?,?)";

/// The numbers of rows that the statements have, the largest first.
const SIZES: [usize; 5] = [256, 64, 16, 4, 1];

static STATEMENTS: LazyLock<[String; SIZES.len()]> =
    LazyLock::new(|| SIZES.map(|rows| format!("{INSERT}{}", vec![ROW; rows].join(","))));

/// Writes the rows of `entries`, within a transaction.
pub(crate) async fn insert(
    connection: &mut SqliteConnection,
    mut entries: &[Entry],
) -> Result<(), sqlx::Error> {
    for (rows, statement) in SIZES.into_iter().zip(&*STATEMENTS) {
        while let Some((part, rest)) = entries.split_at_checked(rows) {
            // The statement consists of the constants above.
            let mut query = sqlx::query(AssertSqlSafe(statement.as_str()));
            for entry in part {
                let usage = entry.usage.as_deref();
                query = query
                    .bind(entry.account.shared())
                    .bind(count(entry.seq))
                    .bind(entry.operation.shared())
                    .bind(entry.kind.as_str())
                    .bind(entry.amount.micros())
                    .bind(entry.balance_after.micros())
                    .bind(entry.route.clone())
                    .bind(entry.reason.clone())
                    .bind(entry.created_at_ms)
                    .bind(usage.map(|usage| count(usage.held.micros())))
                    .bind(usage.and_then(|usage| usage.model.clone()))
                    .bind(usage.map(|usage| usage_column(&usage.usage)))
                    .bind(usage.map(|usage| Arc::clone(&usage.prices)));
            }
            query.execute(&mut *connection).await?;
            entries = rest;
        }
    }
    Ok(())
}

/// Amounts and sequence numbers are far below 2^63.
fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
