//! `farebox check`

use std::fmt;

use clap::Args;

use crate::cli::{CliError, ConfigFile, refuse_sandbox_beside_live_key};
use crate::config::Sections;
use crate::gateway::{OpenFiles, StartError};
use crate::proxy::TlsFiles;

/// Check a config, line by line.
///
/// Prints each mistake with its file, line and a hint, and ends with exit code 2. A setting that is
/// valid but probably a mistake is printed as a warning, with exit code 0.
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
            "{} is good (upstreams: {}, priced routes: {}, {}packs: {})",
            file.path().display(),
            config.upstreams.len(),
            config.routes.len(),
            match config.models.len() {
                0 => String::new(),
                models => format!("models: {models}, "),
            },
            config.packs.len()
        );
        if let Some(server) = &config.server {
            let files = OpenFiles::raise(server.max_connections).map_err(StartError::from)?;
            println!("{}", connections(&files, server.max_connections));
            let connections = files.connections as u64;
            println!(
                "memory: what clients send may take {}, {} for each of {connections} connections \
                 ([server] max_connections); answers that clients do not read may take {}, {} for \
                 each",
                Size(server.connection_bytes().saturating_mul(connections)),
                Size(server.connection_bytes()),
                Size(server.unread_bytes().saturating_mul(connections)),
                Size(server.unread_bytes()),
            );
        }
        Ok(())
    }
}

/// Displays a number of bytes for people, rounded up to a whole unit.
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

/// The number of concurrent client connections that a gateway on this machine would allow.
fn connections(files: &OpenFiles, max_connections: usize) -> String {
    let connections = files.connections;
    match files.limit {
        Some(limit) if connections < max_connections => format!(
            "client connections at a time: {connections}, not the {max_connections} of \
             max_connections, since this machine lets a process open {limit} files; raise that \
             (`ulimit -n`, LimitNOFILE= of a systemd unit)"
        ),
        Some(limit) => format!(
            "client connections at a time: {connections} (max_connections; this machine lets a \
             process open {limit} files)"
        ),
        None => format!("client connections at a time: {connections} (max_connections)"),
    }
}
