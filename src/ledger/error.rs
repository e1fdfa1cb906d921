//! Why a ledger cannot be opened or read.

use std::path::{Path, PathBuf};

use sqlx::migrate::MigrateError;

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
    /// The folder of the file does not exist.
    #[error(
        "the ledger {} has no folder to stand in; make the folder, or name another place under \
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
        /// What the system or SQLite said.
        what: String,
    },
    /// A file could not be opened or written.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A backup makes no folder.
    #[error("there is no folder {}; make it, or write the backup elsewhere", path.display())]
    NoBackupFolder {
        /// Which.
        path: PathBuf,
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
    Migration(#[from] MigrateError),
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
    /// Postgres is there, and so much waits for it that this has to wait.
    #[error("more waits for Postgres than it has written in time")]
    Behind,
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

/// SQLite's primary result codes for what may not be written, or not be opened.
const READ_ONLY: [u32; 2] = [8, 14];

impl LedgerError {
    /// The same, in words for whoever opened the ledger at `path`.
    pub(crate) fn on_opening(self, path: &Path) -> Self {
        let cause = match &self {
            Self::Database(error)
            | Self::Migration(MigrateError::Execute(error))
            | Self::Migration(MigrateError::ExecuteMigration(error, _)) => error,
            _ => return self,
        };
        let code = cause.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
        // The low byte is the primary code, the rest says more.
        match code.map(|code| code & 0xff) {
            Some(code) if READ_ONLY.contains(&code) => {
                Self::ReadOnly { path: path.to_owned(), what: cause.to_string() }
            }
            _ => self,
        }
    }

    /// The same; where Postgres ended a transaction because it took too long, that.
    pub(crate) fn of_a_transaction(self) -> Self {
        // Of a statement, or between two.
        const ENDED: [&str; 2] = ["57014", "25P03"];
        let Self::Database(error) = &self else { return self };
        let code = error.as_database_error().and_then(|error| error.code());
        match code.is_some_and(|code| ENDED.contains(&&*code)) {
            true => Self::Slow { what: "Postgres" },
            false => self,
        }
    }

    /// True where a store could not be reached or does not answer, rather than said no.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Slow { .. } | Self::Behind | Self::Redis(_) => true,
            Self::Database(error) => match error {
                sqlx::Error::Database(said) => {
                    // It is starting or stopping, or has no connection left; or PgBouncer speaks, which
                    // has none to it (class 08).
                    let away =
                        |code: &str| ["57P", "08", "53300"].iter().any(|c| code.starts_with(c));
                    said.code().is_some_and(|code| away(&code))
                }
                sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } => false,
                _ => true,
            },
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::error::Error;
    use std::fmt;

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// An error of Postgres's, or of PgBouncer's, by its code.
    #[derive(Debug)]
    struct Said(&'static str);

    impl fmt::Display for Said {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Said {}

    impl DatabaseError for Said {
        fn message(&self) -> &str {
            self.0
        }
        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }
        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }
        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }
        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }
        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn database(code: &'static str) -> LedgerError {
        LedgerError::Database(sqlx::Error::Database(Box::new(Said(code))))
    }

    /// A gateway, or Postgres, was stopped in the middle of a transaction.
    #[test]
    fn a_transaction_that_postgres_ended_was_too_slow() {
        for (code, was_slow) in [("57014", true), ("25P03", true), ("23505", false)] {
            let error = database(code).of_a_transaction();
            assert_eq!(matches!(error, LedgerError::Slow { .. }), was_slow, "{error}");
        }
    }

    #[test]
    fn a_database_that_is_away_is_told_from_one_that_refuses() {
        // It starts, it ends, it has no room; PgBouncer has no connection to it.
        for (code, is_away) in [
            ("57P03", true),
            ("57P01", true),
            ("53300", true),
            ("08P01", true),
            ("08006", true),
            ("42501", false),
            ("28P01", false),
            ("23505", false),
        ] {
            assert_eq!(database(code).is_outage(), is_away, "{code}");
        }
    }
}
