//! What a service did, as lines in a file: written out before the handler returns, so that a `kill -9` takes none back.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Microseconds since 1970.
pub(super) type Micros = u64;

/// Consecutive offsets of a partition: the first and the last.
pub(super) type Offsets = (i64, i64);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) at: Micros,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum What {
    Assigned {
        partitions: Vec<i32>,
    },
    /// Its rebalance begins: what is in hand may still be finished and committed.
    Revoked {
        partitions: Vec<i32>,
    },
    Lost {
        partitions: Vec<i32>,
    },
    /// A batch whose handler began at `began` and returns `Ok` right after this line.
    Handled {
        began: Micros,
        records: Vec<(i32, Offsets)>,
    },
    /// A batch of which the handler returns an error, panics or hangs.
    Failed {
        records: Vec<(i32, Offsets)>,
    },
    /// The run ended: its error, if there was one.
    Ended {
        error: Option<String>,
    },
    /// A line of the library's log, of level info, warn or error.
    Logged {
        line: String,
    },
}

/// The wall clock as it was at the start, going on with the monotonic one: a wall clock that jumps does not matter.
pub(super) struct Clock {
    wall: Micros,
    start: Instant,
}

impl Clock {
    pub(super) fn new() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Clock { wall: wall.as_micros() as Micros, start: Instant::now() }
    }

    pub(super) fn now(&self) -> Micros {
        self.wall + self.start.elapsed().as_micros() as Micros
    }
}

/// In the service: its file, to which lines are appended.
pub(super) struct History {
    file: Mutex<File>,
    pub(super) clock: Clock,
}

impl History {
    pub(super) fn create(path: &Path) -> History {
        let file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        History { file: Mutex::new(file), clock: Clock::new() }
    }

    pub(super) fn write(&self, what: What) {
        let mut file = self.file.lock().unwrap();
        let line = Line { at: self.clock.now(), what };
        // One call: a kill leaves the line whole or not there at all.
        file.write_all((serde_json::to_string(&line).unwrap() + "\n").as_bytes()).unwrap();
    }
}

/// In the test: the file of one service, read as it grows.
pub(super) struct Reading {
    path: PathBuf,
    file: Option<File>,
    rest: String,
    pub(super) lines: Vec<Line>,
}

impl Reading {
    pub(super) fn of(path: PathBuf) -> Reading {
        Reading { path, file: None, rest: String::new(), lines: Vec::new() }
    }

    /// Takes what was written since, and returns how many lines there were before.
    pub(super) fn read_on(&mut self) -> usize {
        let before = self.lines.len();
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        if let Some(file) = &mut self.file {
            file.read_to_string(&mut self.rest).unwrap();
        }
        if let Some(end) = self.rest.rfind('\n') {
            let rest = self.rest.split_off(end + 1);
            let whole = std::mem::replace(&mut self.rest, rest);
            self.lines.extend(whole.lines().map(|line| serde_json::from_str::<Line>(line).unwrap()));
        }
        before
    }
}

/// Offsets in ascending order as ranges.
pub(super) fn ranges(offsets: impl IntoIterator<Item = (i32, i64)>) -> Vec<(i32, Offsets)> {
    let mut ranges: Vec<(i32, Offsets)> = Vec::new();
    for (partition, offset) in offsets {
        match ranges.last_mut() {
            Some((at, (_, last))) if *at == partition && *last + 1 == offset => *last = offset,
            _ => ranges.push((partition, (offset, offset))),
        }
    }
    ranges
}
