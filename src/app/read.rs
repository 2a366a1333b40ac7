//! What a record says: its event's name, and where its message stands.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::str;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::app::form::Form;
use crate::app::task::Route;
use crate::envelope::decode::within;
use crate::envelope::{Decoded, decode_plain, decode_raw};
use crate::message::record::{Message, Parts, Record};

/// What a record says.
#[derive(Debug)]
pub(super) struct Said<'a> {
    pub(super) event: Cow<'a, str>,
    pub(super) message: Message,
    /// The envelope's history within the value.
    pub(super) history: Option<Range<usize>>,
}

/// Reads a record. Where that gives no event, the answer says what becomes of the record instead.
pub(super) fn read<'a>(form: &Form, parts: &'a Parts) -> Result<Said<'a>, Route> {
    let Some(value) = parts.value().filter(|value| !value.is_empty()) else { return Err(Route::Nothing) };
    let key = parts.key().map(str::from_utf8).transpose().map_err(|error| {
        let reason = format_args!("the key is not UTF-8 at byte {}", error.valid_up_to());
        Route::Unreadable(serde_json::Error::custom(reason))
    })?;
    let (part, history, seen) = if form.envelopes.contains(parts.topic()) {
        let Decoded { item, history, .. } = decode_raw(value).map_err(Route::Unreadable)?;
        let seen = Seen::of(item.get()).map_err(Route::Unreadable)?;
        (Some(place(value, item.get())), history.map(|history| place(value, history)), seen)
    } else {
        (None, None, decode_plain(value, Seen::of).map_err(Route::Unreadable)?)
    };
    let (event, message) = match seen {
        Seen::Object(event) => (event, None),
        Seen::Text(text, event) => (event, Some(Message::Text(text))),
        Seen::Else => (Event::NoObject, None),
    };
    let event = if form.key_as_event { named_by(key)? } else { event.name()? };
    let message = message.unwrap_or_else(|| part.map_or(Message::Value, Message::Part));
    Ok(Said { event, message, history })
}

/// The record's message as a `T`. Errors tell the place in the whole value, unless the message was a text within it.
pub(super) fn message<T: DeserializeOwned>(record: &Record) -> Result<T, serde_json::Error> {
    fit(record.value().unwrap_or_default(), record.message())
}

/// The message of what was read from `value` as a `T`.
pub(super) fn fit<T: DeserializeOwned>(value: &[u8], message: &[u8]) -> Result<T, serde_json::Error> {
    let is_part = message.len() < value.len() && value.as_ptr_range().contains(&message.as_ptr());
    if !is_part {
        return decode_plain(message, |text| serde_json::from_str(text));
    }
    decode_plain(message, |text| {
        let whole = str::from_utf8(value).unwrap_or(text);
        serde_json::from_str(text).map_err(|error| within(whole, text, error))
    })
}

/// Where a part of `value` stands in it.
fn place(value: &[u8], part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(value.as_ptr() as usize);
    start..start + part.len()
}

/// The key as an event's name.
fn named_by(key: Option<&str>) -> Result<Cow<'_, str>, Route> {
    match key {
        None => Err(Route::NoEvent("it has no key")),
        Some("") => Err(Route::NoEvent("its key is empty")),
        Some(key) => Ok(Cow::Borrowed(key)),
    }
}

/// What a message is.
enum Seen<'a> {
    Object(Event<'a>),
    /// An object that stands in a JSON text: it was encoded twice.
    Text(Box<str>, Event<'a>),
    Else,
}

/// What a message has as `event`.
enum Event<'a> {
    Name(Cow<'a, str>),
    Missing,
    NoText,
    NoObject,
}

impl<'a> Seen<'a> {
    fn of(text: &'a str) -> Result<Self, serde_json::Error> {
        match first(text) {
            Some(b'{') => serde_json::from_str::<Fields<'_>>(text).map(|fields| Self::Object(fields.0)),
            Some(b'"') => serde_json::from_str::<String>(text).map(Self::of_text),
            _ => serde_json::from_str(text).map(|IgnoredAny| Self::Else),
        }
    }

    fn of_text(text: String) -> Self {
        if first(&text) != Some(b'{') {
            return Self::Else;
        }
        match serde_json::from_str::<Fields<'_>>(&text) {
            Ok(Fields(event)) => {
                let event = event.into_owned();
                Self::Text(text.into(), event)
            }
            Err(_) => Self::Else,
        }
    }
}

impl<'a> Event<'a> {
    fn name(self) -> Result<Cow<'a, str>, Route> {
        Err(Route::NoEvent(match self {
            Self::Name(name) => return Ok(name),
            Self::Missing => "it has no `event`",
            Self::NoText => "its `event` is no text",
            Self::NoObject => "its message is no JSON object",
        }))
    }

    fn into_owned(self) -> Event<'static> {
        match self {
            Self::Name(name) => Event::Name(Cow::Owned(name.into_owned())),
            Self::Missing => Event::Missing,
            Self::NoText => Event::NoText,
            Self::NoObject => Event::NoObject,
        }
    }
}

/// The first byte of the JSON in a text.
fn first(text: &str) -> Option<u8> {
    text.bytes().find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
}

/// An object of which only `event` is kept; where it comes twice the last one, as in Python.
struct Fields<'a>(Event<'a>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut event = Event::Missing;
                while let Some(IsEvent(is_event)) = map.next_key()? {
                    if !is_event {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let raw = map.next_value::<&'de RawValue>()?.get();
                    event = match raw.starts_with('"') {
                        true => Event::Name(serde_json::from_str::<Name<'de>>(raw).map_err(A::Error::custom)?.0),
                        false => Event::NoText,
                    };
                }
                Ok(Fields(event))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// A text that is copied only where it has escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Whether a key is `event`.
struct IsEvent(bool);

impl<'de> Deserialize<'de> for IsEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl Visitor<'_> for KeyVisitor {
            type Value = IsEvent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<IsEvent, E> {
                Ok(IsEvent(key == "event"))
            }
        }

        deserializer.deserialize_identifier(KeyVisitor)
    }
}
