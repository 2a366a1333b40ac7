//! From records to the elements that a worker's first agent gets.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::value::StringDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::envelope::{self, History, Ref, decode_plain};
use crate::error::HandlerError;
use crate::message::Record;

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

impl<T> Deref for Whole<T> {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

/// What the JSON of a record says, an envelope's item or the value; and the envelope's history.
fn json<T: DeserializeOwned>(record: &Record, is_envelope: bool) -> Result<(T, Option<&RawValue>), serde_json::Error> {
    let value = record.value().unwrap_or_default();
    if is_envelope {
        let envelope = envelope::decode::<T>(value)?;
        return Ok((envelope.item, envelope.history));
    }
    Ok((decode_plain(value, |text| serde_json::from_str(text))?, None))
}

pub(super) fn elements<T: DeserializeOwned + 'static>(is_envelope: bool) -> Read<T> {
    Box::new(move |record| json(record, is_envelope).map(|(Elements(all), _)| all))
}

pub(super) fn whole<T: DeserializeOwned + 'static>(is_envelope: bool) -> Read<Whole<T>> {
    Box::new(move |record| {
        let (value, history) = json(record, is_envelope)?;
        Ok(vec![Whole { value, record: record.clone(), history: history.map(History::from_checked) }])
    })
}

/// The elements of a list, the keys of a map, or the characters of a text.
struct Elements<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Elements<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementsVisitor(PhantomData))
    }
}

struct ElementsVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ElementsVisitor<T> {
    type Value = Elements<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list, a map or a text")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Elements<T>, A::Error> {
        let mut all = Vec::with_capacity(list.size_hint().unwrap_or_default());
        while let Some(element) = list.next_element()? {
            all.push(element);
        }
        Ok(Elements(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Elements<T>, A::Error> {
        let mut keys: Vec<String> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<IgnoredAny>()?;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let texts = keys.into_iter().map(|key| T::deserialize(StringDeserializer::<A::Error>::new(key)));
        texts.collect::<Result<_, _>>().map(Elements)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Elements<T>, E> {
        let characters = text.chars().map(|c| T::deserialize(StringDeserializer::<E>::new(c.to_string())));
        characters.collect::<Result<_, _>>().map(Elements)
    }
}

/// What somebody's own deserializer said.
pub(super) fn own<T: 'static>(read: impl Fn(&Record) -> Result<Vec<T>, HandlerError> + Send + 'static) -> Read<T> {
    Box::new(move |record| read(record).map_err(serde_json::Error::custom))
}
