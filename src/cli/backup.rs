//! `farebox backup`

use std::path::PathBuf;

use clap::Args;

use crate::cli::{CliError, ConfigFile, block_on};
use crate::config::Sections;
use crate::ledger::BackendKind;
use crate::store::{backup, backup_answers};

/// Copy the ledger, even while it is in use.
///
/// Copies the embedded ledger to FILE, even while a gateway has it in use. The copy is complete,
/// and shows the ledger at one moment. The answers that are kept for retries are not in it, unless
/// --answers asks for them.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The file to write; it must not exist.
    file: PathBuf,
    /// Also copy the answers that are kept for retries, to FILE-answers. They are encrypted.
    #[arg(long)]
    answers: bool,
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
            if self.answers {
                match backup_answers(&config.ledger.path, &self.file).await? {
                    Some(file) => println!("{} has the kept answers", file.display()),
                    None => println!("the ledger has kept no answers"),
                }
            }
            Ok(())
        })
    }
}
