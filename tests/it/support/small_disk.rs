use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::leash::Leashed;

/// A file system of a few megabytes in memory, seen only by whoever is started in it: no rights are needed but to make
/// namespaces of one's own. Gone when dropped.
pub(crate) struct SmallDisk {
    holder: Leashed,
    dir: PathBuf,
}

impl SmallDisk {
    /// At a directory that is there. The error says why this machine has none.
    pub(crate) fn at(dir: &Path, megabytes: u32) -> Result<SmallDisk, String> {
        let mut mount = Command::new("unshare");
        mount.args(["--user", "--map-root-user", "--mount", "sh", "-c"]).arg(format!(
            "mount -t tmpfs -o size={megabytes}m tmpfs '{0}' && echo ready && exec sleep infinity || echo refused",
            dir.display()
        ));
        let mut holder = Leashed::spawn(&mount, None, None);
        let mut line = String::new();
        let _ = BufReader::new(holder.stdout().unwrap()).read_line(&mut line);
        if line.trim() != "ready" {
            return Err("a tmpfs in a user namespace is refused".into());
        }
        Ok(SmallDisk { holder, dir: dir.to_owned() })
    }

    /// What to put before a command that is to see it.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let pid = self.holder.pid().to_string();
        ["nsenter", "--target", &pid, "--user", "--mount", "--preserve-credentials"].map(str::to_owned).into()
    }

    /// Takes so many megabytes away.
    pub(crate) fn take(&self, megabytes: u32) {
        self.run(&format!("fallocate -l {megabytes}M '{}'", self.ballast().display()));
    }

    /// Gives them back.
    pub(crate) fn give_back(&self) {
        self.run(&format!("rm '{}'", self.ballast().display()));
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }

    fn run(&self, script: &str) {
        let prefix = self.prefix();
        let status = Command::new(&prefix[0]).args(&prefix[1..]).args(["sh", "-c", script]).status().unwrap();
        assert!(status.success(), "{script}: {status}");
    }
}
