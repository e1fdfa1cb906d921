//! The import of an embedded ledger.
//!
//! The file is read under its lock, so that no gateway writes it at the same time. `tables.rs` says
//! how each table is moved. Redis is not written: it loads accounts from Postgres when they are
//! needed.

use std::path::Path;

use crate::ledger::config::LedgerConfig;
use crate::store::cluster::import::error::{ImportError, Imported};
use crate::store::cluster::import::write::write_ledger;
use crate::store::cluster::setup;
use crate::store::sqlite::export::Source;

/// Moves the embedded ledger at `from` into the cluster ledger of `config`. That ledger must be
/// empty; if it does not exist, it is made. An import that was interrupted can be repeated. A
/// repetition after a success changes nothing.
///
/// # Errors
/// Fails if a gateway serves either ledger, the target is not empty, or the source does not add up.
pub async fn import(config: &LedgerConfig, from: &Path) -> Result<Imported, ImportError> {
    let mut source = Source::open(from).await?;
    let mut report = source.reconcile().await?;
    if let Some(first) = report.differences.first() {
        return Err(ImportError::Contradicts { path: from.to_owned(), first: first.clone() });
    }
    // The gateway of these calls has died, so nothing else ends their holds.
    if source.release_left_calls().await? {
        report = source.reconcile().await?;
    }
    write_ledger(&setup::import_target(config).await?, &mut source, &report).await
}
