//! Completions and the manual page, from what clap knows.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::Cli;
use crate::failure::Result;
use crate::output::Output;

/// Writes a shell's completions to standard output
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    shell: Shell,
}

/// Writes the manual page to standard output, for `man -l -`
#[derive(Debug, clap::Args)]
pub(crate) struct Man {}

pub(crate) fn completions(arguments: &Completions, output: &Output) -> Result {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "kafka-envelope", &mut text);
    output.bytes(&text)
}

pub(crate) fn man(_: &Man, output: &Output) -> Result {
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text)?;
    output.bytes(&text)
}
