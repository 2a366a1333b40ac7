//! What a filter client's thread and its handles share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};

use crate::export::filters::Filters;
use crate::sync::{Bell, lock};

/// What a client has to say of itself.
#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) is_in_sync: bool,
    pub(super) has_ended: bool,
    pub(super) last_update: Option<DateTime<Utc>>,
    pub(super) skipped: u64,
    /// Why it ended, where it ended by an error.
    pub(super) failure: Option<String>,
}

type Call = Box<dyn Fn(&[String]) + Send + Sync>;

/// Who follows the sources. Calls are made under its lock, so that they come in order and end with the registration.
#[derive(Default)]
struct Followers {
    /// None before the client is in sync.
    sources: Option<Vec<String>>,
    calls: Vec<(u64, Call)>,
    next: u64,
}

#[derive(Default)]
pub(super) struct Shared {
    /// Readers never wait: new filters are swapped in.
    pub(super) filters: ArcSwap<Filters>,
    status: Mutex<Status>,
    ended: Condvar,
    followers: Mutex<Followers>,
    pub(super) bell: Bell,
    is_stopped: AtomicBool,
    thread: OnceLock<ThreadId>,
}

impl Shared {
    pub(super) fn status(&self) -> MutexGuard<'_, Status> {
        lock(&self.status)
    }

    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.bell.ring();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// To be told by the client's thread itself, first of all.
    pub(super) fn is_this_thread(&self) {
        let _ = self.thread.set(thread::current().id());
    }

    /// To be told by the client's thread last.
    pub(super) fn end(&self) {
        self.status().has_ended = true;
        self.ended.notify_all();
    }

    /// False: the thread did not end in time. It does not wait for itself.
    pub(super) fn wait_for_end(&self, timeout: Option<Duration>) -> bool {
        if self.thread.get() == Some(&thread::current().id()) {
            return true;
        }
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut status = self.status();
        while !status.has_ended {
            status = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return false,
                Some(left) => self.ended.wait_timeout(status, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.ended.wait(status).unwrap_or_else(PoisonError::into_inner),
            };
        }
        true
    }

    /// Tells the followers of the sources, where these are other ones than before.
    pub(super) fn tell_sources(&self, sources: Vec<String>) {
        let mut followers = lock(&self.followers);
        if followers.sources.as_ref() != Some(&sources) {
            followers.calls.iter().for_each(|(_, call)| call(&sources));
            followers.sources = Some(sources);
        }
    }
}

/// A call that is made when sources change, until this is dropped.
pub(super) struct Registration {
    shared: Arc<Shared>,
    number: u64,
}

impl Registration {
    pub(super) fn new(shared: &Arc<Shared>, call: Call) -> Self {
        let mut followers = lock(&shared.followers);
        if let Some(sources) = &followers.sources {
            call(sources);
        }
        let number = followers.next;
        followers.next += 1;
        followers.calls.push((number, call));
        Self { shared: Arc::clone(shared), number }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // The call itself goes after the lock.
        let _call = {
            let mut followers = lock(&self.shared.followers);
            let index = followers.calls.iter().position(|(number, _)| *number == self.number);
            index.map(|index| followers.calls.swap_remove(index))
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn followers_are_told_of_sources_from_sync_on_as_long_as_they_follow() {
        let shared = Arc::new(Shared::default());
        let follow = || {
            let (sender, told) = channel();
            let call = move |sources: &[String]| sender.send(sources.to_vec()).unwrap();
            (Registration::new(&shared, Box::new(call)), told)
        };
        let (early, told_early) = follow();
        assert!(told_early.try_recv().is_err(), "not in sync");
        shared.tell_sources(vec!["a".into()]);
        let (_late, told_late) = follow();
        shared.tell_sources(vec!["a".into()]);
        drop(early);
        shared.tell_sources(vec![]);
        assert_eq!(told_early.iter().collect::<Vec<_>>(), [["a"]], "once, as they did not change");
        assert_eq!(told_late.try_iter().collect::<Vec<_>>(), [vec!["a".to_owned()], vec![]]);
    }

    #[test]
    fn the_end_is_waited_for_within_a_bound_and_not_by_the_thread_itself() {
        let shared = Shared::default();
        assert!(!shared.wait_for_end(Some(Duration::from_millis(1))));
        thread::scope(|scope| {
            scope.spawn(|| {
                shared.is_this_thread();
                assert!(shared.wait_for_end(None));
                shared.end();
            });
            assert!(shared.wait_for_end(None));
        });
    }
}
