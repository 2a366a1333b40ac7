//! Ends the linger while somebody waits.
//!
//! `rd_kafka_flush` does so for as long as it runs, and it runs until *every* record has its report, those of other
//! threads too. So a thread of its own calls it, and each caller waits for its own records only.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::reports::{Expected, Reports};
use crate::sync::lock;

/// How long a flush outlives those who asked for it.
const SLICE: Duration = Duration::from_millis(50);

pub(super) struct Flusher {
    state: Mutex<State>,
    changed: Condvar,
    reports: Arc<Reports>,
}

#[derive(Default)]
struct State {
    /// Who waits now.
    waiting: usize,
    /// How many ever asked.
    requests: u64,
    stop: bool,
}

impl Flusher {
    pub(super) fn new(reports: Arc<Reports>) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), reports }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Flushes what has been sent up to now, until that has its reports or the request is dropped.
    pub(super) fn request(self: &Arc<Self>) -> Request {
        let mut state = self.lock();
        state.waiting += 1;
        state.requests += 1;
        drop(state);
        self.changed.notify_all();
        Request { flusher: Arc::clone(self), _expected: self.reports.expect() }
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    /// Serves requests until the stop. `flush` answers whether nothing is on its way any more.
    pub(super) fn run(&self, flush: impl Fn(Duration) -> bool) {
        let mut served = 0;
        loop {
            let mut state = self.lock();
            while !state.stop && (state.waiting == 0 || state.requests == served) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stop {
                return;
            }
            let requests = state.requests;
            drop(state);
            if flush(SLICE) {
                // All who asked up to here have what they wait for.
                served = requests;
            }
        }
    }
}

/// Keeps the flush going until it is dropped.
pub(super) struct Request {
    flusher: Arc<Flusher>,
    _expected: Expected,
}

impl Drop for Request {
    fn drop(&mut self) {
        self.flusher.lock().waiting -= 1;
    }
}
