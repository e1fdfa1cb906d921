//! `farebox completions`

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use crate::cli::error::CliError;
use crate::cli::run::print;

/// Print the completions of a shell.
///
/// For bash: farebox completions bash > /etc/bash_completion.d/farebox. The .deb installs them for bash, zsh and
/// fish.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell to complete in.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub fn run(self, mut command: Command) -> Result<(), CliError> {
        let mut script = Vec::new();
        generate(self.shell, &mut command, "farebox", &mut script);
        print(&script)
    }
}
