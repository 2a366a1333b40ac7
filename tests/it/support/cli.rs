//! The program `kafka-envelope`, run as its users do.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::shared_broker;

const TIMEOUT: &str = "--connect-timeout";

/// What a run left.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// It ended well, and had nothing to say on standard error.
    #[track_caller]
    pub(crate) fn good(self) -> Self {
        assert_eq!((self.code, &*self.stderr), (0, ""), "{}", self.stdout);
        self
    }

    /// It ended with this code, and said all of this on standard error.
    #[track_caller]
    pub(crate) fn bad(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not in: {}", self.stderr);
        }
        self
    }

    /// Standard output as lines of JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The program with these arguments, and with the tests' broker unless they name another. That has more time to answer than
/// users give theirs, unless they say how much: what else runs on a machine may hold it up for long.
pub(crate) fn command<A: AsRef<str>>(arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kafka-envelope"));
    command.env("KAFKA_BOOTSTRAP_SERVERS", shared_broker()).env_remove("RUST_LOG");
    if !arguments.iter().any(|argument| argument.as_ref() == TIMEOUT) {
        command.args([TIMEOUT, "60"]);
    }
    command.args(arguments.iter().map(AsRef::as_ref));
    command
}

/// Runs it to its end.
pub(crate) fn cli<A: AsRef<str>>(arguments: &[A]) -> Ran {
    cli_with(arguments, "")
}

/// The same, with that on standard input.
pub(crate) fn cli_with<A: AsRef<str>>(arguments: &[A], stdin: &str) -> Ran {
    let mut command = command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let stdin = stdin.to_owned();
    // It may end before it has read all.
    let writing = std::thread::spawn(move || drop(input.write_all(stdin.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    Ran::of(output)
}
