//! The error of a command, and its exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::Mistakes;
use crate::gateway::StartError;
use crate::ledger::LedgerError;
use crate::store::ImportError;
use crate::stripe::SalesError;

/// The error of a command.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum CliError {
    /// The config has mistakes. The exit code is 2.
    #[error("{0}")]
    Config(#[from] Mistakes),
    /// The gateway could not start.
    #[error(transparent)]
    Start(StartError),
    /// The ledger could not be opened or read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ledger could not be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A file could not be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// A gateway has the ledger open but does not answer.
    #[error(
        "a gateway has the ledger in use, and its admin listener at http://{address} does not \
         answer: {error}; nothing was changed"
    )]
    NoAnswer {
        /// The address of the gateway's admin listener.
        address: std::net::SocketAddr,
        /// The error of the HTTP client.
        error: reqwest::Error,
    },
    /// A command was sent to a gateway, but no answer came.
    #[error(
        "the gateway at http://{address} was sent the command, but did not answer: {error}. The outcome is \
         unknown; {again}"
    )]
    NotKnown {
        /// The address of the gateway's admin listener.
        address: std::net::SocketAddr,
        /// The error of the HTTP client.
        error: reqwest::Error,
        /// The advice for finding out the outcome.
        again: String,
    },
    /// The gateway refused the command.
    #[error("{detail} ({code})")]
    Refused {
        /// The stable code of the problem.
        code: String,
        /// The gateway's explanation.
        detail: String,
    },
    /// Any other failure, as a sentence.
    #[error("{0}")]
    Failed(String),
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        Self::Start(error)
    }
}

impl CliError {
    pub(in crate::cli) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_)
            | Self::Start(
                StartError::Config(_)
                | StartError::Tls(_)
                | StartError::Sales(SalesError::SandboxBesideLiveKey),
            ) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}
