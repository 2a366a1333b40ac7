//! What the caller's thread and the fetch thread share.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::consumer::ledger::{Epoch, Ledger, PartitionId, TopicPartition};
use crate::consumer::membership::Membership;
use crate::consumer::progress::{OffsetReset, StallCause};
use crate::consumer::ready::{READY_BATCHES, ReadyQueue};
use crate::consumer::taker::{Call, Taker};
use crate::envelope::BatchRef;
use crate::error::{Error, Result};
use crate::message::arena::Arena;
use crate::otel::Processed;
use crate::refusal::Standing;
use crate::sync::{Bell, lock};

/// What the caller's side asks of the fetch thread.
#[derive(Debug, Default)]
pub(super) enum Question<T> {
    #[default]
    None,
    Asked,
    Answered(T),
}

impl<T> Question<T> {
    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Self::Asked)
    }

    /// The answer, once.
    pub(super) fn take(&mut self) -> Option<T> {
        match mem::take(self) {
            Self::Answered(answer) => Some(answer),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// What the caller's side saw in the state.
pub(super) enum Look<R> {
    Done(R),
    /// Nothing yet: to look again when woken, or at that time where there is one.
    Wait(Option<Instant>),
}

#[derive(Debug, Default)]
pub(super) struct Link {
    state: Mutex<State>,
    caller: Condvar,
    taker: Taker,
    #[cfg(feature = "tokio")]
    task: tokio::sync::Notify,
    pub(super) bell: Bell,
    stopped: AtomicBool,
}

impl Link {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Rings after the lock is free, so that the fetch thread does not wake up to wait for it.
    pub(super) fn unlock(&self, mut state: MutexGuard<'_, State>) {
        let rings = mem::take(&mut state.rings);
        drop(state);
        if rings {
            self.bell.ring();
        }
    }

    pub(super) fn wake_caller(&self) {
        self.caller.notify_all();
        self.taker.call(Call::Look);
        #[cfg(feature = "tokio")]
        self.task.notify_one();
    }

    /// The caller's thread waits here, looking again whenever the fetch thread or [`Link::stop`] wakes it.
    pub(super) fn wait_for<R>(&self, mut look: impl FnMut(&mut State) -> Look<R>) -> R {
        let mut state = self.lock();
        loop {
            let until = match look(&mut state) {
                Look::Done(result) => {
                    self.unlock(state);
                    return result;
                }
                Look::Wait(until) => until,
            };
            if mem::take(&mut state.rings) {
                self.bell.ring();
            }
            state = match until {
                None => self.caller.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let timeout = until.saturating_duration_since(Instant::now());
                    self.caller.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
                }
            }
        }
    }

    /// As [`Link::wait_for`], for records: `take` takes them from librdkafka when they come while this waits.
    pub(super) fn wait_for_records<R>(&self, mut look: impl FnMut(&mut State) -> Look<R>, take: impl Fn()) -> R {
        loop {
            let mut state = self.lock();
            let until = match look(&mut state) {
                Look::Done(result) => {
                    self.unlock(state);
                    return result;
                }
                Look::Wait(until) => until,
            };
            // Under the lock, so that what changes from here on calls.
            self.taker.begin();
            self.unlock(state);
            if self.taker.wait(until) == Some(Call::Take) {
                take();
            }
        }
    }

    /// librdkafka has records, after it had none. It says so under its own queue's lock.
    pub(super) fn records_came(&self) {
        if !self.taker.call(Call::Take) {
            self.bell.ring();
        }
    }

    /// As [`Link::wait_for`], for a caller that is a task. A wake while nobody waits is kept.
    #[cfg(feature = "tokio")]
    pub(super) async fn wait_for_async<R>(&self, mut look: impl FnMut(&mut State) -> Look<R>) -> R {
        loop {
            let seen = {
                let mut state = self.lock();
                let seen = look(&mut state);
                self.unlock(state);
                seen
            };
            match seen {
                Look::Done(result) => return result,
                Look::Wait(None) => self.task.notified().await,
                Look::Wait(Some(until)) => {
                    let _ = tokio::time::timeout_at(until.into(), self.task.notified()).await;
                }
            }
        }
    }

    /// Somebody waits for commits from now on.
    pub(super) fn await_commits(&self) {
        let mut state = self.lock();
        state.rings |= mem::take(&mut state.commits_can_wait);
        self.unlock(state);
    }

    /// Something is done: there is something to commit, and perhaps a revocation that waits for it.
    pub(super) fn done(&self, mut state: MutexGuard<'_, State>) {
        state.rings |= state.wakes.done;
        self.unlock(state);
    }

    /// Waits so long. False: stopped before that.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        self.wait_for(|_| match self.is_stopped() {
            true => Look::Done(false),
            false if Instant::now() >= until => Look::Done(true),
            false => Look::Wait(Some(until)),
        })
    }

    /// None: this consumer is no member of its group just now.
    pub(super) fn membership(&self) -> Result<Option<Membership>> {
        self.ask(|state| &mut state.membership)
    }

    /// Nothing that was taken counts any more: all partitions start again from the group's committed offsets.
    pub(super) fn restart_from_committed(&self) -> Result<()> {
        self.ask(|state| &mut state.restart)
    }

    /// The same for a caller that is a task.
    #[cfg(feature = "tokio")]
    pub(super) async fn restart_from_committed_async(&self) -> Result<()> {
        self.lock().restart = Question::Asked;
        self.bell.ring();
        self.wait_for_async(|state| state.answer(|state| &mut state.restart)).await
    }

    fn ask<T>(&self, question: impl Fn(&mut State) -> &mut Question<T>) -> Result<T> {
        *question(&mut self.lock()) = Question::Asked;
        self.bell.ring();
        self.wait_for(|state| state.answer(&question))
    }

    pub(super) fn stop(&self) {
        // Under the lock, so that the caller's thread cannot miss it between its look and its wait.
        let _state = self.lock();
        self.stopped.store(true, Ordering::Relaxed);
        self.wake_caller();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// Records of one ownership of a partition that were taken without a handler: those before `upto` that are not done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Out {
    pub(super) id: PartitionId,
    pub(super) epoch: Epoch,
    pub(super) upto: i64,
}

