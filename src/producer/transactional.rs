//! What transactions need of a producer beside its calls: [`crate::transaction`] runs them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{Producer as _, PurgeConfig};

use super::delivery::{Entry, Failure, Tracker, not_delivered};
use super::flusher::Request;
use super::{Client, Producer, RawRecord, Writer};
use crate::error::Error;
use crate::native;
use crate::otel::Span;
use crate::refusal::Standing;
use crate::trace_context::Carried;

/// Records on their way. Kept, it ends their linger.
pub(crate) struct InFlight {
    refusals: Standing,
    tracker: Arc<Tracker>,
    _request: Request,
}

impl InFlight {
    /// Waits until every record has its delivery report. False: not by the deadline.
    pub(crate) fn wait_until(&self, deadline: Instant) -> bool {
        self.tracker.wait_until(deadline)
    }

    /// The records that are known to have failed, as an error; none where only purged ones did: those have no reason of
    /// their own.
    pub(crate) fn error(&self) -> Option<Error> {
        // An aborted transaction's records do not count, wherever they stand.
        let own = |(index, failure): (usize, Box<Failure>)| {
            (!is_purged(&failure.error)).then(|| (index, Failure::not_sent(failure.error)))
        };
        let failures: Vec<_> = self.tracker.failures().into_iter().filter_map(own).collect();
        (!failures.is_empty()).then(|| not_delivered(self.tracker.len(), failures, false, &self.refusals))
    }

    /// Whether records were thrown away, as librdkafka does it when the transaction fails.
    pub(crate) fn purged(&self) -> bool {
        self.tracker.failures().iter().any(|(_, failure)| is_purged(&failure.error))
    }
}

fn is_purged(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(Code::PurgeQueue | Code::PurgeInflight))
}

impl Producer {
    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.inner.client
    }

    pub(crate) fn writer(&self) -> &Writer {
        &self.inner.writer
    }

    /// How long a record may wait for its report: `transaction.timeout.ms`.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.inner.patience
    }

    /// Gives records to librdkafka, and stops at the first that it does not take by the deadline.
    pub(crate) fn send_all<'a, H>(
        &self,
        records: impl ExactSizeIterator<Item = RawRecord<'a, H>>,
        deadline: Instant,
    ) -> InFlight
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        // They have been made with the context of what was current then.
        let span = match records.len() {
            0 => Span::default(),
            some => self.inner.tracing.send(None, Some(some), [Carried::Given(None)].into_iter()).0,
        };
        let tracker = Tracker::new(records.len(), span);
        let mut refused = false;
        for (index, record) in records.enumerate() {
            let outcome = match refused {
                false => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let entry = Entry::new(&tracker, index);
                    let topic = self.inner.topics.checked(record.topic);
                    topic.and_then(|topic| self.inner.enqueue(&topic, &record.outgoing(None), entry, Some(left)))
                }
                true => Err(KafkaError::MessageProduction(Code::PurgeQueue)),
            };
            if let Err(error) = outcome {
                refused = true;
                tracker.refuse(index, error);
            }
        }
        InFlight {
            refusals: self.inner.client.context().trouble.refusals.clone(),
            tracker,
            _request: self.inner.flusher.request(),
        }
    }

    /// Waits until librdkafka is done with what was reported. False: not by the deadline.
    pub(crate) fn settled_by(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        native::flush(self.inner.client.client(), left).is_ok()
    }

    /// Ends a client of which nothing is wanted any more, without the wait for what is on its way.
    pub(crate) fn discard(self) {
        self.inner.client.purge(PurgeConfig::default().queue().inflight());
    }
}
