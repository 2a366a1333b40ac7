//! A record as handlers and agents see it, for as long as any of them needs it.

use std::fmt;
use std::ops::Range;
#[cfg(feature = "app")]
use std::str;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::envelope::{History, Ref};
use crate::error::Error;
use crate::message::arena::{Arena, NewRecord, Record as Place, Source};
use crate::message::{Cause, Headers, TimestampType};
use crate::trace_context::{TraceContext, Traced};

/// A record from Kafka: its place, time, key, headers and value. Cheap to clone.
#[derive(Clone)]
pub struct Record(Arc<Parts>);

/// What a record is made of, until it is shared.
pub(crate) struct Parts {
    source: Source,
    offset: i64,
    timestamp: Option<i64>,
    timestamp_type: TimestampType,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Range<usize>,
    bytes: Box<[u8]>,
    /// What the handlers decode.
    #[cfg(feature = "app")]
    pub(crate) message: Message,
    /// The envelope's history within the value, where there is one.
    pub(crate) history: Option<Range<usize>>,
}

/// Where a record's message stands.
#[cfg(feature = "app")]
#[derive(Clone, Debug, Default)]
pub(crate) enum Message {
    /// It is the value.
    #[default]
    Value,
    /// A part of the value: an envelope's item.
    Part(Range<usize>),
    /// Text that stood as a JSON text in the value.
    Text(Box<str>),
}

#[cfg(feature = "app")]
impl Message {
    /// The message that stands in this value.
    pub(crate) fn within<'a>(&'a self, value: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Value => value,
            Self::Part(range) => value.get(range.clone()).unwrap_or_default(),
            Self::Text(text) => text.as_bytes(),
        }
    }
}

impl Parts {
    pub(crate) fn of(arena: &Arena, place: &Place) -> Self {
        let (key, value, headers) = (arena.key(place), arena.value(place), arena.headers(place));
        let mut bytes = Vec::with_capacity(key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers.len());
        let mut copy = |part: &[u8]| {
            let start = bytes.len();
            bytes.extend_from_slice(part);
            start..bytes.len()
        };
        let (key, value, headers) = (key.map(&mut copy), value.map(&mut copy), copy(headers));
        Self {
            source: arena.source(place).clone(),
            offset: place.offset,
            timestamp: place.timestamp(),
            timestamp_type: place.timestamp_type(),
            key,
            value,
            headers,
            bytes: bytes.into_boxed_slice(),
            #[cfg(feature = "app")]
            message: Message::Value,
            history: None,
        }
    }

    pub(crate) fn topic(&self) -> &str {
        &self.source.topic
    }

    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.key.clone().map(|range| &self.bytes[range])
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.value.clone().map(|range| &self.bytes[range])
    }

    pub(crate) fn headers(&self) -> Headers<'_> {
        Headers::from_encoded(&self.bytes[self.headers.clone()])
    }

    pub(crate) fn share(self) -> Record {
        Record(Arc::new(self))
    }
}

#[cfg(feature = "app")]
impl Parts {
    /// In milliseconds since 1970.
    pub(crate) fn timestamp(&self) -> Option<i64> {
        self.timestamp
    }

    /// As `topic:partition:offset`.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}:{}", self.topic(), self.source.partition, self.offset)
    }
}

impl Record {
    /// The topic that the record was read from.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.0.topic()
    }

    /// The partition that the record was read from.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.0.source.partition
    }

    /// The record's own offset.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.0.offset
    }

    /// The record's key.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.0.key()
    }

    /// The record's value as it is. `None` for a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.0.value()
    }

    /// The record's headers, in order.
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        self.0.headers()
    }

    /// When the record was made, or appended where the topic says so, in whole milliseconds.
    #[must_use]
    pub fn timestamp(&self) -> Option<DateTime<Utc>> {
        self.0.timestamp.and_then(DateTime::from_timestamp_millis)
    }

    /// What [`Record::timestamp`] means.
    #[must_use]
    pub fn timestamp_type(&self) -> TimestampType {
        self.0.timestamp_type
    }

    /// This record as a reference, for [`Message::caused_by`](crate::Message::caused_by).
    #[must_use]
    pub fn reference(&self) -> Ref {
        let key = self.key().map(|key| String::from_utf8_lossy(key).into_owned());
        Ref { key, history: self.history(), ..Ref::new(self.topic(), self.partition(), self.offset()) }
    }

    /// What says of a trace goes along with what is made of this record.
    pub(crate) fn trace(&self) -> Option<TraceContext> {
        Traced::of(self.headers().iter()).map(Traced::to_owned)
    }

    fn history(&self) -> Option<History> {
        let (range, value) = (self.0.history.clone()?, self.value()?);
        std::str::from_utf8(value.get(range)?).ok().and_then(History::from_checked_text)
    }

    /// It cannot be read.
    pub(crate) fn undecodable(&self, source: serde_json::Error) -> Error {
        Error::undecodable(self.topic(), self.partition(), self.offset(), self.key(), source)
    }

    /// The ownership under which it was read.
    pub(crate) fn tag(&self) -> u64 {
        self.0.source.tag
    }

    /// As a batch of its own, after so many failures.
    pub(crate) fn to_arena(&self, failures: u32) -> Arena {
        let parts = &*self.0;
        let mut arena = Arena::default();
        let source = arena.source_index(|_| false, || parts.source.clone());
        let new = NewRecord {
            offset: parts.offset,
            timestamp: parts.timestamp,
            timestamp_type: parts.timestamp_type,
            key: self.key(),
            value: self.value(),
        };
        arena.push(source, &new, |bytes| bytes.extend_from_slice(&parts.bytes[parts.headers.clone()]));
        for _ in 0..failures {
            arena.blame(0);
        }
        arena
    }
}

#[cfg(feature = "app")]
impl Record {
    /// What the handlers decode.
    pub(crate) fn message(&self) -> &[u8] {
        self.0.message.within(self.value().unwrap_or_default())
    }

    /// The bytes of key, value and headers.
    pub(crate) fn size(&self) -> usize {
        self.0.bytes.len()
    }

    /// The header that says to which question an answer belongs: the last one where there are several.
    pub(crate) fn event_id(&self) -> Option<&str> {
        self.headers().get("event_id").and_then(|id| str::from_utf8(id).ok())
    }

    /// As `topic:partition:offset`.
    pub(crate) fn place(&self) -> String {
        self.0.place()
    }
}

impl<'a> From<&'a Record> for Cause<'a> {
    fn from(record: &'a Record) -> Self {
        Self::new(record.reference(), record.headers())
    }
}

/// Without key, value and headers: they have no place in a log.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("topic", &self.topic())
            .field("partition", &self.partition())
            .field("offset", &self.offset())
            .finish_non_exhaustive()
    }
}
