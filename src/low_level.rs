//! Helpers for a loop of one's own, on plain rdkafka clients.
//!
//! The clients come with this crate's defaults; when to commit, and what happens on an error, is the loop's own business.
//!
//! ```
//! use std::time::Duration;
//!
//! use kafka_envelope::low_level::{create_consumer, create_producer, format_ref, pack, produce, unpack};
//! use kafka_envelope::rdkafka::consumer::{CommitMode, Consumer as _};
//! # let broker = kafka_envelope::testing::EmbeddedBroker::start()?;
//! # let brokers = broker.bootstrap_servers();
//! # produce(&create_producer(brokers, [("acks", "all")])?, "orders", None, None, &pack("shop", &7, &[])?)?;
//!
//! let consumer = create_consumer(brokers, "billing-group", [("session.timeout.ms", "20000")])?;
//! let producer = create_producer(brokers, [("linger.ms", "0")])?;
//! consumer.subscribe(&["orders"])?;
//! loop {
//!     // None: nothing came in time, or a rebalance came.
//!     let Some(record) = consumer.poll(Duration::from_secs(1)) else { continue };
//!     let record = record?;
//!     // None: a tombstone, or an empty value.
//!     if let Some(message) = unpack(&record)? {
//!         let order: u32 = message.payload()?;
//!         println!("{}: {order}", format_ref(&message.reference));
//!         let value = pack("billing", &(order * 2), &[message.reference])?;
//!         produce(&producer, "invoices", None, Some(b"key"), &value)?;
//!     }
//!     // At least once: what was made of it is acknowledged.
//!     consumer.commit_message(&record, CommitMode::Sync)?;
//! #   break;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::iter;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, DefaultConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, Message};
use serde::Deserialize;
use serde::de::Error as _;

use crate::client;
use crate::envelope::{self, BatchRef, Envelope, History, Ref};
use crate::error::{Error, Result};
use crate::message::wire_size;
use crate::native;
use crate::settings::{Settings, check};

#[doc(inline)]
pub use crate::envelope::pack;
pub use crate::message::Oversize;

/// rdkafka's plain consumer with this crate's defaults, to be subscribed and polled by your own loop.
///
/// Its offsets are committed by the loop alone: `enable.auto.commit` and `enable.auto.offset.store` stay false.
///
/// # Errors
/// [`Error::Setting`] names what cannot work: brokers, group, or a property. [`Error::Kafka`] where librdkafka cannot
/// start a client.
pub fn create_consumer<K: Into<String>, V: Into<String>>(
    brokers: &str,
    group: &str,
    overrides: impl IntoIterator<Item = (K, V)>,
) -> Result<BaseConsumer> {
    check::brokers(brokers)?;
    check::group(group)?;
    let managed = [("bootstrap.servers", brokers), ("group.id", group)];
    Settings::consumer().map(overrides).resolve(&managed)?.create(DefaultConsumerContext)
}

/// The properties of a consumer with this crate's defaults, for a client of one's own kind: over them the properties file,
/// the environment and `overrides`, as the [settings](crate::settings) say.
///
/// rdkafka's `Debug` of it shows secrets.
///
/// # Errors
/// [`Error::Setting`] names what cannot work: brokers, group, the file, or a property.
pub fn consumer_config<K: Into<String>, V: Into<String>>(
    brokers: &str,
    group: &str,
    file: Option<&Path>,
    overrides: impl IntoIterator<Item = (K, V)>,
) -> Result<ClientConfig> {
    check::brokers(brokers)?;
    check::group(group)?;
    let managed = [("bootstrap.servers", brokers), ("group.id", group)];
    let settings = file.into_iter().fold(Settings::consumer(), Settings::file);
    Ok(settings.map(overrides).resolve(&managed)?.clone())
}

/// The same of a producer, or of an admin client.
///
/// # Errors
/// [`Error::Setting`] names what cannot work: brokers, the file, or a property.
pub fn producer_config<K: Into<String>, V: Into<String>>(
    brokers: &str,
    file: Option<&Path>,
    overrides: impl IntoIterator<Item = (K, V)>,
) -> Result<ClientConfig> {
    check::brokers(brokers)?;
    let settings = file.into_iter().fold(Settings::producer(), Settings::file);
    Ok(settings.map(overrides).resolve(&[("bootstrap.servers", brokers)])?.clone())
}

