//! Records without a handler: taken as they are there, and said to be done later.

#[cfg(feature = "export")]
use std::time::Duration;
use std::time::Instant;

use crate::consumer::desk::Desk;
use crate::consumer::hand::Hand;
use crate::consumer::ledger::Ledger;
use crate::consumer::link::{Link, Look, Out, Ready, State};
use crate::consumer::{Consumer, FOR_EVER};
use crate::error::Result;
use crate::message::arena::Arena;

/// So many records count as a batch where fewer are taken at once: else who takes them one by one would wait for a
/// commit after every few.
const BATCH: usize = 500;

impl Consumer {
    /// Takes up to `limit` records, which is at least 1: what is there of the next batch, once it is due, grouped by
    /// partition. None: nothing came in time, or the consumer was stopped. Nothing comes while partitions are being taken
    /// away, and while too much that is done is not confirmed.
    ///
    /// They are out until [`Consumer::all_done`]: nothing of them is committed, and a revocation waits for them.
    ///
    /// # Errors
    /// As [`Consumer::process`], those of handlers aside.
    #[cfg(feature = "export")]
    pub(crate) fn pull(&mut self, limit: usize, timeout: Duration) -> Result<Option<&Arena>> {
        let deadline = Instant::now() + timeout.min(FOR_EVER);
        let is_some = self.wait_for(|desk, link, state| desk.pull(link, state, limit, deadline))?;
        Ok(is_some.then(|| self.desk.handed()))
    }

    /// The same for a caller that is a task, for as long as it takes. None: the consumer was stopped.
    ///
    /// # Errors
    /// As [`Consumer::process`], those of handlers aside.
    #[cfg(feature = "app")]
    pub(crate) async fn pull_async(&mut self, limit: usize) -> Result<Option<&Arena>> {
        let deadline = Instant::now() + FOR_EVER;
        let Self { link, desk, .. } = self;
        let is_some = link.wait_for_async(|state| desk.pull(link, state, limit, deadline)).await?;
        Ok(is_some.then(|| self.desk.handed()))
    }

    /// All records that were taken are done.
    ///
    /// # Errors
    /// [`Error::Kafka`](crate::Error::Kafka) and [`Error::Closed`](crate::Error::Closed) where the client can commit
    /// nothing any more.
    pub(crate) fn all_done(&mut self) -> Result<()> {
        let mut state = self.link.lock();
        state.all_done();
        let beyond_use = state.beyond_use();
        drop(state);
        // There is something to commit, and perhaps a revocation that waits.
        self.link.bell.ring();
        beyond_use.map_or(Ok(()), Err)
    }

    #[cfg(feature = "export")]
    pub(crate) fn is_stopped(&self) -> bool {
        self.link.is_stopped()
    }
}

impl Desk {
    /// Whether there are records to take. They are in hand from then on, and out.
    fn pull(&mut self, link: &Link, state: &mut State, limit: usize, deadline: Instant) -> Look<Result<bool>> {
        if let Some(hand) = self.hand.take() {
            state.recycle(hand.arena);
        }
        match self.take_ready(link, state, limit, deadline) {
            Look::Done(Ok(Some(arena))) => {
                state.hand_out(&arena);
                self.hand = Some(Hand::new(arena));
                Look::Done(Ok(true))
            }
            Look::Done(Ok(None)) => Look::Done(Ok(false)),
            Look::Done(Err(error)) => Look::Done(Err(error)),
            Look::Wait(until) => Look::Wait(until),
        }
    }

    /// The records there are to take, grouped by partition. None: stopped, or the time is up.
    pub(super) fn take_ready(
        &mut self,
        link: &Link,
        state: &mut State,
        limit: usize,
        deadline: Instant,
    ) -> Look<Result<Option<Arena>>> {
        if link.is_stopped() {
            return Look::Done(Ok(None));
        }
        if let Some(error) = state.take_failure() {
            return Look::Done(Err(error));
        }
        let now = Instant::now();
        let linger = self.options.linger;
        let most = self.max_unconfirmed().saturating_mul(limit.max(BATCH) as u64);
        let is_free = limit > 0 && (state.flows || state.revoking.is_none()) && state.unconfirmed() < most;
        let is_due = |ready: &Ready| ready.is_full || ready.arena.len() >= limit || ready.since + linger <= now;
        if is_free && state.ready.as_ref().is_some_and(is_due) {
            let Some(mut arena) = state.take_ready(limit) else { return Look::Done(Ok(None)) };
            arena.group();
            // There is room for more.
            link.bell.ring();
            return Look::Done(Ok(Some(arena)));
        }
        match &state.ready {
            _ if now >= deadline => Look::Done(Ok(None)),
            Some(ready) if is_free => Look::Wait(Some(deadline.min(ready.since + linger))),
            _ => Look::Wait(Some(deadline)),
        }
    }
}

impl State {
    /// The batch that is ready, or so many records from its front. What is left of it is filled up again.
    fn take_ready(&mut self, limit: usize) -> Option<Arena> {
        if let Some(ready) = self.ready.take_if(|ready| ready.arena.len() <= limit) {
            return Some(ready.arena);
        }
        let ready = self.ready.as_mut()?;
        let mut arena = self.spare.pop().unwrap_or_default();
        arena.refill(&mut ready.arena, |records, _| records <= limit);
        // Its first record came no later than that.
        ready.since = Instant::now();
        Some(arena)
    }

    fn hand_out(&mut self, arena: &Arena) {
        self.out_records += arena.records().len() as u64;
        let Self { out, ledger, .. } = self;
        out.retain(|out| ledger.epoch(out.id) == Some(out.epoch));
        for (source, offsets) in arena.ranges(arena.records().len()) {
            let (id, epoch) = Ledger::from_tag(source.tag);
            match out.iter_mut().find(|out| (out.id, out.epoch) == (id, epoch)) {
                Some(out) => out.upto = offsets.end,
                None => out.push(Out { id, epoch, upto: offsets.end }),
            }
        }
    }

    /// Of a partition that went away this says nothing.
    fn all_done(&mut self) {
        self.handled += std::mem::take(&mut self.out_records);
        for Out { id, epoch, upto } in self.out.drain(..) {
            self.ledger.completed(id, epoch, 0..upto);
        }
    }
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
