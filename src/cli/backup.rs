//! `farebox backup`

use std::path::PathBuf;

use clap::Args;

use crate::cli::{CliError, ConfigFile, block_on};
use crate::config::Sections;
use crate::ledger::BackendKind;
use crate::store::backup;

/// Copy the ledger, even while it is in use.
///
/// Copies the embedded ledger to FILE, even while a gateway has it in use. The copy is complete,
/// and shows the ledger at one moment.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The file to write; it must not exist.
    file: PathBuf,
}

impl Backup {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let config = file.load(Sections::LEDGER)?;
        if config.ledger.backend == BackendKind::Redis {
            return Err(CliError::Failed(
                "the cluster ledger is backed up with Postgres: pg_dump, or its archive of WAL"
                    .to_owned(),
            ));
        }
        block_on(async {
            backup(&config.ledger.path, &self.file).await?;
            println!("{} is a copy of {}", self.file.display(), config.ledger.path.display());
            Ok(())
        })
    }
}
