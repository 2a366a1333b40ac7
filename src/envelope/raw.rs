//! What this crate has checked is JSON becomes serde_json's [`RawValue`], without serde_json checking it again.

use std::iter;

use serde::de::value::{BorrowedStrDeserializer, Error, MapDeserializer};
use serde::de::{Deserialize as _, Deserializer, Visitor};
use serde_json::value::RawValue;

/// The caller has checked that `text` is one JSON value without blanks around it; this does not look. It is never none
/// for such a text.
pub(super) fn raw_of_checked(text: &str) -> Option<&RawValue> {
    // Another version of serde_json may want to be told otherwise. It reads the text then.
    <&RawValue>::deserialize(Checked(text)).ok().or_else(|| serde_json::from_str(text).ok())
}

/// Says what a text is as serde_json's own deserializer does: by a map with one entry, under the name that `RawValue` asks
/// for.
struct Checked<'a>(&'a str);

impl<'de> Deserializer<'de> for Checked<'de> {
    type Error = Error;

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        let entry = (name, BorrowedStrDeserializer::new(self.0));
        visitor.visit_map(MapDeserializer::new(iter::once(entry)))
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.0)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_json_takes_it_as_its_own() {
        let text = r#"{"a":[1,"\u00e9"]}"#;
        let raw = <&RawValue>::deserialize(Checked(text)).unwrap();
        assert!(std::ptr::eq(raw.get(), text));
        assert_eq!(serde_json::to_string(raw).unwrap(), text);
        assert_eq!(serde_json::to_string(&raw.to_owned()).unwrap(), text);
    }
}
