use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for what is to come before it says that it does not. What else runs on a machine may hold all of it
/// up for long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

const PAUSE: Duration = Duration::from_millis(20);

/// Asks until there is an answer. The only place where a test sleeps.
///
/// Panics with `what` if `deadline` passes first; asks at least once.
#[track_caller]
pub(crate) fn eventually<T>(deadline: Duration, what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = poll() {
            return answer;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        thread::sleep(PAUSE);
    }
}
