use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::eventually;

/// A subshell waits on our end of a pipe, then `exec` puts the program in the shell's place, under the shell's pid. If the pipe
/// ends without a line, this process is gone, be it by `kill -9`: the program goes too, and its directory.
const LEASH: &str = r#"
exec 3<&0 </dev/null
(
    trap '' INT TERM HUP
    if ! read -r _ <&3; then
        kill -9 $$
        try=0
        while [ -n "$LEASH_DIR" ] && [ $try -lt 20 ] && ! rm -rf "$LEASH_DIR"; do
            try=$((try + 1))
            sleep 0.1
        done
    fi
) >/dev/null 2>&1 &
exec 3<&-
exec "$@"
"#;

/// A child process that does not outlive this one, however either ends.
pub(crate) struct Leashed {
    child: Child,
    leash: Option<ChildStdin>,
}

impl Leashed {
    /// Its standard input is empty. `log` takes its standard output and error; without, standard output is piped to
    /// [`Leashed::stdout`] and standard error is ours. `dir` is removed if the leash has to end the process.
    pub(crate) fn spawn(command: &Command, log: Option<File>, dir: Option<&Path>) -> Leashed {
        let mut leashed = Command::new("sh");
        leashed
            .args(["-c", LEASH, "leash"])
            .arg(command.get_program())
            .args(command.get_args())
            .env("LEASH_DIR", dir.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            // A Ctrl-C is for the test alone.
            .process_group(0);
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => leashed.env(key, value),
                None => leashed.env_remove(key),
            };
        }
        match log {
            Some(log) => leashed.stdout(log.try_clone().unwrap()).stderr(log),
            None => leashed.stdout(Stdio::piped()),
        };
        let mut child = leashed.spawn().unwrap();
        let leash = child.stdin.take();
        Leashed { child, leash }
    }

    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().unwrap();
        if status.is_some() {
            self.unleash();
        }
        status
    }

    /// Sends `KILL`, `TERM`, `STOP`, `CONT`… as `kill` names them.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        // The shell's own: not every machine has the program.
        let status = Command::new("sh").args(["-c", "kill -s $0 $1", name, &pid]).status().unwrap();
        assert!(status.success(), "kill -s {name} {pid}: {status}");
    }

    /// Ends it at once, and waits for that. No harm if it ended before.
    pub(crate) fn kill9(&mut self) -> ExitStatus {
        // Before the wait, which frees the pid for others.
        self.unleash();
        self.child.kill().unwrap();
        self.child.wait().unwrap()
    }

    /// Waits for its end; `what` says who it is, should it not come.
    #[track_caller]
    pub(crate) fn wait(&mut self, deadline: Duration, what: &str) -> ExitStatus {
        eventually(deadline, what, || self.ended())
    }

    fn unleash(&mut self) {
        if let Some(mut leash) = self.leash.take() {
            // Fails if somebody killed the subshell: as good.
            let _ = leash.write_all(b"done\n");
        }
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        self.unleash();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
