//! `farebox man`

use std::path::PathBuf;

use clap::{Args, Command};
use clap_mangen::{Man as Page, generate_to};

use crate::cli::error::CliError;
use crate::cli::run::print;

/// Print the manual page, or write a page for every command.
///
/// To read it: farebox man | man -l -
#[derive(Debug, Args)]
pub(super) struct Man {
    /// Write farebox.1 and a page for each command into this folder.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

impl Man {
    pub fn run(self, command: Command) -> Result<(), CliError> {
        let Some(path) = self.dir else {
            let mut page = Vec::new();
            let written = Page::new(documented(command)).render(&mut page);
            written
                .map_err(|error| CliError::Failed(format!("the page was not written: {error}")))?;
            return print(&page);
        };
        let written =
            std::fs::create_dir_all(&path).and_then(|()| generate_to(documented(command), &path));
        written.map_err(|error| CliError::File { path, error })
    }
}

/// The command line without its `help` commands; otherwise each of them would get a page.
fn documented(command: Command) -> Command {
    let without_help = |command: Command| command.disable_help_subcommand(true);
    without_help(command).mut_subcommands(without_help)
}