/// rdkafka's plain producer with this crate's defaults, for [`produce`] and [`produce_batch`].
///
/// # Errors
/// [`Error::Setting`] names what cannot work: brokers, or a property. [`Error::Kafka`] where librdkafka cannot start a
/// client.
pub fn create_producer<K: Into<String>, V: Into<String>>(
    brokers: &str,
    overrides: impl IntoIterator<Item = (K, V)>,
) -> Result<BaseProducer<DeliveryContext>> {
    check::brokers(brokers)?;
    let settings = Settings::producer().map(overrides).resolve(&[("bootstrap.servers", brokers)])?;
    let limit = usize::try_from(settings.effective_number("message.max.bytes")?).unwrap_or(usize::MAX);
    let patience = settings.effective_number("delivery.timeout.ms")?;
    let patience = Some(patience).filter(|millis| *millis > 0).map(Duration::from_millis);
    settings.create(DeliveryContext { limit, patience })
}

/// The producer's context. rdkafka's own throws delivery reports away.
#[derive(Debug)]
pub struct DeliveryContext {
    /// `message.max.bytes`.
    limit: usize,
    /// `delivery.timeout.ms`; none: no limit.
    patience: Option<Duration>,
}

client::client_context!(DeliveryContext, |_, error, reason| client::error(error, reason));

impl ProducerContext for DeliveryContext {
    type DeliveryOpaque = Arc<Receipt>;

    fn delivery(&self, result: &DeliveryResult<'_>, receipt: Arc<Receipt>) {
        let outcome = match result {
            Ok(_) => Ok(()),
            Err((error, message)) => Err((error.clone(), native::possibly_persisted(message))),
        };
        let _ = receipt.0.set(outcome);
    }
}

/// The delivery report of one record, once it has come. Goes along with a record that you send by rdkafka's own
/// `BaseProducer::send`.
#[derive(Debug, Default)]
pub struct Receipt(OnceLock<Result<(), (KafkaError, bool)>>);

impl Receipt {
    /// What the report says; none before it has come.
    #[must_use]
    pub fn result(&self) -> Option<Result<(), KafkaError>> {
        self.0.get().map(|outcome| outcome.as_ref().copied().map_err(|(error, _)| error.clone()))
    }
}

/// Sends one record and waits for its acknowledgement, at most for `delivery.timeout.ms`. The default partitioner takes
/// records of one key to one partition; without a partition and a key any partition gets it.
///
/// # Errors
/// [`Error::NotDelivered`] with the reason; [`Error::Oversize`] where it is larger than `message.max.bytes`;
/// [`Error::Setting`] where the topic's name or the partition cannot be used.
pub fn produce(
    producer: &BaseProducer<DeliveryContext>,
    topic: &str,
    partition: Option<i32>,
    key: Option<&[u8]>,
    value: &[u8],
) -> Result<()> {
    if let Some(partition @ ..=-1) = partition {
        return Err(Error::setting("partition", format!("{partition} is below 0")));
    }
    send_all(producer, topic, partition, &[(key, value)], Oversize::Refuse)
}

/// Sends records and waits until all are acknowledged. Records of one partition stand in the log in this order.
///
/// # Errors
/// [`Error::NotDelivered`] names those that were not acknowledged, what was skipped as oversize among them; the others
/// are delivered. [`Error::Oversize`] where one is larger than `message.max.bytes`, unless `oversize` says to skip it:
/// nothing was sent. [`Error::Setting`] where the topic's name cannot be used.
///
/// ```
/// use kafka_envelope::low_level::{Oversize, create_producer, pack, produce_batch};
/// # let broker = kafka_envelope::testing::EmbeddedBroker::start()?;
/// # let brokers = broker.bootstrap_servers();
///
/// let producer = create_producer(brokers, [("acks", "all")])?;
/// let batch = [(Some("a"), pack("shop", &1, &[])?), (None, pack("shop", &2, &[])?)];
/// produce_batch(&producer, "orders", &batch, Oversize::Skip)?;
/// # Ok::<(), kafka_envelope::Error>(())
/// ```
pub fn produce_batch<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    producer: &BaseProducer<DeliveryContext>,
    topic: &str,
    batch: &[(Option<K>, V)],
    oversize: Oversize,
) -> Result<()> {
    send_all(producer, topic, None, batch, oversize)
}

