//! What a producer is built from.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::delivery::Context;
use super::sending::Writer;
use super::threads::Threads;
use super::{Client, Inner, Producer};
use crate::error::{Error, Result};
use crate::message::Oversize;
use crate::settings::{Settings, check};

/// What a [`Producer`] is built from. Nothing is checked and nothing connects before [`ProducerBuilder::build`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ProducerBuilder {
    service: String,
    brokers: String,
    settings: Settings,
    oversize: Oversize,
}

impl ProducerBuilder {
    pub(super) fn new(service: &str, brokers: &str) -> Self {
        Self {
            service: service.to_owned(),
            brokers: brokers.to_owned(),
            settings: Settings::producer().client_id(service),
            oversize: Oversize::default(),
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

    /// Checks everything and starts the producer, which connects in the background.
    ///
    /// # Errors
    /// [`Error::Setting`] names what cannot work: service, brokers, or a property. [`Error::Kafka`] where librdkafka or
    /// the system cannot start a client.
    pub fn build(self) -> Result<Producer> {
        check::service(&self.service)?;
        check::brokers(&self.brokers)?;
        let settings = self.settings.resolve(&[("bootstrap.servers", &self.brokers)])?;
        let number = |key| settings.effective_number(key);
        let limit = usize::try_from(number("message.max.bytes")?).unwrap_or(usize::MAX);
        if number("queue.buffering.max.kbytes")?.saturating_mul(1024) < number("message.max.bytes")? {
            let reason = "is less than `message.max.bytes`: the largest messages would never fit in the queue";
            return Err(Error::setting("queue.buffering.max.kbytes", reason));
        }
        // 0 means no limit.
        let patience = Some(number("delivery.timeout.ms")?).filter(|millis| *millis > 0).map(Duration::from_millis);
        let client: Arc<Client> = Arc::new(settings.create(Context::default())?);
        let (threads, flusher) = Threads::start(&client)?;
        let Self { service, oversize, .. } = self;
        let writer = Writer { service, limit };
        let inner = Inner { client, writer, oversize, patience, flusher, threads };
        Ok(Producer { inner: Arc::new(inner) })
    }
}
