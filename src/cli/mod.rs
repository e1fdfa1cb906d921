//! The command line: one file per command.

mod account;
mod admin_client;
mod backup;
mod bring_over;
mod check;
mod completions;
mod csv_rows;
mod demo;
mod flood;
mod fold;
mod grant;
mod healthcheck;
mod import;
mod init;
mod json_line;
mod key;
mod logging;
mod man;
mod migrate;
mod packs;
mod prices;
mod reconcile;
mod recover;
mod run;
mod serve;
mod stripe;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use logging::LogFormat;

use crate::config::{Mistakes, Secret, Sections};
use crate::gateway;
use crate::gateway::StartError;
use crate::gateway::config::{Config, process_env};
use crate::ledger::LedgerError;
use crate::store::ImportError;
use crate::stripe::{SalesError, is_live};

/// Takes prepaid credits before it forwards a call to an AI backend.
#[derive(Debug, Parser)]
#[command(name = "farebox", version = env!("FAREBOX_VERSION"), about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    config: ConfigFile,
    /// How log lines are written.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// The text of a command's help stands at its struct: the first paragraph is what `-h` and the list of
/// commands show, all of it what `--help` shows.
#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Serve(serve::Serve),
    Demo(demo::Demo),
    Check(check::Check),
    Migrate(migrate::Migrate),
    Import(import::Import),
    Grant(grant::Grant),
    Account(account::Account),
    Key(key::Key),
    Prices(prices::Prices),
    Packs(packs::Packs),
    Stripe(stripe::Stripe),
    Reconcile(reconcile::Reconcile),
    Recover(recover::Recover),
    Backup(backup::Backup),
    Fold(fold::Fold),
    Healthcheck(healthcheck::Healthcheck),
    Completions(completions::Completions),
    Man(man::Man),
}

/// The config that every command takes.
#[derive(Clone, Debug, Args)]
struct ConfigFile {
    /// The config file [default: gateway.toml, but for the demo].
    #[arg(long = "config", short = 'c', value_name = "FILE", global = true)]
    path: Option<PathBuf>,
}

impl ConfigFile {
    fn load(&self, sections: Sections) -> Result<Config, CliError> {
        Ok(gateway::config::load(self.path(), sections, &process_env)?)
    }

    fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new("gateway.toml"))
    }

    /// True where the command line names a file.
    fn is_given(&self) -> bool {
        self.path.is_some()
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The config has mistakes: exit code 2.
    #[error("{0}")]
    Config(#[from] Mistakes),
    /// The gateway could not start.
    #[error(transparent)]
    Start(StartError),
    /// The ledger could not be opened or read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A ledger was not moved.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A file could not be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file's path.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// A gateway has the ledger open and does not answer.
    #[error(
        "a gateway has the ledger open, and its admin listener at http://{address} does not answer: {error}; \
         nothing was changed"
    )]
    NoAnswer {
        /// The address of its admin listener.
        address: std::net::SocketAddr,
        /// The failure of the request.
        error: reqwest::Error,
    },
    /// The gateway got the command and did not answer.
    #[error(
        "the gateway at http://{address} got the command and did not answer: {error}. It may have been done or \
         not; {again}"
    )]
    NotKnown {
        /// The address of its admin listener.
        address: std::net::SocketAddr,
        /// The failure of the request.
        error: reqwest::Error,
        /// What to do to find out.
        again: String,
    },
    /// The gateway refused the command.
    #[error("{detail} ({code})")]
    Refused {
        /// The stable code of the problem.
        code: String,
        /// The gateway's reason.
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
    fn exit_code(&self) -> ExitCode {
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

/// Refuses a config whose sandbox gives credits away where the environment has a live key of Stripe's.
fn refuse_sandbox_beside_live_key(config: &Config) -> Result<(), CliError> {
    let is_sandbox = config.stripe.as_ref().is_some_and(|stripe| stripe.sandbox);
    let key = process_env("STRIPE_SECRET_KEY").map(Secret::new);
    if is_sandbox && key.as_ref().is_some_and(is_live) {
        return Err(StartError::from(SalesError::SandboxBesideLiveKey).into());
    }
    Ok(())
}

/// Reads the command line and runs its command.
pub fn main() -> ExitCode {
    let Cli { command, config, log_format } = Cli::parse();
    let is_gateway = matches!(command, Command::Serve(_) | Command::Demo(_));
    logging::start(log_format, is_gateway);
    let done = match command {
        Command::Init(command) => command.run(&config),
        Command::Serve(command) => command.run(&config),
        Command::Demo(command) => command.run(&config),
        Command::Check(command) => command.run(&config),
        Command::Migrate(command) => command.run(&config),
        Command::Import(command) => command.run(&config),
        Command::Grant(command) => command.run(&config),
        Command::Account(command) => command.run(&config),
        Command::Key(command) => command.run(&config),
        Command::Prices(command) => command.run(&config),
        Command::Packs(command) => command.run(&config),
        Command::Stripe(command) => command.run(&config),
        Command::Reconcile(command) => command.run(&config),
        Command::Recover(command) => command.run(&config),
        Command::Backup(command) => command.run(&config),
        Command::Fold(command) => command.run(&config),
        Command::Healthcheck(command) => command.run(&config),
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
    };
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if logging::is_json() {
                logging::tell_failure(&error);
            } else {
                logging::finish();
                eprintln!("{error}");
            }
            error.exit_code()
        }
    };
    logging::finish();
    code
}

/// Writes what a command was asked for to standard output. A reader that has left early, such as `head`,
/// wants no more of it.
fn print(text: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::Failed(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// Runs a short command's future on a small runtime.
fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CliError::Failed(format!("no runtime: {error}")))?.block_on(work)
}
