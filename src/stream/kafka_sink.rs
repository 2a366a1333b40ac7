//! A Kafka cluster as a sink, be it the worker's own or another.

use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::producer::{Delivery, Producer, RawRecord};
use crate::stream::sinks::{Sink, Sinks};

/// A Kafka cluster as a sink. Messages are plain JSON, as Python's `json.dumps` writes it.
#[derive(Debug)]
pub struct KafkaSink {
    id: String,
    producer: Producer,
}

impl KafkaSink {
    /// A sink of this id, on these brokers.
    ///
    /// # Errors
    /// As [`ProducerBuilder::build`](crate::ProducerBuilder::build).
    pub fn new(id: impl Into<String>, brokers: &str) -> Result<Self> {
        let id = id.into();
        // A peer as pip installs it reads nothing else.
        let producer = Producer::builder(&id, brokers).for_python().build()?;
        Ok(Self { id, producer })
    }

    /// Sends a message and waits until it is acknowledged.
    ///
    /// # Errors
    /// [`Error::Encode`], and those of a producer.
    pub async fn send<T: Serialize + ?Sized>(&self, topic: &str, message: &T) -> Result<Delivery> {
        let value = serde_json::to_vec(message).map_err(|source| Error::Encode { source })?;
        self.send_bytes(topic, &value).await
    }

    /// The same with a value as it is.
    ///
    /// # Errors
    /// Those of a producer.
    pub async fn send_bytes(&self, topic: &str, value: &[u8]) -> Result<Delivery> {
        let no_headers: [(&str, Option<&[u8]>); 0] = [];
        let headers = no_headers.into_iter();
        let record = RawRecord { topic, partition: None, key: None, value: Some(value), headers, timestamp: None };
        self.producer.produce_raw_async(record).await
    }
}

impl Sink for KafkaSink {
    fn id(&self) -> &str {
        &self.id
    }

    async fn close(&self, timeout: Duration) -> Result<()> {
        let producer = self.producer.clone();
        let flushed = tokio::task::spawn_blocking(move || producer.flush(timeout)).await;
        flushed.unwrap_or_else(|error| Err(Error::Closed(error.to_string())))
    }
}

/// The Kafka sink of an id, if there is one.
#[derive(Debug)]
pub struct Kafka<'a>(Result<&'a KafkaSink>);

impl Sinks {
    /// The Kafka sink with this id. Where there is none, sending says so.
    #[must_use]
    pub fn kafka(&self, id: &str) -> Kafka<'_> {
        Kafka(self.get(id))
    }
}

impl Kafka<'_> {
    /// As [`KafkaSink::send`].
    ///
    /// # Errors
    /// As there, and [`Error::Setting`] where there is no such sink.
    pub async fn send<T: Serialize + ?Sized>(self, topic: &str, message: &T) -> Result<Delivery> {
        self.0?.send(topic, message).await
    }
}
