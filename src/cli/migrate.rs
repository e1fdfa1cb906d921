//! `farebox migrate`

use clap::Args;

use super::{CliError, ConfigFile, block_on};
use crate::config::Sections;
use crate::gateway::open_ledger;
use crate::metrics::Metrics;

/// Makes the ledger, or brings its schema up to date.
#[derive(Debug, Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    config: ConfigFile,
}

impl Migrate {
    pub fn run(self) -> Result<(), CliError> {
        let config = self.config.load(Sections::LEDGER)?;
        block_on(async {
            let metrics = Metrics::new().map_err(|error| CliError::Failed(error.to_string()))?;
            let (_, pipeline) =
                open_ledger(&config.ledger.path, config.ledger.durability, metrics).await?;
            pipeline.stop().await;
            println!("{} is up to date", config.ledger.path.display());
            Ok(())
        })
    }
}
