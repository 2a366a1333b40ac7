//! What a handler gets: a batch of decoded records.

use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::str;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::value::RawValue;

use crate::envelope::{self, BatchRef, History, Ref};
use crate::error::{Error, HandlerError, Result};
use crate::message::arena::{Arena, Record, TimestampType, decode_header};

/// A record from Kafka with its decoded payload.
pub struct Received<'a, T> {
    /// The envelope's `item`.
    pub payload: T,
    has_history: bool,
    record: &'a Record,
    arena: &'a Arena,
}

impl<'a, T> Received<'a, T> {
    /// The message's id: the record's key. `None` for a record without a key.
    #[must_use]
    pub fn id(&self) -> Option<&'a str> {
        self.key().and_then(|key| str::from_utf8(key).ok())
    }

    /// The record's key as bytes.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.arena.key(self.record)
    }

    /// The topic that the record was read from.
    #[must_use]
    pub fn topic(&self) -> &'a str {
        &self.arena.source(self.record).topic
    }

    /// The partition that the record was read from.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.arena.source(self.record).partition
    }

    /// The record's own offset.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.record.offset
    }

    /// When the record was made, or appended where the topic says so, in whole milliseconds.
    #[must_use]
    pub fn timestamp(&self) -> Option<DateTime<Utc>> {
        self.record.timestamp().and_then(DateTime::from_timestamp_millis)
    }

    /// What [`Received::timestamp`] means.
    #[must_use]
    pub fn timestamp_type(&self) -> TimestampType {
        self.record.timestamp_type()
    }

    /// The record's headers, in order.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        Headers::of(self.arena, self.record)
    }

    /// Who made this message, when and from which: `None` where the envelope says nothing. A history is read where it is
    /// asked for; one that is longer than [`MAX_HISTORY_DEPTH`](crate::envelope::MAX_HISTORY_DEPTH), or that is none, is
    /// left out, and a warning in the log says so.
    #[must_use]
    pub fn history(&self) -> Option<History> {
        let value = self.arena.value(self.record).filter(|_| self.has_history)?;
        let left_out = |why: &dyn fmt::Display| {
            let (topic, partition, offset) = (self.topic(), self.partition(), self.offset());
            log::warn!("the history of {topic}:{partition} at offset {offset} {why}, and is left out");
        };
        match envelope::decode_raw(value) {
            Ok(decoded) => {
                if decoded.truncated {
                    left_out(&"is too long");
                }
                decoded.history.and_then(History::from_checked_text)
            }
            Err(error) => {
                left_out(&format_args!("cannot be read ({error})"));
                None
            }
        }
    }

    /// This record as a reference, for [`Message::caused_by`](crate::Message::caused_by).
    #[must_use]
    pub fn reference(&self) -> Ref {
        let key = self.key().map(|key| String::from_utf8_lossy(key).into_owned());
        Ref {
            topic: self.topic().to_owned(),
            partition: self.partition(),
            offset: self.offset(),
            key,
            history: self.history(),
        }
    }
}

impl<'a> Received<'a, &'a RawValue> {
    /// Decodes the payload into a type that may borrow from the record.
    ///
    /// # Errors
    /// [`Error::Undecodable`] where the payload does not fit `T`. Handed on with `?`, it is treated as what it is: a
    /// record that cannot be read, not a handler that failed.
    pub fn decode<D: Deserialize<'a>>(&self) -> Result<D> {
        serde_json::from_str(self.payload.get())
            .map_err(|source| undecodable(self.arena, self.record, envelope::bounded(source)))
    }
}

impl<T> From<&Received<'_, T>> for Ref {
    fn from(received: &Received<'_, T>) -> Self {
        received.reference()
    }
}

impl<T: fmt::Debug> fmt::Debug for Received<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("topic", &self.topic())
            .field("partition", &self.partition())
            .field("offset", &self.offset())
            .field("id", &self.id())
            .field("payload", &self.payload)
            .finish_non_exhaustive()
    }
}

/// A record's headers.
#[derive(Clone, Copy)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    pub(crate) fn of(arena: &'a Arena, record: &Record) -> Self {
        Self(arena.headers(record))
    }

    /// As [`encode_header`](super::arena::encode_header) wrote them.
    #[cfg(any(feature = "app", feature = "stream", test))]
    pub(crate) fn from_encoded(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The headers in order. A name may come more than once; a value may be null.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        let mut bytes = self.0;
        std::iter::from_fn(move || {
            let (name, value, rest) = decode_header(bytes)?;
            bytes = rest;
            Some((name, value))
        })
    }

    /// The value of the last header with this name, as Kafka's own clients look it up. `None` where there is none, or
    /// where its value is null.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().filter(|(found, _)| *found == name).last().and_then(|(_, value)| value)
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name, value.map(String::from_utf8_lossy)))).finish()
    }
}

