//! Completions and the manual pages, from what clap knows.

use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::Cli;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Writes a shell's completions to standard output
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    shell: Shell,
}

const EXAMPLES: &str = "\
Examples:
  kafka-envelope man consume | man -l -
  kafka-envelope man --dir ~/.local/share/man/man1";

/// Writes a manual page to standard output, or all of them to a directory
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Man {
    /// The page of this subcommand, as `consume` or `dlt redrive`
    #[arg(conflicts_with = "dir")]
    subcommand: Vec<String>,
    /// Writes the page of the program and one of each subcommand there
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn completions(arguments: &Completions, output: &Output) -> Result {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "kafka-envelope", &mut text);
    output.bytes(&text)
}

pub(crate) fn man(Man { subcommand, dir }: &Man, output: &Output) -> Result {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    if let Some(dir) = dir {
        let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(program, dir));
        return written.map_err(|error| Failure::new(format_args!("{}: {error}", dir.display())));
    }
    let mut command = &program;
    for name in subcommand {
        command = command.find_subcommand(name).ok_or_else(|| {
            Failure::new(format_args!("there is no subcommand `{}`", subcommand.join(" ")))
                .hint("`kafka-envelope help` shows them")
        })?;
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    output.bytes(&text)
}
