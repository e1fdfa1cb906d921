//! One process at a time owns a ledger's file.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::LedgerError;

/// An advisory lock beside the ledger's file, held until dropped; the system drops it with the
/// process, however that ends.
#[derive(Debug)]
pub(super) struct LedgerLock {
    _file: File,
}

/// Where the lock of the ledger at `path` is.
pub(super) fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

impl LedgerLock {
    /// Takes the lock, or says at once that another process has it.
    pub fn take(path: &Path) -> Result<Self, LedgerError> {
        // Under its real name: a second path to the same file, such as a link, is the same ledger.
        let real = std::fs::canonicalize(path);
        let lock = lock_path(real.as_deref().unwrap_or(path));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock)
            .map_err(|error| LedgerError::File { path: lock.clone(), error })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(LedgerError::Locked { path: path.to_owned() })
            }
            Err(errno) => Err(LedgerError::File { path: lock, error: errno.into() }),
        }
    }
}