/// Of one ownership of a partition how many records are being handled one by one, and of how many of these the handler
/// waits for somebody's answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) id: PartitionId,
    pub(super) epoch: Epoch,
    pub(super) count: usize,
    pub(super) lent: usize,
}

/// A partition that stands still.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stalled {
    pub(super) id: PartitionId,
    pub(super) next_offset: Option<i64>,
    pub(super) backlog: u64,
    pub(super) since: Instant,
    pub(super) cause: StallCause,
}

/// What of the caller's doings the fetch thread is to be woken for: every wake takes a processor, perhaps the caller's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wakes {
    /// Something is done.
    pub(super) done: bool,
    /// A batch was taken, and fewer than so many are left.
    pub(super) ready_below: usize,
}

impl Default for Wakes {
    /// Everything, as long as the fetch thread does not wait: it may have looked already.
    fn default() -> Self {
        Self { done: true, ready_below: usize::MAX }
    }
}

/// So many offset resets are remembered.
const RESETS: usize = 100;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) ledger: Ledger,
    pub(super) ready: ReadyQueue,
    /// Emptied arenas, to be filled again.
    pub(super) spare: Vec<Arena>,
    /// The partitions of the batch that a handler works on right now, and since when.
    in_hand: Vec<(PartitionId, Epoch)>,
    /// The records that were taken without a handler, and may not be done.
    pub(super) out: Vec<Out>,
    /// How many records these were when they were taken.
    #[cfg(feature = "export")]
    pub(super) out_records: u64,
    /// The ownerships of which records are being handled one by one.
    pub(super) begun: Vec<Begun>,
    /// Records are handled one by one: those of partitions that stay go on being taken while others are taken away.
    pub(super) flows: bool,
    pub(super) held_since: Option<Instant>,
    /// These partitions are being taken away: nothing more of them is handed over, and of others only where it `flows`,
    /// until that is done.
    pub(super) revoking: Option<Vec<PartitionId>>,
    /// Who takes the records knows of that.
    pub(super) is_told: bool,
    /// Partitions are paused, because too much of them is taken and not done. Who takes the records knows of that.
    #[cfg(feature = "stream")]
    pub(super) is_held: bool,
    #[cfg(feature = "stream")]
    pub(super) is_held_told: bool,
    /// Batches handled so far, how many of them the commit in flight covers, and how many are confirmed. Records are
    /// counted instead where they are taken without a handler.
    pub(super) handled: u64,
    pub(super) sent: u64,
    pub(super) confirmed: u64,
    /// Nobody waits for a commit, nor will the next batch.
    pub(super) commits_can_wait: bool,
    /// Some of what counts as confirmed is not committed: of partitions that the broker does not know.
    pub(super) is_left_out: bool,
    /// The attempts that no commit was sent for yet.
    pub(super) processed: Processed,
    /// How often a partition went away with handled records whose commit was not confirmed.
    pub(super) unconfirmed_losses: u64,
    /// What the broker answered to the last commit that failed.
    pub(super) commit_error: Option<String>,
    /// For the next call of `process` or `run`, once.
    pub(super) failure: Option<Error>,
    /// The client is beyond use: for every call.
    pub(super) fatal: Option<Code>,
    /// Partitions that stand still, each with its offset and why: for every call, until they go away.
    pub(super) stopped: Vec<(PartitionId, i64, Code)>,
    /// In whose name offsets can be committed now.
    pub(super) membership: Question<Option<Membership>>,
    /// To read all partitions again from the group's committed offsets.
    pub(super) restart: Question<()>,
    /// Whether a broker has answered yet; what the client last said of why none has.
    #[cfg(feature = "stream")]
    pub(super) connection: Question<()>,
    #[cfg(feature = "stream")]
    pub(super) trouble: Option<String>,
    /// The topics to be read from now on, until the fetch thread has subscribed to them.
    pub(super) wanted_topics: Option<Vec<String>>,
    /// What brokers refuse.
    pub(super) refusals: Standing,
    /// As of the last look.
    pub(super) stalls: Vec<Stalled>,
    pub(super) handler_timeout: Option<Duration>,
    pub(super) resets: VecDeque<OffsetReset>,
    pub(super) wakes: Wakes,
    /// The fetch thread is to be woken by who has the lock, see [`Link::unlock`].
    pub(super) rings: bool,
    /// The consumer is being closed, and has until then.
    pub(super) closing: Option<Instant>,
    /// The fetch thread does nothing any more.
    pub(super) ended: bool,
}

