//! Exports that are handed to a handler.

use std::time::Duration;

use crate::consumer::{Health, Portion, Stopper, Summary, attempt_with};
use crate::error::{HandlerError, Result};
use crate::export::builder::ExportWorkerBuilder;
use crate::export::exports::Exports;
use crate::export::filter_client::FilterClient;
use crate::export::source::{Lens, Source};
use crate::message::Unreadable;
use crate::message::arena::Arena;

/// Reads the topics that the filters name, as a member of a group, and hands what the filters make of their records to a
/// handler, in batches whose offsets are committed only after it returned `Ok`.
///
/// ```no_run
/// # fn main() -> Result<(), kafka_envelope::Error> {
/// use kafka_envelope::export::{ExportWorker, Exports, FilterClient};
///
/// let filters = FilterClient::builder("filters", "localhost:9092").start()?;
/// let mut worker = ExportWorker::builder("exports", "localhost:9092", &filters).start()?;
/// worker.run(|exports: &Exports| {
///     exports.each(|export| {
///         println!("{:?}: {} {}", export.filter_ids, export.data, export.extra);
///         Ok(())
///     })
/// })?;
/// # Ok(())
/// # }
/// ```
///
/// # Contract
/// That of [`Consumer`](crate::Consumer), which reads the records and to which
/// [`ExportWorkerBuilder::consumer`] gives its policies. The index of a [`HandlerError::at`] is one of
/// [`Exports::results`]: the records before that of the result are done. A record that cannot be read goes where
/// [`on_undecodable`](crate::ConsumerBuilder::on_undecodable) says, and [`Exports::errors`] is empty. A batch without a
/// result is done without a call of the handler, and a record without one is never given up for a failure of its batch.
/// A batch that is handed over again is seen through the filters of that moment.
///
/// Which topics are read, and when, is said under [`DataClient`](super::DataClient#topics). Where dead letters are
/// written, topics to which they go are not read, whatever the filters name.
#[derive(Debug)]
pub struct ExportWorker {
    source: Source,
}

impl ExportWorker {
    /// A builder for a worker that is a member of this group, on these brokers, with the filters of that client.
    ///
    /// `brokers` is a comma-separated list of `host:port`.
    pub fn builder(group: &str, brokers: &str, filters: &FilterClient) -> ExportWorkerBuilder {
        ExportWorkerBuilder::new(group, brokers, filters)
    }

    pub(super) fn new(source: Source) -> Self {
        Self { source }
    }

    /// Handles batch after batch until the worker is stopped, or until nothing came within the consumer's `idle_timeout`
    /// where one is set. The last commit is confirmed before it returns.
    ///
    /// # Errors
    /// As [`Consumer::process`](crate::Consumer::process), and whatever ended the filter client.
    pub fn run<F>(&mut self, mut handler: F) -> Result<Summary>
    where
        F: FnMut(&Exports) -> Result<(), HandlerError>,
    {
        let Source { consumer, lens } = &mut self.source;
        consumer.run_all(&mut |arena| attempt_with(arena, |arena| decode(lens, arena), |exports| handler(exports)))
    }

    /// Stops this worker from elsewhere.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.source.consumer.stopper()
    }

    /// This worker's health, to be asked from elsewhere.
    #[must_use]
    pub fn health(&self) -> Health {
        self.source.consumer.health()
    }

    /// Leaves the group and ends the client, within this time.
    ///
    /// # Errors
    /// As [`Consumer::close`](crate::Consumer::close).
    pub fn close(self, deadline: Duration) -> Result<()> {
        self.source.consumer.close(deadline)
    }
}

/// What the filters make of the records that are handed over.
///
/// # Errors
/// All records that cannot be read.
fn decode(lens: &Lens, arena: &Arena) -> Result<Exports, Unreadable> {
    let filters = lens.filters();
    let (mut exports, mut unreadable) = (Exports::default(), Unreadable::new());
    for (place, record) in arena.records().iter().enumerate() {
        lens.add(&mut exports, &filters, arena, record);
        unreadable.extend(exports.errors.drain(..).map(|error| (place, error)));
    }
    if unreadable.is_empty() { Ok(exports) } else { Err(unreadable) }
}

impl Portion for Exports {
    fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    /// Every record handed over is among the records.
    fn records_before(&self, index: usize) -> Option<usize> {
        self.results.get(index).map(|export| export.record)
    }

    /// Records without a result are nothing that the handler could fail on.
    fn seen(&self) -> Option<Vec<usize>> {
        let mut seen: Vec<_> = self.results.iter().map(|export| export.record).collect();
        seen.dedup();
        Some(seen)
    }
}
