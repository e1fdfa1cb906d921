//! `farebox serve`

use clap::Args;

use crate::cli::run::{Request, Signals, runtime};
use crate::cli::{CliError, ConfigFile, logging, refuse_sandbox_beside_live_key};
use crate::config::{Sections, StartKeys};
use crate::gateway::Gateway;

/// Serve: forward priced calls to the upstreams of the config.
///
/// Runs until SIGTERM or SIGINT. SIGHUP applies new prices, packs and upstreams.
#[derive(Debug, Args)]
pub(super) struct Serve {}

impl Serve {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let config = file.load(Sections::ALL)?;
        refuse_sandbox_beside_live_key(&config)?;
        let threads = config.server.as_ref().map_or(0, |server| server.threads);
        runtime(threads)?.block_on(async {
            let mut signals = Signals::listen()?;
            config.warnings.log();
            let gateway = Gateway::start(&config).await?;
            let running = config.start_keys;
            let addresses = gateway.addresses();
            tracing::info!(public = %addresses.public, admin = %addresses.admin, "serving");
            if !logging::is_json() {
                println!("listening on {}", addresses.public);
            }
            while let Request::Reload = signals.next().await {
                reload(file, &gateway, &running).await;
            }
            tracing::info!("stopping");
            if gateway.stop().await {
                Ok(())
            } else {
                Err(CliError::Failed(
                    "stopped before every hold was settled; see the log".to_owned(),
                ))
            }
        })
    }
}

/// Applies the file's prices, packs and upstreams. If any section has a mistake, nothing is
/// applied, because the next start would fail on it. The checks read the file, the environment and
/// the issuers' key files, but take no lock, open no socket and call no server. If other settings
/// have changed, this is logged: they apply after a restart.
async fn reload(file: &ConfigFile, gateway: &Gateway, running: &StartKeys) {
    match file.load(Sections::ALL) {
        Ok(config) => match gateway.reload(&config).await {
            Ok(()) => {
                tracing::info!("applied the new prices, packs and upstreams");
                config.warnings.log();
                let keys = running.changed(&config.start_keys).join(", ");
                if !keys.is_empty() {
                    tracing::warn!(
                        keys,
                        "these settings differ from the running ones, and wait for a restart"
                    );
                }
            }
            Err(error) => {
                tracing::error!(%error, "the new config was not applied; the old one stays")
            }
        },
        Err(error) => tracing::error!(%error, "the new config was not applied; the old one stays"),
    }
}
