//! A message to send, and its size on the wire.

use std::fmt;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::envelope::Ref;
use crate::error::{Error, Result};
use crate::message::{Headers, Received};
use crate::trace_context::{Carried, TraceContext, Traced};

/// A message to send: a payload with an id, and the messages that it was made from.
///
/// ```
/// use kafka_envelope::{Message, Ref};
///
/// let message = Message::new("paid").id("order-7").caused_by(Ref::new("orders", 3, 42)).header("traceparent", "00-1");
/// assert_eq!(message.id, "order-7");
/// assert_eq!(message.refs.len(), 1);
/// assert_ne!(Message::new("paid").id, Message::new("paid").id);
/// ```
#[derive(Clone)]
#[must_use]
pub struct Message<T> {
    /// The record's key: records with the same id go to the same partition, in the order in which they were sent. An
    /// empty id is written as a null key, and any partition gets the record.
    pub id: String,
    /// The envelope's `item`.
    pub payload: T,
    /// The messages that this one was made from, each with its own history.
    pub refs: Vec<Ref>,
    headers: Vec<NewHeader>,
    /// Of the first of its causes that has one.
    trace: Option<TraceContext>,
    partition: Option<i32>,
    timestamp: Option<DateTime<Utc>>,
}

/// What a message was made from, for [`Message::caused_by`]: a [`Received`] by reference, which brings its trace context
/// along, or a [`Ref`], which has none.
#[derive(Clone, Debug)]
pub struct Cause<'a> {
    reference: Ref,
    headers: Option<Headers<'a>>,
}

impl<'a> Cause<'a> {
    pub(crate) fn new(reference: Ref, headers: Headers<'a>) -> Self {
        Self { reference, headers: Some(headers) }
    }
}

impl From<Ref> for Cause<'_> {
    fn from(reference: Ref) -> Self {
        Self { reference, headers: None }
    }
}

impl<'a, T> From<&Received<'a, T>> for Cause<'a> {
    fn from(received: &Received<'a, T>) -> Self {
        Self::new(received.reference(), received.headers())
    }
}

/// A header's name and value.
type NewHeader = (String, Vec<u8>);

/// As a record has it, where a value may be null.
fn header((name, value): &NewHeader) -> (&str, Option<&[u8]>) {
    (name, Some(value))
}

impl<T> Message<T> {
    /// A message made from nothing, with a fresh UUID (version 4) as its id.
    pub fn new(payload: T) -> Self {
        let id = Uuid::new_v4().to_string();
        Self { id, payload, refs: Vec::new(), headers: Vec::new(), trace: None, partition: None, timestamp: None }
    }

    /// Sets the id.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Adds a message that this one was made from: a [`Received`] by reference, or a [`Ref`].
    ///
    /// The trace context of the first that has one goes along: the headers `traceparent` and `tracestate` of W3C Trace
    /// Context, unless this message [is given](Message::header) one of them. A `traceparent` that is none is ignored.
    pub fn caused_by<'a>(mut self, cause: impl Into<Cause<'a>>) -> Self {
        let Cause { reference, headers } = cause.into();
        if let (None, Some(headers)) = (&self.trace, headers) {
            self.trace = Traced::of(headers.iter()).map(Traced::to_owned);
        }
        self.refs.push(reference);
        self
    }

    /// Adds several messages that this one was made from: a whole [`Batch`](crate::Batch), for one.
    ///
    /// ```
    /// use kafka_envelope::{Message, Ref};
    ///
    /// let sum = Message::new(3).caused_by_all([Ref::new("numbers", 0, 1), Ref::new("numbers", 0, 2)]);
    /// assert_eq!(sum.refs.len(), 2);
    /// ```
    pub fn caused_by_all<'a, C: Into<Cause<'a>>>(self, causes: impl IntoIterator<Item = C>) -> Self {
        causes.into_iter().fold(self, Self::caused_by)
    }

    /// Adds a header. A name may come more than once.
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.into(), value.as_ref().to_vec()));
        self
    }

    /// Sends to this partition, whatever the id.
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// The record's timestamp, kept in whole milliseconds; else the time of sending. It has to be after 1970 began.
    pub fn timestamp(mut self, timestamp: DateTime<Utc>) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// What it says of a trace by itself.
    pub(crate) fn carried(&self) -> Carried<'_> {
        Carried::of(self.headers.iter().map(header), self.trace.as_ref())
    }

    /// Its own headers, and those of this trace context.
    pub(crate) fn headers<'m>(
        &'m self,
        trace: Option<&'m TraceContext>,
    ) -> impl Iterator<Item = (&'m str, Option<&'m [u8]>)> + Clone {
        self.headers.iter().map(header).chain(TraceContext::headers(trace))
    }

    /// The record's key: none for an empty id.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        Some(self.id.as_bytes()).filter(|id| !id.is_empty())
    }

    pub(crate) fn checked_partition(&self) -> Result<Option<i32>> {
        check_partition(self.partition)
    }

    pub(crate) fn checked_timestamp(&self) -> Result<Option<i64>> {
        check_timestamp(self.timestamp)
    }
}

