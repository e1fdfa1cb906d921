//! `farebox migrate`

use clap::Args;

use crate::cli::{CliError, ConfigFile, block_on};
use crate::config::Sections;
use crate::gateway::open_ledger;
use crate::ledger::BackendKind;
use crate::metrics::Metrics;
use crate::store::migrate_cluster;

/// Update the ledger's schema. `serve` does so by itself.
///
/// Creates the ledger if there is none.
#[derive(Debug, Args)]
pub(super) struct Migrate {}

impl Migrate {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let config = file.load(Sections::LEDGER)?;
        block_on(async {
            match config.ledger.backend {
                BackendKind::Embedded => {
                    let metrics = Metrics::new();
                    let metrics = metrics.map_err(|error| CliError::Failed(error.to_string()))?;
                    let (_, pipeline) = open_ledger(&config.ledger, metrics).await?;
                    pipeline.stop().await;
                    println!("{} is up to date", config.ledger.path.display());
                }
                BackendKind::Redis => {
                    migrate_cluster(&config.ledger).await?;
                    println!("the schema {} is up to date", config.ledger.postgres_schema);
                }
            }
            Ok(())
        })
    }
}
