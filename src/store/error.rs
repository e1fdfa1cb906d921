//! Converts the client libraries' errors into errors of the ledger.

use std::path::Path;

use sqlx::migrate::MigrateError;

use crate::ledger::{LedgerError, StoreFailure};

/// SQLite's primary result codes for a database that is read-only or cannot be opened.
const SQLITE_READ_ONLY: [u32; 2] = [8, 14];

/// Postgres's codes for a transaction that it ended because a statement, or the pause between two
/// statements, took too long.
const POSTGRES_TIMEOUT: [&str; 2] = ["57014", "25P03"];

/// Postgres's code for a statement that waited too long for a lock.
const POSTGRES_LOCKED: &str = "55P03";

/// The beginnings of Postgres's codes for an outage: Postgres starts or stops, or has no connection
/// left. Class 08 comes from a PgBouncer that cannot connect to Postgres.
const POSTGRES_OUTAGE: [&str; 3] = ["57P", "08", "53300"];

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(failure(&error))
    }
}

impl From<MigrateError> for LedgerError {
    fn from(error: MigrateError) -> Self {
        let cause = match &error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => cause,
            _ => return Self::Migration(refusal(error.to_string())),
        };
        Self::Migration(StoreFailure { text: error.to_string(), ..failure(cause) })
    }
}

impl From<fred::error::Error> for LedgerError {
    fn from(error: fred::error::Error) -> Self {
        Self::Redis(StoreFailure { text: error.to_string(), code: None, is_outage: true })
    }
}

impl LedgerError {
    /// Names the file, if SQLite could not open or write the ledger at `path`.
    pub(crate) fn on_opening(self, path: &Path) -> Self {
        let (Self::Database(failure) | Self::Migration(failure)) = &self else { return self };
        let code = failure.code().and_then(|code| code.parse::<u32>().ok());
        // The low byte is the primary code. The rest is detail.
        match code.map(|code| code & 0xff) {
            Some(code) if SQLITE_READ_ONLY.contains(&code) => {
                Self::ReadOnly { path: path.to_owned(), what: failure.text.clone() }
            }
            _ => self,
        }
    }

    /// Whether Redis refuses to write because its memory is full.
    pub(crate) fn is_of_full_redis(&self) -> bool {
        matches!(self, Self::Redis(failure) if failure.text.contains("OOM"))
    }

    /// Converts the error of a transaction that Postgres ended because it took too long: into
    /// [`LedgerError::RowLocked`] if the transaction waited for a lock, and into [`LedgerError::Slow`] otherwise.
    pub(crate) fn of_a_transaction(self) -> Self {
        let Self::Database(failure) = &self else { return self };
        match failure.code() {
            Some(POSTGRES_LOCKED) => Self::RowLocked,
            Some(code) if POSTGRES_TIMEOUT.contains(&code) => Self::Slow { what: "Postgres" },
            _ => self,
        }
    }
}

fn failure(error: &sqlx::Error) -> StoreFailure {
    let database = error.as_database_error();
    let code = database.and_then(|error| error.code()).map(|code| code.into_owned());
    StoreFailure { text: error.to_string(), is_outage: is_outage(error, code.as_deref()), code }
}

fn refusal(text: String) -> StoreFailure {
    StoreFailure { text, code: None, is_outage: false }
}

/// Whether the database could not be reached or does not answer; false if it refused.
fn is_outage(error: &sqlx::Error, code: Option<&str>) -> bool {
    match error {
        sqlx::Error::Database(_) => {
            code.is_some_and(|code| POSTGRES_OUTAGE.iter().any(|outage| code.starts_with(outage)))
        }
        sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::error::Error;
    use std::fmt;

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// An error of Postgres or PgBouncer with this code.
    #[derive(Debug)]
    struct Coded(&'static str);

    impl fmt::Display for Coded {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Coded {}

    impl DatabaseError for Coded {
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
        sqlx::Error::Database(Box::new(Coded(code))).into()
    }

    #[test]
    fn a_transaction_that_postgres_ended_was_too_slow() {
        for (code, was_slow) in [("57014", true), ("25P03", true), ("23505", false)] {
            let error = database(code).of_a_transaction();
            assert_eq!(matches!(error, LedgerError::Slow { .. }), was_slow, "{error}");
        }
        let locked = database("55P03").of_a_transaction();
        assert!(matches!(locked, LedgerError::RowLocked) && locked.is_outage(), "{locked}");
    }

    #[test]
    fn a_database_that_is_away_is_told_from_one_that_refuses() {
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

    #[test]
    fn a_file_that_sqlite_cannot_write_is_named() {
        let cause = || sqlx::Error::Database(Box::new(Coded("1032")));
        let migration = MigrateError::ExecuteMigration(cause(), 1);
        for error in [LedgerError::from(cause()), LedgerError::from(migration)] {
            let error = error.on_opening(Path::new("/data/farebox.db"));
            assert!(matches!(error, LedgerError::ReadOnly { .. }), "{error}");
        }
        let other = database("5").on_opening(Path::new("/data/farebox.db"));
        assert!(matches!(other, LedgerError::Database(_)), "{other}");
    }
}
