//! The `--config` option.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::error::CliError;
use crate::config::{Secret, Sections, process_env};
use crate::gateway::config::Config;
use crate::gateway::{self, StartError};
use crate::stripe::{SalesError, is_live};

/// The option for the config file, which every command has.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct ConfigFile {
    /// The config file [default: gateway.toml, but for the demo].
    #[arg(long = "config", short = 'c', value_name = "FILE", global = true)]
    path: Option<PathBuf>,
}

impl ConfigFile {
    pub(in crate::cli) fn load(&self, sections: Sections) -> Result<Config, CliError> {
        Ok(gateway::config::load(self.path(), sections, &process_env)?)
    }

    pub(in crate::cli) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new("gateway.toml"))
    }

    /// True if the command line names a file.
    pub(in crate::cli) fn is_given(&self) -> bool {
        self.path.is_some()
    }
}

/// Refuses a sandbox, which gives credits away, if the environment has a live key of Stripe's.
pub(in crate::cli) fn refuse_sandbox_beside_live_key(config: &Config) -> Result<(), CliError> {
    let is_sandbox = config.stripe.as_ref().is_some_and(|stripe| stripe.sandbox);
    let key = process_env("STRIPE_SECRET_KEY").map(Secret::new);
    if is_sandbox && key.as_ref().is_some_and(is_live) {
        return Err(StartError::from(SalesError::SandboxBesideLiveKey).into());
    }
    Ok(())
}