fn send_all<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    producer: &BaseProducer<DeliveryContext>,
    topic: &str,
    partition: Option<i32>,
    batch: &[(Option<K>, V)],
    oversize: Oversize,
) -> Result<()> {
    check::topic(topic)?;
    let limit = producer.context().limit;
    let mut skipped = Vec::new();
    for (index, (key, value)) in batch.iter().enumerate() {
        let bytes = wire_size(key.as_ref().map(AsRef::as_ref), value.as_ref().len(), iter::empty());
        match oversize {
            _ if bytes <= limit => {}
            Oversize::Refuse => return Err(Error::Oversize { index, bytes, limit }),
            Oversize::Skip => {
                log::error!(
                    "record {index} of a batch for {topic} is skipped: {bytes} bytes, `message.max.bytes` allows {limit}"
                );
                skipped.push(index);
            }
        }
    }

    let mut receipts: Vec<(usize, Arc<Receipt>)> = Vec::with_capacity(batch.len());
    let mut given_up = None;
    for (index, (key, value)) in batch.iter().enumerate() {
        let receipt = Arc::new(Receipt::default());
        let sent = match &given_up {
            _ if skipped.binary_search(&index).is_ok() => continue,
            None => {
                let mut record = BaseRecord::with_opaque_to(topic, Arc::clone(&receipt)).payload(value.as_ref());
                record.key = key.as_ref().map(AsRef::as_ref);
                record.partition = partition;
                enqueue(producer, record)
            }
            Some(error) => Err(KafkaError::clone(error)),
        };
        if let Err(error) = sent {
            if error.rdkafka_error_code() == Some(Code::QueueFull) {
                // What follows must not overtake it.
                given_up = Some(error.clone());
            }
            let _ = receipt.0.set(Err((error, false)));
        }
        receipts.push((index, receipt));
    }
    // Reports come in the order of their requests, so the last ones say most.
    wait_until(producer, || receipts.iter().rev().all(|(_, receipt)| receipt.0.get().is_some()));

    let too_large = (KafkaError::MessageProduction(Code::MessageSizeTooLarge), false);
    let outcome = |receipt: &Receipt| receipt.0.get().cloned().unwrap_or(Err((KafkaError::Canceled, true)));
    let mut failed: Vec<(usize, (KafkaError, bool))> =
        receipts.iter().filter_map(|(index, receipt)| Some((*index, outcome(receipt).err()?))).collect();
    if failed.is_empty() {
        return Ok(());
    }
    failed.extend(skipped.into_iter().map(|index| (index, too_large.clone())));
    failed.sort_by_key(|(index, _)| *index);
    Err(Error::NotDelivered {
        total: batch.len(),
        possibly_persisted: failed.iter().filter(|(_, (_, doubt))| *doubt).map(|(index, _)| *index).collect(),
        failed: failed.into_iter().map(|(index, (error, _))| (index, error)).collect(),
        fatal: native::is_fatal(producer.client()),
        refusal: None,
    })
}

/// Gives a record to librdkafka. Waits while the queue is full.
fn enqueue(
    producer: &BaseProducer<DeliveryContext>,
    mut record: BaseRecord<'_, [u8], [u8], Arc<Receipt>>,
) -> Result<(), KafkaError> {
    let start = Instant::now();
    loop {
        let Err((error, back)) = producer.send(record) else { return Ok(()) };
        let over = producer.context().patience.is_some_and(|patience| start.elapsed() > patience);
        if error.rdkafka_error_code() != Some(Code::QueueFull) || over {
            return Err(error);
        }
        record = back;
        serve(producer, Duration::from_millis(1));
    }
}

