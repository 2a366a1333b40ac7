//! An event as it goes to Kafka.

use chrono::Utc;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::app::event::{Event, Header};
use crate::app::form::Form;
use crate::app::json::{self, Name};
use crate::envelope::{Ref, pack_into};
use crate::error::{Error, Result};
use crate::message::{check_header_names, check_partition, check_timestamp};
use crate::producer::RawRecord;
use crate::settings::check;
use crate::trace_context::TraceContext;

/// An event as it goes to Kafka.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) topic: String,
    key: Option<String>,
    value: Vec<u8>,
    pub(super) headers: Vec<Header>,
    partition: Option<i32>,
    timestamp: Option<i64>,
    /// That of the record that is handled.
    pub(super) trace: Option<TraceContext>,
}

/// Where an event's name goes in an object that has none.
pub(super) enum Missing {
    First,
    Last,
}

impl Outgoing {
    /// `app` and `refs` say of an envelope who made it, and from what.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Encode`], [`Error::Limit`]: it cannot be sent so.
    pub(super) fn new<T: Serialize>(
        form: &Form,
        app: &str,
        topic: &str,
        event: Event<T>,
        missing: &Missing,
        refs: impl FnOnce() -> Vec<Ref>,
    ) -> Result<Self> {
        check::topic(topic)?;
        let Event { name, payload, key, headers, partition, timestamp } = event;
        check_header_names(headers.iter().map(|(name, _)| name.as_str()))?;
        let (partition, timestamp) = (check_partition(partition)?, check_timestamp(timestamp)?);
        if name.as_deref() == Some("") {
            return Err(Error::setting("event", "the name is empty"));
        }
        let (key, name) = match (form.key_as_event, name) {
            (true, Some(_)) if key.is_some() => {
                return Err(Error::setting("key", "is the event's name already"));
            }
            (true, Some(name)) => (Some(name), None),
            (_, name) => (key, name),
        };
        if key.as_deref() == Some("") {
            return Err(Error::setting("key", "is empty"));
        }
        let name = name.as_deref().map(|name| match missing {
            Missing::First => Name::First(name),
            Missing::Last => Name::Last(name),
        });
        let mut value = json::write(&payload, name)?;
        if value == b"null" {
            return Err(Error::setting("payload", "is null, which no app takes for an event"));
        }
        if form.envelopes.contains(topic) {
            value = envelope(app, value, &refs())?;
        }
        Ok(Self { topic: topic.to_owned(), key, value, headers, partition, timestamp, trace: None })
    }

    pub(super) fn record(&self) -> RawRecord<'_, impl Iterator<Item = (&str, Option<&[u8]>)> + Clone> {
        RawRecord {
            topic: &self.topic,
            partition: self.partition,
            key: self.key.as_deref().map(str::as_bytes),
            value: Some(&self.value),
            headers: self.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())),
            trace: self.trace.as_ref(),
            timestamp: self.timestamp,
        }
    }
}

/// The envelope with this JSON as its item.
fn envelope(app: &str, item: Vec<u8>, refs: &[Ref]) -> Result<Vec<u8>> {
    let item: Box<RawValue> = serde_json::from_slice(&item).map_err(|source| Error::Encode { source })?;
    let mut value = Vec::with_capacity(item.get().len() + 128);
    pack_into(&mut value, app, Utc::now(), &item, refs)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outgoing(form: &Form, event: Event<serde_json::Value>) -> Result<Outgoing> {
        Outgoing::new(form, "shop", "orders", event, &Missing::First, || vec![Ref::new("source", 0, 3)])
    }

    #[test]
    fn what_no_app_could_read_is_refused() {
        let plain = Form::default();
        let by_key = Form { key_as_event: true, ..Form::default() };
        let object = || json!({"a": 1});
        let cases = [
            (&plain, Event::new("", object()), "event"),
            (&by_key, Event::new("", object()), "event"),
            (&plain, Event::new("e", object()).key(""), "key"),
            (&by_key, Event::new("e", object()).key("k"), "key"),
            (&plain, Event::unnamed(json!(null)), "payload"),
            (&by_key, Event::new("e", json!(null)), "payload"),
            (&plain, Event::new("e", object()).partition(-1), "partition"),
            (&plain, Event::new("e", object()).header("a\0b", ""), "header"),
        ];
        for (form, event, key) in cases {
            let shown = format!("{event:?}");
            let error = outgoing(form, event).unwrap_err();
            assert!(matches!(&error, Error::Setting { key: found, .. } if found == key), "{shown}: {error}");
        }
        let error = outgoing(&plain, Event::new("e", json!([1]))).unwrap_err();
        assert!(matches!(error, Error::Encode { .. }), "{error}");
    }

    #[test]
    fn an_envelope_holds_the_message_and_says_from_what_it_came() {
        let form = Form { key_as_event: false, envelopes: ["orders".to_owned()].into() };
        let sent = outgoing(&form, Event::new("placed", json!({"id": 7}))).unwrap();
        let envelope = crate::unpack(&sent.value).unwrap();
        assert_eq!(envelope.item().get(), r#"{"event": "placed", "id": 7}"#);
        let history = envelope.history().unwrap().get();
        assert!(history.contains("shop") && history.contains("source"), "{history}");
    }
}
