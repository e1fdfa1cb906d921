//! A copy of the ledger while a gateway uses it.

use std::path::{Path, PathBuf};

use sqlx::{Connection as _, SqliteConnection};

use crate::ledger::LedgerError;
use crate::store::sqlite::file_rights;
use crate::store::sqlite::{answers, connection};

/// Copies the ledger at `path` to `copy`, which must not exist. A gateway may use the ledger
/// meanwhile. The copy is complete and shows the ledger at one moment. Only its owner can read it.
///
/// # Errors
/// Fails if there is no ledger at `path`, if `copy` exists or its folder does not, or if a file
/// cannot be read or written.
pub async fn backup(path: &Path, copy: &Path) -> Result<(), LedgerError> {
    copy_file(path, copy).await
}

/// Copies the answers that the ledger at `path` keeps for retries, to the file that a ledger at `copy` reads them from;
/// that file must not exist. The answers stay sealed in the copy. Returns the path of the copy, or `None` if the ledger
/// has kept no answers.
///
/// # Errors
/// The same as for [`backup`].
pub async fn backup_answers(path: &Path, copy: &Path) -> Result<Option<PathBuf>, LedgerError> {
    let (answers, copy) = (answers::file_beside(path), answers::file_beside(copy));
    match copy_file(&answers, &copy).await {
        Ok(()) => Ok(Some(copy)),
        Err(LedgerError::File { path, error })
            if path == answers && error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn copy_file(path: &Path, copy: &Path) -> Result<(), LedgerError> {
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
    let folder = copy.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder
        && !tokio::fs::try_exists(folder).await.map_err(failed(folder))?
    {
        return Err(LedgerError::NoBackupFolder { path: folder.to_owned() });
    }
    let partial = file_rights::beside(copy, ".partial");
    if tokio::fs::try_exists(&partial).await.map_err(failed(&partial))? {
        tokio::fs::remove_file(&partial).await.map_err(failed(&partial))?;
    }
    // SQLite writes into an existing empty file, so the copy keeps these rights.
    file_rights::make(&partial).map_err(failed(&partial))?;
    let mut connection =
        SqliteConnection::connect_with(&connection::options(path).read_only(true)).await?;
    let target = partial.to_string_lossy().into_owned();
    sqlx::query("VACUUM INTO ?1").bind(target).execute(&mut connection).await?;
    connection.close().await?;
    let file = tokio::fs::File::open(&partial).await.map_err(failed(&partial))?;
    file.sync_all().await.map_err(failed(&partial))?;
    tokio::fs::rename(&partial, copy).await.map_err(failed(copy))
}
