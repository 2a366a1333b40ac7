//! A record as it goes to Kafka.

use rdkafka::message::Header;
use rdkafka::producer::BaseRecord;

use super::NativeRecord;
use super::delivery::Entry;
use crate::trace_context::{Carried, TraceContext};

/// A record's parts as they shall stand in the log. A header's name may come more than once, and its value may be null.
#[derive(Clone, Debug)]
pub(crate) struct RawRecord<'a, H> {
    pub(crate) topic: &'a str,
    /// None: by the key, any where that is null.
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// Names without a NUL byte.
    pub(crate) headers: H,
    /// That of what caused it.
    pub(crate) trace: Option<&'a TraceContext>,
    /// In milliseconds, after 0; else the time of sending.
    pub(crate) timestamp: Option<i64>,
}

impl<'a, H: Iterator<Item = (&'a str, Option<&'a [u8]>)>> RawRecord<'a, H> {
    /// What it says of a trace by itself.
    pub(super) fn carried(&self) -> Carried<'a>
    where
        H: Clone,
    {
        Carried::of(self.headers.clone(), self.trace)
    }

    /// With the headers of this trace context after its own.
    pub(super) fn native(self, entry: Box<Entry>, trace: Option<&TraceContext>) -> NativeRecord<'a> {
        let mut record = BaseRecord::with_opaque_to(self.topic, entry);
        record.partition = self.partition;
        record.key = self.key;
        record.payload = self.value;
        record.timestamp = self.timestamp;
        let mut add = |key: &str, value: Option<&[u8]>| {
            let headers = record.headers.take().unwrap_or_default();
            record.headers = Some(headers.insert(Header { key, value }));
        };
        self.headers.for_each(|(key, value)| add(key, value));
        trace.into_iter().flat_map(TraceContext::headers).for_each(|(key, value)| add(key, value));
        record
    }
}