/// What a handler gets: records in the order of their log, grouped by topic and partition.
///
/// It is a slice of [`Received`]. Tombstones and empty values are left out; they count as handled with their batch.
pub struct Batch<'a, T = serde_json::Value> {
    records: Vec<Received<'a, T>>,
    arena: &'a Arena,
}

/// A batch whose payloads are still JSON text, to be decoded into types that borrow from it.
pub type RawBatch<'a> = Batch<'a, &'a RawValue>;

impl<'a, T> Batch<'a, T> {
    /// The topics, partitions and offsets of this batch, tombstones included.
    #[must_use]
    pub fn reference(&self) -> BatchRef {
        self.arena.reference()
    }

    /// Which attempt it is to handle these records: 1, and more where the handler failed on one of them before and
    /// [`OnError::retry`](crate::OnError::retry) hands it over again. After a run that ended with the failure it goes on
    /// counting.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.arena.attempt()
    }

    /// Of the records that share an id only the last, in the order of those last ones. Records without an id all stay.
    pub fn latest_by_id(&self) -> impl Iterator<Item = &Received<'a, T>> {
        let mut seen = HashSet::new();
        let mut latest: Vec<_> =
            self.records.iter().rev().filter(|record| record.key().is_none_or(|key| seen.insert(key))).collect();
        latest.reverse();
        latest.into_iter()
    }

    /// Calls `handle` with each record until one fails. The error then carries the record's index, so that what stands
    /// before it is committed.
    ///
    /// # Errors
    /// The first error of `handle`, as [`HandlerError::at`].
    pub fn each(
        &self,
        mut handle: impl FnMut(&Received<'a, T>) -> Result<(), HandlerError>,
    ) -> Result<(), HandlerError> {
        self.records
            .iter()
            .enumerate()
            .try_for_each(|(index, record)| handle(record).map_err(|error| HandlerError::at(index, error)))
    }

    /// How many of the arena's records are done when those before `index` of this batch are: tombstones before it
    /// count. None where the batch has no such record.
    pub(crate) fn records_before(&self, index: usize) -> Option<usize> {
        let wanted: *const Record = self.records.get(index)?.record;
        self.arena.records().iter().position(|record| std::ptr::eq(record, wanted))
    }
}

impl<'a, T> Deref for Batch<'a, T> {
    type Target = [Received<'a, T>];

    fn deref(&self) -> &Self::Target {
        &self.records
    }
}

impl<'a, 'b, T> IntoIterator for &'b Batch<'a, T> {
    type Item = &'b Received<'a, T>;
    type IntoIter = std::slice::Iter<'b, Received<'a, T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.iter()
    }
}

impl<T: fmt::Debug> fmt::Debug for Batch<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.records).finish()
    }
}

/// The records among those handed over that cannot be read, by their places in ascending order, each with its
/// [`Error::Undecodable`].
pub(crate) type Unreadable = Vec<(usize, Error)>;

/// Decodes the records that the arena hands over.
///
/// # Errors
/// All records that are no envelope, whose item does not fit `T`, or whose key is not UTF-8.
pub(crate) fn decode<'a, T: Deserialize<'a>>(arena: &'a Arena) -> Result<Batch<'a, T>, Unreadable> {
    decode_with(arena, envelope::decode_item)
}

/// The same with the items as text.
pub(crate) fn decode_raw(arena: &Arena) -> Result<RawBatch<'_>, Unreadable> {
    decode_with(arena, envelope::decode_raw_item)
}

fn decode_with<'a, T>(
    arena: &'a Arena,
    read: fn(&'a [u8]) -> serde_json::Result<(T, bool)>,
) -> Result<Batch<'a, T>, Unreadable> {
    let mut records = Vec::with_capacity(arena.records().len());
    let mut unreadable = Unreadable::new();
    for (place, record) in arena.records().iter().enumerate() {
        let Some(value) = arena.value(record).filter(|value| !value.is_empty()) else { continue };
        match decode_record(arena, record, value, read) {
            Ok(received) => records.push(received),
            Err(source) => unreadable.push((place, undecodable(arena, record, source))),
        }
    }
    if unreadable.is_empty() { Ok(Batch { records, arena }) } else { Err(unreadable) }
}

fn decode_record<'a, T>(
    arena: &'a Arena,
    record: &'a Record,
    value: &'a [u8],
    read: fn(&'a [u8]) -> serde_json::Result<(T, bool)>,
) -> serde_json::Result<Received<'a, T>> {
    let (payload, has_history) = read(value)?;
    if arena.key(record).is_some_and(|key| str::from_utf8(key).is_err()) {
        return Err(serde_json::Error::custom("the key, which is the message's id, is not UTF-8"));
    }
    Ok(Received { payload, has_history, record, arena })
}

fn undecodable(arena: &Arena, record: &Record, source: serde_json::Error) -> Error {
    let from = arena.source(record);
    Error::undecodable(&from.topic, from.partition, record.offset, arena.key(record), source)
}
