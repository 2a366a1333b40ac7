//! Transactions: a batch's outputs and its offsets, committed together or not at all.

mod calls;
mod commit;
mod outbox;
mod run;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Result;
use crate::producer::{Producer, ProducerBuilder, Writer};
use crate::settings::check;
use calls::Calls;
use outbox::Staged;

pub use outbox::Outbox;

use commit::{Cause, TransactionFailure};

/// The most that a transaction may take, and the taking over of its id. Half of `transaction.timeout.ms` where that is
/// less: what the broker itself ends at its timeout looks as if another producer had taken over.
const LIMIT: Duration = Duration::from_secs(30);

/// Sends what a handler makes of its batches in transactions, for exactly-once runs.
///
/// Every process of a service needs a `transactional_id` of its own that stays the same when it starts again: a new
/// producer of an id ends what the old one left open, and fences the old one.
///
/// Nothing is begun before the handler returned `Ok`, so a transaction is open only while its outputs are written. When
/// a transaction's result cannot be known, or its client is beyond use, a new client takes over the id by itself.
pub struct TransactionalProducer {
    builder: ProducerBuilder,
    id: String,
    writer: Writer,
    staged: Staged,
    /// How long a transaction may take.
    limit: Duration,
    /// None: a new one is to take over.
    session: Option<Session>,
}

/// One client's life.
struct Session {
    calls: Calls,
    producer: Producer,
    /// Whether it has taken over the id.
    initialised: bool,
}

impl Session {
    fn start(builder: &ProducerBuilder) -> Result<Self> {
        let producer = builder.clone().build()?;
        Ok(Self { calls: Calls::start(producer.client())?, producer, initialised: false })
    }
}

impl TransactionalProducer {
    /// A producer with the default settings, for the service of this name. It connects in the background, and takes over
    /// the `transactional_id` at its first use.
    ///
    /// # Errors
    /// As [`TransactionalProducerBuilder::build`].
    pub fn new(service: &str, brokers: &str, transactional_id: &str) -> Result<Self> {
        Self::builder(service, brokers, transactional_id).build()
    }

    /// Builds a producer for the service of this name, which becomes part of every message's history. `brokers` are
    /// `host:port`, with commas between.
    pub fn builder(service: &str, brokers: &str, transactional_id: &str) -> TransactionalProducerBuilder {
        TransactionalProducerBuilder {
            producer: Producer::builder(service, brokers).transactional(transactional_id),
            id: transactional_id.to_owned(),
        }
    }

    /// Where a handler puts its messages for the next [`TransactionalProducer::commit`]. Begins empty.
    pub(crate) fn outbox(&mut self) -> Outbox<'_> {
        Outbox::new(&self.writer, &mut self.staged)
    }
}

impl fmt::Debug for TransactionalProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let initialised = self.session.as_ref().is_some_and(|session| session.initialised);
        f.debug_struct("TransactionalProducer")
            .field("transactional_id", &self.id)
            .field("initialised", &initialised)
            .finish_non_exhaustive()
    }
}

impl Drop for TransactionalProducer {
    fn drop(&mut self) {
        self.discard();
    }
}

/// What a [`TransactionalProducer`] is built from. Nothing is checked and nothing connects before
/// [`TransactionalProducerBuilder::build`].
#[derive(Clone, Debug)]
#[must_use]
pub struct TransactionalProducerBuilder {
    producer: ProducerBuilder,
    id: String,
}

impl TransactionalProducerBuilder {
    /// librdkafka properties over the defaults, the properties file and the environment, as for a
    /// [`Producer`](ProducerBuilder::config). Later calls win. `acks` and `enable.idempotence` have to stay as they are,
    /// and `delivery.timeout.ms` cannot be more than `transaction.timeout.ms`, which it is by default.
    ///
    /// Two defaults differ from librdkafka's: `retry.backoff.ms=5`, because a broker that is not yet done with the last
    /// commit asks to come again, and `topic.metadata.propagation.max.ms=10000`, after which a topic that does not exist
    /// is an error.
    ///
    /// ```
    /// let producer = kafka_envelope::TransactionalProducer::builder("billing", "localhost:9092", "billing-1")
    ///     .config([("transaction.timeout.ms", "30000")])
    ///     .build()?;
    /// # Ok::<(), kafka_envelope::Error>(())
    /// ```
    pub fn config<K: Into<String>, V: Into<String>>(mut self, properties: impl IntoIterator<Item = (K, V)>) -> Self {
        self.producer = self.producer.config(properties);
        self
    }

    /// A properties file (`key=value` lines) over the defaults. The environment and
    /// [`TransactionalProducerBuilder::config`] stand above it.
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.producer = self.producer.config_file(path);
        self
    }

    /// Checks everything and starts the client, which connects in the background.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) names what cannot work: service, brokers, `transactional.id`, or a
    /// property. [`Error::Kafka`](crate::Error::Kafka) where librdkafka or the system cannot start a client.
    pub fn build(self) -> Result<TransactionalProducer> {
        let Self { producer: builder, id } = self;
        check::non_empty("transactional.id", &id)?;
        let session = Session::start(&builder)?;
        let limit = session.producer.patience().map_or(LIMIT, |timeout| LIMIT.min(timeout / 2));
        let (writer, staged) = (session.producer.writer().clone(), Staged::new());
        Ok(TransactionalProducer { builder, id, writer, staged, limit, session: Some(session) })
    }
}
