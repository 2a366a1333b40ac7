use std::fs::OpenOptions;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use super::broker::free_port;
use super::{eventually, leash::Leashed};

/// A Redis of a test's own, on the loopback, that keeps nothing on disk. Dropped, it is killed.
pub(crate) struct Redis {
    process: Leashed,
    port: u16,
}

impl Redis {
    pub(crate) fn start() -> Redis {
        Redis::start_on(free_port())
    }

    fn start_on(port: u16) -> Redis {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
        command.args(["--dir", env!("CARGO_TARGET_TMPDIR"), "--loglevel", "warning"]);
        // Nobody reads what it says.
        let log = OpenOptions::new().write(true).open("/dev/null").unwrap();
        let mut process = Leashed::spawn(&command, Some(log), None);
        eventually(Duration::from_secs(20), "Redis answers; scripts/test.sh gets Debian's `redis-server`", || {
            assert!(process.ended().is_none(), "redis-server ended: is it installed? scripts/test.sh gets it");
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Redis { process, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Kills it. What it kept is gone.
    pub(crate) fn kill(&mut self) {
        self.process.kill9();
    }

    /// Starts it again where it was.
    pub(crate) fn start_again(&mut self) {
        *self = Redis::start_on(self.port);
    }

    /// Sends `STOP`, `CONT`… to it.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// What it answers to a command, as `redis::cmd` takes it.
    pub(crate) fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        let (name, arguments) = command.split_first().unwrap();
        redis::cmd(name).arg(arguments).query(&mut client.get_connection().unwrap()).unwrap()
    }
}
