//! What a line of `produce` says: `{"id": …, "payload": …, "refs": […], "headers": {…}}`.

use std::fmt;

use kafka_envelope::{Message, Ref, unpack};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Why a line cannot be sent, and the column where, from 1 on. 0: the line as a whole.
#[derive(Debug, PartialEq)]
pub(crate) struct Refused {
    pub(crate) column: usize,
    pub(crate) reason: String,
}

impl Refused {
    pub(crate) fn whole(reason: impl fmt::Display) -> Self {
        Self { column: 0, reason: reason.to_string() }
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `payload`")]
struct Fields<'a> {
    #[serde(default, deserialize_with = "given")]
    id: Option<Option<String>>,
    #[serde(borrow)]
    payload: &'a RawValue,
    refs: Option<Vec<Source>>,
    headers: Option<Headers>,
}

/// Null is not the same as nothing.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The message of a line. Without an `id` it has a fresh one, with null none.
pub(crate) fn message(line: &[u8]) -> Result<Message<&RawValue>, Refused> {
    let text = std::str::from_utf8(line)
        .map_err(|error| Refused { column: error.valid_up_to() + 1, reason: "is not UTF-8".to_owned() })?;
    // serde takes a list for the fields in their order.
    if text.trim_start().starts_with('[') {
        return Err(Refused { column: 1, reason: "is a list, expected an object with `payload`".to_owned() });
    }
    let Fields { id, payload, refs, headers } = serde_json::from_str(text).map_err(|error| refused(&error))?;
    check_surrogates(payload)?;
    let mut message = Message::new(payload);
    if let Some(id) = id {
        message.id = id.unwrap_or_default();
    }
    message.refs = refs.unwrap_or_default().into_iter().map(|Source(from)| from).collect();
    for (name, value) in headers.unwrap_or_default().0 {
        message = message.header(name, value);
    }
    Ok(message)
}

/// An envelope with half a surrogate pair is one that nobody reads.
fn check_surrogates(payload: &RawValue) -> Result<(), Refused> {
    if !payload.get().contains("\\u") {
        return Ok(());
    }
    match unpack(format!("{{\"item\":{payload}}}").as_bytes()) {
        Ok(_) => Ok(()),
        Err(kafka_envelope::Error::Decode { source }) => {
            Err(Refused { column: 0, reason: format!("`payload`: {}", without_values(&source)) })
        }
        Err(error) => Err(Refused::whole(error)),
    }
}

fn refused(error: &serde_json::Error) -> Refused {
    Refused { column: error.column(), reason: without_values(error) }
}

/// An error's text without line and column, and without what stood in the line.
fn without_values(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    if let Some(end) = text.rfind(" at line ") {
        text.truncate(end);
    }
    match text.split_once(": ").zip(text.rsplit_once(", expected ")) {
        Some(((kind @ ("invalid type" | "invalid value"), found), (_, expected))) => {
            let found = found.split(['"', '`', ',']).next().unwrap_or_default().trim_end();
            format!("{kind}: {found}, expected {expected}")
        }
        _ => text,
    }
}

/// A ref in the crate's own JSON form, or as `topic:partition:offset:key`.
struct Source(Ref);

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SourceVisitor;

        impl<'de> Visitor<'de> for SourceVisitor {
            type Value = Source;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a ref: an object, or topic:partition:offset:key")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Source, E> {
                let parsed = reference(text);
                parsed.map(Source).ok_or_else(|| E::custom("a ref is not topic:partition:offset:key"))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Source, A::Error> {
                let from = Ref::deserialize(MapAccessDeserializer::new(map))?;
                if from.topic.is_empty() || from.partition < 0 || from.offset < 0 {
                    return Err(A::Error::custom("a ref names no topic, or a partition or offset below 0"));
                }
                Ok(Source(from))
            }
        }

        deserializer.deserialize_any(SourceVisitor)
    }
}

/// The key may be missing or hold colons; a topic holds none.
fn reference(text: &str) -> Option<Ref> {
    let mut parts = text.splitn(4, ':');
    let topic = parts.next().filter(|topic| !topic.is_empty())?;
    let partition = parts.next()?.parse().ok().filter(|partition| *partition >= 0)?;
    let offset = parts.next()?.parse().ok().filter(|offset| *offset >= 0)?;
    let key = parts.next().filter(|key| !key.is_empty()).map(str::to_owned);
    Some(Ref { key, ..Ref::new(topic, partition, offset) })
}

/// Names and texts in the line's order. A list stands for a name that comes more than once.
#[derive(Default)]
struct Headers(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeadersVisitor;

        impl<'de> Visitor<'de> for HeadersVisitor {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut headers = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name.contains('\0') {
                        return Err(A::Error::custom("a header's name contains a NUL byte"));
                    }
                    let Texts(texts) = map.next_value()?;
                    headers.extend(texts.into_iter().map(|text| (name.clone(), text)));
                }
                Ok(Headers(headers))
            }
        }

        deserializer.deserialize_map(HeadersVisitor)
    }
}

struct Texts(Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextsVisitor;

        impl<'de> Visitor<'de> for TextsVisitor {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a header's text, or a list of them")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }

        deserializer.deserialize_any(TextsVisitor)
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
