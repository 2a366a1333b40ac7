//! For the tests of a service: a broker inside the process, and batches for a handler without any broker.
//!
//! [`EmbeddedBroker`] is the simulation that ships inside librdkafka: no download, no Java, up in milliseconds. It keeps
//! about 5 MiB of each partition and forgets what is older, its transactions are hollow, and it knows no compaction, no
//! access rights and no administration. What it shows of offsets, groups or speed is no proof for Apache Kafka. A second
//! member of a group may wait for as long as a session lasts: give both a `session.timeout.ms` of 6000.
//!
//! ```
//! use kafka_envelope::testing::{ApiKey, EmbeddedBroker, ErrorCode};
//! use kafka_envelope::{Message, Producer};
//!
//! let broker = EmbeddedBroker::start()?;
//! broker.create_topic("orders", 6)?;
//! let producer = Producer::new("shop", broker.bootstrap_servers())?;
//! let message = Message::new("an apple").id("order-1");
//! producer.produce("orders", &message)?;
//!
//! broker.fail_next(ApiKey::Produce, [ErrorCode::PolicyViolation])?;
//! assert!(producer.produce("orders", &message).is_err());
//! producer.produce("orders", &message)?;
//! # Ok::<(), kafka_envelope::Error>(())
//! ```
//!
//! A handler alone:
//!
//! ```
//! use kafka_envelope::testing::Records;
//! use kafka_envelope::{Batch, HandlerError};
//! # use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize, Serialize)]
//! struct Order { sku: String, quantity: u32 }
//!
//! fn handle(batch: &Batch<Order>) -> Result<(), HandlerError> {
//!     batch.each(|order| if order.payload.quantity > 0 { Ok(()) } else { Err("nothing ordered".into()) })
//! }
//!
//! let records = Records::new("orders")
//!     .push("order-1", &Order { sku: "a".into(), quantity: 2 })
//!     .push("order-2", &Order { sku: "b".into(), quantity: 0 });
//! let error = handle(&records.batch()?).unwrap_err();
//! assert_eq!(error.index(), Some(1));
//! # Ok::<(), kafka_envelope::Error>(())
//! ```

use std::fmt;
use std::time::Duration;

use chrono::Utc;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaRespErr;
use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};

pub use rdkafka::types::{RDKafkaApiKey as ApiKey, RDKafkaErrorCode as ErrorCode};

use crate::envelope::pack;
use crate::error::{Error, Result};
use crate::message::arena::{Arena, NewRecord, Source, TimestampType};
use crate::message::{Batch, RawBatch, Unreadable, decode, decode_raw};
use crate::native;
use crate::settings::check;

/// A Kafka broker, or several, inside this process. Gone when dropped.
pub struct EmbeddedBroker {
    /// librdkafka's simulation belongs to a client.
    host: BaseProducer<Host>,
    bootstrap_servers: String,
    brokers: i32,
}

/// The client that the simulation belongs to sends nothing.
struct Host;

impl ClientContext for Host {
    /// It loses its connection when a test takes the broker down: no news.
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ProducerContext for Host {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

impl EmbeddedBroker {
    /// Starts one broker.
    ///
    /// # Errors
    /// [`Error::Kafka`] where librdkafka cannot start it.
    pub fn start() -> Result<Self> {
        Self::with_brokers(1)
    }

    /// Starts several brokers, with the ids 1, 2 and so on.
    ///
    /// # Errors
    /// [`Error::Setting`] for a number that is not from 1 to 1,000; [`Error::Kafka`] where librdkafka cannot start them.
    pub fn with_brokers(brokers: i32) -> Result<Self> {
        if !(1..=1_000).contains(&brokers) {
            return Err(Error::setting("brokers", format!("{brokers} is not from 1 to 1000")));
        }
        let host: BaseProducer<Host> = ClientConfig::new()
            .set("test.mock.num.brokers", brokers.to_string())
            // Nobody takes the host's events, so it had better have none.
            .set("log.connection.close", "false")
            .set_log_level(RDKafkaLogLevel::Emerg)
            .create_with_context(Host)?;
        // A real broker waits 3 seconds for more members before the first rebalance of a group.
        native::mock_rebalance_delay(host.client(), Duration::ZERO);
        let mut broker = Self { host, bootstrap_servers: String::new(), brokers };
        let bootstrap_servers = broker.cluster()?.bootstrap_servers();
        broker.bootstrap_servers = bootstrap_servers;
        Ok(broker)
    }

    fn cluster(&self) -> Result<MockCluster<'_, Host>> {
        let cluster = self.host.client().mock_cluster();
        cluster.ok_or_else(|| KafkaError::ClientCreation("librdkafka made no mock cluster".to_owned()).into())
    }

    /// The address for producers and consumers.
    #[must_use]
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Creates a topic. One that is not created gets 4 partitions when it is first used.
    ///
    /// # Errors
    /// [`Error::Setting`] for a name that Kafka does not allow or fewer than 1 partition; [`Error::Kafka`] where the
    /// topic exists.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        check::topic(topic)?;
        if partitions < 1 {
            return Err(Error::setting("partitions", format!("{partitions} is less than 1")));
        }
        Ok(self.cluster()?.create_topic(topic, partitions, self.brokers.min(3))?)
    }

