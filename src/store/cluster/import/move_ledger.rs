//! Moving an embedded ledger into Redis and Postgres: all of it in one transaction, or nothing.
//!
//! The file is read under its lock, so no gateway writes it meanwhile. What becomes of each of its
//! tables is in `tables.rs`; Redis is told nothing: it asks Postgres for what it needs, as ever.

use std::path::{Path, PathBuf};

use crate::ledger::LedgerError;
use crate::ledger::config::LedgerConfig;
use crate::ledger::report::{Difference, ReconcileReport};
use crate::store::cluster::setup;
use crate::store::sqlite::export::Source;

/// What an import has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    /// Everything was moved: how many rows of each kind.
    Moved(Vec<(&'static str, u64)>),
    /// An earlier import had moved all of it.
    Before,
}

/// Why a ledger was not moved. The target is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file is something else.
    #[error("{} is no ledger of Farebox", path.display())]
    NoLedger {
        /// The file.
        path: PathBuf,
    },
    /// What is wrong there would be wrong here.
    #[error(
        "{} does not add up, and is not moved before it does ({}: {}); `farebox reconcile` on its \
         own config lists all of it",
        path.display(), first.account, first.what
    )]
    Contradicts {
        /// The embedded ledger.
        path: PathBuf,
        /// The first thing that does not hold.
        first: Difference,
    },
    /// The target has something already.
    #[error(
        "the schema {schema} has {what} already, and only an empty ledger can take in another one; \
         choose another `postgres_schema`"
    )]
    NotEmpty {
        /// The ledger's schema.
        schema: String,
        /// The first table with rows.
        what: &'static str,
    },
    /// A gateway could decide on half of it.
    #[error(
        "{gateways} gateways serve the ledger in {schema}; stop them first (one that was killed \
         counts for 3 s more)"
    )]
    Served {
        /// The ledger's schema.
        schema: String,
        /// How many.
        gateways: u64,
    },
    /// Two ledgers have grown out of one.
    #[error(
        "{} was moved before, and has committed {commits} batches since: a gateway has served it \
         all the same. What they say is in this file alone",
        path.display()
    )]
    WentOn {
        /// The embedded ledger.
        path: PathBuf,
        /// How many batches.
        commits: i64,
    },
    /// What arrived is not what was sent.
    #[error("what arrived is not what was read ({what}); nothing was kept of it")]
    Unlike {
        /// What differs.
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

/// Moves the embedded ledger at `from` into the empty cluster ledger of `config`, and makes that one
/// where there is none. Repeated after it was broken off, it begins anew; after it was done, it does
/// nothing.
///
/// # Errors
/// Where a gateway serves either of them, the target is not empty, or the source does not add up.
pub async fn import(config: &LedgerConfig, from: &Path) -> Result<Imported, ImportError> {
    let mut source = Source::open(from).await?;
    let mut report = source.examine().await?;
    if let Some(first) = report.differences.first() {
        return Err(ImportError::Contradicts { path: from.to_owned(), first: first.clone() });
    }
    // Their gateway is gone, and cannot settle them.
    if source.release_left_calls().await? {
        report = source.examine().await?;
    }
    setup::import_target(config).await?.import(&mut source, &report).await
}

/// What must be the same on both sides.
pub(crate) fn compare(
    sent: &ReconcileReport,
    arrived: &ReconcileReport,
) -> Result<(), ImportError> {
    let unlike = |what| Err(ImportError::Unlike { what });
    if let Some(Difference { account, what }) = arrived.differences.first() {
        return unlike(format!("{account}: {what}"));
    }
    let counts = |report: &ReconcileReport| {
        [report.accounts, report.entries, report.live_holds, report.debts]
    };
    let names = ["accounts", "entries", "live holds", "accounts in debt"];
    for (name, (sent, arrived)) in
        names.into_iter().zip(counts(sent).into_iter().zip(counts(arrived)))
    {
        if sent != arrived {
            return unlike(format!("{arrived} of {sent} {name}"));
        }
    }
    Ok(())
}
