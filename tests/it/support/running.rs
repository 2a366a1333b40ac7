//! The program `kafka-envelope` while it runs, to be read, signalled and left alone.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::cli::{Ran, command};
use super::{PATIENCE, eventually};

/// The program while it runs. Dropped, it is killed.
pub(crate) struct Running {
    child: Child,
    lines: Option<Receiver<String>>,
    taken: Vec<String>,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_reader: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(arguments: &[&str]) -> Running {
        let mut running = Running::unread(arguments);
        let stdout = BufReader::new(running.stdout());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        running.lines = Some(lines);
        running
    }

    /// Without anybody who reads its standard output.
    pub(crate) fn unread(arguments: &[&str]) -> Running {
        let mut command = command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (mut pipe, kept) = (child.stderr.take().unwrap(), Arc::clone(&stderr));
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = pipe.read(&mut bytes) {
                kept.lock().unwrap().extend_from_slice(&bytes[..read]);
            }
        });
        Running { child, lines: None, taken: Vec::new(), stderr, stderr_reader: Some(reader) }
    }

    pub(crate) fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.stderr.lock().unwrap().clone()).unwrap()
    }

    /// The next line of its standard output.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        match self.lines.as_ref().unwrap().recv_timeout(PATIENCE) {
            Ok(line) => {
                self.taken.push(line.clone());
                line
            }
            Err(RecvTimeoutError::Timeout) => panic!("no line within {PATIENCE:?}; it said {}", self.stderr()),
            Err(RecvTimeoutError::Disconnected) => panic!("it ended; it said {}", self.stderr()),
        }
    }

    /// A line that is there already.
    pub(crate) fn try_line(&mut self) -> Option<String> {
        let line = self.lines.as_ref().unwrap().try_recv().ok()?;
        self.taken.push(line.clone());
        Some(line)
    }

    /// Waits until standard error has this.
    #[track_caller]
    pub(crate) fn says(&self, part: &str) {
        eventually(PATIENCE, part, || self.stderr().contains(part).then_some(()));
    }

    /// Sends `INT`, `TERM`… as `kill` names them.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("sh").args(["-c", "kill -s $0 $1", name, &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for its end. Standard output has all lines, those that were taken before too.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ran {
        let status = eventually(PATIENCE, "the program ends", || self.child.try_wait().unwrap());
        let mut lines = std::mem::take(&mut self.taken);
        if let Some(rest) = self.lines.take() {
            lines.extend(rest.iter());
        }
        self.stderr_reader.take().unwrap().join().unwrap();
        let stdout = lines.iter().map(|line| format!("{line}\n")).collect();
        Ran { code: status.code().unwrap_or(-1), stdout, stderr: self.stderr() }
    }

    #[track_caller]
    pub(crate) fn end(self, signal: &str) -> Ran {
        self.signal(signal);
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
