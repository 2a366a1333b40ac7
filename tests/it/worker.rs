//! Worker processes, on which the scenarios about kills stand.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::Duration;

use crate::support::{Worker, emit, eventually};

const SOON: Duration = Duration::from_secs(20);
const COUNTER: &str = "worker::counter";
const PARENT: &str = "worker::parent";

/// Counts from its argument for ever, or to -1 if that is below zero. Not a test by itself.
#[test]
fn counter() {
    let Some(first) = Worker::arguments::<i64>(COUNTER) else {
        return;
    };
    for number in first.. {
        emit(&number);
        if number == -1 {
            return;
        }
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// Starts a counter and waits with it. Not a test by itself.
#[test]
fn parent() {
    if Worker::arguments::<()>(PARENT).is_some() {
        let counter = Worker::spawn(COUNTER, &0);
        emit(&counter.pid());
        loop {
            counter.next::<i64>(SOON);
        }
    }
}

/// A worker hands over what it emits, in order, and ends by itself.
#[test]
fn a_worker_reports_and_ends() {
    let mut worker = Worker::spawn(COUNTER, &-3);
    assert_eq!(worker.next::<i64>(SOON), -3);
    assert!(worker.wait(SOON).success());
    assert_eq!(worker.rest::<i64>(), [-2, -1]);
}

/// Signals reach the worker itself.
#[test]
fn a_worker_takes_signals() {
    let mut worker = Worker::spawn(COUNTER, &7);
    assert_eq!(worker.next::<i64>(SOON), 7);
    worker.sigterm();
    assert_eq!(worker.wait(SOON).signal(), Some(15));

    let mut worker = Worker::spawn(COUNTER, &7);
    worker.next::<i64>(SOON);
    assert_eq!(worker.kill9().signal(), Some(9));
}

/// However a test ends, what it started ends too.
#[test]
fn nothing_outlives_a_killed_parent() {
    let mut parent = Worker::spawn(PARENT, &());
    let counter: u32 = parent.next(SOON);
    assert!(runs(counter));
    parent.kill9();
    eventually(SOON, "the orphan ends", || (!runs(counter)).then_some(()));
}

/// A process that ended and that nobody has waited for counts as ended.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, state)| !state.trim_start().starts_with('Z'))
}
