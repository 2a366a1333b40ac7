//! Who takes the delivery reports.
//!
//! A thread does, so that they are heard whatever callers do. While messages are sent one after the other and nobody
//! waits, senders do in between: what a report frees they have allocated, and two threads would meet in the allocator's
//! locks and compete for processors. The thread stands back as long as that lasts, and wakes futures all the same: a
//! waker is foreign code, which could want a lock that a sender holds.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::client::guarded;

/// After so many messages a sender looks for reports.
const EVERY: u32 = 64;
/// It is a stream if they were sent within this time.
const BRISK: Duration = Duration::from_millis(2);
/// How long the thread stands back after a look.
const TRUST: Duration = Duration::from_millis(3);

thread_local! {
    static SENT: Cell<u32> = const { Cell::new(0) };
    /// This thread takes reports for the other one.
    static TAKES: Cell<bool> = const { Cell::new(false) };
}

pub(crate) struct Reports {
    start: Instant,
    /// When a sender last looked, in nanoseconds from `start` on.
    looked: AtomicU64,
    /// Until when the thread may stand back.
    trusted: AtomicU64,
    /// The thread stands back.
    is_left: AtomicBool,
    /// How many wait for reports.
    awaited: AtomicUsize,
    /// Held by the sender that looks.
    taking: Mutex<()>,
    deferred: Mutex<Deferred>,
    changed: Condvar,
}

/// What is left to the thread.
#[derive(Default)]
struct Deferred {
    wakers: Vec<Waker>,
    /// The queue has room.
    has_room: bool,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            looked: AtomicU64::default(),
            trusted: AtomicU64::default(),
            is_left: AtomicBool::default(),
            awaited: AtomicUsize::default(),
            taking: Mutex::default(),
            deferred: Mutex::default(),
            changed: Condvar::default(),
        }
    }
}