impl State {
    fn answer<T>(&mut self, question: impl Fn(&mut Self) -> &mut Question<T>) -> Look<Result<T>> {
        match (question(self).take(), self.beyond_use()) {
            (Some(answer), _) => Look::Done(Ok(answer)),
            (None, Some(error)) => Look::Done(Err(error)),
            (None, None) => Look::Wait(None),
        }
    }

    /// Why nothing will be done any more.
    pub(super) fn beyond_use(&self) -> Option<Error> {
        let fatal = self.fatal.map(|code| Error::Kafka(KafkaError::MessageConsumptionFatal(code)));
        fatal.or_else(|| self.ended.then(|| Error::Closed("the consumer's fetch thread has ended".into())))
    }

    /// Why nothing can be handled now, or not all that should be.
    pub(super) fn take_failure(&mut self) -> Option<Error> {
        if self.fatal.is_some() {
            return self.beyond_use();
        }
        let stopped = self.stopped.first().map(|(id, offset, code)| {
            let TopicPartition { topic, partition } = self.ledger.name(*id);
            let source = KafkaError::MessageConsumption(*code);
            Error::Partition { topic: topic.to_string(), partition: *partition, offset: *offset, source }
        });
        self.failure.take().or(stopped).or_else(|| self.beyond_use())
    }

    /// Batches that a crash now would repeat, besides the one in hand.
    pub(super) fn unconfirmed(&self) -> u64 {
        self.handled - self.confirmed
    }

    /// Whether everything handled is committed, or is no longer ours to commit. What the broker does not know holds
    /// nothing back, but where this `is_last` it is missed.
    pub(super) fn confirm_by(&self, deadline: Instant, is_last: bool) -> Look<Result<()>> {
        if self.unconfirmed() == 0 && !(is_last && self.is_left_out) {
            return Look::Done(Ok(()));
        }
        if self.ended {
            return Look::Done(Err(Error::Closed("the consumer's fetch thread has ended".into())));
        }
        // A client that is beyond use commits nothing more.
        if Instant::now() >= deadline || self.fatal.is_some() {
            return Look::Done(Err(self.not_committed()));
        }
        Look::Wait(Some(deadline))
    }

    /// Whether no commit is under way or to be sent.
    pub(super) fn quiet_by(&self, deadline: Instant) -> Look<Result<()>> {
        if self.ledger.in_flight().is_none() && !self.ledger.has_committable() {
            return Look::Done(Ok(()));
        }
        match self.beyond_use() {
            Some(error) => Look::Done(Err(error)),
            None if Instant::now() >= deadline => Look::Done(Err(self.not_committed())),
            None => Look::Wait(Some(deadline)),
        }
    }

    /// What is handled and not known to be committed.
    pub(super) fn not_committed(&self) -> Error {
        let unconfirmed = self.ledger.unconfirmed();
        let partitions = unconfirmed.map(|(name, offsets)| (&*name.topic, name.partition, offsets.start, offsets.end));
        Error::NotCommitted {
            partitions: BatchRef::from_ranges(partitions).to_string(),
            reason: match &self.commit_error {
                Some(reason) => format!("the broker's last answer was: {reason}"),
                None => "the broker did not answer in time".into(),
            },
        }
    }

