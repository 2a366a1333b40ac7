//! Records that are handled beside one another: taken as they come, begun and done one by one, in any order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::consumer::dead_letters::Reason;
use crate::consumer::ledger::Ledger;
#[cfg(feature = "stream")]
use crate::consumer::link::Look;
use crate::consumer::link::{Begun, Link, State};
use crate::consumer::policy::{GiveUp, OnError, OnUndecodable};
use crate::consumer::{Consumer, FOR_EVER};
use crate::error::{Error, Result};
use crate::message::arena::Arena;
use crate::producer::{Delivery, Pending};

/// Says of single records that they are begun and done, from anywhere.
#[derive(Clone, Debug)]
pub(crate) struct Tally(Arc<Link>);

/// What comes from a consumer whose records are begun and done one by one.
#[cfg(feature = "stream")]
pub(crate) enum Flow {
    Records(Arena),
    /// Something waits for what was begun, so nothing of it is to be kept back: partitions are being taken away, or are
    /// paused because too much of them was taken.
    Revoking,
    Stopped,
}

/// What the builder said of failures.
#[derive(Clone, Debug)]
pub(crate) struct Policies {
    on_error: OnError,
    on_undecodable: OnUndecodable,
}

/// What comes after a failure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum After {
    /// Another attempt, after this pause.
    Again(Duration),
    /// The run ends.
    Stop,
    /// The record is skipped.
    Skip,
    /// The record becomes a dead letter.
    Bury,
}

#[cfg(feature = "stream")]
impl Flow {
    fn records(&self) -> Option<&Arena> {
        match self {
            Self::Records(arena) => Some(arena),
            Self::Revoking | Self::Stopped => None,
        }
    }
}

impl Consumer {
    /// Takes up to `limit` records: what is there of the next batch, once it is due, grouped by partition. None: the
    /// consumer was stopped. Nothing comes while too much that is done is not confirmed; with a limit of 0 nothing but the
    /// consumer's end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Consumer::process`], those of handlers aside.
    #[cfg(feature = "app")]
    pub(crate) async fn take(&mut self, limit: usize) -> Result<Option<Arena>> {
        let deadline = Instant::now() + FOR_EVER;
        let Self { link, desk, .. } = self;
        let polling = desk.options.sight.tracing.polling();
        let taken = link.wait_for_async(|state| desk.take_ready(link, state, limit, deadline)).await;
        polling.taken(taken.as_ref().map(Option::as_ref));
        taken
    }

    /// As [`Consumer::take`], and tells once of each revocation. While partitions are paused it tells so whenever all there
    /// is was taken.
    ///
    /// # Errors
    /// As [`Consumer::process`], those of handlers aside.
    #[cfg(feature = "stream")]
    pub(crate) async fn flow(&mut self, limit: usize) -> Result<Flow> {
        let deadline = Instant::now() + FOR_EVER;
        let Self { link, desk, .. } = self;
        let polling = desk.options.sight.tracing.polling();
        let taken = link.wait_for_async(|state| {
            if state.revoking.is_some() && !std::mem::replace(&mut state.is_told, true) {
                return Look::Done(Ok(Flow::Revoking));
            }
            match desk.take_ready(link, state, limit, deadline) {
                Look::Done(taken) => {
                    state.is_held_told = false;
                    Look::Done(taken.map(|arena| arena.map_or(Flow::Stopped, Flow::Records)))
                }
                Look::Wait(_) if state.is_held && !std::mem::replace(&mut state.is_held_told, true) => {
                    Look::Done(Ok(Flow::Revoking))
                }
                Look::Wait(until) => Look::Wait(until),
            }
        });
        let taken = taken.await;
        polling.taken(taken.as_ref().map(Flow::records));
        taken
    }

    /// What was taken is not needed any more; its memory is.
    pub(crate) fn recycle(&self, arena: Arena) {
        self.link.lock().recycle(arena);
    }

    /// From now on records are begun and done one by one.
    pub(crate) fn tally(&self) -> Tally {
        self.link.lock().flows = true;
        Tally(Arc::clone(&self.link))
    }

    pub(crate) fn policies(&self) -> Policies {
        let options = &self.desk.options;
        Policies { on_error: options.on_error.clone(), on_undecodable: options.on_undecodable }
    }

    /// Logs that the one record of this arena is skipped.
    pub(crate) fn log_skip(arena: &Arena, error: &Error) {
        if let Some(record) = arena.records().first() {
            Reason::of(error).log_skip(arena, record);
        }
    }