impl Reports {
    fn now(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Deferred> {
        self.deferred.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message was sent, and its sender does not wait for it. Now and then `take` is called, which is to take reports
    /// that are there.
    pub(super) fn sent(&self, take: impl FnOnce()) {
        let sent = SENT.get() + 1;
        SENT.set(sent % EVERY);
        if sent == EVERY {
            self.look(take);
        }
    }

    fn look(&self, take: impl FnOnce()) {
        let Ok(_taking) = self.taking.try_lock() else { return };
        let now = self.now();
        if now - self.looked.swap(now, Ordering::Relaxed).min(now) > nanos(BRISK) {
            return;
        }
        self.trusted.store(now + nanos(TRUST), Ordering::SeqCst);
        self.take(take);
    }

    /// A sender finds no room. Says whether the thread has left it to senders to make some, which `take` has done then.
    pub(super) fn full(&self, take: impl FnOnce()) -> bool {
        let Ok(_taking) = self.taking.try_lock() else { return false };
        let now = self.now();
        self.looked.store(now, Ordering::Relaxed);
        let has_taken = self.take(take);
        if has_taken {
            self.trusted.store(now + nanos(TRUST), Ordering::SeqCst);
        }
        has_taken
    }

    /// With `taking` held: a sender that is kept by foreign code keeps the thread for no longer than `TRUST`.
    fn take(&self, take: impl FnOnce()) -> bool {
        let is_left = self.is_left.load(Ordering::SeqCst);
        if is_left {
            TAKES.set(true);
            guarded(take);
            TAKES.set(false);
        }
        is_left
    }

    /// Somebody waits for a report, until [`Reports::unexpect`].
    pub(super) fn expect(&self) {
        self.awaited.fetch_add(1, Ordering::SeqCst);
        if self.is_left.load(Ordering::SeqCst) {
            drop(self.lock());
            self.changed.notify_all();
        }
    }

    pub(super) fn unexpect(&self) {
        self.awaited.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes a future, on the thread that may.
    pub(super) fn wake(&self, waker: Waker) {
        if TAKES.get() {
            self.lock().wakers.push(waker);
            self.changed.notify_all();
        } else {
            guarded(|| waker.wake());
        }
    }

    /// The queue has room: calls `tell`, which wakes futures that wait for that, on the thread that may.
    #[cfg(feature = "tokio")]
    pub(super) fn room(&self, tell: impl FnOnce()) {
        if TAKES.get() {
            self.lock().has_room = true;
            self.changed.notify_all();
        } else {
            guarded(tell);
        }
    }

    /// For the thread: stands back while senders take the reports, for at most this time, and does what they leave to it.
    /// Else it says how long to wait for the next report.
    pub(super) fn stand_back(&self, at_most: Duration, tell_room: impl Fn()) -> Option<Duration> {
        let end = self.now() + nanos(at_most);
        let mut deferred = self.lock();
        loop {
            // Before `awaited` is read: see `expect`.
            self.is_left.store(true, Ordering::SeqCst);
            let now = self.now();
            let left = self.trusted.load(Ordering::SeqCst).saturating_sub(now);
            let is_left = left > 0 && self.awaited.load(Ordering::SeqCst) == 0;
            self.is_left.store(is_left, Ordering::SeqCst);
            let Deferred { wakers, has_room } = std::mem::take(&mut *deferred);
            if !wakers.is_empty() || has_room {
                drop(deferred);
                for waker in wakers {
                    guarded(|| waker.wake());
                }
                if has_room {
                    guarded(&tell_room);
                }
                deferred = self.lock();
            } else if !is_left {
                // A sender that still takes some may have futures to wake.
                let is_taken = self.taking.try_lock().is_err();
                return Some(if is_taken { at_most.min(BRISK) } else { at_most });
            } else if now >= end {
                return None;
            } else {
                let sleep = Duration::from_nanos(left.min(end - now));
                deferred = self.changed.wait_timeout(deferred, sleep).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::task::Wake;
    use std::thread::{self, ThreadId};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Reports that the thread leaves to senders until somebody waits.
    fn left() -> Arc<Reports> {
        let reports = Reports::default();
        reports.trusted.store(u64::MAX, Ordering::SeqCst);
        Arc::new(reports)
    }

    /// The thread, and what it does next.
    fn stand_back(reports: &Arc<Reports>) -> (ThreadId, Receiver<Option<Duration>>) {
        let (reports, (next, said)) = (Arc::clone(reports), channel());
        let thread = thread::spawn({
            let reports = Arc::clone(&reports);
            move || next.send(reports.stand_back(LONG, || {}))
        });
        while !reports.is_left.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        (thread.thread().id(), said)
    }

    #[test]
    fn a_stream_is_left_to_who_sends_it() {
        let reports = Reports::default();
        let mut taken = 0;
        // Two looks within a short time make a stream: where the machine is busy, later ones.
        while reports.trusted.load(Ordering::SeqCst) == 0 {
            (0..EVERY).for_each(|_| reports.sent(|| taken += 1));
        }
        assert_eq!(taken, 0, "before the thread stands back");
        reports.is_left.store(true, Ordering::SeqCst);
        while taken == 0 {
            (0..EVERY).for_each(|_| reports.sent(|| taken += 1));
        }
        let end = Instant::now() + TRUST;
        while Instant::now() <= end {
            thread::yield_now();
        }
        assert_eq!(reports.stand_back(LONG, || {}), Some(LONG), "nobody sends any more");
        assert!(!reports.full(|| unreachable!()));
    }

    #[test]
    fn few_messages_are_no_stream() {
        let reports = left();
        reports.is_left.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            thread::sleep(BRISK);
            (0..EVERY).for_each(|_| reports.sent(|| unreachable!()));
        }
    }

    #[test]
    fn who_waits_has_the_thread() {
        let reports = left();
        let (_, next) = stand_back(&reports);
        reports.expect();
        assert_eq!(next.recv().unwrap(), Some(LONG));
        assert_eq!(reports.stand_back(LONG, || {}), Some(LONG));
        reports.unexpect();
        assert_eq!(reports.stand_back(Duration::ZERO, || {}), None);
    }

    struct Tell(Mutex<Sender<ThreadId>>);

    impl Wake for Tell {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().send(thread::current().id()).unwrap();
        }
    }

    #[test]
    fn futures_are_woken_by_the_thread() {
        let reports = left();
        let (thread, _next) = stand_back(&reports);
        let (tell, woken) = channel();
        let waker = Waker::from(Arc::new(Tell(Mutex::new(tell))));
        assert!(reports.full(|| reports.wake(waker.clone())));
        assert_eq!(woken.recv().unwrap(), thread);
        // The thread itself leaves nothing to itself.
        reports.wake(waker);
        assert_eq!(woken.recv().unwrap(), thread::current().id());
        reports.expect();
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn so_are_those_that_wait_for_room() {
        let reports = left();
        let (told, is_told) = channel();
        thread::scope(|threads| {
            let thread = threads.spawn(|| reports.stand_back(LONG, || told.send(thread::current().id()).unwrap()));
            while !reports.is_left.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            assert!(reports.full(|| reports.room(|| unreachable!())));
            assert_eq!(is_told.recv().unwrap(), thread.thread().id());
            reports.expect();
        });
    }

    #[test]
    fn a_sender_that_is_kept_keeps_nobody() {
        let reports = left();
        let (_, next) = stand_back(&reports);
        let taken = reports.full(|| {
            // What it calls sends itself, and finds no room.
            assert!(!reports.full(|| unreachable!()));
            reports.trusted.store(0, Ordering::SeqCst);
            reports.changed.notify_all();
            // Not for long at once: what this sender leaves to the thread comes without a sound.
            assert_eq!(next.recv().unwrap(), Some(BRISK));
        });
        assert!(taken);
    }
}
