//! `farebox healthcheck`

use std::time::Duration;

use clap::Args;

use crate::cli::{CliError, ConfigFile, block_on};
use crate::config::Sections;

/// Check that a running gateway lives, for container health checks.
///
/// Exit code 0 if the gateway of this config answers `/healthz`.
#[derive(Debug, Args)]
pub(super) struct Healthcheck {}

impl Healthcheck {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let config = file.load(Sections::SERVER)?;
        let server = config.server.ok_or_else(|| CliError::Failed("no [server]".to_owned()))?;
        let mut address = server.health.unwrap_or(server.admin);
        // If the listener uses all addresses, it can be reached on the loopback address.
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        block_on(async {
            let failed = |error| CliError::Failed(format!("http://{address}/healthz: {error}"));
            let client =
                reqwest::Client::builder().timeout(Duration::from_secs(3)).no_proxy().build();
            let url = format!("http://{address}/healthz");
            let answer = client.map_err(failed)?.get(url).send().await.map_err(failed)?;
            answer.error_for_status().map_err(failed)?;
            Ok(())
        })
    }
}
