use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::leash::Leashed;

const TEST: &str = "KAFKA_ENVELOPE_WORKER";
const ARGUMENTS: &str = "KAFKA_ENVELOPE_WORKER_ARGUMENTS";
const MARK: &str = "@worker ";

/// A process of its own for what a scenario kills: this test binary again, running one test function.
///
/// ```text
/// #[test]
/// fn a_worker() {                                       // in tests/it/resume.rs
///     let Some(config) = Worker::arguments::<Config>("resume::a_worker") else { return };
///     emit(&"ready");
/// }
///
/// let mut worker = Worker::spawn("resume::a_worker", &config);
/// let ready: String = worker.next(deadline);
/// ```
pub(crate) struct Worker {
    process: Leashed,
    lines: Receiver<String>,
}

impl Worker {
    /// `test` is the path of the function from this binary's root.
    pub(crate) fn spawn(test: &str, arguments: &impl Serialize) -> Worker {
        Worker::spawn_in(test, arguments, &[])
    }

    /// The same with variables of the environment.
    pub(crate) fn spawn_in(test: &str, arguments: &impl Serialize, environment: &[(String, String)]) -> Worker {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(TEST, test)
            .env(ARGUMENTS, serde_json::to_string(arguments).unwrap());
        let mut process = Leashed::spawn(&command, None, None);
        let stdout = BufReader::new(process.stdout().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The harness writes to the same place, and does not end its lines before the test does.
                if let Some((_, line)) = line.split_once(MARK) {
                    if sender.send(line.to_owned()).is_err() {
                        return;
                    }
                }
            }
        });
        Worker { process, lines }
    }

    /// In the worker, what [`Worker::spawn`] was given; `None` in an ordinary run of the tests.
    pub(crate) fn arguments<T: DeserializeOwned>(test: &str) -> Option<T> {
        if env::var(TEST).ok()? != test {
            return None;
        }
        Some(serde_json::from_str(&env::var(ARGUMENTS).unwrap()).unwrap())
    }

    /// The next value that it [`emit`]ted. Panics if none comes in time, or it ends before.
    #[track_caller]
    pub(crate) fn next<T: DeserializeOwned>(&self, deadline: Duration) -> T {
        match self.try_next(deadline) {
            Ok(value) => value,
            Err(error) => panic!("no line from the worker within {deadline:?}: {error}"),
        }
    }

    /// The same where it may have ended (`Disconnected`) or nothing may come (`Timeout`).
    pub(crate) fn try_next<T: DeserializeOwned>(&self, deadline: Duration) -> Result<T, RecvTimeoutError> {
        let line = self.lines.recv_timeout(deadline)?;
        Ok(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    /// All that it emitted and nobody took, up to its end: call after [`Worker::kill9`] or [`Worker::wait`].
    pub(crate) fn rest<T: DeserializeOwned>(&self) -> Vec<T> {
        let lines = self.lines.iter();
        lines.map(|line| serde_json::from_str(&line).unwrap()).collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn kill9(&mut self) -> ExitStatus {
        self.process.kill9()
    }

    pub(crate) fn sigterm(&self) {
        self.process.signal("TERM");
    }

    pub(crate) fn freeze(&self) {
        self.process.signal("STOP");
    }

    pub(crate) fn thaw(&self) {
        self.process.signal("CONT");
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    #[track_caller]
    pub(crate) fn wait(&mut self, deadline: Duration) -> ExitStatus {
        self.process.wait(deadline, "the worker ends")
    }
}

/// In a worker: hands a value to the test. Written out before it returns, so that a kill right after loses nothing.
pub(crate) fn emit(value: &impl Serialize) {
    let line = format!("{MARK}{}\n", serde_json::to_string(value).unwrap());
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes()).unwrap();
    stdout.flush().unwrap();
}
