//! `farebox check`

use clap::Args;

use super::{CliError, ConfigFile, refuse_sandbox_beside_live_key};
use crate::config::Sections;
use crate::gateway::StartError;
use crate::proxy::TlsFiles;

/// Say what is wrong with a config, line by line.
///
/// Prints each mistake with its file, line and a hint; exit code 2 where there is one. A setting that
/// is possible and probably not meant is printed as a warning, with exit code 0.
#[derive(Debug, Args)]
pub(super) struct Check {}

impl Check {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let config = file.load(Sections::ALL)?;
        refuse_sandbox_beside_live_key(&config)?;
        let tls = config.server.as_ref().and_then(|server| server.tls.as_ref());
        tls.map(TlsFiles::load).transpose().map_err(StartError::from)?;
        for warning in config.warnings.shown() {
            println!("{warning}");
        }
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
