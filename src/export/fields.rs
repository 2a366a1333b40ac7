//! One level of a JSON object: its keys, and its values as the texts that they were.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Among more keys than this none is looked for one by one.
const FEW: usize = 16;

/// An object's fields. Of a key that comes twice the last counts.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    /// In the object's order.
    fields: Vec<(Key<'a>, &'a RawValue)>,
    /// The places of more than [`FEW`] fields, sorted by key.
    sorted: Vec<usize>,
}

/// A key, borrowed unless it is escaped.
#[derive(Debug, Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Fields<'a> {
    /// The object's own level. None where the text is JSON but no object.
    ///
    /// # Errors
    /// Where it is not JSON.
    pub(super) fn of(text: &'a str) -> Result<Option<Self>, serde_json::Error> {
        match text.trim_ascii_start().starts_with('{') {
            true => serde_json::from_str(text).map(Some),
            false => serde_json::from_str(text).map(|serde::de::IgnoredAny| None),
        }
    }

    /// All fields in order, also those of a key that comes again.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.fields.iter().map(|(key, value)| (&*key.0, *value))
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a RawValue> {
        if self.fields.len() <= FEW {
            return self.fields.iter().rev().find(|(found, _)| found.0 == key).map(|(_, value)| *value);
        }
        let after = self.sorted.partition_point(|place| *self.fields[*place].0.0 <= *key);
        let (found, value) = &self.fields[*self.sorted.get(after.checked_sub(1)?)?];
        (found.0 == key).then_some(value)
    }

    /// A field that is there and not null.
    pub(super) fn given(&self, key: &str) -> Option<&'a RawValue> {
        self.get(key).filter(|value| value.get() != "null")
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::with_capacity(FEW);
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                let mut sorted: Vec<_> = (0..if fields.len() > FEW { fields.len() } else { 0 }).collect();
                // Stable: the last of equal keys stays the last.
                sorted.sort_by_key(|place| -> &str {
                    let (Key(key), _) = &fields[*place];
                    key
                });
                Ok(Fields { fields, sorted })
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_key_that_comes_twice_the_last_counts() {
        for more in [0, 30] {
            let filling: String = (0..more).map(|number| format!("\"k{number}\":{number},")).collect();
            let text = format!(r#" {{"a":1,"b":{{"x":[]}},{filling}"\u0061":2,"":"e"}}"#);
            let fields = Fields::of(&text).unwrap().unwrap();
            let get = |key| fields.get(key).map(RawValue::get);
            assert_eq!((get("a"), get("b"), get("c")), (Some("2"), Some(r#"{"x":[]}"#), None));
            assert_eq!((get(""), get("k29")), (Some("\"e\""), (more > 0).then_some("29")));
            assert_eq!(fields.iter().count(), 4 + more);
        }
    }

    #[test]
    fn what_is_no_object_has_no_fields() {
        for text in ["[1]", "null", " 5 ", "\"{\""] {
            assert!(Fields::of(text).unwrap().is_none(), "{text}");
        }
        for text in ["", "{", "{\"a\":}", "[1", "{} 1", "nan"] {
            assert!(Fields::of(text).is_err(), "{text}");
        }
    }
}
