//! `farebox serve`

use clap::Args;

use super::run::{Asked, Signals, runtime};
use super::{CliError, ConfigFile};
use crate::config::Sections;
use crate::gateway::Gateway;

/// Serves until SIGTERM or SIGINT; SIGHUP takes up new prices, packs and upstreams.
#[derive(Debug, Args)]
pub(super) struct Serve {}

impl Serve {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let config = file.load(Sections::ALL)?;
        for warning in config.warnings.iter() {
            tracing::warn!(
                line = warning.line,
                key = warning.mistake.key,
                hint = warning.mistake.hint,
                "config: {}",
                warning.mistake.message
            );
        }
        let threads = config.server.as_ref().map_or(0, |server| server.threads);
        runtime(threads)?.block_on(async {
            let mut signals = Signals::listen()?;
            let gateway = Gateway::start(&config).await?;
            drop(config);
            let addresses = gateway.addresses();
            tracing::info!(public = %addresses.public, admin = %addresses.admin, "serving");
            println!("listening on {}", addresses.public);
            while let Asked::Reload = signals.next().await {
                reload(file, &gateway).await;
            }
            tracing::info!("stopping");
            if gateway.stop().await {
                Ok(())
            } else {
                Err(CliError::Failed("stopped before everything was settled".to_owned()))
            }
        })
    }
}

/// A file with a mistake changes nothing and says so, also where the mistake is in a section that
/// only a start takes up: the next start would fail on it. The checks read the file, the
/// environment and the files of issuers' keys; no lock, no socket and no server.
async fn reload(file: &ConfigFile, gateway: &Gateway) {
    match file.load(Sections::ALL) {
        Ok(config) => match gateway.reload(&config).await {
            Ok(()) => tracing::info!("took up the new prices, packs and upstreams"),
            Err(error) => {
                tracing::error!(%error, "the config was not taken up; the old one stays")
            }
        },
        Err(error) => tracing::error!(%error, "the config was not taken up; the old one stays"),
    }
}