    /// Sends the dead letter of the one record of this arena.
    ///
    /// # Errors
    /// [`Error::DeadLetter`].
    pub(crate) fn bury(&self, arena: &Arena, error: &Error) -> Result<Pending> {
        match (arena.records().first(), &self.desk.options.dead_letters) {
            (Some(record), Some(dead_letters)) => dead_letters.send(arena, record, &Reason::of(error)),
            _ => Err(Error::Closed("the consumer writes no dead letters".into())),
        }
    }

    /// What became of that letter.
    ///
    /// # Errors
    /// [`Error::DeadLetter`].
    pub(crate) fn buried(&self, arena: &Arena, outcome: Result<Delivery>) -> Result<()> {
        let (Some(record), Some(dead_letters)) = (arena.records().first(), &self.desk.options.dead_letters) else {
            return outcome.map(drop);
        };
        match outcome {
            Ok(at) => {
                dead_letters.log(arena, record, at);
                Ok(())
            }
            Err(error) => Err(dead_letters.not_written(arena, record, error)),
        }
    }
}

impl Policies {
    /// What comes after a handler failed so often on a record.
    pub(crate) fn after_failure(&self, failures: u32) -> After {
        let OnError { backoff, then, .. } = &self.on_error;
        if failures < backoff.attempts {
            return After::Again(backoff.pause(failures));
        }
        match then {
            GiveUp::Stop => After::Stop,
            GiveUp::Skip => After::Skip,
            GiveUp::DeadLetter => After::Bury,
        }
    }

    /// What comes after a record that cannot be read.
    pub(crate) fn after_unreadable(&self) -> After {
        match self.on_undecodable {
            OnUndecodable::Stop => After::Stop,
            OnUndecodable::Skip => After::Skip,
            OnUndecodable::DeadLetter => After::Bury,
        }
    }
}

impl Tally {
    /// Something begins to handle a record of this ownership. False, and it may not: the partition is somebody else's,
    /// or is about to be. A revocation waits for the end of whatever began.
    pub(crate) fn begin(&self, tag: u64) -> bool {
        let mut state = self.0.lock();
        let (id, epoch) = Ledger::from_tag(tag);
        let is_going = state.revoking.as_ref().is_some_and(|revoking| revoking.contains(&id));
        if is_going || !state.ledger.is_current(tag) {
            return false;
        }
        match state.begun(tag) {
            Some(begun) => begun.count += 1,
            None => state.begun.push(Begun { id, epoch, count: 1, lent: 0 }),
        }
        true
    }

    /// Whether the partition is still this consumer's, as it was under this ownership.
    #[cfg(feature = "stream")]
    pub(crate) fn is_current(&self, tag: u64) -> bool {
        self.0.lock().ledger.is_current(tag)
    }

    /// A handler of a record of this ownership waits for somebody's answer. A revocation does not wait for it as long as
    /// for others.
    #[cfg(feature = "app")]
    pub(crate) fn lend(&self, tag: u64) {
        if let Some(begun) = self.0.lock().begun(tag) {
            begun.lent += 1;
        }
        self.0.bell.ring();
    }

    /// It waits no more.
    #[cfg(feature = "app")]
    pub(crate) fn take_back(&self, tag: u64) {
        if let Some(begun) = self.0.lock().begun(tag) {
            begun.lent -= 1;
        }
    }

    /// So much has ended that began, each under this ownership; these records are done, each an ownership and an offset.
    pub(crate) fn end(&self, ended: &[u64], done: &[(u64, i64)]) {
        if ended.is_empty() && done.is_empty() {
            return;
        }
        let mut state = self.0.lock();
        for tag in ended {
            state.end(*tag);
        }
        for (tag, offset) in done {
            let (id, epoch) = Ledger::from_tag(*tag);
            state.ledger.completed(id, epoch, *offset..offset + 1);
        }
        state.handled += done.len() as u64;
        self.0.done(state);
    }
}

impl State {
    fn begun(&mut self, tag: u64) -> Option<&mut Begun> {
        let (id, epoch) = Ledger::from_tag(tag);
        self.begun.iter_mut().find(|begun| (begun.id, begun.epoch) == (id, epoch))
    }

    fn end(&mut self, tag: u64) {
        if let Some(begun) = self.begun(tag) {
            begun.count -= 1;
            self.begun.retain(|begun| begun.count > 0);
        }
    }
}
