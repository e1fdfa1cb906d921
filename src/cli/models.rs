//! `farebox models`

use clap::{Args, Subcommand};

use crate::cli::{CliError, ConfigFile};
use crate::config::Sections;
use crate::price::metered::Models as Table;
use crate::price::render_models;

/// Print the models with a price.
#[derive(Debug, Args)]
pub(super) struct Models {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print each model with its upstream, the name that the upstream knows it by, and its prices.
    ///
    /// The models of the `models_file` come last. `farebox prices` prints every price with your own cost and
    /// margin.
    List,
}

impl Models {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let Command::List = self.command;
        let config = file.load(Sections::MODELS)?;
        print!("{}", render_models(&Table::new(&config.models)));
        Ok(())
    }
}
