//! The command line: one file per command.

mod account;
mod admin_client;
mod backup;
mod check;
mod command_line;
mod completions;
mod config_file;
mod csv_rows;
mod demo;
mod error;
mod flood;
mod fold;
mod grant;
mod healthcheck;
mod import;
mod import_rows;
mod init;
mod json_line;
mod key;
mod logging;
mod man;
mod migrate;
mod models;
mod packs;
mod prices;
mod reconcile;
mod recover;
mod run;
mod serve;
mod stripe;
mod text_line;
mod timestamp;

pub use command_line::{Cli, main};
pub use logging::LogFormat;

use config_file::{ConfigFile, refuse_sandbox_beside_live_key};
use error::CliError;
use run::block_on;
