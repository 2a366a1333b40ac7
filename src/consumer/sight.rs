//! What the caller's side shows of its work: metrics and spans, of the same things and from the same places.

#[cfg(any(feature = "app", feature = "stream"))]
use crate::consumer::Consumer;
use crate::consumer::attempt::{Cause, Failed};
use crate::consumer::desk::{Desk, Handed};
use crate::consumer::exactly_once::Outcome;
use crate::error::Result;
use crate::fault::Fault;
use crate::message::arena::Arena;
use crate::metrics::{self, ConsumerMeter, Fate, Timer};
use crate::otel::{Polling, Processing, Tracing};

/// Whom a consumer's work is shown to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight {
    pub(crate) meter: ConsumerMeter,
    pub(crate) tracing: Tracing,
}

/// Something that is being handled: since when, and its span.
#[derive(Debug)]
pub(crate) struct Observed {
    timer: Timer,
    processing: Processing,
}

impl Observed {
    pub(crate) fn begin(processing: Processing) -> Self {
        Self { timer: Timer::start(), processing }
    }

    /// With its span as the current one.
    #[cfg(feature = "tokio")]
    pub(crate) async fn during<F: Future>(&self, future: F) -> F::Output {
        self.processing.during(future).await
    }

    /// Tells how long it took.
    #[cfg(feature = "app")]
    pub(crate) fn end(self, fault: Option<Fault<'_>>) -> std::time::Duration {
        if let Some(fault) = fault {
            self.processing.failed(fault);
        }
        self.timer.took()
    }
}

impl Failed {
    pub(super) fn fault(&self) -> Fault<'_> {
        match &self.cause {
            Cause::Unreadable(_) => Fault::Unreadable,
            Cause::Handler { source, .. } => Fault::Handler(&**source),
        }
    }
}

impl Desk {
    /// A wait for a batch has ended.
    pub(super) fn polled(&mut self, polling: Polling, next: &Result<Handed>) {
        let is_some = matches!(next, Ok(Handed::Records));
        polling.taken(next.as_ref().map(|_| is_some.then(|| self.handed())));
    }

    /// Hands the records over. The span ends with the second.
    pub(super) fn attempt(
        &mut self,
        attempt: impl FnOnce(&Arena) -> Result<(), Failed>,
    ) -> (Result<(), Failed>, Processing) {
        let observed = self.observe();
        let outcome = observed.processing.run(|| attempt(self.handed()));
        let processing = self.observed(observed, &outcome);
        (outcome, processing)
    }

    /// An attempt with the records handed over begins.
    pub(super) fn observe(&mut self) -> Observed {
        let tracing = self.options.sight.tracing.clone();
        Observed::begin(tracing.process(self.handed()))
    }

    /// Commits the transaction of an attempt with the records handed over.
    pub(super) fn commit(&mut self, processing: &Processing, commit: impl FnOnce() -> Outcome) -> Outcome {
        let Sight { meter, tracing } = self.options.sight.clone();
        let (timer, committing) = (Timer::start(), tracing.transaction(self.handed(), processing));
        let outcome = committing.run(commit);
        let fault = outcome.fault();
        meter.committed(timer.took(), fault);
        if let Some(fault) = fault {
            committing.failed(fault);
        }
        outcome
    }

    /// It came to this.
    pub(super) fn observed(&mut self, observed: Observed, outcome: &Result<(), Failed>) -> Processing {
        let Observed { timer, processing } = observed;
        if metrics::IS_ON {
            let took = timer.took();
            let meter = self.options.sight.meter.clone();
            let arena = self.handed();
            let mut seen = arena.records().iter().filter(|record| arena.is_seen(record));
            meter.batch(arena.records().len());
            // Tombstones alone are done without a handler.
            if seen.next().is_some() {
                meter.processed(took, || 1 + seen.count(), outcome.as_ref().err().map(Failed::fault));
            }
        }
        processing
    }
}

#[cfg(any(feature = "app", feature = "stream"))]
impl Consumer {
    /// Whom it is shown to what becomes of its records.
    pub(crate) fn sight(&self) -> Sight {
        self.desk.options.sight.clone()
    }

    /// This becomes of all of these records.
    pub(crate) fn count(&self, fate: Fate, arena: &Arena) {
        count(&self.desk.options.sight.meter, fate, arena, arena.records().len());
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
