//! `manual`: man pages and completions, from the same definition as the command line itself.

use std::io;
use std::path::PathBuf;

use clap::{CommandFactory, Subcommand};
use clap_complete::Shell;

use crate::cli::CommandLine;
use crate::error::{Context, Result};
use crate::text::Show;

/// What to print.
#[derive(Subcommand)]
#[command(after_help = "Example:\n  vmcryptfs manual completions bash > /etc/bash_completion.d/vmcryptfs")]
pub(super) enum ManualCommand {
    /// Write one manual page a verb into a directory
    Pages {
        /// An existing directory
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

pub(super) fn run(command: &ManualCommand) -> Result<()> {
    match command {
        ManualCommand::Pages { dir } => clap_mangen::generate_to(CommandLine::command(), dir)
            .context(|| format!("writing manual pages to {}", dir.shown())),
        ManualCommand::Completions { shell } => {
            clap_complete::generate(*shell, &mut CommandLine::command(), "vmcryptfs", &mut io::stdout());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        CommandLine::command().debug_assert();
    }
}
