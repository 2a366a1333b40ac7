//! A record as it goes to Kafka.

use rdkafka::message::Header;
use rdkafka::producer::BaseRecord;

use super::NativeRecord;
use super::delivery::Entry;

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
    /// In milliseconds, after 0; else the time of sending.
    pub(crate) timestamp: Option<i64>,
}

impl<'a, H: Iterator<Item = (&'a str, Option<&'a [u8]>)>> RawRecord<'a, H> {
    pub(super) fn native(self, entry: Box<Entry>) -> NativeRecord<'a> {
        let mut record = BaseRecord::with_opaque_to(self.topic, entry);
        record.partition = self.partition;
        record.key = self.key;
        record.payload = self.value;
        record.timestamp = self.timestamp;
        for (key, value) in self.headers {
            let headers = record.headers.take().unwrap_or_default();
            record.headers = Some(headers.insert(Header { key, value }));
        }
        record
    }
}
