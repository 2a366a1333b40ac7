//! One of the places that a limit of concurrent tasks gives.

use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::consumer::Tally;
use crate::sync::lock;

/// So many places. Those who come back from a wait are served before anybody new.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    places: Arc<Semaphore>,
    /// A place became free in the middle of a task.
    freed: Arc<Notify>,
}

/// A place that one task has, but for the time in which it waits for somebody's answer.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    held: Mutex<Held>,
    /// Who is told when the place is lent, and under which ownership the task's record was read.
    lender: Option<(Tally, u64)>,
    /// One of several waits has taken the place again for all of them, or none is needed any more.
    settled: Notify,
}

#[derive(Debug)]
struct Held {
    place: Option<OwnedSemaphorePermit>,
    /// How many waits are under way.
    waits: usize,
    /// The lender was told so.
    is_lent: bool,
    /// The task is done: nobody takes a place for it any more.
    is_over: bool,
}

impl Slots {
    pub(super) fn new(limit: usize, freed: Arc<Notify>) -> Self {
        Self { places: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))), freed }
    }

    /// A place, where one is free.
    pub(super) fn take(&self) -> Option<Slot> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let held = Held { place: Some(place), waits: 0, is_lent: false, is_over: false };
        Some(Slot { slots: self.clone(), held: Mutex::new(held), lender: None, settled: Notify::new() })
    }
}

impl Slot {
    /// The place of a task with a record of this ownership.
    pub(super) fn of(self, tally: Tally, tag: u64) -> Self {
        Self { lender: Some((tally, tag)), ..self }
    }

    /// Waits for somebody's answer. The place is free for others meanwhile, or the one who answers might never get one.
    pub(super) async fn lend<F: Future>(&self, wait: F) -> F::Output {
        let lent = Lent::new(self);
        let answer = wait.await;
        drop(lent);
        self.take_again().await;
        answer
    }

    /// The task is done.
    pub(super) fn end(&self) {
        let mut held = lock(&self.held);
        held.is_over = true;
        drop(held.place.take());
        self.take_back(&mut held);
        drop(held);
        self.settled.notify_waiters();
    }

    /// Tells that the place is lent.
    fn tell(&self, held: &mut Held) {
        if let Some((tally, tag)) = self.lender.as_ref().filter(|_| !held.is_over && !held.is_lent) {
            tally.lend(*tag);
            held.is_lent = true;
        }
    }

    /// Tells that it is lent no more.
    fn take_back(&self, held: &mut Held) {
        if let Some((tally, tag)) = self.lender.as_ref().filter(|_| std::mem::take(&mut held.is_lent)) {
            tally.take_back(*tag);
        }
    }

    async fn take_again(&self) {
        let is_needed = |held: &Held| held.waits == 0 && held.place.is_none() && !held.is_over;
        let settled = self.settled.notified();
        if !is_needed(&lock(&self.held)) {
            return;
        }
        let mut unused = Unused(Some(&self.slots.freed));
        let place = tokio::select! {
            place = Arc::clone(&self.slots.places).acquire_owned() => place.ok(),
            // A second place would be one that the task itself keeps from becoming free.
            () = settled => return,
        };
        let mut held = lock(&self.held);
        if is_needed(&held) {
            held.place = place;
            unused.0 = None;
            drop(held);
            self.settled.notify_waiters();
        }
    }
}

/// Tells of a place that somebody waited for and does not take.
struct Unused<'a>(Option<&'a Notify>);

impl Drop for Unused<'_> {
    fn drop(&mut self) {
        if let Some(freed) = self.0 {
            freed.notify_one();
        }
    }
}

/// While this lives, the place is free.
struct Lent<'a>(&'a Slot);

impl<'a> Lent<'a> {
    fn new(slot: &'a Slot) -> Self {
        let mut held = lock(&slot.held);
        held.waits += 1;
        slot.tell(&mut held);
        drop(held.place.take());
        drop(held);
        slot.slots.freed.notify_one();
        Self(slot)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.0.held);
        held.waits -= 1;
        if held.waits == 0 {
            self.0.take_back(&mut held);
        }
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
