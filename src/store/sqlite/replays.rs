//! Counts how often the kept answers of an embedded ledger were sent again. The counts are in the file of the answers,
//! so they neither touch the entries nor wait for the ledger's writer.

use std::collections::HashMap;
use std::path::PathBuf;

use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use sqlx::{Connection as _, SqliteConnection};

use crate::ledger::operation::HoldId;
use crate::ledger::{LedgerError, Replays, wall_ms};
use crate::store::replays::{Counts, KEEP_MS};
use crate::store::sql::rows::replays_from;
use crate::store::sqlite::connection;

/// The table, by the request ids of the calls; times are milliseconds since 1970.
pub(crate) const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS replays ( \
     call TEXT PRIMARY KEY, times INTEGER NOT NULL, last INTEGER NOT NULL) STRICT, WITHOUT ROWID; \
     CREATE INDEX IF NOT EXISTS replays_by_age ON replays (last)";

/// How many rows are deleted in one statement.
const SLICE: i64 = 500;

/// Adds replays to their rows, in one commit.
pub(crate) async fn write(
    counts: &Counts,
    connection: &mut SqliteConnection,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for (call, replays) in counts {
        let added = sqlx::query(
            "INSERT INTO replays (call, times, last) VALUES (?, ?, ?) ON CONFLICT (call) \
             DO UPDATE SET times = times + excluded.times, last = max(last, excluded.last)",
        );
        let times = i64::try_from(replays.times).unwrap_or(i64::MAX);
        let added = added.bind(call.as_str()).bind(times).bind(replays.last_ms);
        added.execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// Deletes some of the rows whose time is up.
pub(crate) async fn purge(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let gone = sqlx::query(
        "DELETE FROM replays WHERE call IN (SELECT call FROM replays WHERE last < ? LIMIT ?)",
    );
    gone.bind(wall_ms().saturating_sub(KEEP_MS)).bind(SLICE).execute(connection).await?;
    Ok(())
}

/// Reads the replays. The first read opens the file; a ledger that keeps no answers has no such file.
#[derive(Clone, Debug)]
pub(crate) struct ReplayReader {
    file: PathBuf,
    pool: SqlitePool,
}

impl ReplayReader {
    /// Creates a reader for the file of a ledger's answers.
    pub fn new(file: PathBuf) -> Self {
        let options = connection::options(&file).read_only(true);
        let pool = SqlitePoolOptions::new().max_connections(2).connect_lazy_with(options);
        Self { file, pool }
    }

    /// The replays of these calls.
    pub async fn read(&self, calls: &[HoldId]) -> Result<HashMap<HoldId, Replays>, LedgerError> {
        if calls.is_empty() || !self.file.exists() {
            return Ok(HashMap::new());
        }
        let calls: Vec<_> = calls.iter().map(HoldId::as_str).collect();
        let rows = sqlx::query(
            "SELECT call, times, last FROM replays WHERE call IN (SELECT value FROM json_each(?))",
        );
        let rows = rows.bind(serde_json::json!(calls).to_string()).fetch_all(&self.pool).await;
        match rows {
            Ok(rows) => Ok(rows.iter().map(replays_from).collect::<Result<_, _>>()?),
            // The file is of an earlier version, and this version keeps no answers.
            Err(sqlx::Error::Database(error)) if error.message().starts_with("no such table") => {
                Ok(HashMap::new())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
