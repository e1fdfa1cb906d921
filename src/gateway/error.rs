//! The error of a gateway that cannot start.

use std::net::SocketAddr;

use crate::config::Mistake;
use crate::gateway::open_files::TooFewFiles;
use crate::ledger::LedgerError;
use crate::proxy::TlsFilesError;
use crate::stripe::SalesError;

/// The error of a gateway that cannot start or cannot apply a new config.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The config has a mistake that the checks of the file could not find.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Vec<Mistake>),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A listener's address is not available.
    #[error("cannot listen on {address}: {error}; choose another address under [server]")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: std::io::Error,
    },
    /// The certificate files cannot be used.
    #[error("[server.tls] {0}; name a certificate and its key, in PEM, or remove [server.tls]")]
    Tls(#[from] TlsFilesError),
    /// Packs cannot be sold.
    #[error(transparent)]
    Sales(#[from] SalesError),
    /// The system allows too few open files.
    #[error(transparent)]
    Files(#[from] TooFewFiles),
    /// A metric could not be declared, or Pingora refused its settings.
    #[error("{0}")]
    Internal(String),
}

impl From<prometheus::Error> for StartError {
    fn from(error: prometheus::Error) -> Self {
        Self::Internal(error.to_string())
    }
}
