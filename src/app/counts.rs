//! What an app has done so far.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an app, or a listener, has done so far, to be asked from anywhere. Cheap to clone.
#[derive(Clone, Default)]
pub struct Counts(Arc<Counters>);

#[derive(Default)]
struct Counters {
    handled: AtomicU64,
    retried: AtomicU64,
    rejected: AtomicU64,
    unhandled: AtomicU64,
    without_event: AtomicU64,
    skipped: AtomicU64,
    dead_lettered: AtomicU64,
    late_responses: AtomicU64,
    unreadable_responses: AtomicU64,
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Count {
    Handled,
    Retried,
    Rejected,
    Unhandled,
    WithoutEvent,
    Skipped,
    DeadLettered,
    LateResponse,
    UnreadableResponse,
}

impl Counts {
    fn counter(&self, what: Count) -> &AtomicU64 {
        match what {
            Count::Handled => &self.0.handled,
            Count::Retried => &self.0.retried,
            Count::Rejected => &self.0.rejected,
            Count::Unhandled => &self.0.unhandled,
            Count::WithoutEvent => &self.0.without_event,
            Count::Skipped => &self.0.skipped,
            Count::DeadLettered => &self.0.dead_lettered,
            Count::LateResponse => &self.0.late_responses,
            Count::UnreadableResponse => &self.0.unreadable_responses,
        }
    }

    pub(super) fn add(&self, what: Count) {
        self.counter(what).fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self, what: Count) -> u64 {
        self.counter(what).load(Ordering::Relaxed)
    }

    /// Records for which all that was registered succeeded.
    #[must_use]
    pub fn handled(&self) -> u64 {
        self.get(Count::Handled)
    }

    /// Further attempts, after failures.
    #[must_use]
    pub fn retried(&self) -> u64 {
        self.get(Count::Retried)
    }

    /// Records that the middleware rejected.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.get(Count::Rejected)
    }

    /// Records of events that nothing was registered for.
    #[must_use]
    pub fn unhandled(&self) -> u64 {
        self.get(Count::Unhandled)
    }

    /// Records that say of no event. Each is logged.
    #[must_use]
    pub fn without_event(&self) -> u64 {
        self.get(Count::WithoutEvent)
    }

    /// Records that were skipped by [`GiveUp::Skip`](crate::GiveUp::Skip) or
    /// [`OnUndecodable::Skip`](crate::OnUndecodable::Skip).
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.get(Count::Skipped)
    }

    /// Records that became dead letters.
    #[must_use]
    pub fn dead_lettered(&self) -> u64 {
        self.get(Count::DeadLettered)
    }

    /// Responses that came when nobody waited for them any more.
    #[must_use]
    pub fn late_responses(&self) -> u64 {
        self.get(Count::LateResponse)
    }

    /// Records from the topics of responses that say of no event, or of no question. Each is logged.
    #[must_use]
    pub fn unreadable_responses(&self) -> u64 {
        self.get(Count::UnreadableResponse)
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counts")
            .field("handled", &self.handled())
            .field("retried", &self.retried())
            .field("rejected", &self.rejected())
            .field("unhandled", &self.unhandled())
            .field("without_event", &self.without_event())
            .field("skipped", &self.skipped())
            .field("dead_lettered", &self.dead_lettered())
            .field("late_responses", &self.late_responses())
            .field("unreadable_responses", &self.unreadable_responses())
            .finish()
    }
}
