//! JSON as Python's `json.dumps` writes it: `", "` and `": "` between, ASCII alone, floats as `repr` spells them.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::ops::Range;

use serde::de::{MapAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Error as JsonError;
use serde_json::ser::{CharEscape, Formatter, Serializer};
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::python;

/// The field that names an event.
pub(super) const EVENT: &str = "event";

/// As deep as serde_json itself reads a value.
const MAX_DEPTH: usize = 127;

/// The name of an event that is to stand in the object, and where to put it if the object has no such field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name<'a> {
    First(&'a str),
    Last(&'a str),
}

/// The JSON of a payload, with the event's name in it.
///
/// # Errors
/// [`Error::Encode`]: the payload cannot be written, or it is no object although a name is to be set.
pub(super) fn write<T: Serialize + ?Sized>(payload: &T, name: Option<Name<'_>>) -> Result<Vec<u8>> {
    try_write(payload, name).map_err(|source| Error::Encode { source })
}

fn try_write<T: Serialize + ?Sized>(payload: &T, name: Option<Name<'_>>) -> Result<Vec<u8>, JsonError> {
    let mut out = Vec::with_capacity(128);
    let notes = Notes::default();
    let counting = Counting { out: &mut out, written: &notes.written };
    payload
        .serialize(&mut Serializer::with_formatter(counting, Python { notes: &notes, depth: 0, key: Key::Other }))?;
    let Some(name) = name else { return Ok(out) };
    if out.first() != Some(&b'{') {
        return Err(JsonError::custom("the payload is no JSON object: the event's name has no place in it"));
    }
    if notes.events.get() > 1 {
        return Err(JsonError::custom("the payload has the field `event` more than once"));
    }
    set_name(&mut out, name, notes.event.take());
    Ok(out)
}

/// Puts the name where the object has its event, or where it shall have it.
fn set_name(out: &mut Vec<u8>, name: Name<'_>, place: Option<Range<usize>>) {
    let (Name::First(text) | Name::Last(text)) = name;
    let mut field = Vec::with_capacity(text.len() + 16);
    if place.is_none() {
        field.extend_from_slice(b"\"event\": ");
    }
    quote(text, &mut field);
    let is_empty = out.len() == 2;
    let place = match (place, name) {
        (Some(place), _) => place,
        (None, Name::First(_)) => {
            field.extend_from_slice(if is_empty { b"" } else { b", " });
            1..1
        }
        (None, Name::Last(_)) => {
            if !is_empty {
                field.splice(0..0, *b", ");
            }
            out.len() - 1..out.len() - 1
        }
    };
    out.splice(place, field);
}

/// What is noted of the text while it is written.
#[derive(Default)]
struct Notes {
    written: Cell<usize>,
    /// Where the value of the object's own `event` stands.
    event: Cell<Option<Range<usize>>>,
    /// How many such there are.
    events: Cell<usize>,
}

impl Notes {
    fn event(&self, place: Range<usize>) {
        self.event.set(Some(place));
        self.events.set(self.events.get() + 1);
    }
}

/// Says how much was written, which a formatter cannot see.
struct Counting<'a> {
    out: &'a mut Vec<u8>,
    written: &'a Cell<usize>,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.extend_from_slice(bytes);
        self.written.set(self.out.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes as Python does.
struct Python<'a> {
    notes: &'a Notes,
    /// In how many arrays and objects the text is.
    depth: usize,
    key: Key,
}

/// What is being written of an object's own keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    /// Nothing yet.
    Begun,
    /// `event`.
    Event,
    /// The value of `event`, which starts here.
    ValueFrom(usize),
    /// Anything else.
    Other,
}

impl Python<'_> {
    fn enter<W: Write + ?Sized>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        writer.write_all(bracket)
    }

    fn leave<W: Write + ?Sized>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth = self.depth.saturating_sub(1);
        writer.write_all(bracket)
    }
}

impl Formatter for Python<'_> {
    fn write_f32<W: Write + ?Sized>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        // The digits that tell it from other 32-bit floats.
        let digits = value.to_string();
        self.write_f64(writer, digits.parse().unwrap_or_else(|_| f64::from(value)))
    }

    fn write_f64<W: Write + ?Sized>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(python::float(value).as_bytes())
    }

    fn write_number_str<W: Write + ?Sized>(&mut self, writer: &mut W, value: &str) -> io::Result<()> {
        writer.write_all(number(value).as_bytes())
    }

    fn write_string_fragment<W: Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if self.key == Key::Begun {
            self.key = if fragment == EVENT { Key::Event } else { Key::Other };
        } else if self.key == Key::Event {
            self.key = Key::Other;
        }
        ascii(fragment, |part| writer.write_all(part))
    }

    fn write_char_escape<W: Write + ?Sized>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        if matches!(self.key, Key::Begun | Key::Event) {
            self.key = Key::Other;
        }
        serde_json::ser::CompactFormatter.write_char_escape(writer, escape)
    }

    fn begin_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.enter(writer, b"[")
    }

    fn end_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.leave(writer, b"]")
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.enter(writer, b"{")
    }

    fn end_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.leave(writer, b"}")
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if self.depth == 1 {
            self.key = Key::Begun;
        }
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")?;
        if self.depth == 1 {
            self.key = match self.key {
                Key::Event => Key::ValueFrom(self.notes.written.get()),
                _ => Key::Other,
            };
        }
        Ok(())
    }

    fn end_object_value<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        if let (1, Key::ValueFrom(start)) = (self.depth, self.key) {
            self.notes.event(start..self.notes.written.get());
            self.key = Key::Other;
        }
        Ok(())
    }

    fn write_raw_fragment<W: Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut walk = Walk::default();
        walk.value(fragment, self.depth).map_err(io::Error::other)?;
        if let (0, Some(place)) = (self.depth, walk.event) {
            self.notes.event(place);
        }
        writer.write_all(&walk.out)
    }
}

