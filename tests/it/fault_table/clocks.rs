//! Row 29: wall clocks that jump.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::report::by_length;
use super::{Report, Scene, Setup, Work};
use crate::support::{shared_broker, unique};

const SOON: Duration = Duration::from_secs(60);
const FAULT: &str = "the wall clock jumps by an hour";

/// A wall clock of its own for processes that are started with it.
struct Faketime {
    library: PathBuf,
    offset: PathBuf,
}

impl Faketime {
    /// The error says why this machine has none.
    fn start() -> Result<Faketime, String> {
        let library = library().ok_or("there is no libfaketime, which `bash scripts/test.sh` gets")?;
        let offset = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("clock"));
        let clock = Faketime { library, offset };
        clock.jump("+0");
        Ok(clock)
    }

    /// To the true time and so much, such as `-1h`.
    fn jump(&self, offset: &str) {
        // Replaced as a whole: it is read all the time.
        let fresh = self.offset.with_extension("fresh");
        fs::write(&fresh, offset).unwrap();
        fs::rename(fresh, &self.offset).unwrap();
    }

    fn environment(&self) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", self.library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", self.offset.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }
}

impl Drop for Faketime {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.offset);
    }
}

/// Where Debian and others have it.
fn library() -> Option<PathBuf> {
    let dirs = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let named = |dir: PathBuf| dir.join("faketime/libfaketimeMT.so.1");
    dirs.chain([PathBuf::from("/usr/lib"), PathBuf::from("/usr/lib64")]).map(named).find(|path| path.exists())
}

/// The wall clock of services jumps by an hour, ahead and back, while they work. Nothing stalls, and nothing is repeated.
/// The clock is libfaketime's: the machine's own is not ours to change, and the broker keeps the true time. That no latency is
/// negative then is a test of `stage_latencies`, beside it.
#[test]
fn row_29_jumping_clocks() {
    let jumps = by_length(6, 60);
    let records = jumps * 3_000;
    let clock = match Faketime::start() {
        Ok(clock) => clock,
        Err(why) => return Report::cannot(29, FAULT, &why),
    };
    let mut scene = Scene::start(Setup::new(shared_broker(), records).rate(2_000));
    scene.service.environment = clock.environment();
    // A jump meets some batches in hand, and some waits.
    scene.service.work = Work::Takes(Duration::from_millis(20));
    let services = [scene.spawn(), scene.spawn()];
    let mut injected = 0;
    for jump in ["+1h", "+0", "-1h", "+0", "+1h", "-1h"].iter().cycle().take(jumps) {
        scene.until_all_handle(&services, 500, SOON);
        clock.jump(jump);
        injected += 1;
    }
    // The second one joins, which hands partitions over: once, and committed.
    let verdict = scene.finish(SOON);
    Report::of(29, FAULT, injected, records, &verdict, 0).file();
}
