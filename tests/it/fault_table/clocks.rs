//! Row 29: wall clocks that jump.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::report::by_length;
use super::{Report, Scene, Setup, Work};
use crate::support::{PATIENCE, shared_broker, unique};

/// A wall clock that can be set, of processes that are started with it.
struct WallClock {
    library: PathBuf,
    seconds_ahead: PathBuf,
}

impl WallClock {
    fn new() -> WallClock {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("clock"));
        let clock = WallClock { library: place.with_extension("so"), seconds_ahead: place };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fault_table/wall_clock.c");
        let mut compiler = Command::new("cc");
        compiler
            .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .args([&clock.library, &source])
            .arg("-ldl");
        assert!(compiler.status().unwrap().success());
        clock.set(0);
        clock
    }

    fn set(&self, hours_ahead: i64) {
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.seconds_ahead).unwrap();
        file.write_all(&(hours_ahead * 3_600).to_ne_bytes()).unwrap();
    }

    /// The time as a process sees that was started with this clock, in seconds.
    fn seen(&self) -> u64 {
        let date = Command::new("date").arg("+%s").envs(self.environment()).output().unwrap();
        String::from_utf8(date.stdout).unwrap().trim().parse().unwrap()
    }

    fn environment(&self) -> Vec<(String, String)> {
        [("LD_PRELOAD", &self.library), ("WALL_CLOCK", &self.seconds_ahead)]
            .map(|(key, path)| (key.to_owned(), path.to_str().unwrap().to_owned()))
            .into()
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        let _ = (fs::remove_file(&self.library), fs::remove_file(&self.seconds_ahead));
    }
}

/// The wall clock of services jumps by an hour, ahead and back, while they work. Nothing stalls, and nothing is repeated.
/// Waits that are under way feel it, as they do where a machine's clock is set (`wall_clock.c`); the broker keeps the true time.
/// That no latency is negative then is a test of `stage_latencies`, beside it.
#[test]
fn row_29_jumping_clocks() {
    let jumps = by_length(6, 60);
    let records = jumps * 3_000;
    let clock = WallClock::new();
    clock.set(1);
    let ahead = clock.seen().abs_diff(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    assert!((3_500..3_700).contains(&ahead), "{ahead} s");
    clock.set(0);
    let mut scene = Scene::start(Setup::new(shared_broker(), records).rate(2_000));
    scene.service.environment = clock.environment();
    // A jump meets some batches in hand, and some waits.
    scene.service.work = Work::Takes(Duration::from_millis(20));
    let services = [scene.spawn(), scene.spawn()];
    let mut injected = 0;
    for hours_ahead in [1, 0, -1, 0, 1, -1].into_iter().cycle().take(jumps) {
        scene.until_all_handle(&services, 500, PATIENCE);
        clock.set(hours_ahead);
        injected += 1;
    }
    // The second one joins, which hands partitions over: once, and committed.
    let verdict = scene.finish(PATIENCE);
    Report::of(29, "the wall clock jumps by an hour", injected, records, &verdict, 0).file();
}