/// Takes reports until `done`. Each record gets one, at the latest after `delivery.timeout.ms`.
fn wait_until(producer: &BaseProducer<DeliveryContext>, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        // Short at first, so that a fast answer is taken at once; an outage need not be asked a thousand times a second.
        let slice = (start.elapsed() / 4).clamp(Duration::from_millis(1), Duration::from_millis(50));
        serve(producer, slice);
    }
}

/// Ends the linger for a while, then takes all reports that are there.
fn serve(producer: &BaseProducer<DeliveryContext>, slice: Duration) {
    // Runs into its timeout while there are records: their reports are only taken below.
    let _ = native::flush(producer.client(), slice);
    while native::main_events(producer.client()) > 0 {
        producer.poll(Duration::ZERO);
    }
}

/// An envelope from a record, with the reference that messages made from it carry.
#[derive(Clone, Debug)]
pub struct Unpacked<'a> {
    /// The record's topic, partition, offset, key and history.
    pub reference: Ref,
    envelope: Envelope<'a>,
}

impl<'a> Unpacked<'a> {
    /// The payload as a `T`, which may borrow from the record's value.
    ///
    /// # Errors
    /// [`Error::Undecodable`] where the item does not fit `T`.
    pub fn payload<T: Deserialize<'a>>(&self) -> Result<T> {
        let key = self.reference.key.as_deref().map(str::as_bytes);
        self.envelope.payload().map_err(|error| undecodable(&self.reference, key, error))
    }
}

/// Reads the envelope in a record. None for a tombstone and for an empty value.
///
/// A record without a key has a reference without one. A history that is too long is left out, which a warning says.
///
/// # Errors
/// [`Error::Undecodable`] where the value is no envelope or the key is not UTF-8.
pub fn unpack<M: Message>(record: &M) -> Result<Option<Unpacked<'_>>> {
    let Some(value) = record.payload().filter(|value| !value.is_empty()) else { return Ok(None) };
    let mut reference = Ref::new(record.topic(), record.partition(), record.offset());
    let key = record.key();
    let envelope = envelope::unpack(value).map_err(|error| undecodable(&reference, key, error))?;
    reference.key = match key.map(std::str::from_utf8).transpose() {
        Ok(key) => key.map(ToOwned::to_owned),
        Err(_) => {
            let source = serde_json::Error::custom("the key, which is the message's id, is not UTF-8");
            return Err(undecodable(&reference, key, Error::Decode { source }));
        }
    };
    if envelope.history_dropped() {
        log::warn!("history of {reference} is too long and is left out");
    }
    reference.history = envelope.history().map(History::from_checked);
    Ok(Some(Unpacked { reference, envelope }))
}

/// A decode error with the record's place.
fn undecodable(record: &Ref, key: Option<&[u8]>, error: Error) -> Error {
    match error {
        Error::Decode { source } => Error::undecodable(&record.topic, record.partition, record.offset, key, source),
        error => error,
    }
}

/// A reference as text: `topic:partition:offset:key`.
///
/// ```
/// use kafka_envelope::{Ref, low_level::format_ref};
///
/// assert_eq!(format_ref(&Ref { key: Some("k".into()), ..Ref::new("t", 3, 42) }), "t:3:42:k");
/// ```
#[must_use]
pub fn format_ref(reference: &Ref) -> String {
    reference.to_string()
}

/// A batch's references as text: `topic[partition=first:next,…],…`, where `next` is one past the last offset.
///
/// ```
/// use kafka_envelope::{Ref, low_level::format_batch_ref};
///
/// let batch = [Ref::new("b", 1, 0), Ref::new("a", 0, 5), Ref::new("a", 0, 1)];
/// assert_eq!(format_batch_ref(&batch), "a[0=1:6],b[1=0:1]");
/// ```
#[must_use]
pub fn format_batch_ref<'a>(references: impl IntoIterator<Item = &'a Ref>) -> String {
    references.into_iter().collect::<BatchRef>().to_string()
}

#[cfg(test)]
#[path = "low_level_tests.rs"]
mod tests;
