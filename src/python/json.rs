//! JSON as Python's `json.dumps` writes it: `", "` and `": "` between, ASCII alone, floats as `repr` spells them.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
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

use crate::python;

/// As deep as serde_json itself reads a value.
const MAX_DEPTH: usize = 127;

/// The JSON of a value.
///
/// # Errors
/// The value cannot be written.
pub(crate) fn write<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, JsonError> {
    find(value, None).map(|(json, _)| json)
}

/// The JSON of a value, and where in it the values of the outermost object's fields of this name stand.
///
/// # Errors
/// The value cannot be written.
pub(crate) fn find<T: Serialize + ?Sized>(
    value: &T,
    field: Option<&str>,
) -> Result<(Vec<u8>, Vec<Range<usize>>), JsonError> {
    let mut out = Vec::with_capacity(128);
    let notes = Notes { field, ..Notes::default() };
    let counting = Counting { out: &mut out, written: &notes.written };
    value.serialize(&mut Serializer::with_formatter(counting, Python { notes: &notes, depth: 0, key: Key::Other }))?;
    Ok((out, notes.places.take()))
}

/// What is noted of the text while it is written.
#[derive(Default)]
struct Notes<'a> {
    written: Cell<usize>,
    /// The field that is looked for.
    field: Option<&'a str>,
    /// Where values of that field stand.
    places: RefCell<Vec<Range<usize>>>,
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
    notes: &'a Notes<'a>,
    /// In how many arrays and objects the text is.
    depth: usize,
    key: Key,
}

/// What is being written of an object's own keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    /// Nothing yet.
    Begun,
    /// The field that is looked for.
    Found,
    /// Its value, which starts here.
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
            self.key = if self.notes.field == Some(fragment) { Key::Found } else { Key::Other };
        } else if self.key == Key::Found {
            self.key = Key::Other;
        }
        ascii(fragment, |part| writer.write_all(part))
    }

    fn write_char_escape<W: Write + ?Sized>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        if matches!(self.key, Key::Begun | Key::Found) {
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
                Key::Found => Key::ValueFrom(self.notes.written.get()),
                _ => Key::Other,
            };
        }
        Ok(())
    }

    fn end_object_value<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        if let (1, Key::ValueFrom(start)) = (self.depth, self.key) {
            self.notes.places.borrow_mut().push(start..self.notes.written.get());
            self.key = Key::Other;
        }
        Ok(())
    }

    fn write_raw_fragment<W: Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut walk = Walk { field: self.notes.field, ..Walk::default() };
        walk.value(fragment, self.depth).map_err(io::Error::other)?;
        self.notes.places.borrow_mut().extend(walk.place);
        writer.write_all(&walk.out)
    }
}

/// A JSON text as `json.dumps(json.loads(text))` gives it: keys keep their order, and integers their digits.
///
/// # Errors
/// It is not JSON, or nests deeper than 127 levels.
#[cfg(feature = "app")]
pub(crate) fn recode(json: &str) -> Result<Vec<u8>, JsonError> {
    let mut walk = Walk::default();
    walk.value(json, 0)?;
    Ok(walk.out)
}

/// Writes a JSON text anew.
#[derive(Default)]
struct Walk<'a> {
    out: Vec<u8>,
    /// The field that is looked for in the outermost object.
    field: Option<&'a str>,
    /// Where its value stands.
    place: Option<Range<usize>>,
}

impl Walk<'_> {
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
            if depth == 0 && self.field == Some(&*key) {
                self.place = Some(start..self.out.len());
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
pub(crate) fn quote(text: &str, out: &mut Vec<u8>) {
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
