//! The caller's side of the engine: which records the handler gets next, and what becomes of them afterwards. Nothing
//! here waits, so handlers of either kind, blocking and async, stand on it.

use std::mem;
use std::time::{Duration, Instant};

use crate::consumer::Summary;
use crate::consumer::attempt::{Cause, Failed};
use crate::consumer::dead_letters::{DeadLetters, Reason};
use crate::consumer::hand::{Hand, Verdict};
use crate::consumer::ledger::{CommitOffset, Ledger, TopicPartition};
use crate::consumer::link::{Link, Look, State};
use crate::consumer::policy::{Backoff, Commit, GiveUp, OnError, OnUndecodable};
use crate::consumer::sight::{Sight, count, count_places};
use crate::envelope::BatchRef;
use crate::error::{Error, Result};
use crate::message::Unreadable;
use crate::message::arena::Arena;
use crate::metrics::Fate;
#[cfg(feature = "export")]
use crate::metrics::Fates;
use crate::otel::Processing;
use crate::producer::{Delivery, Pending};

/// The pauses after transactions that were aborted: a rebalance ends soon, an outage may not.
const ABORTED: Backoff = Backoff {
    first: Duration::from_millis(50),
    max: Duration::from_secs(5),
    factor: 2.0,
    jitter: 0.2,
    attempts: u32::MAX,
};

/// What the builder says to the caller's side.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) linger: Duration,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) commit: Commit,
    pub(super) on_error: OnError,
    pub(super) on_undecodable: OnUndecodable,
    pub(super) dead_letters: Option<DeadLetters>,
    pub(super) sight: Sight,
}

/// See the module's own words.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) options: Options,
    /// The batch in hand. It stays after a failure, and comes before all others.
    pub(super) hand: Option<Hand>,
    /// Since when there was nothing to hand over.
    idle_since: Option<Instant>,
    /// What was done since somebody took this.
    pub(super) summary: Summary,
    /// What was taken without a handler and is not known to be done.
    #[cfg(feature = "export")]
    pub(super) pulled: Fates,
}

/// What there is to hand over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handed {
    Records,
    /// What was left of the batch in hand belongs to somebody else by now.
    Gone,
    /// Stopped, or idle for too long.
    Nothing,
}

/// What comes after an attempt.
#[derive(Debug)]
pub(super) enum Next {
    /// The batch is at its end.
    Finished,
    /// There is more of it to hand over.
    Again,
    /// First these have to be acknowledged; then [`Desk::buried`] goes on.
    Bury(Vec<Letter>),
}

/// A dead letter on its way.
#[derive(Debug)]
pub(super) struct Letter {
    /// The record's place among those handed over.
    pub(super) place: usize,
    pub(super) pending: Pending,
}

/// While this lives, a revocation waits for the batch in hand.
#[derive(Debug)]
pub(super) struct Hold<'a>(pub(super) &'a Link);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.release();
        self.0.done(state);
    }
}

