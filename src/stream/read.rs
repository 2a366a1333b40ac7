//! From records to the elements that a worker's first agent gets.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::value::StringDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::envelope::{self, History, Ref, decode_plain};
use crate::error::HandlerError;
use crate::message::{Cause, Record};

/// What a record's value is made into.
pub(super) type Read<T> = Box<dyn Fn(&Record) -> Result<Vec<T>, serde_json::Error> + Send>;

/// A record that goes in whole: its value, and where it came from.
#[derive(Clone, Debug)]
pub struct Whole<T> {
    /// The record's value.
    pub value: T,
    record: Record,
    /// The envelope's, where it is one.
    history: Option<History>,
}

impl<T> Whole<T> {
    /// The record's place and, of an envelope, its history: for messages that are made of it.
    #[must_use]
    pub fn reference(&self) -> Ref {
        Ref { history: self.history.clone(), ..self.record.reference() }
    }
}

impl<'a, T> From<&'a Whole<T>> for Cause<'a> {
    fn from(whole: &'a Whole<T>) -> Self {
        Self::new(whole.reference(), whole.record.headers())
    }
}

impl<T> Deref for Whole<T> {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

pub(super) fn elements<T: DeserializeOwned + 'static>(is_envelope: bool) -> Read<T> {
    Box::new(move |record| {
        let value = record.value().unwrap_or_default();
        match is_envelope {
            true => split(envelope::decode_raw(value)?.item.get()),
            false => decode_plain(value, split),
        }
    })
}

pub(super) fn whole<T: DeserializeOwned + 'static>(is_envelope: bool) -> Read<Whole<T>> {
    Box::new(move |record| {
        let value = record.value().unwrap_or_default();
        let (value, history) = match is_envelope {
            true => {
                let envelope = envelope::decode::<T>(value)?;
                (envelope.item, envelope.history.and_then(History::from_checked_text))
            }
            false => (decode_plain(value, |text| serde_json::from_str(text))?, None),
        };
        Ok(vec![Whole { value, record: record.clone(), history }])
    })
}

/// The elements of a list, the keys of a map, or the characters of a text.
fn split<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let all = match text.trim_start_matches([' ', '\t', '\r', '\n']).as_bytes().first() {
        // Where serde_json keeps the text of numbers it calls them maps, of a key that nobody wrote.
        Some(b'-' | b'0'..=b'9') => deserializer.deserialize_seq(Elements(PhantomData)),
        _ => deserializer.deserialize_any(Elements(PhantomData)),
    }?;
    deserializer.end()?;
    Ok(all)
}

struct Elements<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list, a map or a text")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::with_capacity(list.size_hint().unwrap_or_default());
        while let Some(element) = list.next_element()? {
            all.push(element);
        }
        Ok(all)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<T>, A::Error> {
        let (mut all, mut keys) = (Vec::new(), HashSet::new());
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<IgnoredAny>()?;
            if !keys.contains(&key) {
                // Who wanted the whole map is to know what to do.
                let element = T::deserialize(StringDeserializer::<A::Error>::new(key.clone())).map_err(|error| {
                    A::Error::custom(format_args!("{error}: of a map the keys go in, `whole` takes all of it"))
                })?;
                all.push(element);
                keys.insert(key);
            }
        }
        Ok(all)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<T>, E> {
        let characters = text.chars().map(|c| T::deserialize(StringDeserializer::<E>::new(c.to_string())));
        characters.collect()
    }
}

/// What somebody's own deserializer said.
pub(super) fn own<T: 'static>(read: impl Fn(&Record) -> Result<Vec<T>, HandlerError> + Send + 'static) -> Read<T> {
    Box::new(move |record| read(record).map_err(serde_json::Error::custom))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn lists_maps_and_texts_have_elements_and_nothing_else_has() {
        let all = |text: &str| split::<Value>(text).map(Value::Array);
        for (text, expected) in [
            (" [1, [2], {\"a\": 3}, null] ", json!([1, [2], {"a": 3}, null])),
            (r#"{"a": 1, "b": {"c": 2}, "a": 3}"#, json!(["a", "b"])),
            (r#""a\ud83d\ude00b""#, json!(["a", "\u{1f600}", "b"])),
            ("[]", json!([])),
            ("{}", json!([])),
            (r#""""#, json!([])),
        ] {
            assert_eq!(all(text).unwrap(), expected, "{text}");
        }
        // Of any size: with `export` serde_json keeps their text.
        for text in
            ["5", " -5", "1.5", "-0", "1e400", "12345678901234567890123", "true", "null", "[1] 2", "", "nonsense"]
        {
            assert!(all(text).is_err(), "{text}: {:?}", all(text));
        }
    }

    #[test]
    fn whoever_wants_a_whole_map_is_told_how() {
        #[derive(Debug, serde::Deserialize)]
        struct Reading {
            #[serde(rename = "celsius")]
            _celsius: f64,
        }
        let error = split::<Reading>(r#"{"celsius": 1.0}"#).unwrap_err().to_string();
        assert!(error.contains("of a map the keys go in, `whole` takes all of it"), "{error}");
    }

    #[test]
    fn the_keys_of_a_map_are_read_once_each() {
        let fields: Vec<_> = (0..100_000).map(|number| format!(r#""key-{number:06}":0"#)).collect();
        assert_eq!(split::<String>(&format!("{{{}}}", fields.join(","))).unwrap().len(), 100_000);
    }
}
