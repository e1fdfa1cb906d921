//! An embedded ledger that a command reads or repairs while no gateway uses it.

use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _};

use crate::ledger::LedgerError;
use crate::ledger::clock::Clock;
use crate::ledger::crash::AfterCrash;
use crate::ledger::report::ReconcileReport;
use crate::store::sqlite::file_rights;
use crate::store::sqlite::left_calls::end_left_calls;
use crate::store::sqlite::lock::LedgerLock;
use crate::store::sqlite::reconcile::reconcile;
use crate::store::sqlite::{batch_log, connection, load};

const DAY_MS: i64 = 86_400_000;

/// The reason why the source of an import could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file has none of a ledger's tables.
    #[error("{} is not a ledger of Farebox; check the path", path.display())]
    NoLedger {
        /// The file.
        path: PathBuf,
    },
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// An embedded ledger that no other process uses.
#[derive(Debug)]
pub(crate) struct Source {
    pub path: PathBuf,
    connection: SqliteConnection,
    /// The lock. It is held as long as the source, so that no gateway writes meanwhile.
    _lock: LedgerLock,
}

impl Source {
    /// Opens the ledger at `path`, and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self, SourceError> {
        let failed = |error| LedgerError::File { path: path.to_owned(), error };
        if !tokio::fs::try_exists(path).await.map_err(failed)? {
            return Err(failed(std::io::ErrorKind::NotFound.into()).into());
        }
        let lock = LedgerLock::take(path)?;
        file_rights::secure(path);
        let opened = async {
            let mut connection = connection::connect(path).await?;
            connection::check_version(&mut connection).await?;
            // If this is another application's file, it must not get the ledger's tables.
            let ours = "SELECT count(*) FROM sqlite_master WHERE name IN ('entries', 'api_holds')";
            let ours: i64 = sqlx::query_scalar(ours).fetch_one(&mut connection).await?;
            if ours < 2 {
                return Ok(None);
            }
            connection::migrate(&mut connection).await?;
            batch_log::replay(&mut connection).await?;
            Ok(Some(connection))
        };
        let opened = opened.await.map_err(|error: LedgerError| error.on_opening(path))?;
        let path = path.to_owned();
        match opened {
            Some(connection) => Ok(Self { path, connection, _lock: lock }),
            None => Err(SourceError::NoLedger { path }),
        }
    }

    /// Releases the holds of calls that a crash left. Returns true if there were any.
    ///
    /// # Errors
    /// Fails if the file cannot be read or written.
    pub async fn release_left_calls(&mut self) -> Result<bool, LedgerError> {
        let clock = Clock::start();
        let (mut state, commits) = load::state(&mut self.connection, clock.now(0)).await?;
        let now = clock.now(commits.saturating_add(1));
        let after = AfterCrash::Release;
        let left = end_left_calls(&mut self.connection, &mut state, after, now).await?;
        Ok(!left.is_empty())
    }

    /// The connection to the file.
    pub fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// Checks that the file is consistent with itself.
    pub async fn reconcile(&mut self) -> Result<ReconcileReport, LedgerError> {
        reconcile(&mut self.connection).await
    }

    /// The id under which Stripe knows the ledger's sales, and how many batches the ledger has
    /// committed.
    pub async fn identity(&mut self) -> Result<(String, i64), LedgerError> {
        let row = sqlx::query("SELECT id, commits FROM ledger").fetch_one(&mut self.connection);
        let row = row.await?;
        Ok((row.try_get("id")?, row.try_get("commits")?))
    }

    /// The ledger's own secret, under which the requests of its claims are recognised.
    pub async fn secret(&mut self) -> Result<Option<Vec<u8>>, LedgerError> {
        let row = sqlx::query("SELECT secret FROM ledger").fetch_one(&mut self.connection).await?;
        Ok(row.try_get("secret")?)
    }

    /// The beginning of each day that has entries, in milliseconds since 1970. Entries from before
    /// 1970 or after 9999, which a wrong clock has dated, are left out.
    pub async fn days(&mut self) -> Result<Vec<i64>, LedgerError> {
        const YEAR_10000_MS: i64 = 253_402_300_800_000;
        let days: Vec<i64> = sqlx::query_scalar(
            "SELECT DISTINCT created_at / ?1 FROM entries WHERE created_at >= 0 AND created_at < ?2",
        )
        .bind(DAY_MS)
        .bind(YEAR_10000_MS)
        .fetch_all(&mut self.connection)
        .await?;
        Ok(days.into_iter().map(|day| day.saturating_mul(DAY_MS)).collect())
    }

    /// Streams the rows of a query that selects one text.
    pub fn rows(&mut self, sql: &'static str) -> BoxStream<'_, Result<String, sqlx::Error>> {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch(&mut self.connection).boxed()
    }
}
