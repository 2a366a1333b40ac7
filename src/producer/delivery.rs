//! From a record given to librdkafka to its delivery report, and to whoever waits for that.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use smallvec::{SmallVec, smallvec};

use super::context::Context;
use super::threads::CLOSE;
use super::{FLUSH_ON_DROP, Inner};
use crate::client;
use crate::error::{Error, Result};
use crate::fault::Fault;
use crate::otel::Span;
use crate::refusal::{Refusal, RefusalKind, Standing};
use crate::sync::lock;

/// Where an acknowledged record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// The partition.
    pub partition: i32,
    /// The record's own offset. -1 where the broker does not tell: with `acks=0`, and for a record that a retry found
    /// to be in the log already.
    pub offset: i64,
}

/// What became of a batch whose messages were all acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Where the messages stand, in the batch's order, without those that were skipped.
    pub deliveries: Vec<Delivery>,
    /// The places in the batch of messages that are larger than `message.max.bytes` and were left out, as
    /// [`Oversize::Skip`](crate::Oversize::Skip) asks.
    pub skipped: Vec<usize>,
}

/// Why a record was not acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: KafkaError,
    pub(super) possibly_persisted: bool,
}

impl Failure {
    /// The record never left this process.
    pub(super) fn not_sent(error: KafkaError) -> Box<Self> {
        Box::new(Self { error, possibly_persisted: false })
    }
}

/// Kept small: most are good, and glibc frees what is larger than 120 bytes of another thread's under a lock.
pub(super) type Outcome = Result<Delivery, Box<Failure>>;

/// The records of one call, and what is known of each.
pub(super) struct Tracker {
    state: Mutex<State>,
    done: Condvar,
}

struct State {
    /// How many outcomes are still to come.
    left: usize,
    outcomes: SmallVec<[Option<Outcome>; 1]>,
    /// How many threads wait. To wake nobody takes a system call, too.
    waiting: u32,
    waker: Option<Waker>,
    /// Nobody will ask.
    abandoned: bool,
    /// Of all of them, until the last is settled.
    span: Span,
}

impl Tracker {
    /// The span ends once every record is settled.
    pub(super) fn new(records: usize, span: Span) -> Arc<Self> {
        let outcomes = smallvec![None; records];
        let state = State { left: records, outcomes, waiting: 0, waker: None, abandoned: false, span };
        Arc::new(Self { state: Mutex::new(state), done: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Says what became of a record. Answers a failure that nobody will ask for. `wake` is to wake the future that waits.
    #[must_use]
    pub(super) fn settle(&self, index: usize, outcome: Outcome, wake: impl FnOnce(Waker)) -> Option<Box<Failure>> {
        let mut state = self.lock();
        let unclaimed = if state.abandoned { outcome.as_ref().err().cloned() } else { None };
        let State { left, outcomes, span, .. } = &mut *state;
        let is_alone = outcomes.len() == 1;
        if let Some(place @ None) = outcomes.get_mut(index) {
            match &outcome {
                Ok(delivery) if is_alone => span.acknowledged(delivery.partition, delivery.offset),
                Ok(_) => {}
                Err(failure) => span.failed(Fault::Code(failure.error.rdkafka_error_code())),
            }
            *place = Some(outcome);
            *left -= 1;
        }
        if *left == 0 {
            let (waker, mut span) = (state.waker.take(), std::mem::take(&mut state.span));
            let is_awaited = state.waiting > 0;
            drop(state);
            // Before anybody hears of it.
            span.end();
            if is_awaited {
                self.done.notify_all();
            }
            if let Some(waker) = waker {
                wake(waker);
            }
        }
        unclaimed
    }

    /// Librdkafka did not take a record. Whoever gave it that will ask.
    pub(super) fn refuse(&self, index: usize, error: KafkaError) {
        let _ = self.settle(index, Err(Failure::not_sent(error)), |waker| client::guarded(|| waker.wake()));
    }

    /// Waits until every record is settled. False: `give_up`, which is asked each second, said so before.
    pub(super) fn wait(&self, mut give_up: impl FnMut() -> bool) -> bool {
        let mut state = self.lock();
        while state.left > 0 {
            let (next, is_late) = self.sleep(state, Duration::from_secs(1));
            state = next;
            if state.left > 0 && is_late && give_up() {
                return false;
            }
        }
        true
    }

    /// The same until a deadline.
    pub(super) fn wait_until(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let time = deadline.saturating_duration_since(Instant::now());
            if state.left == 0 || time.is_zero() {
                return state.left == 0;
            }
            state = self.sleep(state, time).0;
        }
    }

    /// Sleeps until somebody wakes this thread, or for this long, and says whether it was that long.
    fn sleep<'a>(&self, mut state: MutexGuard<'a, State>, time: Duration) -> (MutexGuard<'a, State>, bool) {
        state.waiting += 1;
        let (mut state, timeout) = self.done.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        (state, timeout.timed_out())
    }

    pub(super) fn len(&self) -> usize {
        self.lock().outcomes.len()
    }

    /// What is known to have failed by now.
    pub(super) fn failures(&self) -> Vec<(usize, Box<Failure>)> {
        let state = self.lock();
        let failure = |(index, outcome): (usize, &Option<Outcome>)| Some((index, outcome.as_ref()?.clone().err()?));
        state.outcomes.iter().enumerate().filter_map(failure).collect()
    }

    /// The same as a future is asked.
    fn poll(&self, task: &TaskContext<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.left == 0 {
            return Poll::Ready(());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(task.waker()),
            none => *none = Some(task.waker().clone()),
        }
        Poll::Pending
    }

    /// All outcomes. Only to be asked once they are there.
    pub(super) fn take(&self) -> Vec<Outcome> {
        let outcomes = std::mem::take(&mut self.lock().outcomes);
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(lost()))).collect()
    }
}

