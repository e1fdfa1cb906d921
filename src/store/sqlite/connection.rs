//! Opens the file of the ledger.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::ledger::LedgerError;
use crate::store::sql::migrations::SQLITE;
use crate::store::sqlite::rewrite::rewrite_once;

/// The oldest version of SQLite that is safe. With older ones, several connections that checkpoint
/// can corrupt the WAL.
const SAFE_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// The options that every connection has.
pub(crate) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::from_secs(1))
        .disable_statement_logging()
}

/// Opens the file for writing, and makes it if it does not exist. A commit is on disk when it
/// returns.
pub(crate) async fn connect(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = writing(path).pragma("cache_size", "-32768").pragma("temp_store", "memory");
    SqliteConnection::connect_with(&options).await
}

/// The options of a connection that writes and makes the file if it does not exist. A commit is on disk
/// when it returns.
pub(crate) fn writing(path: &Path) -> SqliteConnectOptions {
    options(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // A checkpoint costs two more syncs of the disk. So it is made after 16 MB, and not after
        // SQLite's usual 4.
        .pragma("wal_autocheckpoint", "4000")
        .pragma("journal_size_limit", "67108864")
}

/// Sets whether the next commits wait until they are on disk.
pub(crate) async fn sync_commits(
    connection: &mut SqliteConnection,
    sync: bool,
) -> Result<(), sqlx::Error> {
    let pragma = if sync { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" };
    // SQLite obeys this pragma when it prepares it, so a statement that is kept prepared would do nothing.
    sqlx::raw_sql(pragma).execute(connection).await.map(drop)
}

/// Checks that SQLite is new enough.
///
/// # Errors
/// [`LedgerError::OldSqlite`] if SQLite is older than [`SAFE_SQLITE`].
pub(crate) async fn check_version(connection: &mut SqliteConnection) -> Result<(), LedgerError> {
    let version: String =
        sqlx::query_scalar("SELECT sqlite_version()").fetch_one(connection).await?;
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    if (part(), part(), part()) < SAFE_SQLITE {
        return Err(LedgerError::OldSqlite { version });
    }
    Ok(())
}

/// Brings the schema up to date.
pub(crate) async fn migrate(connection: &mut SqliteConnection) -> Result<(), LedgerError> {
    SQLITE.run(&mut *connection).await?;
    rewrite_once(connection).await;
    Ok(())
}

/// The writer's connection, which is opened again after a failure.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    connection: Option<SqliteConnection>,
    /// Whether a task has the connection.
    is_lent: bool,
}

impl Writer {
    /// Creates a writer of the file at `path`, with an open connection.
    pub fn new(path: &Path, connection: SqliteConnection) -> Self {
        Self { path: path.to_owned(), connection: Some(connection), is_lent: false }
    }

    /// The connection. It is opened first if necessary.
    ///
    /// # Errors
    /// Fails if the file cannot be opened, and while the connection is lent: a file has one writer.
    pub async fn get(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        if self.is_lent {
            return Err(sqlx::Error::Protocol("the connection of the writer is lent".into()));
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.path).await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Gives the connection to a task that writes, until [`Writer::take_back`].
    ///
    /// # Errors
    /// The same as for [`Writer::get`].
    pub async fn lend(&mut self) -> Result<SqliteConnection, sqlx::Error> {
        self.get().await?;
        let connection = self.connection.take().ok_or(sqlx::Error::WorkerCrashed)?;
        self.is_lent = true;
        Ok(connection)
    }

    /// Takes the lent connection back; `None` if the task lost it.
    pub fn take_back(&mut self, connection: Option<SqliteConnection>) {
        self.is_lent = false;
        self.connection = connection;
    }

    /// Discards the connection after a failure. The connection closes when the result is dropped.
    pub fn discard(&mut self) -> Option<SqliteConnection> {
        self.connection.take()
    }

    /// Closes the connection.
    pub async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Closing makes a checkpoint of the WAL. If that fails, nothing is lost.
            if let Err(error) = connection.close().await {
                tracing::warn!(%error, "the ledger's file could not be closed cleanly");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sqlite_is_compiled_with_the_flags_of_this_repository() {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = connect(&dir.path().join("ledger.db")).await.unwrap();
        let options = sqlx::query_scalar("PRAGMA compile_options");
        let options: Vec<String> = options.fetch_all(&mut connection).await.unwrap();
        // The one flag of `.cargo/config.toml` that SQLite tells of; `HAVE_FDATASYNC` is beside it.
        let told = options.iter().any(|option| option == "ENABLE_MEMORY_MANAGEMENT");
        assert!(!told, "LIBSQLITE3_FLAGS of .cargo/config.toml did not reach SQLite: {options:?}");
    }
}
