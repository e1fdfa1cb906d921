//! `farebox packs`

use clap::Args;

use super::{CliError, ConfigFile};
use crate::config::Sections;

/// Prints the packs for sale.
#[derive(Debug, Args)]
pub(super) struct Packs {
    #[command(flatten)]
    config: ConfigFile,
}

impl Packs {
    pub fn run(self) -> Result<(), CliError> {
        let config = self.config.load(Sections::PACKS)?;
        if config.packs.is_empty() {
            println!("{} has no [[packs]]", self.config.path().display());
        }
        let width = config.packs.iter().map(|pack| pack.id.len()).max().unwrap_or(0);
        for pack in &config.packs {
            let best = if pack.best_value { "  best value" } else { "" };
            println!("{:width$}  {} credits for {}{best}", pack.id, pack.credits, pack.price);
        }
        Ok(())
    }
}
