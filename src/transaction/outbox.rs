//! What a handler wants to be sent, until its transaction.

use std::fmt;
use std::ops::Range;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::message::Message;
use crate::otel::Tracing;
use crate::producer::{RawRecord, Writer};
use crate::settings::check;

/// Beyond this a buffer that held a huge batch is given back to the allocator.
const KEEP_BYTES: usize = 4 << 20;

/// Takes the messages that a handler makes of its batch.
///
/// They are sent after the handler returned `Ok`, in one transaction with the batch's offsets: readers of committed
/// records see all of them or none.
pub struct Outbox<'a> {
    writer: &'a Writer,
    staged: &'a mut Staged,
}

impl<'a> Outbox<'a> {
    /// An empty one.
    pub(super) fn new(writer: &'a Writer, staged: &'a mut Staged) -> Self {
        staged.clear();
        Self { writer, staged }
    }

    /// Writes a message as JSON and keeps it for the transaction. Messages of one partition stand in the log in the
    /// order of these calls.
    ///
    /// # Errors
    /// The message cannot be sent, and is not kept: [`Error::Oversize`], whose index counts the messages of this batch;
    /// [`Error::Encode`], [`Error::Limit`]; [`Error::Setting`] where the topic's name, the partition, the timestamp or a
    /// header's name cannot be used.
    pub fn send<T: Serialize>(&mut self, topic: &str, message: &Message<T>) -> Result<()> {
        let start = self.staged.buffer.len();
        let kept = self.staged.write(self.writer, topic, message);
        if kept.is_err() {
            self.staged.buffer.truncate(start);
        }
        kept
    }
}

impl fmt::Debug for Outbox<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("messages", &self.staged.records.len()).finish_non_exhaustive()
    }
}

/// Records in one buffer.
pub(super) struct Staged {
    at: DateTime<Utc>,
    buffer: Vec<u8>,
    topics: Vec<String>,
    records: Vec<Record>,
}

struct Record {
    topic: usize,
    key: Option<Range<usize>>,
    value: Range<usize>,
    headers: Vec<(String, Vec<u8>)>,
    partition: Option<i32>,
    timestamp: Option<i64>,
}

impl Staged {
    pub(super) fn new() -> Self {
        Self { at: Utc::now(), buffer: Vec::new(), topics: Vec::new(), records: Vec::new() }
    }

    fn clear(&mut self) {
        self.at = Utc::now();
        self.buffer.clear();
        self.buffer.shrink_to(KEEP_BYTES);
        self.topics.clear();
        self.records.clear();
    }

    fn write<T: Serialize>(&mut self, writer: &Writer, topic: &str, message: &Message<T>) -> Result<()> {
        let known = self.topics.iter().position(|known| known == topic);
        if known.is_none() {
            check::topic(topic)?;
        }
        let injected = Tracing::current();
        let written = writer.write(&mut self.buffer, self.at, message, &injected)?;
        if written.bytes > writer.limit {
            return Err(Error::Oversize { index: self.records.len(), bytes: written.bytes, limit: writer.limit });
        }
        let key = message.key().map(|key| {
            let start = self.buffer.len();
            self.buffer.extend_from_slice(key);
            start..self.buffer.len()
        });
        let topic = known.unwrap_or_else(|| {
            self.topics.push(topic.to_owned());
            self.topics.len() - 1
        });
        let headers = message.headers(injected.of(message.carried()));
        self.records.push(Record {
            topic,
            key,
            value: written.value,
            headers: headers.map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_vec())).collect(),
            partition: written.partition,
            timestamp: written.timestamp,
        });
        Ok(())
    }

    pub(super) fn records(
        &self,
    ) -> impl ExactSizeIterator<Item = RawRecord<'_, impl Iterator<Item = (&str, Option<&[u8]>)> + Clone>> {
        self.records.iter().map(|record| RawRecord {
            topic: self.topics.get(record.topic).map_or("", String::as_str),
            partition: record.partition,
            key: record.key.clone().and_then(|key| self.buffer.get(key)),
            value: self.buffer.get(record.value.clone()),
            headers: record.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_slice()))),
            trace: None,
            timestamp: record.timestamp,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::unpack;
    use crate::producer::Producer;

    fn writer() -> Writer {
        let producer = Producer::builder("billing", "localhost:1").config([("message.max.bytes", "2000")]).build();
        producer.unwrap().writer().clone()
    }

    #[test]
    fn what_was_refused_leaves_nothing() {
        let (writer, mut staged) = (writer(), Staged::new());
        let mut outbox = Outbox::new(&writer, &mut staged);
        outbox.send("a", &Message::new("1".to_owned()).id("k").header("h", "v").partition(3)).unwrap();
        let large = Message::new("x".repeat(3_000));
        assert!(matches!(outbox.send("a", &large), Err(Error::Oversize { index: 1, limit: 2000, .. })));
        assert!(outbox.send("a/b", &Message::new(1)).is_err());
        assert!(outbox.send("a", &Message::new(1).partition(-1)).is_err());
        assert!(outbox.send("a", &Message::new(std::collections::HashMap::from([([1], 1)]))).is_err());
        outbox.send("b", &Message::new("2".to_owned()).id("")).unwrap();

        let mut records: Vec<_> = staged.records().collect();
        let payload = |value| unpack(value).unwrap().payload::<String>().unwrap();
        let seen: Vec<_> = records
            .iter()
            .map(|record| (record.topic, record.key, payload(record.value.unwrap()), record.partition))
            .collect();
        assert_eq!(seen, [("a", Some(&b"k"[..]), "1".to_owned(), Some(3)), ("b", None, "2".to_owned(), None)]);
        assert!(records.remove(0).headers.eq([("h", Some(&b"v"[..]))]));
    }

    #[test]
    fn each_batch_begins_empty() {
        let (writer, mut staged) = (writer(), Staged::new());
        Outbox::new(&writer, &mut staged).send("a", &Message::new(1)).unwrap();
        assert_eq!(staged.records().len(), 1);
        assert_eq!(format!("{:?}", Outbox::new(&writer, &mut staged)), "Outbox { messages: 0, .. }");
        assert_eq!(staged.records().len(), 0);
    }
}
