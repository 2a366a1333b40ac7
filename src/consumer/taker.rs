//! A caller that waits for records takes them from librdkafka itself: the fetch thread, woken for them, would only have to
//! wake the caller.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::sync::lock;

/// What a caller that waits is called for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Call {
    /// Something has changed.
    Look,
    /// Records came.
    Take,
}

/// Where a caller waits for records. librdkafka calls it under its own queue's lock: nothing else may be locked under this
/// one.
#[derive(Debug, Default)]
pub(super) struct Taker {
    waiting: Mutex<Waiting>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    is_there: bool,
    call: Option<Call>,
}

impl Taker {
    /// Whether there is somebody to hear it.
    pub(super) fn call(&self, call: Call) -> bool {
        let mut waiting = lock(&self.waiting);
        if !waiting.is_there {
            return false;
        }
        let is_first = waiting.call.is_none();
        // Records are told of once, and who takes them looks as well.
        if waiting.call != Some(Call::Take) {
            waiting.call = Some(call);
        }
        // Else who is woken would have to wait for it.
        drop(waiting);
        if is_first {
            self.called.notify_one();
        }
        true
    }

    /// Calls are for this thread from here on, until its wait ends.
    pub(super) fn begin(&self) {
        *lock(&self.waiting) = Waiting { is_there: true, call: None };
    }

    /// Waits for a call, but not beyond this.
    pub(super) fn wait(&self, until: Option<Instant>) -> Option<Call> {
        let waiting = lock(&self.waiting);
        let is_uncalled = |waiting: &mut Waiting| waiting.call.is_none();
        let mut waiting = match until {
            None => self.called.wait_while(waiting, is_uncalled).unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let timeout = until.saturating_duration_since(Instant::now());
                let waited = self.called.wait_timeout_while(waiting, timeout, is_uncalled);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        waiting.is_there = false;
        waiting.call.take()
    }
}

#[cfg(test)]
impl Taker {
    pub(super) fn is_there(&self) -> bool {
        lock(&self.waiting).is_there
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn calls_are_heard_from_its_beginning_to_its_end() {
        let taker = Taker::default();
        assert!(!taker.call(Call::Take), "nobody waits");
        taker.begin();
        assert!(taker.call(Call::Look));
        assert_eq!(taker.wait(None), Some(Call::Look), "it came before the wait");
        assert!(!taker.call(Call::Take), "nobody waits any more");
        taker.begin();
        assert_eq!(taker.wait(Some(Instant::now() + Duration::from_millis(5))), None);
        assert!(!taker.call(Call::Take), "nor after a wait that ended by itself");
    }

    #[test]
    fn records_are_told_of_whatever_else_is() {
        let taker = Taker::default();
        for calls in [[Call::Look, Call::Take], [Call::Take, Call::Look]] {
            taker.begin();
            assert!(calls.map(|call| taker.call(call)) == [true, true]);
            assert_eq!(taker.wait(None), Some(Call::Take));
        }
    }

    #[test]
    fn who_waits_is_woken() {
        let taker = Taker::default();
        for call in [Call::Look, Call::Take] {
            taker.begin();
            let began = Instant::now();
            let woken = thread::scope(|scope| {
                let waiting = scope.spawn(|| taker.wait(Some(Instant::now() + LONG)));
                // Whether it waits already or not.
                assert!(taker.call(call));
                waiting.join().unwrap()
            });
            assert_eq!(woken, Some(call));
            assert!(began.elapsed() < LONG / 2);
        }
    }
}
