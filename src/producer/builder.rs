//! What a producer is built from.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::sending::Writer;
use super::threads::Threads;
use super::topics::Topics;
use super::{Client, Inner, Producer};
use crate::error::{Error, Result};
use crate::message::Oversize;
use crate::metrics::ProducerMeter;
use crate::otel::Tracing;
use crate::settings::{Settings, check};

/// What a [`Producer`] is built from. Nothing is checked and nothing connects before [`ProducerBuilder::build`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ProducerBuilder {
    service: String,
    brokers: String,
    settings: Settings,
    oversize: Oversize,
    transactional_id: Option<String>,
}

impl ProducerBuilder {
    pub(super) fn new(service: &str, brokers: &str) -> Self {
        Self {
            service: service.to_owned(),
            brokers: brokers.to_owned(),
            settings: Settings::producer().measured().client_id(service),
            oversize: Oversize::default(),
            transactional_id: None,
        }
    }

    /// librdkafka properties over the defaults, the properties file and the environment. Later calls win.
    ///
    /// ```
    /// let producer = kafka_envelope::Producer::builder("billing", "localhost:9092")
    ///     .config([("linger.ms", "20")])
    ///     .build()?;
    /// # Ok::<(), kafka_envelope::Error>(())
    /// ```
    pub fn config<K: Into<String>, V: Into<String>>(mut self, properties: impl IntoIterator<Item = (K, V)>) -> Self {
        self.settings = self.settings.map(properties);
        self
    }

    /// A properties file (`key=value` lines) over the defaults. The environment and [`ProducerBuilder::config`] stand
    /// above it.
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings = self.settings.file(path);
        self
    }

    /// What becomes of messages in a batch that are larger than `message.max.bytes`.
    pub fn oversize(mut self, oversize: Oversize) -> Self {
        self.oversize = oversize;
        self
    }

    /// Sends so that `kafka-python-app` finds the records where it would put them, and can read them: it has no snappy.
    #[cfg(any(feature = "app", feature = "stream"))]
    pub(crate) fn for_python(mut self) -> Self {
        let settings = self.settings.fallback("partitioner", "murmur2_random");
        self.settings = settings.fallback("compression.type", "none");
        self
    }

    /// Everything is sent in transactions of this id.
    pub(crate) fn transactional(mut self, id: &str) -> Self {
        self.settings = self
            .settings
            // Right after a commit the broker asks to come again, for a few milliseconds: librdkafka's 100 would be most
            // of a transaction's time.
            .fallback("retry.backoff.ms", "5")
            // A topic that does not exist is told within a transaction's time.
            .fallback("topic.metadata.propagation.max.ms", "10000");
        self.transactional_id = Some(id.to_owned());
        self
    }

    /// Checks everything and starts the producer, which connects in the background.
    ///
    /// # Errors
    /// [`Error::Setting`] names what cannot work: service, brokers, or a property. [`Error::Kafka`] where librdkafka or
    /// the system cannot start a client.
    pub fn build(self) -> Result<Producer> {
        check::service(&self.service)?;
        check::brokers(&self.brokers)?;
        let mut managed = vec![("bootstrap.servers", self.brokers.as_str())];
        managed.extend(self.transactional_id.as_deref().map(|id| ("transactional.id", id)));
        let settings = self.settings.resolve(&managed)?;
        let number = |key| settings.effective_number(key);
        let limit = usize::try_from(number("message.max.bytes")?).unwrap_or(usize::MAX);
        if number("queue.buffering.max.kbytes")?.saturating_mul(1024) < number("message.max.bytes")? {
            let reason = "is less than `message.max.bytes`: the largest messages would never fit in the queue";
            return Err(Error::setting("queue.buffering.max.kbytes", reason));
        }
        // As librdkafka does it: a record cannot wait longer than its transaction. Else 0 means no limit.
        let timeout = match self.transactional_id {
            Some(_) => number("transaction.timeout.ms")?,
            None => number("delivery.timeout.ms")?,
        };
        let patience = Some(timeout).filter(|millis| *millis > 0).map(Duration::from_millis);
        let needs_id = settings.effective("enable.idempotence")? == "true";
        let client_id = settings.get("client.id").unwrap_or(&self.service);
        let (meter, tracing) = (ProducerMeter::new(client_id), Tracing::new(client_id, None));
        let client: Arc<Client> = Arc::new(settings.create(Context::new(meter))?);
        let (threads, flusher, start) = Threads::start(&client)?;
        let Self { service, oversize, .. } = self;
        let writer = Writer { service, limit };
        let topics = Topics::new(&client, needs_id.then_some(start));
        let inner = Inner { client, topics, writer, oversize, patience, flusher, threads, tracing };
        Ok(Producer { inner: Arc::new(inner) })
    }
}

#[cfg(all(test, feature = "app"))]
mod tests {
    use super::*;

    /// `kafka-python` without more has gzip alone; whatever is set by hand wins.
    #[test]
    fn what_python_is_to_read_is_not_compressed_unless_somebody_says_so() {
        let of = |config: &[(&str, &str)]| {
            let builder = Producer::builder("test", "127.0.0.1:1").for_python().config(config.iter().copied());
            let resolved = builder.settings.resolve(&[]).unwrap();
            ["compression.type", "partitioner"].map(|key| resolved.get(key).unwrap().to_owned())
        };
        assert_eq!(of(&[]), ["none", "murmur2_random"]);
        assert_eq!(of(&[("compression.codec", "gzip")]), ["gzip", "murmur2_random"]);
    }
}
