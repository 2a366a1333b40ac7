//! Records that are taken as they are there, many or few, without a handler that gets them as one batch.

use std::time::Instant;

use crate::consumer::desk::Desk;
use crate::consumer::link::{Link, Look, State};
use crate::consumer::ready::Ready;
use crate::error::Result;
use crate::message::arena::Arena;

/// So many records count as a batch where fewer are taken at once: else who takes them one by one would wait for a
/// commit after every few.
pub(super) const BATCH: usize = 500;

impl Desk {
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
        if is_free && state.ready.first().is_some_and(is_due) {
            let Some(mut arena) = state.take_ready(limit) else { return Look::Done(Ok(None)) };
            arena.group();
            state.taken();
            return Look::Done(Ok(Some(arena)));
        }
        match state.ready.first() {
            _ if now >= deadline => Look::Done(Ok(None)),
            Some(ready) if is_free => Look::Wait(Some(deadline.min(ready.since + linger))),
            _ => Look::Wait(Some(deadline)),
        }
    }
}

impl State {
    /// The first batch that is ready, or so many records from its front. What is left of it is filled up again.
    fn take_ready(&mut self, limit: usize) -> Option<Arena> {
        if let Some(ready) = self.ready.pop_if(|ready| ready.arena.len() <= limit) {
            return Some(ready.arena);
        }
        let ready = self.ready.first_mut()?;
        let mut arena = self.spare.pop().unwrap_or_default();
        arena.refill(&mut ready.arena, |records, _| records <= limit);
        // Its first record came no later than that.
        ready.since = Instant::now();
        Some(arena)
    }
}
