//! Messages of the filter topic: `{"method": "put" | "delete", "payload": …, "timestamp": …}`.

use std::borrow::Cow;

use crate::envelope::bounded;
use crate::export::fields::Fields;
use crate::export::strict;
use crate::export::timestamp::TimeFormat;

/// What a message says.
#[derive(Debug, PartialEq)]
pub(super) struct FilterMessage<'a> {
    pub(super) change: Change<'a>,
    /// When it was made, in seconds since 1970.
    pub(super) timestamp: f64,
}

#[derive(Debug, PartialEq)]
pub(super) enum Change<'a> {
    /// Adds a filter, whose JSON this is.
    Put(&'a str),
    /// Deletes the filter with this id.
    Delete(String),
}

impl<'a> FilterMessage<'a> {
    /// Without a format only numbers are timestamps. An error is the rule that failed, and shows nothing of the payload.
    pub(super) fn read(value: &'a [u8], format: Option<&TimeFormat>) -> Result<Self, Cow<'static, str>> {
        strict::check(value).map_err(|error| format!("is refused as JSON: {}", bounded(error)))?;
        let value = std::str::from_utf8(value).map_err(|_| "is not UTF-8")?;
        let fields = Fields::of(value).ok().flatten().ok_or("is no JSON object")?;
        let payload = fields.given("payload").ok_or("has no `payload`")?.get();
        let timestamp = timestamp(fields.given("timestamp").ok_or("has no `timestamp`")?.get(), format)?;
        let change = match text(fields.given("method").ok_or("has no `method`")?.get()).as_deref() {
            Some("put") => Change::Put(payload),
            Some("delete") => {
                let id = Fields::of(payload).ok().flatten().and_then(|payload| text(payload.get("id")?.get()));
                let id = id.ok_or("has a `payload` without the `id` of a filter to be deleted")?;
                if id.is_empty() {
                    return Err("has an empty `id` in its `payload`".into());
                }
                Change::Delete(id)
            }
            _ => return Err("has a `method` that is neither `put` nor `delete`".into()),
        };
        Ok(Self { change, timestamp })
    }
}

/// A JSON text, without its escapes.
fn text(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

fn timestamp(json: &str, format: Option<&TimeFormat>) -> Result<f64, &'static str> {
    let seconds = match (text(json), format) {
        (Some(text), Some(format)) => {
            return format.read(&text).ok_or("has a `timestamp` that is not in the `time_format`");
        }
        (Some(_), None) => return Err("has a `timestamp` that is a text, and no `time_format` is set"),
        (None, _) if json.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => json.parse::<f64>(),
        (None, _) => return Err("has a `timestamp` that is neither a number nor a text"),
    };
    match seconds {
        Ok(0.0) => Err("has a `timestamp` of 0, which means none"),
        Ok(seconds) if seconds.is_finite() => Ok(seconds),
        _ => Err("has a `timestamp` that is too large"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<FilterMessage<'_>, String> {
        FilterMessage::read(value.as_bytes(), None).map_err(Cow::into_owned)
    }

    #[test]
    fn messages() {
        let put = read(r#" {"method":"put","payload":{"id":"a"},"timestamp":1646145513} "#).unwrap();
        assert_eq!(put, FilterMessage { change: Change::Put(r#"{"id":"a"}"#), timestamp: 1_646_145_513.0 });
        let delete = read(r#"{"timestamp":-1.5e3,"payload":{"id":"a\u0062"},"method":"delete","more":1}"#).unwrap();
        assert_eq!(delete, FilterMessage { change: Change::Delete("ab".into()), timestamp: -1500.0 });
    }

    #[test]
    fn what_is_bad_names_the_rule_and_shows_no_payload() {
        for (value, reason) in [
            ("", "JSON"),
            ("secret", "JSON"),
            ("\"secret\"", "is no JSON object"),
            ("[1]", "is no JSON object"),
            (r#"{"payload":{"id":"secret"},"timestamp":1}"#, "`method`"),
            (r#"{"method":null,"payload":{"id":"secret"},"timestamp":1}"#, "`method`"),
            (r#"{"method":"secret","payload":{},"timestamp":1}"#, "neither `put` nor `delete`"),
            (r#"{"method":["put"],"payload":{},"timestamp":1}"#, "neither `put` nor `delete`"),
            (r#"{"method":"put","timestamp":1}"#, "`payload`"),
            (r#"{"method":"put","payload":null,"timestamp":1}"#, "`payload`"),
            (r#"{"method":"delete","payload":{"secret":1},"timestamp":1}"#, "`id`"),
            (r#"{"method":"delete","payload":{"id":1},"timestamp":1}"#, "`id`"),
            (r#"{"method":"delete","payload":{"id":""},"timestamp":1}"#, "`id`"),
            (r#"{"method":"delete","payload":["secret"],"timestamp":1}"#, "`id`"),
            (r#"{"method":"delete","payload":"secret","timestamp":1}"#, "`id`"),
            (r#"{"method":"put","payload":{"id":"secret"}}"#, "no `timestamp`"),
            (r#"{"method":"put","payload":{"id":"secret"},"timestamp":null}"#, "no `timestamp`"),
            (r#"{"method":"put","payload":{"id":"secret"},"timestamp":0}"#, "of 0"),
            (r#"{"method":"put","payload":{"id":"secret"},"timestamp":-0.0}"#, "of 0"),
            (r#"{"method":"put","payload":{"id":"secret"},"timestamp":true}"#, "neither a number nor a text"),
            (r#"{"method":"put","payload":{"id":"secret"},"timestamp":"2022"}"#, "`time_format`"),
            (r#"{"method":"put","payload":{"id":"secret"},"timestamp":1e999}"#, "too large"),
        ] {
            let error = read(value).unwrap_err();
            assert!(error.contains(reason) && !error.contains("secret"), "{value}: {error}");
        }
    }

    #[test]
    fn a_key_that_comes_twice_is_named_however_long_it_is() {
        let key = "k".repeat(1_000_000);
        let error = read(&format!(r#"{{"{key}":1,"{key}":2}}"#)).unwrap_err();
        assert!(error.contains("comes twice") && error.len() < 1_000, "{} bytes", error.len());
    }

    #[test]
    fn with_a_format_texts_and_numbers_are_timestamps() {
        let format = TimeFormat::new("%Y-%m-%d", true).unwrap();
        let read = |timestamp: &str| {
            let value = format!(r#"{{"method":"put","payload":{{}},"timestamp":{timestamp}}}"#);
            FilterMessage::read(value.as_bytes(), Some(&format)).map(|message| message.timestamp).ok()
        };
        assert_eq!(read("\"1970-01-02\""), Some(86_400.0));
        assert_eq!(read("86400.5"), Some(86_400.5));
        assert_eq!(read("\"\""), None);
        assert_eq!(read("\"1970-01-02T\""), None);
    }
}
