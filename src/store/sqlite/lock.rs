//! The lock that lets one process at a time use a ledger's file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::ledger::LedgerError;
use crate::store::sqlite::file_rights;

/// An advisory lock on a file beside the ledger's, held until this is dropped. The system releases
/// it when the process ends in any way.
#[derive(Debug)]
pub(crate) struct LedgerLock {
    _file: File,
}

/// The path of the lock for the ledger at `path`. It is beside the file itself, so that a symbolic
/// link to the file has the same lock.
pub(crate) fn lock_path(path: &Path) -> PathBuf {
    file_rights::beside(&file_rights::real_path(path), ".lock")
}

/// The error for a lock that could not be opened.
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
    /// Takes the lock without waiting.
    ///
    /// # Errors
    /// [`LedgerError::Locked`] if another process has it.
    pub fn take(path: &Path) -> Result<Self, LedgerError> {
        let lock = lock_path(path);
        // An existing lock file is left unchanged.
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
