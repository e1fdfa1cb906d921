//! The import of an embedded ledger.
//!
//! The file is read under its lock, so no gateway writes it meanwhile. `tables.rs` says how each of
//! its tables is moved. Nothing is written to Redis, which loads accounts from Postgres as always.

use std::path::Path;

use crate::ledger::config::LedgerConfig;
use crate::store::cluster::import::error::{ImportError, Imported};
use crate::store::cluster::import::write::write_ledger;
use crate::store::cluster::setup;
use crate::store::sqlite::export::Source;

/// Moves the embedded ledger at `from` into the cluster ledger of `config`, which must be empty and is
/// made where it does not exist. An import that was interrupted can be repeated. A repetition after a
/// success changes nothing.
///
/// # Errors
/// Where a gateway serves either ledger, the target is not empty, or the source does not add up.
pub async fn import(config: &LedgerConfig, from: &Path) -> Result<Imported, ImportError> {
    let mut source = Source::open(from).await?;
    let mut report = source.reconcile().await?;
    if let Some(first) = report.differences.first() {
        return Err(ImportError::Contradicts { path: from.to_owned(), first: first.clone() });
    }
    // These calls' gateway has died, so nothing else ends their holds.
    if source.release_left_calls().await? {
        report = source.reconcile().await?;
    }
    write_ledger(&setup::import_target(config).await?, &mut source, &report).await
}
