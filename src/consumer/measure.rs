//! What the caller's side measures.

#[cfg(any(feature = "app", feature = "stream"))]
use crate::consumer::Consumer;
use crate::consumer::attempt::{Cause, Failed};
use crate::consumer::desk::Desk;
use crate::error::Result;
use crate::message::arena::Arena;
use crate::metrics::{self, ConsumerMeter, Fate, Timer};

impl Desk {
    /// Hands the records over.
    pub(super) fn attempt(&mut self, attempt: impl FnOnce(&Arena) -> Result<(), Failed>) -> Result<(), Failed> {
        let timer = Timer::start();
        let outcome = attempt(self.handed());
        self.measure_attempt(timer, &outcome);
        outcome
    }

    /// The attempt with the records handed over took so long, and came to this.
    pub(super) fn measure_attempt(&mut self, timer: Timer, outcome: &Result<(), Failed>) {
        if !metrics::IS_ON {
            return;
        }
        let took = timer.took();
        let failed = outcome.as_ref().err().map(|Failed { cause, .. }| match cause {
            Cause::Unreadable(_) => Fate::Undecodable,
            Cause::Handler { .. } => Fate::Failed,
        });
        let arena = self.handed();
        let records = arena.records().len();
        let messages = arena.records().iter().filter(|record| arena.is_seen(record)).count();
        self.options.meter.batch(records);
        // Tombstones alone are done without a handler.
        if messages > 0 {
            self.options.meter.processed(took, messages, failed);
        }
    }
}

#[cfg(any(feature = "app", feature = "stream"))]
impl Consumer {
    /// This becomes of all of these records.
    pub(crate) fn count(&self, fate: Fate, arena: &Arena) {
        count(&self.desk.options.meter, fate, arena, arena.records().len());
    }
}

/// Counts the first so many of the records handed over.
pub(super) fn count(meter: &ConsumerMeter, fate: Fate, arena: &Arena, records: usize) {
    if metrics::IS_ON {
        for (source, records) in arena.counts(records) {
            meter.add(&source.topic, fate, records);
        }
    }
}

/// Counts the records at these places among those handed over.
pub(super) fn count_places(meter: &ConsumerMeter, fate: Fate, arena: &Arena, places: impl Iterator<Item = usize>) {
    if metrics::IS_ON {
        for record in places.filter_map(|place| arena.records().get(place)) {
            meter.add(&arena.source(record).topic, fate, 1);
        }
    }
}
