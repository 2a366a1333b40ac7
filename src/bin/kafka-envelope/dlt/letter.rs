//! A dead letter and what its headers say. They are Spring Kafka's, with numbers big-endian, see the consumer's
//! `dead_letter_topic`.

use chrono::{DateTime, SecondsFormat, Utc};
use rdkafka::Message;
use rdkafka::message::{Header, Headers as _, OwnedHeaders};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::json::compact;

/// What all of them begin with.
const PREFIX: &str = "kafka_dlt-";
/// How often a record was put back: a number as text, which a record keeps when it becomes a dead letter again.
const REDRIVES: &str = "kafka_envelope-redrives";

/// A record that was given up.
pub(crate) struct Letter<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// When it was given up.
    pub(crate) at: Option<DateTime<Utc>>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// None: nothing says so, it is no dead letter.
    pub(crate) origin: Option<Origin>,
    headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

/// Where it came from.
pub(crate) struct Origin {
    pub(crate) topic: String,
    pub(crate) partition: Option<i32>,
    offset: Option<i64>,
    timestamp: Option<i64>,
}

impl<'a> Letter<'a> {
    pub(crate) fn of<M: Message>(record: &'a M) -> Self {
        let mut letter = Self {
            topic: record.topic(),
            partition: record.partition(),
            offset: record.offset(),
            at: record.timestamp().to_millis().and_then(DateTime::from_timestamp_millis),
            key: record.key(),
            value: record.payload(),
            origin: None,
            headers: Vec::new(),
        };
        if let Some(headers) = record.headers() {
            letter.headers =
                (0..headers.count()).map(|index| headers.get(index)).map(|header| (header.key, header.value)).collect();
        }
        letter.origin = letter.text("original-topic").map(|topic| Origin {
            topic: topic.to_owned(),
            partition: letter.number("original-partition"),
            offset: letter.long("original-offset"),
            timestamp: letter.long("original-timestamp"),
        });
        letter
    }

    /// The last header of that name counts.
    fn header(&self, name: &str) -> Option<&'a [u8]> {
        let is_it = |key: &str| key.strip_prefix(PREFIX) == Some(name);
        self.headers.iter().rev().find(|(key, _)| is_it(key)).and_then(|(_, value)| *value)
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.header(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    fn number(&self, name: &str) -> Option<i32> {
        self.header(name).and_then(|value| value.try_into().ok()).map(i32::from_be_bytes)
    }

    fn long(&self, name: &str) -> Option<i64> {
        self.header(name).and_then(|value| value.try_into().ok()).map(i64::from_be_bytes)
    }

    /// The error's type.
    pub(crate) fn class(&self) -> &'a str {
        self.text("exception-fqcn").unwrap_or("unknown")
    }

    /// The error's whole text.
    pub(crate) fn message(&self) -> &'a str {
        self.text("exception-message").unwrap_or_default()
    }

    /// The text's beginning, by which letters are counted together.
    pub(crate) fn summary(&self) -> &'a str {
        let line = self.message().lines().next().unwrap_or_default();
        line.char_indices().nth(80).map_or(line, |(end, _)| &line[..end])
    }

    /// How often it was put back before.
    pub(crate) fn redrives(&self) -> u32 {
        let counted = self.headers.iter().rev().find(|(key, _)| *key == REDRIVES).and_then(|(_, value)| *value);
        counted.and_then(|value| std::str::from_utf8(value).ok()).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The record's own headers, and how often it was put back, this time included.
    pub(crate) fn redriven_headers(&self) -> OwnedHeaders {
        let count = (self.redrives() + 1).to_string();
        let own = self.headers.iter().filter(|(key, _)| !key.starts_with(PREFIX) && *key != REDRIVES);
        let headers = own.fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: *value }));
        headers.insert(Header { key: REDRIVES, value: Some(&count) })
    }

    /// What is known of it, by name: all but its headers and its value.
    pub(crate) fn fields(&self) -> Vec<(&'static str, Value)> {
        let time =
            |time: Option<DateTime<Utc>>| json!(time.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)));
        let origin = self.origin.as_ref();
        vec![
            ("topic", json!(self.topic)),
            ("partition", json!(self.partition)),
            ("offset", json!(self.offset)),
            ("at", time(self.at)),
            ("original_topic", json!(origin.map(|origin| &origin.topic))),
            ("original_partition", json!(origin.and_then(|origin| origin.partition))),
            ("original_offset", json!(origin.and_then(|origin| origin.offset))),
            ("original_timestamp", time(origin.and_then(|origin| DateTime::from_timestamp_millis(origin.timestamp?)))),
            ("consumer_group", json!(self.text("original-consumer-group"))),
            ("error", json!(self.text("exception-fqcn"))),
            ("message", json!(self.text("exception-message"))),
            ("attempts", json!(self.number("attempts"))),
            ("redrives", json!(self.redrives())),
            ("key", shown(self.key)),
        ]
    }

    /// The record's own headers, in their order. A name may come more than once.
    pub(crate) fn own_headers(&self) -> impl Iterator<Item = (&'a str, Value)> {
        let own = self.headers.iter().filter(|(key, _)| !key.starts_with(PREFIX));
        own.map(|(key, value)| (*key, shown(*value)))
    }

    /// The value: JSON as it was written, but on one line; what is none as a text.
    fn value_json(&self) -> Box<RawValue> {
        let json = self.value.and_then(|value| serde_json::from_slice::<&RawValue>(value).ok());
        let text = json.map_or_else(|| shown(self.value).to_string(), |json| compact(json.get()));
        RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
    }

    /// The value as people read it.
    pub(crate) fn value_text(&self) -> Value {
        shown(self.value)
    }
}

impl Serialize for Letter<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for (name, value) in self.fields() {
            object.serialize_entry(name, &value)?;
        }
        let headers: Vec<_> = self.own_headers().map(|(name, value)| json!({"name": name, "value": value})).collect();
        object.serialize_entry("headers", &headers)?;
        object.serialize_entry("value", &self.value_json())?;
        object.end()
    }
}

/// Bytes as text; those that are none in base 16.
fn shown(bytes: Option<&[u8]>) -> Value {
    let hex = |bytes: &[u8]| format!("0x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    json!(bytes.map(|bytes| std::str::from_utf8(bytes).map_or_else(|_| hex(bytes), str::to_owned)))
}
