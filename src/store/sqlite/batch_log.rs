//! The log of batches. With it, one row is enough to store a batch of calls on disk.
//!
//! In `strict` a hold counts once it is on disk. Writing a batch as rows of several tables with their indexes costs
//! more than the sync of the disk itself, and every caller of the batch would wait for it. So the batch is first
//! written as one row of text, and its callers are answered. The rows of its tables follow together with those of many
//! other batches, in one commit that also empties the log. A start that finds batches in the log writes their rows.

use serde_json::value::RawValue;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _};

use crate::ledger::LedgerError;
use crate::ledger::rules::state::{Changes, Now, State};
use crate::store::sqlite::claims;
use crate::store::sqlite::write::{calls_as_json, replay_script};

/// The number of lists of rows in a batch that changes no claims.
const CALLS: usize = 4;

/// The number of lists of rows in a batch that changes claims.
const CALLS_AND_CLAIMS: usize = CALLS + claims::WRITE.len();

/// The log, as its only writer sees it.
#[derive(Debug, Default)]
pub(crate) struct BatchLog {
    /// The number of the newest row.
    newest: i64,
}

impl BatchLog {
    /// Writes the changes of a batch of calls as the next row of the log. The row is on disk when this returns.
    ///
    /// # Errors
    /// After an error, [`BatchLog::has_next`] tells whether the row was written.
    pub async fn append(
        &self,
        connection: &mut SqliteConnection,
        state: &State,
        changes: &Changes,
        now: Now,
    ) -> Result<(), sqlx::Error> {
        let batch = calls_as_json(state, changes, now);
        let add = sqlx::query("INSERT INTO batch_log (number, batch) VALUES (?, ?)");
        add.bind(self.next()).bind(batch).execute(connection).await.map(drop)
    }

    /// Whether the next row is on disk although [`BatchLog::append`] failed.
    pub async fn has_next(&self, connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        let exists = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM batch_log WHERE number = ?)");
        exists.bind(self.next()).fetch_one(connection).await
    }

    /// Counts the next row as written.
    pub fn count(&mut self) {
        self.newest = self.next();
    }

    fn next(&self) -> i64 {
        self.newest.saturating_add(1)
    }
}

/// Writes the rows of the batches in the log, oldest first, each batch with its own commit. If this is interrupted, the
/// next call continues from there. Returns the number of batches.
///
/// # Errors
/// Fails if the file cannot be read or written, or if a row of the log is not one that the ledger
/// wrote.
pub(crate) async fn replay(connection: &mut SqliteConnection) -> Result<usize, LedgerError> {
    let logged = sqlx::query("SELECT number, batch FROM batch_log ORDER BY number");
    let logged = logged.fetch_all(&mut *connection).await?;
    for row in &logged {
        let number: i64 = row.try_get("number")?;
        let batch: &str = row.try_get("batch")?;
        let corrupt = |error: String| LedgerError::Corrupt {
            what: format!("batch {number} of the log: {error}"),
        };
        let rows: Vec<&RawValue> =
            serde_json::from_str(batch).map_err(|error| corrupt(error.to_string()))?;
        let script = match rows.len() {
            CALLS => replay_script(false),
            CALLS_AND_CLAIMS => replay_script(true),
            other => return Err(corrupt(format!("it has {other} lists of rows"))),
        };
        let mut replayed = sqlx::query(AssertSqlSafe(script));
        for rows in rows {
            replayed = replayed.bind(rows.get());
        }
        replayed.bind(number).execute(&mut *connection).await?;
    }
    if !logged.is_empty() {
        tracing::info!(
            batches = logged.len(),
            "the batches that a crash left in the log are written"
        );
    }
    Ok(logged.len())
}
