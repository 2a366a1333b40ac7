//! Dead letters: records that are given up, as they came, with headers that say from where and why.
//!
//! The headers are those of Spring Kafka's `DeadLetterPublishingRecoverer` (its `KafkaHeaders.DLT_*`): texts in UTF-8,
//! numbers big-endian as Java writes them.

use std::fmt;
use std::time::Duration;
use std::vec;

use crate::error::{Error, Result, excerpt};
use crate::message::Headers;
use crate::message::arena::{Arena, Record};
use crate::producer::{Delivery, Pending, Producer, RawRecord};
use crate::settings::Resolved;

/// Appended to a topic's name, as Spring Kafka does.
pub(super) const SUFFIX: &str = "-dlt";
/// The most bytes of an error's text in a header. The record itself may be as large as the topic takes.
const LONGEST_MESSAGE: usize = 1_024;
/// The longest that a letter may be on its way, and the shortest that leaves a broker time to answer.
const PATIENCE: Duration = Duration::from_secs(30);
const SHORTEST_PATIENCE: Duration = Duration::from_secs(1);

type Letter<'a> = RawRecord<'a, vec::IntoIter<(&'a str, Option<&'a [u8]>)>>;

/// Where dead letters go: all that the consumer needs of a producer.
trait Outlet: Send + Sync {
    fn send(&self, letter: Letter<'_>) -> Result<Pending>;

    /// Ends without a wait for letters on their way.
    fn discard(self: Box<Self>);
}

impl Outlet for Producer {
    fn send(&self, letter: Letter<'_>) -> Result<Pending> {
        self.send_raw(letter)
    }

    fn discard(self: Box<Self>) {
        Producer::discard(*self);
    }
}

/// Where a topic's dead letters go unless something else is said.
pub(super) fn topic_of(topic: &str) -> String {
    format!("{topic}{SUFFIX}")
}

/// The topics to which dead letters go.
#[derive(Clone, Debug)]
pub(super) enum LetterTopics {
    /// Each topic has its own.
    Suffixed,
    /// One for all.
    One(String),
}

impl LetterTopics {
    /// What matches them: librdkafka's form of a pattern.
    pub(super) fn pattern(&self) -> String {
        match self {
            Self::Suffixed => format!("{SUFFIX}$"),
            // Of what a topic's name may hold, only a dot means something else there.
            Self::One(topic) => format!("^{}$", topic.replace('.', "\\.")),
        }
    }

    pub(super) fn contains(&self, topic: &str) -> bool {
        match self {
            Self::Suffixed => topic.ends_with(SUFFIX),
            Self::One(one) => topic == one,
        }
    }
}

/// Writes dead letters.
pub(super) struct DeadLetters {
    /// Some until the end.
    outlet: Option<Box<dyn Outlet>>,
    /// One topic for all; else each topic has its own.
    topic: Option<String>,
    group: String,
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Drop for DeadLetters {
    /// A record whose letter nobody waits for any more is not committed, and comes again.
    fn drop(&mut self) {
        if let Some(outlet) = self.outlet.take() {
            outlet.discard();
        }
    }
}

impl DeadLetters {
    /// Connects as the consumer with these settings does. A letter is on its way for less than the drain budget, so that
    /// a revocation can wait for it.
    pub(super) fn new(
        service: &str,
        brokers: &str,
        group: &str,
        topic: Option<String>,
        consumer: &Resolved,
        drain_budget: Duration,
    ) -> Result<Self> {
        let patience = (drain_budget * 2 / 3).clamp(SHORTEST_PATIENCE, PATIENCE);
        let (timeout, half) = (patience.as_millis().to_string(), (patience / 2).as_millis().to_string());
        let producer = Producer::builder(service, brokers)
            .config(consumer.connection())
            // Whatever the environment says of other producers: a letter counts once every in-sync replica has it.
            .config([
                ("acks", "all"),
                ("enable.idempotence", "true"),
                ("max.in.flight", "5"),
                ("retries", "2147483647"),
            ])
            // A topic that does not exist is told as such.
            .config([("delivery.timeout.ms", &timeout), ("topic.metadata.propagation.max.ms", &half)])
            // The broker decides what is too large, and letters of one batch never wait for room.
            .config([("message.max.bytes", "1000000000"), ("queue.buffering.max.kbytes", "1048576")])
            .config([("queue.buffering.max.messages", "1000000"), ("linger.ms", "0")])
            .build()?;
        Ok(Self { outlet: Some(Box::new(producer)), topic, group: group.to_owned() })
    }

