//! Makes, shows, follows and puts back messages in Kafka.

mod connection;
mod consume;
mod dlt;
mod failure;
mod gateway;
mod generate;
mod interrupt;
mod json;
mod lag;
mod listen;
mod logging;
mod output;
mod produce;
mod reader;
mod shell;
mod spelling;
mod topics;
mod trace;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::connection::Connection;
use crate::output::Output;

/// Of options that every subcommand has.
const GLOBAL: &str = "Global options";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  something failed; standard error says what, why, and what to do
  2  the command line is wrong
  3  done, but for some lines or records, which standard error names";

/// Makes, shows, follows and puts back messages in Kafka: JSON envelopes and others.
#[derive(Debug, Parser)]
#[command(name = "kafka-envelope", version, after_long_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    connection: Connection,
    /// Writes JSON lines instead of tables
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
    /// Logs warnings to standard error; twice: also what the client does
    #[arg(short, long, action = clap::ArgAction::Count, global = true, help_heading = GLOBAL)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Generate(generate::Arguments),
    Listen(listen::Arguments),
    Produce(produce::Arguments),
    Consume(consume::Arguments),
    Trace(trace::Arguments),
    Dlt(dlt::Arguments),
    Lag(lag::Arguments),
    Topics(topics::Arguments),
    Completions(shell::Completions),
    Man(shell::Man),
}

fn main() -> ExitCode {
    let matches = Cli::command().try_get_matches_from(spelling::respelled(std::env::args_os()));
    let matches = matches.unwrap_or_else(|error| without_secrets(error).exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut Cli::command()).exit());
    let Cli { mut connection, json, verbose, command } = cli;
    connection.find_said(&matches);
    logging::to_stderr(verbose);
    let output = Output::new(json);
    let done = match command {
        Command::Generate(arguments) => generate::run(&arguments, &connection, &output),
        Command::Listen(arguments) => listen::run(&arguments, &connection, &output),
        Command::Produce(arguments) => produce::run(&arguments, &connection, &output),
        Command::Consume(arguments) => consume::run(&arguments, &connection, &output),
        Command::Trace(arguments) => trace::run(&arguments, &connection, &output),
        Command::Dlt(arguments) => dlt::run(&arguments, &connection, &output),
        Command::Lag(arguments) => lag::run(&arguments, &connection, &output),
        Command::Topics(arguments) => topics::run(&arguments, &connection, &output),
        Command::Completions(arguments) => shell::completions(&arguments, &output),
        Command::Man(arguments) => shell::man(&arguments, &output),
    };
    match done.and_then(|()| output.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// An error of the command line: a property that is not well written may still be a password.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    let argument = error.get(ContextKind::InvalidArg).map(ToString::to_string);
    if argument.is_some_and(|argument| argument.starts_with("--config ")) {
        error.insert(ContextKind::InvalidValue, ContextValue::String("…".to_owned()));
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
