//! Records without a handler: taken as they are there, and said to be done later.

use std::time::{Duration, Instant};

use crate::consumer::desk::Desk;
use crate::consumer::hand::Hand;
use crate::consumer::ledger::Ledger;
use crate::consumer::link::{Link, Look, Out, State};
use crate::consumer::{Consumer, FOR_EVER};
use crate::error::Result;
use crate::message::arena::Arena;
use crate::metrics::{self, Fate};

impl Consumer {
    /// Takes up to `limit` records, which is at least 1: what is there of the next batch, once it is due, grouped by
    /// partition. None: nothing came in time, or the consumer was stopped. Nothing comes while partitions are being taken
    /// away, and while too much that is done is not confirmed.
    ///
    /// They are out until [`Consumer::all_done`]: nothing of them is committed, and a revocation waits for them.
    ///
    /// # Errors
    /// As [`Consumer::process`], those of handlers aside.
    pub(crate) fn pull(&mut self, limit: usize, timeout: Duration) -> Result<Option<&Arena>> {
        let deadline = Instant::now() + timeout.min(FOR_EVER);
        let polling = self.desk.options.sight.tracing.polling();
        let pulled = self.wait_for(|desk, link, state| desk.pull(link, state, limit, deadline));
        let arena = pulled.map(|is_some| is_some.then(|| self.desk.handed()));
        polling.taken(arena.as_ref().map(|arena| *arena));
        arena
    }

    /// All records that were taken are done.
    ///
    /// # Errors
    /// [`Error::Kafka`](crate::Error::Kafka) and [`Error::Closed`](crate::Error::Closed) where the client can commit
    /// nothing any more.
    pub(crate) fn all_done(&mut self) -> Result<()> {
        self.desk.options.sight.meter.tell(&mut self.desk.pulled);
        let mut state = self.link.lock();
        state.all_done();
        let beyond_use = state.beyond_use();
        self.link.done(state);
        beyond_use.map_or(Ok(()), Err)
    }

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
                if metrics::IS_ON {
                    for (source, records) in arena.counts(arena.records().len()) {
                        self.pulled.add(&source.topic, Fate::Handled, records);
                    }
                }
                self.hand = Some(Hand::new(arena));
                Look::Done(Ok(true))
            }
            Look::Done(Ok(None)) => Look::Done(Ok(false)),
            Look::Done(Err(error)) => Look::Done(Err(error)),
            Look::Wait(until) => Look::Wait(until),
        }
    }
}

impl State {
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
