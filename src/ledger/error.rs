//! Why a ledger cannot be opened or read.

use std::path::PathBuf;

/// An error of the ledger as a whole; an operation that is refused has a
/// [`Refusal`](super::Refusal) instead.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process owns the file.
    #[error(
        "the ledger {} is in use by another process; stop it, or send the command to it through \
         its admin listener",
        path.display()
    )]
    Locked {
        /// The ledger's file.
        path: PathBuf,
    },
    /// A file could not be opened or written.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A backup never overwrites.
    #[error("{} exists already; choose a name that is free", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// An SQLite that may corrupt what it writes.
    #[error("SQLite {version} can corrupt a write-ahead log; 3.51.3 or newer is needed")]
    OldSqlite {
        /// As it names itself.
        version: String,
    },
    /// The schema could not be brought up to date.
    #[error("the ledger's schema could not be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The database failed.
    #[error("the ledger's database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// What is on disk cannot have been written by this program.
    #[error("the ledger is damaged: {what}; run `farebox reconcile`")]
    Corrupt {
        /// What does not fit.
        what: String,
    },
    /// Redis failed.
    #[error("the ledger's Redis failed: {0}")]
    Redis(#[from] fred::error::Error),
    /// A store answers too slowly.
    #[error("{what} does not answer in time")]
    Slow {
        /// Which.
        what: &'static str,
    },
    /// This gateway is set up otherwise than the ledger that it would share.
    #[error("this ledger cannot be shared: {what}; {hint}")]
    Disagrees {
        /// In what.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// The pipeline has stopped.
    #[error("the ledger is stopping")]
    Stopped,
    /// An operation was refused where that was not expected.
    #[error(transparent)]
    Refused(#[from] super::Refusal),
}

impl LedgerError {
    /// True where a store could not be reached or does not answer, rather than said no.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Slow { .. } | Self::Redis(_) => true,
            Self::Database(error) => match error {
                sqlx::Error::Database(said) => {
                    // It is starting or stopping, or has no connection left.
                    said.code().is_some_and(|code| code.starts_with("57P") || code == "53300")
                }
                sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } => false,
                _ => true,
            },
            _ => false,
        }
    }
}
