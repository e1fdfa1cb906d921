//! Work on the file as a whole: the comparison with memory, backup.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sqlx::{Connection as _, SqliteConnection};

use crate::ledger::LedgerError;
use crate::ledger::operation::{Outcome, Refusal};
use crate::ledger::report::Difference;

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
