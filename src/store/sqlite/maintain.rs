//! Work on the file as a whole: the comparison with memory, what is forgotten, backup.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::{Connection as _, SqliteConnection};

use crate::ledger::operation::{Outcome, Refusal};
use crate::ledger::report::Difference;
use crate::ledger::rules::state::Now;
use crate::ledger::{LedgerError, retention};
use crate::store::sqlite::file_rights;

use crate::store::sqlite::ledger::SqliteLedger;
use crate::store::sqlite::load;

/// How many endings of holds are forgotten in one go, since nobody is served meanwhile.
const PURGE_SLICE: u32 = 2000;

impl SqliteLedger {
    /// Forgets the endings of calls' holds that are long past, and calls that were cut off long ago.
    pub(crate) async fn purge(&mut self, now: Now) {
        let due = self.last_purge.is_none_or(|last| last.elapsed() > Duration::from_secs(3600));
        if !due || self.is_failing() {
            return;
        }
        let before = now.wall_ms.saturating_sub(retention::ENDED_CALLS.as_millis() as i64);
        let crashed_before =
            now.wall_ms.saturating_sub(retention::CRASHED_CALLS.as_millis() as i64);
        let Ok(connection) = self.connect().await else { return };
        let forgotten = sqlx::query("DELETE FROM crashed WHERE at < ?1").bind(crashed_before);
        if let Err(error) = forgotten.execute(&mut *connection).await {
            tracing::warn!(%error, "calls that were cut off long ago could not be forgotten");
        }
        // One whose row in call_holds still stands is needed to tell that it has ended.
        let purged = sqlx::query(
            "DELETE FROM ended_holds WHERE id IN (SELECT id FROM ended_holds \
             WHERE origin = 'call' AND ended_at < ?1 AND id NOT IN \
             (SELECT h.value->>0 FROM call_holds c, json_each(c.holds) h) \
             ORDER BY ended_at LIMIT ?2)",
        )
        .bind(before)
        .bind(PURGE_SLICE)
        .execute(connection)
        .await;
        match purged {
            // There may be more: the next tick goes on.
            Ok(purged) if purged.rows_affected() >= u64::from(PURGE_SLICE) => return,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "old endings of holds could not be purged"),
        }
        self.last_purge = Some(Instant::now());
    }

    /// Compares memory with the file: at rest they are the same.
    pub(crate) async fn audit(&mut self) -> Outcome {
        let now = self.now();
        let stored = match self.connect().await {
            Ok(connection) => load::state(connection, now).await,
            Err(error) => Err(error.into()),
        };
        let stored = match stored {
            Ok((state, _)) => state,
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
        for (id, memory) in self.state.accounts() {
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
        if self.state.freezes != stored.freezes {
            differ("", "other accounts are frozen in memory than on disk".into());
        }
        let count = |state: &crate::ledger::rules::state::State| state.holds().count();
        if count(&self.state) != count(&stored) {
            let what =
                format!("memory has {} live holds, disk {}", count(&self.state), count(&stored));
            differ("", what);
        }
        Outcome::Audited(differences)
    }
}

/// Copies the ledger at `path` to `copy`, which must not exist, while it is in use or not. The
/// copy is one moment of the ledger, whole, and its owner's alone.
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
    // SQLite takes an empty file as it is.
    file_rights::make(&partial).map_err(failed(&partial))?;
    let mut connection =
        SqliteConnection::connect_with(&load::options(path).read_only(true)).await?;
    let target = partial.to_string_lossy().into_owned();
    sqlx::query("VACUUM INTO ?1").bind(target).execute(&mut connection).await?;
    connection.close().await?;
    let file = tokio::fs::File::open(&partial).await.map_err(failed(&partial))?;
    file.sync_all().await.map_err(failed(&partial))?;
    tokio::fs::rename(&partial, copy).await.map_err(failed(copy))
}