    /// Lets the next requests of a kind fail, one with each code, whichever broker gets them.
    ///
    /// A client may retry: what it takes for transient has to be given more than once to be seen outside.
    /// `ErrorCode::BrokerTransportFailure` breaks the connection instead.
    ///
    /// ```
    /// # use kafka_envelope::testing::*;
    /// let broker = EmbeddedBroker::start()?;
    /// broker.fail_next(ApiKey::OffsetCommit, [ErrorCode::RebalanceInProgress, ErrorCode::NotCoordinator])?;
    /// # Ok::<(), kafka_envelope::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Setting`] for a code that librdkafka cannot send.
    pub fn fail_next(&self, requests: ApiKey, codes: impl IntoIterator<Item = ErrorCode>) -> Result<()> {
        let code = |code: ErrorCode| {
            RDKafkaRespErr::try_from(code as i32).map_err(|_| Error::setting("codes", format!("{code} cannot be sent")))
        };
        let codes: Vec<_> = codes.into_iter().map(code).collect::<Result<_>>()?;
        self.cluster()?.request_errors(requests, &codes);
        Ok(())
    }

    /// Takes back what [`EmbeddedBroker::fail_next`] has in store for a kind of request.
    ///
    /// # Errors
    /// [`Error::Kafka`] where librdkafka lost its brokers, which it does not.
    pub fn clear_failures(&self, requests: ApiKey) -> Result<()> {
        self.cluster()?.clear_request_errors(requests);
        Ok(())
    }

    /// Answers everything so much later, from now on, in whole milliseconds. Zero ends it.
    ///
    /// # Errors
    /// [`Error::Kafka`] where librdkafka refuses.
    pub fn delay(&self, delay: Duration) -> Result<()> {
        Ok(self.cluster()?.broker_round_trip_time(-1, delay)?)
    }

    /// Closes a broker's connections and takes no new ones. Its partitions keep it as their leader.
    ///
    /// # Errors
    /// [`Error::Kafka`] where there is no broker of this id. They count from 1.
    pub fn set_down(&self, broker: i32) -> Result<()> {
        Ok(self.cluster()?.broker_down(broker)?)
    }

    /// Lets a broker that is down take connections again.
    ///
    /// # Errors
    /// [`Error::Kafka`] where there is no broker of this id. They count from 1.
    pub fn set_up(&self, broker: i32) -> Result<()> {
        Ok(self.cluster()?.broker_up(broker)?)
    }
}

impl fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBroker")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("brokers", &self.brokers)
            .finish_non_exhaustive()
    }
}

/// Records of one partition of a topic, from which a batch for a handler is made.
#[derive(Debug)]
#[must_use]
pub struct Records {
    topic: String,
    arena: Arena,
    next_offset: i64,
    /// The first payload that could not be written.
    error: Option<String>,
}

impl Records {
    /// No records yet. They will stand in partition 0, from offset 0 on.
    pub fn new(topic: &str) -> Self {
        Self { topic: topic.to_owned(), arena: Arena::default(), next_offset: 0, error: None }
    }

    /// Adds a message as a service named `test` would send it. An empty id is a null key.
    ///
    /// A payload that cannot be written as JSON is [`Records::batch`]'s error.
    pub fn push(mut self, id: &str, payload: &(impl Serialize + ?Sized)) -> Self {
        match pack("test", payload, &[]) {
            Ok(value) => self.record(Some(id.as_bytes()).filter(|id| !id.is_empty()), Some(&value)),
            Err(error) => {
                self.error.get_or_insert_with(|| format!("record {} of the batch: {error}", self.next_offset));
                self
            }
        }
    }

    /// Adds a tombstone: a record without a value. A handler does not get it.
    pub fn tombstone(self, id: &str) -> Self {
        self.record(Some(id.as_bytes()), None)
    }

    /// Adds a record with any key and value, to see what bad input does.
    ///
    /// ```
    /// let records = kafka_envelope::testing::Records::new("orders").raw(Some(b"order-1"), Some(b"{oops"));
    /// let error = records.batch::<u32>().unwrap_err();
    /// assert!(error.to_string().starts_with("cannot decode orders:0:0:order-1: "), "{error}");
    /// ```
    pub fn raw(self, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        self.record(key, value)
    }

