//! Who takes the delivery reports.
//!
//! A thread does, so that they are heard whatever callers do. While messages are sent one after the other and nobody
//! waits, senders do in between: what a report frees they have allocated, and two threads would meet in the allocator's
//! locks and compete for processors. The thread stands back as long as that lasts, but for what runs foreign code, a
//! waker or a logger: that could want a lock that a sender holds.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::context::Context;
use crate::client::guarded;
use crate::sync::lock;

/// After so many messages a sender looks for reports.
const EVERY: u32 = 64;
/// It is a stream if they were sent within this time.
const BRISK: Duration = Duration::from_millis(2);
/// How long the thread stands back after a look.
const TRUST: Duration = Duration::from_millis(3);
/// The thread is slow, or foreign code keeps it: with so much left to it, no sender leaves more.
const OPEN: usize = 1_000;

thread_local! {
    static SENT: Cell<u32> = const { Cell::new(0) };
    /// The address of the reports that this thread takes instead of theirs.
    static TAKES: Cell<usize> = const { Cell::new(0) };
}

/// What is left to the thread.
type Later = Box<dyn FnOnce(&Context) + Send>;

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
    deferred: Mutex<Vec<Later>>,
    /// How many that were deferred are not done.
    open: AtomicUsize,
    changed: Condvar,
    done: Condvar,
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
            open: AtomicUsize::default(),
            changed: Condvar::default(),
            done: Condvar::default(),
        }
    }
}