/// A record of which nothing is known, because the client is gone.
fn lost() -> Box<Failure> {
    Box::new(Failure { error: KafkaError::Canceled, possibly_persisted: true })
}

/// What goes with a record through librdkafka.
pub(crate) struct Entry {
    pub(super) tracker: Arc<Tracker>,
    pub(super) index: usize,
}

impl Entry {
    pub(super) fn new(tracker: &Arc<Tracker>, index: usize) -> Box<Self> {
        Box::new(Self { tracker: Arc::clone(tracker), index })
    }
}

/// The error of a call of which records failed. `places` are those of the outcomes in the batch.
pub(super) fn not_delivered(
    total: usize,
    mut failures: Vec<(usize, Box<Failure>)>,
    fatal: bool,
    refusals: &Standing,
) -> Error {
    // What a refusal brings about: records that cannot be sent, until their time is up or the client is beyond use.
    // A topic's right fails its own messages alone, and by its own code.
    let is_why = |refusal: &Refusal, (_, failure): &(usize, Box<Failure>)| {
        let Some(code) = failure.error.rdkafka_error_code() else { return false };
        let waited = [Code::MessageTimedOut, Code::PurgeQueue, Code::PurgeInflight, Code::Fatal];
        let own = Refusal::of_right(code, "").map(|own| own.kind);
        own == Some(refusal.kind) || waited.contains(&code) && refusal.kind != RefusalKind::Topic
    };
    let mut standing = refusals.all().into_iter();
    let refusal = standing.find(|refusal| failures.iter().any(|failure| is_why(refusal, failure))).map(Box::new);
    failures.sort_by_key(|(place, _)| *place);
    let possibly_persisted =
        failures.iter().filter(|(_, failure)| failure.possibly_persisted).map(|(place, _)| *place).collect();
    let failed = failures.into_iter().map(|(place, failure)| (place, failure.error)).collect();
    Error::NotDelivered { total, failed, possibly_persisted, fatal, refusal }
}

/// Who asks for the outcomes of a call. Dropped, it leaves the failures to the log, those to come too.
pub(super) struct Claim {
    tracker: Arc<Tracker>,
    context: Arc<Context>,
}

impl Claim {
    pub(super) fn new(tracker: Arc<Tracker>, context: &Arc<Context>) -> Self {
        Self { tracker, context: Arc::clone(context) }
    }

    /// Whether every record is settled, else the task is woken then.
    pub(super) fn poll(&self, task: &TaskContext<'_>) -> Poll<()> {
        self.tracker.poll(task)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.tracker.lock();
        state.abandoned = true;
        // Dropped outside of the lock: it is foreign code.
        let waker = state.waker.take();
        let unclaimed: Vec<_> = state.outcomes.iter_mut().filter_map(|outcome| outcome.take()?.err()).collect();
        drop(state);
        drop(waker);
        for failure in unclaimed {
            self.context.lament(&failure);
        }
    }
}

/// A message on its way, from [`Producer::send`](super::Producer::send).
///
/// Wait for it with [`Pending::wait`], or await it as a future. Dropping it does not take the message back: it is sent
/// all the same, and if it then fails, that is logged and counted
/// ([`Producer::unclaimed_failures`](super::Producer::unclaimed_failures)).
///
/// As a future it needs no runtime, and it does not end the wait for more messages to share a request (`linger.ms`).
/// It does not keep the producer alive.
#[must_use = "the message is sent whether or not its delivery is waited for, but only this says whether it arrived"]
pub struct Pending {
    claim: Claim,
    producer: Weak<Inner>,
}

impl Pending {
    pub(super) fn new(claim: Claim, producer: Weak<Inner>) -> Self {
        Self { claim, producer }
    }

    /// Waits for the acknowledgement, at most for `delivery.timeout.ms`. Ends the wait for more messages to share a
    /// request.
    ///
    /// # Errors
    /// [`Error::NotDelivered`] where the message was not acknowledged.
    pub fn wait(self) -> Result<Delivery> {
        match self.producer.upgrade() {
            Some(producer) => producer.wait(&self.claim.tracker)?,
            None => {
                // Its end purges what is left, so the report is there or about to come.
                self.claim.tracker.wait_until(Instant::now() + FLUSH_ON_DROP + CLOSE);
            }
        }
        self.outcome()
    }

    fn outcome(&self) -> Result<Delivery> {
        let outcome = self.claim.tracker.take().pop().unwrap_or_else(|| Err(lost()));
        outcome.map_err(|failure| {
            let fatal = self.producer.upgrade().is_some_and(|producer| producer.is_fatal());
            not_delivered(1, vec![(0, failure)], fatal, &self.claim.context.trouble.refusals)
        })
    }
}

impl Future for Pending {
    type Output = Result<Delivery>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        self.claim.poll(task).map(|()| self.outcome())
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("done", &(self.claim.tracker.lock().left == 0)).finish_non_exhaustive()
    }
}

/// Whether librdkafka's queue had no room.
pub(super) fn is_full(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(Code::QueueFull)
}