    fn record(mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        let topic = &self.topic;
        let source =
            self.arena.source_index(|_| true, || Source { topic: topic.as_str().into(), partition: 0, tag: 0 });
        let timestamp = Some(Utc::now().timestamp_millis());
        let timestamp_type = TimestampType::CreateTime;
        let new = NewRecord { offset: self.next_offset, timestamp, timestamp_type, key, value };
        self.arena.push(source, &new, |_| ());
        self.next_offset += 1;
        self
    }

    /// The batch, as a consumer would hand it over.
    ///
    /// # Errors
    /// [`Error::Undecodable`] where a record is no envelope or its item does not fit `T`, as a consumer meets it;
    /// [`Error::Encode`] where a payload could not be written.
    pub fn batch<T: DeserializeOwned>(&self) -> Result<Batch<'_, T>> {
        decode(self.arena()?).map_err(first_error)
    }

    /// The same with payloads as text, for a handler of [`Consumer::run_raw`](crate::Consumer::run_raw).
    ///
    /// # Errors
    /// As [`Records::batch`], except that any item fits.
    ///
    /// ```
    /// use kafka_envelope::testing::Records;
    ///
    /// let records = Records::new("readings").push("a", &[1, 2]);
    /// let batch = records.raw_batch()?;
    /// assert_eq!(batch[0].payload.get(), "[1,2]");
    /// assert_eq!(batch[0].decode::<(u8, u8)>()?, (1, 2));
    /// # Ok::<(), kafka_envelope::Error>(())
    /// ```
    pub fn raw_batch(&self) -> Result<RawBatch<'_>> {
        decode_raw(self.arena()?).map_err(first_error)
    }

    fn arena(&self) -> Result<&Arena> {
        match &self.error {
            Some(error) => Err(Error::Encode { source: serde_json::Error::custom(error) }),
            None => Ok(&self.arena),
        }
    }
}

fn first_error(mut unreadable: Unreadable) -> Error {
    unreadable.swap_remove(0).1
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Instant;

    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::producer::BaseRecord;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn records_are_what_a_consumer_hands_over() {
        let records = Records::new("orders").push("a", &json!({"x": 1})).tombstone("b").push("", "text");
        let batch: Batch<'_, Value> = records.batch().unwrap();
        assert_eq!(batch.reference().to_string(), "orders[0=0:3]");
        let seen: Vec<_> = batch.iter().map(|r| (r.id(), r.offset(), r.payload.clone())).collect();
        assert_eq!(seen, [(Some("a"), 0, json!({"x": 1})), (None, 2, json!("text"))]);
        let refs = crate::Message::new(3).caused_by(&batch[0]).caused_by_all(&batch).refs;
        assert_eq!(refs.iter().map(|cause| cause.offset).collect::<Vec<_>>(), [0, 0, 2]);
        assert_eq!(batch[0].history().unwrap().stage().unwrap().service, "test");
        assert!(batch[0].timestamp().is_some());
    }

    #[test]
    fn what_cannot_be_written_is_an_error_of_the_batch() {
        let bad = HashMap::from([(vec![1], 1)]);
        let records = Records::new("orders").push("a", &1).push("b", &bad).push("c", &2);
        let error = records.batch::<u32>().unwrap_err();
        assert!(matches!(error, Error::Encode { .. }), "{error}");
        assert!(error.to_string().contains("record 1 of the batch"), "{error}");
    }

    #[test]
    fn a_broker_may_be_used_by_any_thread() {
        fn shared<T: Send + Sync>() {}
        shared::<EmbeddedBroker>();
    }

    #[test]
    fn a_group_starts_without_delay() {
        let broker = EmbeddedBroker::start().unwrap();
        broker.create_topic("a", 1).unwrap();
        let brokers = broker.bootstrap_servers();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("group.id", "g").set("auto.offset.reset", "earliest");
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
        producer.send(BaseRecord::<(), _>::to("a").payload("1")).unwrap();
        producer.flush(Duration::from_secs(10)).unwrap();
        let consumer: BaseConsumer = config.create().unwrap();
        consumer.subscribe(&["a"]).unwrap();
        let start = Instant::now();
        while consumer.poll(Duration::from_millis(100)).is_none() {
            // With the 3 seconds of a broker's own default it would not.
            assert!(start.elapsed() < Duration::from_millis(2_500));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(EmbeddedBroker::with_brokers(0).is_err());
        let broker = EmbeddedBroker::with_brokers(2).unwrap();
        assert_eq!(broker.bootstrap_servers().split(',').count(), 2);
        assert!(broker.create_topic("", 1).is_err());
        assert!(broker.create_topic("a", 0).is_err());
        broker.create_topic("a", 1).unwrap();
        assert!(broker.create_topic("a", 1).is_err());
        assert!(broker.set_down(3).is_err());
        broker.set_down(2).unwrap();
        broker.set_up(2).unwrap();
    }
}
