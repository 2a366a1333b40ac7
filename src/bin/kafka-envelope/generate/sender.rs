//! Sends values as they are, and tells of each delivery.

use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use crate::connection::{Connection, Context, HEARING};
use crate::failure::Result;

/// A topic that is not found is looked for so long at most, in milliseconds: librdkafka's limit.
const LONGEST_SEARCH: u128 = 3_600_000;

pub(crate) struct Sender {
    producer: BaseProducer<Reports>,
    /// Sent, and not reported yet.
    outstanding: u64,
}

/// What became of a message.
pub(crate) struct Report {
    /// From 1 on.
    pub(crate) number: u64,
    pub(crate) topic: String,
    /// Its partition and offset.
    pub(crate) outcome: Result<(i32, i64), KafkaError>,
}

impl Sender {
    /// Returns once a broker has answered.
    pub(crate) fn connect(connection: &Connection) -> Result<Self> {
        let mut config = connection.producer_config()?;
        let search = "topic.metadata.propagation.max.ms";
        if config.get(search).is_none() {
            config.set(search, connection.timeout().as_millis().min(LONGEST_SEARCH).to_string());
        }
        let producer: BaseProducer<Reports> = config.create_with_context(Reports::default())?;
        let client: &Client<Reports> = producer.client();
        let answer = client.fetch_metadata(None, connection.timeout()).map(drop);
        if answer.is_err() {
            // What the client says of itself, it says while it is polled.
            producer.poll(HEARING);
        }
        connection.answered(answer, &producer.context().client)?;
        Ok(Self { producer, outstanding: 0 })
    }

    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Hands a message to the client. False, where its queue is full: some reports have to be taken before.
    pub(crate) fn send(&mut self, number: u64, topic: &str, key: Option<&str>, value: &[u8]) -> bool {
        let mut record: BaseRecord<'_, [u8], [u8], Box<u64>> = BaseRecord::with_opaque_to(topic, Box::new(number));
        (record.key, record.payload) = (key.map(str::as_bytes), Some(value));
        if let Err((error, _)) = self.producer.send(record) {
            if error == KafkaError::MessageProduction(Code::QueueFull) {
                return false;
            }
            self.producer.context().add(Report { number, topic: topic.to_owned(), outcome: Err(error) });
        }
        self.outstanding += 1;
        true
    }

    /// The reports that come within this time.
    pub(crate) fn reports(&mut self, within: Duration) -> Vec<Report> {
        // Takes all that time.
        self.producer.poll(within);
        let reports = self.producer.context().take();
        self.outstanding = self.outstanding.saturating_sub(reports.len() as u64);
        reports
    }
}

/// The reports that nobody has taken yet.
#[derive(Default)]
struct Reports {
    client: Context,
    done: Mutex<Vec<Report>>,
}

impl Reports {
    fn add(&self, report: Report) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(report);
    }

    fn take(&self) -> Vec<Report> {
        mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.client.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.client.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Box<u64>) {
        let (topic, outcome) = match result {
            Ok(record) => (record.topic(), Ok((record.partition(), record.offset()))),
            Err((error, record)) => (record.topic(), Err(error.clone())),
        };
        self.add(Report { number: *number, topic: topic.to_owned(), outcome });
    }
}
