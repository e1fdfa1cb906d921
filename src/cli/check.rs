//! `farebox check`

use clap::Args;

use super::{CliError, ConfigFile};

/// Prints each mistake with its file, line and a hint; exit code 2 where there is one.
#[derive(Debug, Args)]
pub(super) struct Check {}

impl Check {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let config = file.load_to_serve()?;
        println!(
            "{} is good (upstreams: {}, priced routes: {}, packs: {})",
            file.path().display(),
            config.upstreams.len(),
            config.routes.len(),
            config.packs.len()
        );
        Ok(())
    }
}
