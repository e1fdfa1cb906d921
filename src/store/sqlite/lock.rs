//! One process at a time owns a ledger's file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::ledger::LedgerError;
use crate::store::sqlite::file_rights;

/// An advisory lock beside the ledger's file, held until dropped; the system drops it with the
/// process, however that ends.
#[derive(Debug)]
pub(crate) struct LedgerLock {
    _file: File,
}

/// Where the lock of the ledger at `path` is: beside the file itself, so that a symbolic link to
/// it is under the same lock.
pub(crate) fn lock_path(path: &Path) -> PathBuf {
    file_rights::beside(&file_rights::real_path(path), ".lock")
}

fn refused(path: &Path, lock: &Path, error: io::Error) -> LedgerError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => LedgerError::NoFolder { path },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            LedgerError::ReadOnly { path, what: format!("{}: {error}", lock.display()) }
        }
        _ => LedgerError::File { path: lock.to_owned(), error },
    }
}

impl LedgerLock {
    /// Takes the lock, or says at once that another process has it.
    pub fn take(path: &Path) -> Result<Self, LedgerError> {
        let lock = lock_path(path);
        // One that is there is opened as it is.
        let _ = file_rights::make(&lock);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(file_rights::MODE)
            .open(&lock)
            .map_err(|error| refused(path, &lock, error))?;
        file_rights::tighten(&lock);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(LedgerError::Locked { path: path.to_owned() })
            }
            Err(errno) => Err(LedgerError::File { path: lock, error: errno.into() }),
        }
    }
}