    pub(super) fn topic_for(&self, topic: &str) -> String {
        self.topic.clone().unwrap_or_else(|| topic_of(topic))
    }

    /// Sends the record as it came; the answer tells when it is acknowledged.
    pub(super) fn send(&self, arena: &Arena, record: &Record, reason: &Reason) -> Result<Pending> {
        let source = arena.source(record);
        let topic = self.topic_for(&source.topic);
        let (partition, offset) = (source.partition.to_be_bytes(), record.offset.to_be_bytes());
        let timestamp = record.timestamp().map(i64::to_be_bytes);
        let attempts = record.failures.max(1).to_be_bytes();
        let own: [(&str, Option<&[u8]>); 8] = [
            ("kafka_dlt-original-topic", Some(source.topic.as_bytes())),
            ("kafka_dlt-original-partition", Some(&partition)),
            ("kafka_dlt-original-offset", Some(&offset)),
            ("kafka_dlt-original-timestamp", timestamp.as_ref().map(|bytes| &bytes[..])),
            ("kafka_dlt-original-consumer-group", Some(self.group.as_bytes())),
            ("kafka_dlt-exception-fqcn", Some(reason.class.as_bytes())),
            ("kafka_dlt-exception-message", Some(reason.message().as_bytes())),
            // Not one of Spring's.
            ("kafka_dlt-attempts", Some(&attempts)),
        ];
        let came = Headers::of(arena, record);
        let headers: Vec<_> = came.iter().chain(own.into_iter().filter(|(_, value)| value.is_some())).collect();
        let (key, value) = (arena.key(record), arena.value(record));
        let headers = headers.into_iter();
        let letter = RawRecord { topic: &topic, key, value, headers, partition: None, trace: None, timestamp: None };
        let sent = match &self.outlet {
            Some(_) if topic == *source.topic => {
                Err(Error::setting("dead_letter_topic", "the record was read from it: its letter would come back"))
            }
            Some(outlet) => outlet.send(letter),
            None => Err(Error::Closed("the writer of dead letters has ended".into())),
        };
        sent.map_err(|error| self.not_written(arena, record, error))
    }

    pub(super) fn log(&self, arena: &Arena, record: &Record, at: Delivery) {
        let topic = self.topic_for(&arena.source(record).topic);
        log::warn!("{} is a dead letter: {topic}:{}:{}", reference(arena, record), at.partition, at.offset);
    }

    pub(super) fn not_written(&self, arena: &Arena, record: &Record, source: Error) -> Error {
        let topic = self.topic_for(&arena.source(record).topic);
        Error::DeadLetter { record: reference(arena, record), topic, source: Box::new(source) }
    }
}

/// Why a record is given up.
#[derive(Debug)]
pub(super) struct Reason {
    class: &'static str,
    message: String,
}

impl Reason {
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::Undecodable { source, .. } => {
                Self { class: "kafka_envelope::Error::Undecodable", message: source.to_string() }
            }
            Error::Handler { source, .. } => {
                Self { class: "kafka_envelope::Error::Handler", message: source.to_string() }
            }
            error => Self { class: "kafka_envelope::Error", message: error.to_string() },
        }
    }

    fn message(&self) -> &str {
        let end = (0..=LONGEST_MESSAGE.min(self.message.len())).rev().find(|end| self.message.is_char_boundary(*end));
        &self.message[..end.unwrap_or(0)]
    }

    pub(super) fn log_skip(&self, arena: &Arena, record: &Record) {
        let attempts = record.failures.max(1);
        log::error!("{} is skipped after attempt {attempts}: {}", reference(arena, record), self.message());
    }
}

fn reference(arena: &Arena, record: &Record) -> String {
    let source = arena.source(record);
    let key = arena.key(record).map(excerpt).unwrap_or_default();
    format!("{}:{}:{}:{key}", source.topic, source.partition, record.offset)
}