    /// A batch was taken, or some of it.
    pub(super) fn taken(&mut self) {
        self.rings |= self.ready.len() < self.wakes.ready_below;
    }

    /// Marks the batch's partitions as being worked on.
    pub(super) fn hold(&mut self, arena: &Arena) {
        self.in_hand.clear();
        let handed = arena.ranges(arena.records().len());
        self.in_hand.extend(handed.map(|(source, _)| Ledger::from_tag(source.tag)));
        self.held_since = Some(Instant::now());
    }

    /// The handler works on nothing any more.
    pub(super) fn release(&mut self) {
        self.in_hand.clear();
        self.held_since = None;
    }

    /// See [`Health::is_healthy`](crate::consumer::Health::is_healthy).
    pub(super) fn is_healthy(&self) -> bool {
        let ended = self.ended || self.fatal.is_some();
        !ended && self.refusals.first().is_none() && self.stalls.is_empty() && self.handler_overdue().is_none()
    }

    /// How long the handler has worked, where that is longer than it may.
    pub(super) fn handler_overdue(&self) -> Option<Duration> {
        let worked = self.held_since?.elapsed();
        self.handler_timeout.filter(|timeout| worked > *timeout).map(|_| worked)
    }

    /// The partitions that the handler works on.
    pub(super) fn in_hand(&self) -> impl Iterator<Item = &TopicPartition> {
        self.in_hand.iter().map(|(id, _)| self.ledger.name(*id))
    }

    pub(super) fn remember(&mut self, reset: OffsetReset) {
        if self.resets.len() == RESETS {
            self.resets.pop_front();
        }
        self.resets.push_back(reset);
    }

    /// Whether the handler works on records of a partition that is still owned as it was when it got them, or some
    /// that were taken without a handler are not done. Once the consumer is being closed nobody can say so any more.
    pub(super) fn holds(&self, ids: &[PartitionId]) -> bool {
        let is_out = |out: &Out| self.ledger.watermark(out.id).is_some_and(|watermark| watermark < out.upto);
        let out = self.out.iter().filter(|out| is_out(out)).map(|out| (out.id, out.epoch));
        let begun = self.begun.iter().filter(|begun| begun.count > begun.lent).map(|begun| (begun.id, begun.epoch));
        let untended = out.chain(begun).filter(|_| self.closing.is_none());
        let mut held = self.in_hand.iter().copied().chain(untended);
        held.any(|(id, epoch)| ids.contains(&id) && self.ledger.epoch(id) == Some(epoch))
    }

    /// Whether handlers of records of these partitions wait for somebody's answer.
    pub(super) fn waits_for_others(&self, ids: &[PartitionId]) -> bool {
        let is_waiting = |begun: &&Begun| begun.lent > 0 && self.ledger.epoch(begun.id) == Some(begun.epoch);
        self.closing.is_none() && self.begun.iter().filter(is_waiting).any(|begun| ids.contains(&begun.id))
    }

    /// The first `count` records of the arena are done.
    pub(super) fn complete(&mut self, arena: &Arena, count: usize) {
        for (source, offsets) in arena.ranges(count) {
            let (id, epoch) = Ledger::from_tag(source.tag);
            self.ledger.completed(id, epoch, offsets);
        }
    }

    pub(super) fn recycle(&mut self, mut arena: Arena) {
        // Besides those that are ready one is in hand.
        if self.spare.len() < READY_BATCHES + 1 {
            arena.clear();
            self.spare.push(arena);
        }
    }
}

#[cfg(test)]
impl Link {
    pub(super) fn is_waited_for_records(&self) -> bool {
        self.taker.is_there()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::desk::Hold;

    #[test]
    fn the_fetch_thread_is_told_what_it_waits_for() {
        let link = Link::default();
        assert!(!link.bell.take_ring());
        for done in [true, false] {
            link.lock().wakes = Wakes { done, ready_below: 0 };
            link.done(link.lock());
            assert_eq!(link.bell.take_ring(), done);
            drop(Hold(&link));
            assert_eq!(link.bell.take_ring(), done, "a batch is not in hand any more");
        }
        let mut looks = 0;
        link.wait_for(|state| {
            looks += 1;
            if looks > 1 {
                assert!(link.bell.take_ring(), "who waits for the fetch thread has woken it");
                return Look::Done(());
            }
            state.rings = true;
            Look::Wait(Some(Instant::now()))
        });
        assert!(!link.bell.take_ring(), "once is enough");
        link.wait_for(|state| {
            state.rings = true;
            Look::Done(())
        });
        assert!(link.bell.take_ring());
        link.unlock(link.lock());
        assert!(!link.bell.take_ring());
    }
}