impl Desk {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            hand: None,
            idle_since: None,
            summary: Summary::default(),
            #[cfg(feature = "export")]
            pulled: Fates::default(),
        }
    }

    /// How many batches may be handled without a confirmation when the next is handed over.
    pub(super) fn max_unconfirmed(&self) -> u64 {
        match self.options.commit {
            Commit::EachBatch => 1,
            Commit::Overlapped { max_batches } => max_batches as u64,
        }
    }

    /// Whether there are records to hand over: of the batch in hand, else of the next. They are held from then on.
    pub(super) fn next(&mut self, link: &Link, state: &mut State) -> Look<Result<Handed>> {
        if link.is_stopped() {
            return Look::Done(Ok(Handed::Nothing));
        }
        if let Some(error) = state.take_failure() {
            return Look::Done(Err(error));
        }
        if state.revoking.is_some() {
            return Look::Wait(None);
        }
        let now = Instant::now();
        if let Some(hand) = &mut self.hand {
            if hand.retain(|source| state.ledger.is_current(source.tag)) {
                state.unconfirmed_losses += 1;
                if hand.arena.is_empty() {
                    return Look::Done(Ok(Handed::Gone));
                }
            }
            if !hand.arena.is_empty() {
                if hand.not_before.is_some_and(|at| now < at) {
                    return Look::Wait(hand.not_before);
                }
                hand.not_before = None;
                hand.arena.group();
                state.hold(&hand.arena);
                return Look::Done(Ok(Handed::Records));
            }
        }
        if let Some(hand) = self.hand.take() {
            state.recycle(hand.arena);
        }
        // Half: what is handled until the commit is answered has the other.
        let can_wait = 2 * (state.unconfirmed() + 1) < self.max_unconfirmed();
        state.rings |= mem::replace(&mut state.commits_can_wait, can_wait) && !can_wait;
        if state.unconfirmed() >= self.max_unconfirmed() {
            self.idle_since = None;
            return Look::Wait(None);
        }
        let linger = self.options.linger;
        if let Some(mut ready) = state.ready.pop_if(|ready| ready.is_full || ready.since + linger <= now) {
            ready.arena.group();
            state.hold(&ready.arena);
            self.hand = Some(Hand::new(ready.arena));
            self.idle_since = None;
            state.taken();
            return Look::Done(Ok(Handed::Records));
        }
        let idle = self.options.idle_timeout.map(|timeout| *self.idle_since.get_or_insert(now) + timeout);
        match (state.ready.first(), idle) {
            (Some(ready), _) => Look::Wait(Some(ready.since + linger)),
            (None, Some(idle)) if idle <= now => {
                self.idle_since = None;
                // Nothing came, and nothing could.
                Look::Done(state.refusals.first().map_or(Ok(Handed::Nothing), |refusal| Err(Error::refused(refusal))))
            }
            (None, idle) => Look::Wait(idle),
        }
    }

    /// The records to hand over, grouped by partition.
    pub(super) fn handed(&mut self) -> &Arena {
        &self.hand.get_or_insert_with(|| Hand::new(Arena::default())).arena
    }

    /// What the records are that come next, once [`Desk::next`] said that there are some.
    pub(super) fn reference(&mut self) -> BatchRef {
        self.handed().reference()
    }

    /// The offsets to commit once the records handed over are done. None where a partition of theirs went away.
    pub(super) fn offsets(&self, state: &State) -> Option<Vec<(TopicPartition, CommitOffset)>> {
        let arena = &self.hand.as_ref()?.arena;
        let ledger = &state.ledger;
        let mut offsets = Vec::new();
        for (source, range) in arena.ranges(arena.records().len()) {
            if !ledger.is_current(source.tag) {
                return None;
            }
            let (id, epoch) = Ledger::from_tag(source.tag);
            offsets.extend(ledger.committable_after(id, epoch, range).map(|offset| (ledger.name(id).clone(), offset)));
        }
        Some(offsets)
    }

    /// The records handed over are done, and a transaction has committed these offsets.
    pub(super) fn committed(&mut self, link: &Link, offsets: &[(TopicPartition, CommitOffset)]) {
        let Some(hand) = &mut self.hand else { return };
        let handed = hand.arena.records().len();
        {
            let mut state = link.lock();
            state.complete(&hand.arena, handed);
            for (_, offset) in offsets {
                state.ledger.committed(offset);
            }
        }
        self.summary.records += handed as u64;
        count(&self.options.sight.meter, Fate::Handled, &hand.arena, handed);
        hand.done(handed);
        self.go_on();
    }

    /// The records handed over come again after a pause, for no fault of the handler's.
    pub(super) fn pause(&mut self) -> Duration {
        let Some(hand) = &mut self.hand else { return Duration::ZERO };
        hand.aborts += 1;
        let pause = ABORTED.pause(hand.aborts);
        hand.not_before = Some(Instant::now() + pause);
        pause
    }

    /// The attempt with the records handed over came to this.
    pub(super) fn settle(&mut self, link: &Link, outcome: Result<(), Failed>, processing: Processing) -> Result<Next> {
        if let Err(failed) = &outcome {
            processing.failed(failed.fault());
        }
        let Some(hand) = &mut self.hand else { return Ok(Next::Finished) };
        let handed = hand.arena.records().len();
        let done = outcome.as_ref().map_or_else(|failed| failed.done, |()| handed);
        {
            let mut state = link.lock();
            if hand.arena.ranges(handed).any(|(source, _)| !state.ledger.is_current(source.tag)) {
                // What it says of a partition that went away meanwhile counts for nothing.
                state.unconfirmed_losses += 1;
            }
            state.complete(&hand.arena, done);
            state.handled += u64::from(done > 0);
            if done > 0 {
                state.processed.push(&processing);
            }
        }
        processing.end();
        self.summary.records += done as u64;
        count(&self.options.sight.meter, Fate::Handled, &hand.arena, done);
        let batch = outcome.is_err().then(|| hand.arena.reference());
        hand.done(done);
        let Err(Failed { cause, .. }) = outcome else { return Ok(self.go_on()) };
        match cause {
            Cause::Unreadable(unreadable) => self.unreadable(link, done, unreadable),
            Cause::Handler { at, seen, source } => {
                let batch = batch.map(|batch| batch.to_string()).unwrap_or_default();
                self.failed(link, at.map(|at| at - done), seen.as_deref(), Error::Handler { batch, source })
            }
        }
    }

    /// What comes now that some of the batch is done.
    fn go_on(&mut self) -> Next {
        if self.hand.as_ref().is_some_and(|hand| !hand.arena.is_empty()) {
            return Next::Again;
        }
        self.summary.batches += 1;
        Next::Finished
    }

    fn unreadable(&mut self, link: &Link, done: usize, unreadable: Unreadable) -> Result<Next> {
        if let Some(hand) = &self.hand {
            let places = unreadable.iter().map(|(place, _)| place - done);
            count_places(&self.options.sight.meter, Fate::Undecodable, &hand.arena, places);
        }
        let how = match self.options.on_undecodable {
            OnUndecodable::Stop => {
                let first = unreadable.into_iter().next().map(|(_, error)| error);
                return first.map_or(Ok(Next::Again), Err);
            }
            OnUndecodable::Skip => GiveUp::Skip,
            OnUndecodable::DeadLetter => GiveUp::DeadLetter,
        };
        let places: Vec<_> = unreadable.iter().map(|(place, error)| (place - done, error)).collect();
        self.give_up(link, how, &places)
    }

    fn failed(&mut self, link: &Link, at: Option<usize>, seen: Option<&[usize]>, error: Error) -> Result<Next> {
        let Self { hand: Some(hand), options, .. } = self else { return Ok(Next::Finished) };
        let (attempt, attempts) = (hand.arena.attempt(), options.on_error.backoff.attempts);
        let verdict = hand.failed(at, seen, &options.on_error);
        let blamed = |fate| count_places(&options.sight.meter, fate, &hand.arena, hand.blamed.iter().copied());
        blamed(Fate::Failed);
        if matches!(verdict, Verdict::Again(_)) {
            blamed(Fate::Retried);
        }
        match verdict {
            Verdict::Again(Some(pause)) => {
                log::warn!("attempt {attempt} of {attempts}, again in {pause:?}: {error}");
                hand.not_before = Some(Instant::now() + pause);
                Ok(Next::Again)
            }
            Verdict::Again(None) => {
                log::warn!("attempt {attempt}, the batch is halved: {error}");
                Ok(Next::Again)
            }
            Verdict::GiveUp(_) if options.on_error.then == GiveUp::Stop => Err(error),
            Verdict::GiveUp(places) => {
                let (how, places) = (options.on_error.then, places.into_iter().map(|place| (place, &error)));
                self.give_up(link, how, &places.collect::<Vec<_>>())
            }
        }
    }

    /// Skips the records at these places, or sends their dead letters.
    fn give_up(&mut self, link: &Link, how: GiveUp, places: &[(usize, &Error)]) -> Result<Next> {
        let Self { hand: Some(hand), options, .. } = self else { return Ok(Next::Finished) };
        // Those of partitions that went away come to somebody else.
        let is_current: Vec<_> = {
            let state = link.lock();
            let tag = |place: usize| hand.arena.source(&hand.arena.records()[place]).tag;
            places.iter().filter(|(place, _)| state.ledger.is_current(tag(*place))).collect()
        };
        let mut letters = Vec::new();
        for &&(place, error) in &is_current {
            let reason = Reason::of(error);
            let record = &hand.arena.records()[place];
            match &options.dead_letters {
                Some(dead_letters) if how == GiveUp::DeadLetter => {
                    let pending = dead_letters.send(&hand.arena, record, &reason)?;
                    letters.push(Letter { place, pending });
                }
                _ => reason.log_skip(&hand.arena, record),
            }
        }
        if how == GiveUp::DeadLetter {
            return Ok(Next::Bury(letters));
        }
        let places: Vec<_> = is_current.iter().map(|(place, _)| *place).collect();
        count_places(&options.sight.meter, Fate::Skipped, &hand.arena, places.iter().copied());
        self.summary.skipped += places.len() as u64;
        Ok(self.given_up(link, &places))
    }

    /// This became of the letters. A record is only done once its letter is acknowledged.
    pub(super) fn buried(&mut self, link: &Link, letters: Vec<(usize, Result<Delivery>)>) -> Result<Next> {
        let Self { hand: Some(hand), options: Options { dead_letters: Some(dead_letters), sight, .. }, .. } = self
        else {
            return Ok(Next::Finished);
        };
        let (mut written, mut failure) = (Vec::new(), None);
        for (place, outcome) in letters {
            let record = &hand.arena.records()[place];
            match outcome {
                Ok(at) => {
                    dead_letters.log(&hand.arena, record, at);
                    written.push(place);
                }
                Err(error) => {
                    failure.get_or_insert_with(|| dead_letters.not_written(&hand.arena, record, error));
                }
            }
        }
        self.summary.dead_lettered += written.len() as u64;
        count_places(&sight.meter, Fate::DeadLettered, &hand.arena, written.iter().copied());
        let next = self.given_up(link, &written);
        failure.map_or(Ok(next), Err)
    }

    /// The records at these places count as done.
    fn given_up(&mut self, link: &Link, places: &[usize]) -> Next {
        let Some(hand) = &mut self.hand else { return Next::Finished };
        {
            let mut state = link.lock();
            for place in places {
                let record = &hand.arena.records()[*place];
                let (id, epoch) = Ledger::from_tag(hand.arena.source(record).tag);
                state.ledger.completed(id, epoch, record.offset..record.offset + 1);
            }
            state.handled += u64::from(!places.is_empty());
        }
        self.summary.records += places.len() as u64;
        hand.remove(places);
        self.go_on()
    }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
