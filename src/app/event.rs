//! An event to send.

use std::fmt;

use chrono::{DateTime, Utc};

/// An event to send: a name and a payload, perhaps with a key, headers, a partition and a timestamp.
///
/// ```
/// use kafka_envelope::app::Event;
///
/// #[derive(serde::Serialize)]
/// struct Invoice {
///     total: f64,
/// }
///
/// let event = Event::new("invoice", Invoice { total: 7.5 }).key("customer-7").header("traceparent", "00-1");
/// # let _ = event;
/// ```
///
/// - The name goes into the object that the payload is, as its field `event`: in place of the one it has, else as the
///   first. A payload that is no object cannot be sent so.
/// - With [`key_as_event`](crate::app::AppBuilder::key_as_event) the name is the record's key, and the payload any value
///   but null.
/// - [`Event::unnamed`] is a value as it is. One that has the field `event` itself is read as that event.
#[derive(Clone)]
#[must_use]
pub struct Event<T> {
    pub(super) name: Option<String>,
    pub(super) payload: T,
    pub(super) key: Option<String>,
    pub(super) headers: Vec<Header>,
    pub(super) partition: Option<i32>,
    pub(super) timestamp: Option<DateTime<Utc>>,
}

/// A header's name and value, which may be null.
pub(super) type Header = (String, Option<Vec<u8>>);

impl<T> Event<T> {
    /// An event of this name, which must not be empty.
    pub fn new(name: impl Into<String>, payload: T) -> Self {
        Self { name: Some(name.into()), ..Self::unnamed(payload) }
    }

    /// A value as it is.
    pub fn unnamed(payload: T) -> Self {
        Self { name: None, payload, key: None, headers: Vec::new(), partition: None, timestamp: None }
    }

    /// The record's key, which must not be empty: events with the same key go to the same partition, in the order in
    /// which they were sent. Where the key is the event's name, no other can be given.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a header. A name may come more than once.
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.into(), Some(value.as_ref().to_vec())));
        self
    }

    /// Sends to this partition, whatever the key.
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// The record's timestamp, kept in whole milliseconds; else the time of sending. It has to be after 1970 began.
    pub fn timestamp(mut self, timestamp: DateTime<Utc>) -> Self {
        self.timestamp = Some(timestamp);
        self
    }
}

/// Without the payload and the values of headers: they have no place in a log.
impl<T> fmt::Debug for Event<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Event")
            .field("name", &self.name)
            .field("key", &self.key)
            .field("headers", &headers)
            .field("partition", &self.partition)
            .field("timestamp", &self.timestamp)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_payload() {
        let shown = format!("{:?}", Event::new("paid", "hidden").key("k").header("token", "hidden"));
        assert!(shown.contains("token") && shown.contains("paid") && !shown.contains("hidden"), "{shown}");
    }
}
