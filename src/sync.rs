//! What threads share: locks that no panic closes, and a bell.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Wakes a thread that serves a client. A ring is kept until somebody waits, so none is lost. librdkafka rings it under its
/// own queue's lock: nothing else may be locked under this one.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    ring: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        // Who waits was woken by the first of several rings.
        if !mem::replace(&mut *lock(&self.rung), true) {
            self.ring.notify_one();
        }
    }

    /// Waits for a ring, but not longer than this.
    pub(crate) fn wait(&self, timeout: Duration) {
        let mut rung = self
            .ring
            .wait_timeout_while(lock(&self.rung), timeout, |rung| !*rung)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        *rung = false;
    }
}

/// A panic elsewhere must not stop the others: what these locks guard is whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl Bell {
    /// Whether it is rung. Nobody waits for that ring any more.
    pub(crate) fn take_ring(&self) -> bool {
        mem::take(&mut *lock(&self.rung))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_ring_is_kept_and_several_are_one() {
        let bell = Bell::default();
        (0..3).for_each(|_| bell.ring());
        let began = Instant::now();
        bell.wait(Duration::from_secs(600));
        assert!(began.elapsed() < Duration::from_secs(300), "it was rung before");
        let began = Instant::now();
        bell.wait(Duration::from_millis(5));
        assert!(began.elapsed() >= Duration::from_millis(5), "it was rung for the first wait");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| bell.wait(Duration::from_secs(600)));
            // Whether it waits already or not.
            bell.ring();
            waiting.join().unwrap();
        });
    }
}
