//! Reads the command line and runs its command.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::cli::config_file::ConfigFile;
use crate::cli::logging::{self, LogFormat};
use crate::cli::{
    account, backup, check, completions, demo, fold, grant, healthcheck, import, init, key, man,
    migrate, models, packs, prices, reconcile, recover, serve, stripe,
};

/// Takes prepaid credits before it forwards a call to an AI backend.
#[derive(Debug, Parser)]
#[command(name = "farebox", version = env!("FAREBOX_VERSION"), about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    config: ConfigFile,
    /// The format of log lines.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// The commands. The help text of each is the doc comment of its struct: `-h` and the list of
/// commands show its first paragraph, `--help` shows all of it.
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
    Models(models::Models),
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
        Command::Models(command) => command.run(&config),
        Command::Packs(command) => command.run(&config),
        Command::Stripe(command) => command.run(&config),
        Command::Reconcile(command) => command.run(&config),
        Command::Recover(command) => command.run(&config),
        Command::Backup(command) => command.run(&config),
        Command::Fold(command) => command.run(&config),
        Command::Healthcheck(command) => command.run(&config),
        Command::Completions(command) => command.run(Cli::command()),
        Command::Man(command) => command.run(Cli::command()),
    };
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if logging::is_json() {
                logging::log_failure(&error);
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