pub(crate) fn check_partition(partition: Option<i32>) -> Result<Option<i32>> {
    match partition {
        Some(partition @ ..=-1) => Err(Error::setting("partition", format!("{partition} is below 0"))),
        partition => Ok(partition),
    }
}

/// In milliseconds. 0 would mean now to librdkafka, and -1 means none in the log.
pub(crate) fn check_timestamp(timestamp: Option<DateTime<Utc>>) -> Result<Option<i64>> {
    match timestamp.map(|timestamp| timestamp.timestamp_millis()) {
        Some(..=0) => Err(Error::setting("timestamp", "is not after 1970-01-01T00:00:00Z")),
        millis => Ok(millis),
    }
}

/// A NUL byte would end a header's name for librdkafka.
pub(crate) fn check_header_names<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    if names.any(|name| name.contains('\0')) {
        return Err(Error::setting("header", "a name contains a NUL byte"));
    }
    Ok(())
}

/// Without the payload and the values of headers: they have no place in a log.
impl<T> fmt::Debug for Message<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("refs", &self.refs.len())
            .field("headers", &headers)
            .field("partition", &self.partition)
            .field("timestamp", &self.timestamp)
            .finish_non_exhaustive()
    }
}

/// What becomes of a message that is larger than `message.max.bytes`. It could never be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Oversize {
    /// [`Error::Oversize`], and nothing of its batch is sent.
    #[default]
    Refuse,
    /// It is left out and logged as an error, the rest of its batch is sent.
    Skip,
}

/// The most that a record takes beside key, value and headers: its length, attributes, timestamp, offset, and the
/// lengths of key, value and headers, each at its longest. librdkafka's `RD_KAFKAP_MESSAGE_V2_MAX_OVERHEAD`.
const OVERHEAD: usize = 5 + 1 + 10 + 5 + 5 + 5 + 5;

/// A record's size before compression, as librdkafka compares it to `message.max.bytes`.
pub(crate) fn wire_size<'a>(
    key: Option<&[u8]>,
    value: usize,
    headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
) -> usize {
    // The length of a null is -1, which takes a byte as well.
    let length = |bytes: usize| bytes + varint_size(bytes);
    let headers: usize = headers.map(|(name, value)| length(name.len()) + length(value.map_or(0, <[u8]>::len))).sum();
    OVERHEAD + key.map_or(0, <[u8]>::len) + value + headers
}

/// How many bytes a length takes: 7 bits in each, one of them for the sign.
fn varint_size(length: usize) -> usize {
    let bits = (usize::BITS - length.leading_zeros() + 1) as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_grow_with_each_seven_bits() {
        let sizes = [0, 1, 63, 64, 8191, 8192, 1 << 20].map(varint_size);
        assert_eq!(sizes, [1, 1, 1, 2, 2, 3, 4]);
    }

    #[test]
    fn what_no_log_can_hold_is_refused() {
        assert_eq!(Message::new(1).checked_partition().unwrap(), None);
        assert_eq!(Message::new(1).partition(0).checked_partition().unwrap(), Some(0));
        assert!(Message::new(1).partition(-1).checked_partition().is_err());
        let at = |millis| Message::new(1).timestamp(DateTime::from_timestamp_millis(millis).unwrap());
        assert_eq!(at(1).checked_timestamp().unwrap(), Some(1));
        assert!(at(0).checked_timestamp().is_err());
    }

    #[test]
    fn debug_shows_no_payload() {
        let shown = format!("{:?}", Message::new("hidden").id("a").header("token", "hidden"));
        assert!(shown.contains("token") && !shown.contains("hidden"), "{shown}");
    }
}
