//! The errors of the ledger as a whole.

use std::io;
use std::path::PathBuf;

use crate::ledger::operation::Refusal;

/// A failure that a database or Redis reported. `store` converts the client library's error into this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct StoreFailure {
    /// The error in the words of the client library.
    pub(crate) text: String,
    /// The database's code for the error: an SQLSTATE of Postgres, a result code of SQLite.
    pub(crate) code: Option<String>,
    /// True if the store could not be reached or does not answer; false if it refused.
    pub(crate) is_outage: bool,
}

impl StoreFailure {
    /// The database's code for the error.
    pub(crate) fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

/// An error of the ledger as a whole; a refused operation has a [`Refusal`] instead.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process has the file open.
    #[error(
        "the ledger {} is in use by another process; stop it, or send the command to it through \
         its admin listener",
        path.display()
    )]
    Locked {
        /// The ledger's file.
        path: PathBuf,
    },
    /// The folder of the file does not exist.
    #[error(
        "the folder of the ledger {} does not exist; make the folder, or name another place under \
         [ledger] path",
        path.display()
    )]
    NoFolder {
        /// The ledger's file.
        path: PathBuf,
    },
    /// The file, or the folder, may only be read.
    #[error(
        "the ledger {} cannot be written: {what}; let the user that runs farebox write to its \
         folder and to each of its files ({}*), or name another place under [ledger] path",
        path.display(),
        path.file_name().unwrap_or_default().display()
    )]
    ReadOnly {
        /// The ledger's file.
        path: PathBuf,
        /// The error of the system or of SQLite.
        what: String,
    },
    /// A file could not be opened or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The folder of a backup does not exist.
    #[error("there is no folder {}; make it, or write the backup elsewhere", path.display())]
    NoBackupFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The file of a backup exists already. A backup never overwrites a file.
    #[error("{} exists already; choose a name that is free", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// An SQLite that may corrupt what it writes.
    #[error("SQLite {version} can corrupt a write-ahead log; 3.51.3 or newer is needed")]
    OldSqlite {
        /// SQLite's version.
        version: String,
    },
    /// The schema could not be brought up to date.
    #[error("the ledger's schema could not be brought up to date: {0}")]
    Migration(StoreFailure),
    /// SQLite or Postgres failed.
    #[error("the ledger's database failed: {0}")]
    Database(StoreFailure),
    /// The stored data cannot have been written by this program.
    #[error("the ledger is damaged: {what}; run `farebox reconcile`")]
    Corrupt {
        /// The damage.
        what: String,
    },
    /// Redis failed.
    #[error("the ledger's Redis failed: {0}")]
    Redis(StoreFailure),
    /// A server does not answer in time.
    #[error("{what} does not answer in time")]
    Slow {
        /// The server.
        what: &'static str,
    },
    /// Another transaction keeps a row locked.
    #[error(
        "another transaction keeps a row of the ledger's Postgres locked; try again, or look for it in \
         pg_stat_activity and end it"
    )]
    RowLocked,
    /// Postgres answers, but too many batches wait to be written to it.
    #[error("the backlog of Postgres is too long; try again in a moment")]
    Behind,
    /// This gateway's setup differs from the setup of the ledger that it would share.
    #[error("this ledger cannot be shared: {what}; {hint}")]
    Disagrees {
        /// The difference.
        what: String,
        /// The remedy.
        hint: &'static str,
    },
    /// An operation was refused although no refusal was expected.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl LedgerError {
    /// True if a server could not be reached or does not answer; false if it refused.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Slow { .. } | Self::Behind | Self::RowLocked => true,
            Self::Database(failure) | Self::Redis(failure) => failure.is_outage,
            _ => false,
        }
    }
}