impl Reports {
    fn now(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Later>> {
        lock(&self.deferred)
    }

    /// A message was sent, and its sender does not wait for it. Now and then `take` is called, which is to take reports
    /// that are there, and to say whether it took all of them.
    pub(super) fn sent(&self, take: impl FnOnce() -> bool) {
        let sent = SENT.get() + 1;
        SENT.set(sent % EVERY);
        if sent == EVERY {
            self.look(take);
        }
    }

    fn look(&self, take: impl FnOnce() -> bool) {
        let Ok(_taking) = self.taking.try_lock() else { return };
        let now = self.now();
        if now - self.looked.swap(now, Ordering::Relaxed).min(now) > nanos(BRISK) {
            return;
        }
        if self.open.load(Ordering::SeqCst) > OPEN {
            return;
        }
        // Not renewed before they are taken: a sender that foreign code keeps does not keep the thread.
        if !self.is_left.load(Ordering::SeqCst) || self.take(take) {
            self.trusted.store(self.now() + nanos(TRUST), Ordering::SeqCst);
        }
    }

    fn take(&self, take: impl FnOnce() -> bool) -> bool {
        let mut has_all = false;
        let before = TAKES.replace(self.address());
        guarded(|| has_all = take());
        TAKES.set(before);
        has_all
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Leaves it to the thread where a sender takes the reports; gives it back to be done at once where the thread does.
    pub(super) fn leave<F: FnOnce(&Context) + Send + 'static>(&self, later: F) -> Option<F> {
        if TAKES.get() != self.address() {
            return Some(later);
        }
        let mut deferred = self.lock();
        deferred.push(Box::new(later));
        self.open.fetch_add(1, Ordering::SeqCst);
        drop(deferred);
        self.changed.notify_all();
        None
    }

    /// Waits until the thread has done what was left to it. False: that takes longer.
    pub(super) fn wait_done(&self, at_most: Duration) -> bool {
        let is_open = |_: &mut Vec<Later>| self.open.load(Ordering::SeqCst) > 0;
        let waited = self.done.wait_timeout_while(self.lock(), at_most, is_open);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Somebody waits for a report: the thread is to take them until this is dropped.
    pub(super) fn expect(self: &Arc<Self>) -> Expected {
        self.awaited.fetch_add(1, Ordering::SeqCst);
        if self.is_left.load(Ordering::SeqCst) {
            drop(self.lock());
            self.changed.notify_all();
        }
        Expected(Arc::clone(self))
    }

    /// For the thread: stands back while senders take the reports, for at most this time, and has `run` do what they leave
    /// to it. Else it says how long to wait for the next report.
    pub(super) fn stand_back(&self, at_most: Duration, run: impl Fn(Later)) -> Option<Duration> {
        let end = self.now() + nanos(at_most);
        let mut deferred = self.lock();
        loop {
            // Before `awaited` is read: see `expect`.
            self.is_left.store(true, Ordering::SeqCst);
            let now = self.now();
            let left = self.trusted.load(Ordering::SeqCst).saturating_sub(now);
            let is_left = left > 0 && self.awaited.load(Ordering::SeqCst) == 0;
            self.is_left.store(is_left, Ordering::SeqCst);
            let all = std::mem::take(&mut *deferred);
            if !all.is_empty() {
                drop(deferred);
                let count = all.len();
                all.into_iter().for_each(|later| guarded(|| run(later)));
                deferred = self.lock();
                self.open.fetch_sub(count, Ordering::SeqCst);
                self.done.notify_all();
                if self.now() >= end {
                    return None;
                }
            } else if !is_left {
                // A sender that still takes some may leave some of it.
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

/// See [`Reports::expect`].
pub(super) struct Expected(Arc<Reports>);

impl Drop for Expected {
    fn drop(&mut self) {
        self.0.awaited.fetch_sub(1, Ordering::SeqCst);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::thread::{self, ThreadId};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Reports that the thread leaves to senders until somebody waits.
    fn left() -> Arc<Reports> {
        let reports = Reports::default();
        reports.trusted.store(u64::MAX, Ordering::SeqCst);
        Arc::new(reports)
    }

    fn run(later: Later) {
        later(&Context::default());
    }

    /// The thread, and what it does next.
    fn stand_back(reports: &Arc<Reports>) -> (ThreadId, Receiver<Option<Duration>>) {
        let (next, said) = channel();
        let thread = thread::spawn({
            let reports = Arc::clone(reports);
            move || next.send(reports.stand_back(LONG, run))
        });
        while !reports.is_left.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        (thread.thread().id(), said)
    }

    fn send(reports: &Reports, mut take: impl FnMut() -> bool) {
        (0..EVERY).for_each(|_| reports.sent(&mut take));
    }

    /// Sends until the sender has taken reports, and says whether those were all.
    fn take_once(reports: &Reports, has_all: bool) {
        let mut is_taken = false;
        while !is_taken {
            send(reports, || {
                is_taken = true;
                has_all
            });
        }
    }

    #[test]
    fn a_stream_is_left_to_who_sends_it() {
        let reports = Reports::default();
        // Two looks within a short time make a stream: where the machine is busy, later ones.
        while reports.trusted.load(Ordering::SeqCst) == 0 {
            send(&reports, || unreachable!("before the thread stands back"));
        }
        reports.is_left.store(true, Ordering::SeqCst);
        take_once(&reports, true);
        let end = Instant::now() + TRUST;
        while Instant::now() <= end {
            thread::yield_now();
        }
        assert_eq!(reports.stand_back(LONG, run), Some(LONG), "nobody sends any more");
    }

    #[test]
    fn a_sender_that_leaves_reports_is_not_trusted_with_more() {
        let reports = Reports::default();
        reports.is_left.store(true, Ordering::SeqCst);
        take_once(&reports, false);
        assert_eq!(reports.trusted.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_thread_that_is_kept_is_left_no_more() {
        let reports = left();
        reports.is_left.store(true, Ordering::SeqCst);
        reports.open.store(OPEN + 1, Ordering::SeqCst);
        for _ in 0..100 {
            send(&reports, || unreachable!());
        }
    }

    #[test]
    fn few_messages_are_no_stream() {
        let reports = left();
        reports.is_left.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            thread::sleep(BRISK);
            send(&reports, || unreachable!());
        }
    }

    #[test]
    fn who_waits_has_the_thread() {
        let reports = left();
        let (_, next) = stand_back(&reports);
        let expected = reports.expect();
        assert_eq!(next.recv().unwrap(), Some(LONG));
        assert_eq!(reports.stand_back(LONG, run), Some(LONG));
        drop(expected);
        assert_eq!(reports.stand_back(Duration::ZERO, run), None);
    }

    #[test]
    fn foreign_code_is_left_to_the_thread() {
        let reports = left();
        let (thread, _next) = stand_back(&reports);
        let (tell, done) = channel();
        let later = move |_: &Context| tell.send(thread::current().id()).unwrap();
        assert!(reports.leave(later.clone()).is_some(), "the thread itself leaves nothing to itself");
        let other = left();
        reports.take(|| {
            // What it calls takes the reports of another producer.
            other.take(|| reports.leave(later.clone()).is_some());
            assert!(other.leave(later.clone()).is_some());
            reports.leave(later.clone()).is_none()
        });
        assert_eq!(done.recv().unwrap(), thread);
        assert!(reports.leave(later).is_some());
        let _end = reports.expect();
    }

    #[test]
    fn what_was_left_is_waited_for() {
        let reports = left();
        assert!(reports.wait_done(Duration::ZERO));
        let (go, wait) = channel();
        let (is_done, done) = (Arc::new(AtomicBool::new(false)), channel());
        let tell = Arc::clone(&is_done);
        reports.take(|| {
            let later = move |_: &Context| {
                done.0.send(()).unwrap();
                wait.recv().unwrap();
                tell.store(true, Ordering::SeqCst);
            };
            reports.leave(later).is_none()
        });
        assert!(!reports.wait_done(Duration::ZERO), "nobody has begun it");
        let _next = stand_back(&reports);
        done.1.recv().unwrap();
        assert!(!reports.wait_done(Duration::ZERO), "it goes on");
        go.send(()).unwrap();
        assert!(reports.wait_done(LONG) && is_done.load(Ordering::SeqCst));
        let _end = reports.expect();
    }

    #[test]
    fn a_sender_that_is_kept_keeps_nobody() {
        let reports = left();
        let (_, next) = stand_back(&reports);
        let deferred = reports.lock();
        reports.trusted.store(0, Ordering::SeqCst);
        drop(deferred);
        reports.changed.notify_all();
        let _taking = reports.taking.lock().unwrap();
        // What it calls sends itself.
        send(&reports, || unreachable!());
        let waits = next.recv().unwrap();
        assert!(waits == Some(BRISK) || waits == Some(LONG), "{waits:?}");
        // Not for long at once: what this sender leaves to the thread comes without a sound.
        assert_eq!(reports.stand_back(LONG, run), Some(BRISK));
    }
}
