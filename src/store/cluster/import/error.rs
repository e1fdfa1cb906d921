//! The outcomes of an import.

use std::path::PathBuf;

use crate::ledger::LedgerError;
use crate::ledger::report::Difference;
use crate::store::sqlite::export::SourceError;

/// The result of an import that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    /// The ledger was moved. The list has the number of rows of each kind.
    Moved(Vec<(&'static str, u64)>),
    /// An earlier import has already moved the ledger.
    Before,
}

/// The reason why a ledger was not moved. The target has not been changed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file has none of a ledger's tables.
    #[error("{} is not a ledger of Farebox; check the path", path.display())]
    NoLedger {
        /// The file.
        path: PathBuf,
    },
    /// The source contradicts itself, and moving it would copy that.
    #[error(
        "{} does not add up ({}: {}), so it is not moved; run `farebox reconcile` with its own config \
         for all differences",
        path.display(), first.account, first.what
    )]
    Contradicts {
        /// The embedded ledger.
        path: PathBuf,
        /// The first difference.
        first: Difference,
    },
    /// The target has rows.
    #[error(
        "the schema {schema} has {what} already, and a ledger can only be moved into an empty one; \
         choose another `postgres_schema`"
    )]
    NotEmpty {
        /// The ledger's schema.
        schema: String,
        /// The first table with rows.
        what: &'static str,
    },
    /// Gateways are serving the target, and could decide before the whole ledger is there.
    #[error(
        "{gateways} gateways serve the ledger in {schema}; stop them first (a gateway that was killed \
         counts for 3 s more)"
    )]
    Served {
        /// The ledger's schema.
        schema: String,
        /// The number of gateways that have a lease.
        gateways: u64,
    },
    /// A gateway has used the source after it was moved, so the source and the target have
    /// diverged.
    #[error(
        "{} was moved before, and a gateway has served it since, so {commits} batches are in this file \
         alone; post what is missing to the new ledger, or move the file into an empty \
         `postgres_schema`",
        path.display()
    )]
    WentOn {
        /// The embedded ledger.
        path: PathBuf,
        /// The number of batches that the source has committed since the import.
        commits: i64,
    },
    /// The copy differs from the source.
    #[error("the copy differs from the source ({what}); nothing was moved")]
    Unlike {
        /// The difference.
        what: String,
    },
    /// One of the ledgers failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<sqlx::Error> for ImportError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

impl From<SourceError> for ImportError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::NoLedger { path } => Self::NoLedger { path },
            SourceError::Ledger(error) => Self::Ledger(error),
        }
    }
}
