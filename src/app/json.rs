//! The JSON of an event: as Python's `json.dumps` writes it, with the event's name in it.

use std::ops::Range;

use serde::Serialize;
use serde::ser::Error as _;
use serde_json::Error as JsonError;

use crate::error::{Error, Result};
use crate::python::json::{find, quote, write as write_plain};

/// The field that names an event.
pub(super) const EVENT: &str = "event";

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
    let written = match name {
        None => write_plain(payload),
        Some(name) => write_named(payload, name),
    };
    written.map_err(|source| Error::Encode { source })
}

fn write_named<T: Serialize + ?Sized>(payload: &T, name: Name<'_>) -> Result<Vec<u8>, JsonError> {
    let (mut out, mut places) = find(payload, Some(EVENT))?;
    if out.first() != Some(&b'{') {
        return Err(JsonError::custom("the payload is no JSON object: the event's name has no place in it"));
    }
    let place = places.pop();
    if !places.is_empty() {
        return Err(JsonError::custom("the payload has the field `event` more than once"));
    }
    set_name(&mut out, name, place);
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

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