/// A JSON text as `json.dumps(json.loads(text))` gives it: keys keep their order, and integers their digits.
///
/// # Errors
/// It is not JSON, or nests deeper than 127 levels.
pub(super) fn recode(json: &str) -> Result<Vec<u8>, JsonError> {
    let mut walk = Walk::default();
    walk.value(json, 0)?;
    Ok(walk.out)
}

/// Writes a JSON text anew.
#[derive(Default)]
struct Walk {
    out: Vec<u8>,
    /// Where the value of the outermost object's `event` stands.
    event: Option<Range<usize>>,
}

impl Walk {
    /// A value, within so many others.
    fn value(&mut self, json: &str, depth: usize) -> Result<(), JsonError> {
        let json = json.trim_matches([' ', '\t', '\r', '\n']);
        match json.as_bytes().first() {
            Some(b'[' | b'{') if depth >= MAX_DEPTH => {
                return Err(JsonError::custom(format_args!("nests deeper than {MAX_DEPTH} levels")));
            }
            Some(b'[') => self.array(serde_json::from_str(json)?, depth)?,
            Some(b'{') => self.object(serde_json::from_str(json)?, depth)?,
            Some(b'"') => quote(&serde_json::from_str::<Text<'_>>(json)?.0, &mut self.out),
            Some(b'-' | b'0'..=b'9') => {
                let json = serde_json::from_str::<&RawValue>(json)?.get();
                self.out.extend_from_slice(number(json).as_bytes());
            }
            // `true`, `false`, `null`, or an error.
            _ => self.out.extend_from_slice(serde_json::from_str::<&RawValue>(json)?.get().as_bytes()),
        }
        Ok(())
    }

    fn array(&mut self, values: Vec<&RawValue>, depth: usize) -> Result<(), JsonError> {
        self.out.push(b'[');
        for (index, value) in values.into_iter().enumerate() {
            self.out.extend_from_slice(if index > 0 { b", " } else { b"" });
            self.value(value.get(), depth + 1)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn object(&mut self, fields: Fields<'_>, depth: usize) -> Result<(), JsonError> {
        self.out.push(b'{');
        for (index, (key, value)) in fields.0.into_iter().enumerate() {
            self.out.extend_from_slice(if index > 0 { b", " } else { b"" });
            quote(&key, &mut self.out);
            self.out.extend_from_slice(b": ");
            let start = self.out.len();
            self.value(value.get(), depth + 1)?;
            if depth == 0 && key == EVENT {
                self.event = Some(start..self.out.len());
            }
        }
        self.out.push(b'}');
        Ok(())
    }
}

/// A text, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// An object's fields in order. Of a key that comes again the last value, at the first one's place, as in Python.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
        let mut places: HashMap<Cow<'de, str>, usize> = HashMap::new();
        while let Some((Text(key), value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
            match places.get(&key).and_then(|place| fields.get_mut(*place)) {
                Some(field) => field.1 = value,
                None => {
                    places.insert(key.clone(), fields.len());
                    fields.push((key, value));
                }
            }
        }
        Ok(Fields(fields))
    }
}

/// A JSON number. What is too large for a float stays as it is: Python's `Infinity` is no JSON.
fn number(json: &str) -> Cow<'_, str> {
    let number = python::number(json);
    if number.ends_with("inf") { json.into() } else { number }
}

/// A text in quotes.
fn quote(text: &str, out: &mut Vec<u8>) {
    let notes = Notes::default();
    let counting = Counting { out, written: &notes.written };
    let python = Python { notes: &notes, depth: 0, key: Key::Other };
    // Writing to memory does not fail, nor does a text.
    let _ = text.serialize(&mut Serializer::with_formatter(counting, python));
}

/// Gives a text in parts, with `\uXXXX` for what is no printable ASCII: two of them beyond the first 65,536 characters.
fn ascii(text: &str, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c >= '\u{7f}') {
        let (plain, other) = rest.split_at(start);
        write(plain.as_bytes())?;
        let mut others = other.chars();
        if let Some(c) = others.next() {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write(format!("\\u{unit:04x}").as_bytes())?;
            }
        }
        rest = others.as_str();
    }
    write(rest.as_bytes())
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
