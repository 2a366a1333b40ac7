//! A Kafka cluster as a sink, be it the worker's own or another.

use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::producer::{Delivery, Producer, RawRecord};
use crate::python::json;
use crate::stream::sinks::{Sink, SinkId, Sinks, check_id};
use crate::trace_context::TraceContext;

const NO_CONFIG: [(&str, &str); 0] = [];

/// A Kafka cluster as a sink, the worker's own or another. Messages are plain JSON, as Python's `json.dumps` writes it:
/// `{"a": 1.0}`, with `\uXXXX` for what is not ASCII.
///
/// ```
/// use kafka_envelope::HandlerError;
/// use kafka_envelope::stream::{Agent, KafkaSink, Sinks, Worker};
///
/// async fn store(reading: u64, sinks: Sinks) -> Result<Option<()>, HandlerError> {
///     sinks.kafka("archive").send("readings", &reading).await?;
///     Ok(None)
/// }
///
/// let worker = Worker::builder("readings", "localhost:9092", "archiving")
///     .sink(KafkaSink::new("archive", "elsewhere:9092")?)
///     .sink(KafkaSink::with_config("bulk", "elsewhere:9092", [("linger.ms", "50")])?)
///     .agent(Agent::new("store", store))
///     .build()?;
/// # Ok::<(), kafka_envelope::Error>(())
/// ```
#[derive(Debug)]
pub struct KafkaSink {
    id: String,
    brokers: String,
    producer: Producer,
}

impl KafkaSink {
    /// A sink of this id, on these brokers. It connects in the background.
    ///
    /// # Errors
    /// As [`KafkaSink::with_config`].
    pub fn new(id: impl Into<String>, brokers: &str) -> Result<Self> {
        Self::with_config(id, brokers, NO_CONFIG)
    }

    /// The same with librdkafka properties, which stand over the defaults, the properties file and the environment.
    ///
    /// # Errors
    /// [`Error::Setting`]: the id is empty; otherwise as [`ProducerBuilder::build`](crate::ProducerBuilder::build).
    pub fn with_config<K: Into<String>, V: Into<String>>(
        id: impl Into<String>,
        brokers: &str,
        properties: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self> {
        let id = id.into();
        check_id(&id)?;
        // A peer as pip installs it reads nothing else.
        let producer = Producer::builder(&id, brokers).for_python().config(properties).build()?;
        Ok(Self { id, brokers: brokers.to_owned(), producer })
    }

    /// Sends a message and waits until every in-sync replica has it.
    ///
    /// # Errors
    /// - [`Error::Encode`]: the message cannot be written as JSON. [`Error::Setting`] of `message`: it is null, which
    ///   the Python library does not send.
    /// - As [`KafkaSink::send_bytes`].
    pub async fn send<T: Serialize + ?Sized>(&self, topic: &str, message: &T) -> Result<Delivery> {
        self.send_bytes(topic, &written(message)?).await
    }

    /// The same with a value as it is.
    ///
    /// # Errors
    /// [`Error::Sink`] names the sink and the topic, and has what [`Producer::produce`] says.
    pub async fn send_bytes(&self, topic: &str, value: &[u8]) -> Result<Delivery> {
        self.send_made(topic, value, None).await
    }

    /// The same, made of a record of this trace context.
    async fn send_made(&self, topic: &str, value: &[u8], trace: Option<&TraceContext>) -> Result<Delivery> {
        let no_headers: [(&str, Option<&[u8]>); 0] = [];
        let headers = no_headers.into_iter();
        let value = Some(value);
        let record = RawRecord { topic, partition: None, key: None, value, headers, trace, timestamp: None };
        self.producer.produce_raw_async(record).await.map_err(|error| Error::Sink {
            id: self.id.clone(),
            topic: topic.to_owned(),
            source: Box::new(error),
        })
    }
}

impl Sink for KafkaSink {
    fn id(&self) -> &str {
        &self.id
    }

    async fn connect(&self, timeout: Duration) -> Result<()> {
        self.producer.reach(&self.brokers, timeout).await
    }

    async fn close(&self, timeout: Duration) -> Result<()> {
        let producer = self.producer.clone();
        let flushed = tokio::task::spawn_blocking(move || producer.flush(timeout)).await;
        let failed = |why: String| Error::Closed(format!("{} did not deliver all at its end: {why}", SinkId(&self.id)));
        flushed.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
    }
}

fn written<T: Serialize + ?Sized>(message: &T) -> Result<Vec<u8>> {
    let value = json::write(message).map_err(|source| Error::Encode { source })?;
    match &*value {
        b"null" => Err(Error::setting("message", "is null")),
        _ => Ok(value),
    }
}

/// The Kafka sink of an id, if there is one; see [`Sinks::kafka`].
#[derive(Debug)]
pub struct Kafka<'a> {
    sink: Result<&'a KafkaSink>,
    sinks: &'a Sinks,
}

impl Sinks {
    /// The Kafka sink with this id. Where there is none, sending says so.
    ///
    /// What is sent takes the trace context of the record along that the agent's element came of, the headers
    /// `traceparent` and `tracestate`, where it has one; of a batch that of the first.
    #[must_use]
    pub fn kafka(&self, id: &str) -> Kafka<'_> {
        Kafka { sink: self.get(id), sinks: self }
    }
}

impl Kafka<'_> {
    /// As [`KafkaSink::send`].
    ///
    /// # Errors
    /// As there, and [`Error::Setting`] where there is no such sink.
    pub async fn send<T: Serialize + ?Sized>(self, topic: &str, message: &T) -> Result<Delivery> {
        let sink = self.sink?;
        sink.send_made(topic, &written(message)?, self.sinks.trace().as_ref()).await
    }

    /// As [`KafkaSink::send_bytes`].
    ///
    /// # Errors
    /// As there, and [`Error::Setting`] where there is no such sink.
    pub async fn send_bytes(self, topic: &str, value: &[u8]) -> Result<Delivery> {
        self.sink?.send_made(topic, value, self.sinks.trace().as_ref()).await
    }
}
