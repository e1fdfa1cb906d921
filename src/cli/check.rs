//! `farebox check`

use clap::Args;

use super::{CliError, ConfigFile};
use crate::config::Sections;

/// Prints each mistake with its file, line and a hint; exit code 2 where there is one.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigFile,
}

impl Check {
    pub fn run(self) -> Result<(), CliError> {
        let config = self.config.load(Sections::ALL)?;
        println!(
            "{} is good (upstreams: {}, priced routes: {}, packs: {})",
            self.config.path().display(),
            config.upstreams.len(),
            config.routes.len(),
            config.packs.len()
        );
        Ok(())
    }
}
