//! Work on the file as a whole: the comparison with memory, folding, backup.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sqlx::{Connection as _, SqliteConnection};

use crate::ledger::LedgerError;
use crate::ledger::operation::{Outcome, Refusal};
use crate::ledger::report::{Difference, FoldReport};

use super::{SqliteLedger, load};

impl SqliteLedger {
    /// Compares memory with the file: at rest they are the same.
    pub(super) async fn audit(&mut self) -> Outcome {
        let now = self.now();
        let stored = match self.connect().await {
            Ok(connection) => load::books(connection, now).await,
            Err(error) => Err(error.into()),
        };
        let stored = match stored {
            Ok((books, _)) => books,
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be read");
                self.connection = None;
                return Outcome::Refused(Refusal::Unavailable);
            }
        };
        let mut differences = Vec::new();
        let mut differ = |account: &str, what: String| {
            differences.push(Difference { account: account.to_owned(), what });
        };
        let mut on_disk: HashMap<_, _> = stored.accounts().collect();
        for (id, memory) in self.books.accounts() {
            match on_disk.remove(id) {
                Some(disk) if disk == memory => {}
                Some(disk) => differ(
                    id.as_str(),
                    format!(
                        "memory has balance {}, held {}, entry {}; disk has balance {}, held {}, \
                         entry {}",
                        memory.balance, memory.held, memory.seq, disk.balance, disk.held, disk.seq
                    ),
                ),
                None => differ(id.as_str(), "the account is in memory and not on disk".into()),
            }
        }
        for id in on_disk.into_keys() {
            differ(id.as_str(), "the account is on disk and not in memory".into());
        }
        if self.books.freezes != stored.freezes {
            differ("", "other accounts are frozen in memory than on disk".into());
        }
        let count = |books: &super::Books| books.holds().count();
        if count(&self.books) != count(&stored) {
            let what =
                format!("memory has {} live holds, disk {}", count(&self.books), count(&stored));
            differ("", what);
        }
        Outcome::Audited(differences)
    }

    /// Folds every account's entries older than `before_ms` into one opening balance.
    pub(super) async fn fold(&mut self, before_ms: i64) -> Outcome {
        let folded = match self.connect().await {
            Ok(connection) => fold(connection, before_ms).await,
            Err(error) => Err(error),
        };
        match folded {
            Ok(report) => Outcome::Folded(report),
            Err(error) => {
                tracing::error!(%error, "old entries could not be folded");
                self.connection = None;
                Outcome::Refused(Refusal::Unavailable)
            }
        }
    }
}

async fn fold(
    connection: &mut SqliteConnection,
    before_ms: i64,
) -> Result<FoldReport, sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let on = &mut *transaction;
    let run = sqlx::raw_sql(
        "CREATE TEMP TABLE IF NOT EXISTS folding \
         (account TEXT PRIMARY KEY, seq INTEGER NOT NULL, balance INTEGER NOT NULL); \
         DELETE FROM temp.folding;",
    );
    run.execute(&mut *on).await?;
    // Up to the newest old entry, by number: a clock that once went backwards must not tear a
    // gap. An account with nothing old but its opening balance has nothing to fold.
    let accounts = sqlx::query(
        "INSERT INTO temp.folding SELECT e.account, e.seq, e.balance_after FROM entries e JOIN \
         (SELECT account, max(seq) AS seq, count(*) AS entries FROM entries \
          WHERE created_at < ?1 GROUP BY account) old \
         ON old.account = e.account AND old.seq = e.seq \
         WHERE old.entries > 1 OR e.kind <> 'opening'",
    )
    .bind(before_ms)
    .execute(&mut *on)
    .await?
    .rows_affected();
    sqlx::query(
        "INSERT INTO folded_operations (operation, account, seq, kind, amount) \
         SELECT e.operation, e.account, e.seq, e.kind, e.amount FROM entries e \
         JOIN temp.folding f ON f.account = e.account AND e.seq <= f.seq \
         WHERE e.kind <> 'opening'",
    )
    .execute(&mut *on)
    .await?;
    sqlx::raw_sql("DROP TRIGGER entries_are_never_deleted").execute(&mut *on).await?;
    let entries = sqlx::query(
        "DELETE FROM entries WHERE EXISTS (SELECT 1 FROM temp.folding f \
         WHERE f.account = entries.account AND entries.seq <= f.seq)",
    )
    .execute(&mut *on)
    .await?
    .rows_affected();
    sqlx::raw_sql(
        "CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON entries \
         BEGIN SELECT RAISE(ABORT, 'ledger entries are immutable'); END",
    )
    .execute(&mut *on)
    .await?;
    sqlx::query(
        "INSERT INTO entries (account, seq, operation, kind, amount, balance_after, created_at) \
         SELECT account, seq, 'opening:' || account || ':' || seq, 'opening', balance, balance, \
         ?1 - 1 FROM temp.folding",
    )
    .bind(before_ms)
    .execute(&mut *on)
    .await?;
    transaction.commit().await?;
    Ok(FoldReport { accounts, entries })
}

/// Copies the ledger at `path` to `copy`, which must not exist, while it is in use or not. The
/// copy is one moment of the ledger, whole.
pub async fn backup(path: &Path, copy: &Path) -> Result<(), LedgerError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| LedgerError::File { path, error }
    };
    if !tokio::fs::try_exists(path).await.map_err(failed(path))? {
        return Err(failed(path)(std::io::ErrorKind::NotFound.into()));
    }
    if tokio::fs::try_exists(copy).await.map_err(failed(copy))? {
        return Err(LedgerError::Exists { path: copy.to_owned() });
    }
    let mut partial = copy.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    if tokio::fs::try_exists(&partial).await.map_err(failed(&partial))? {
        tokio::fs::remove_file(&partial).await.map_err(failed(&partial))?;
    }
    let mut connection =
        SqliteConnection::connect_with(&load::options(path).read_only(true)).await?;
    let target = partial.to_string_lossy().into_owned();
    sqlx::query("VACUUM INTO ?1").bind(target).execute(&mut connection).await?;
    connection.close().await?;
    let file = tokio::fs::File::open(&partial).await.map_err(failed(&partial))?;
    file.sync_all().await.map_err(failed(&partial))?;
    tokio::fs::rename(&partial, copy).await.map_err(failed(copy))
}
