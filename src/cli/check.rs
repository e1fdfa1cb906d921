//! `farebox check`

use std::fmt;

use clap::Args;

use super::{CliError, ConfigFile};
use crate::config::Sections;
use crate::gateway::StartError;
use crate::proxy::TlsFiles;

/// Prints each mistake with its file, line and a hint; exit code 2 where there is one. Warnings are
/// printed in the same way, and change no exit code.
#[derive(Debug, Args)]
pub(super) struct Check {}

impl Check {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let config = file.load(Sections::ALL)?;
        let tls = config.server.as_ref().and_then(|server| server.tls.as_ref());
        tls.map(TlsFiles::load).transpose().map_err(StartError::from)?;
        for warning in config.warnings.paragraphs() {
            println!("warning: {warning}");
        }
        println!(
            "{} is good (upstreams: {}, priced routes: {}, packs: {})",
            file.path().display(),
            config.upstreams.len(),
            config.routes.len(),
            config.packs.len()
        );
        if let Some(server) = &config.server {
            println!(
                "memory: what clients send may take {}, {} for each of {} connections \
                 ([server] max_connections)",
                Size(server.connections_bytes()),
                Size(server.connection_bytes()),
                server.max_connections
            );
        }
        Ok(())
    }
}

/// Bytes for a person, rounded up to a whole unit.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) = match self.0 {
            0..0x100_0000 => ("KiB", 10),
            0x100_0000..0x4_0000_0000 => ("MiB", 20),
            _ => ("GiB", 30),
        };
        write!(f, "{} {unit}", self.0.div_ceil(1 << shift))
    }
}
