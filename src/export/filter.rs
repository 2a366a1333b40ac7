//! One filter: what it says, and what it may say.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::envelope::bounded;
use crate::error::{Error, Result, excerpt};
use crate::export::fields::Fields;
use crate::export::mapping::{Entry, Half, Mapping};
use crate::export::strict;
use crate::settings::check;

/// So many keys may a path have. JSON that nests deeper is not read anyway.
const MAX_PATH_KEYS: usize = 127;

/// A filter as it is kept.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) id: Arc<str>,
    pub(super) source: Arc<str>,
    /// Sorted by key.
    pub(super) identifiers: Box<[Identifier]>,
    pub(super) mapping: Arc<Mapping>,
    /// As JSON text.
    pub(super) args: Option<Box<str>>,
    /// Later filters have larger ones.
    pub(super) order: u64,
}

/// What a message must have for a filter to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identifier {
    pub(super) key: Arc<str>,
    /// None: any value.
    pub(super) value: Option<Box<str>>,
}

/// A filter as it was given, with all rules kept that concern it alone.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) id: String,
    pub(super) source: String,
    pub(super) identifiers: Vec<Identifier>,
    pub(super) mapping: Mapping,
    pub(super) args: Option<Box<str>>,
}

impl Definition {
    /// Reads a filter's JSON.
    ///
    /// # Errors
    /// [`Error::Filter`] names the first field that breaks a rule.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let unreadable = |error| refused("", "payload", format!("cannot be read: {}", bounded(error)));
        strict::check(text.as_bytes()).map_err(unreadable)?;
        let no_object = || refused("", "payload", "is no object");
        let fields = Fields::of(text).map_err(unreadable)?.ok_or_else(no_object)?;
        let id = required(&fields, "", "id")?;
        let known = ["id", "source", "mappings", "identifiers", "args"];
        if let Some((unknown, _)) = fields.iter().find(|(name, _)| !known.contains(name)) {
            return Err(refused(&id, unknown, "is unknown"));
        }
        let source = required(&fields, &id, "source")?;
        check::topic(&source).map_err(|error| match error {
            Error::Setting { reason, .. } => refused(&id, "source", format!("is no topic: {reason}")),
            other => other,
        })?;
        let mapping = mapping(&fields, &id)?;
        let identifiers = identifiers(&fields, &id)?;
        let args = fields.given("args").filter(|args| args.get().starts_with('{') || !is_nothing(args));
        if args.is_some_and(|args| !args.get().starts_with('{')) {
            return Err(refused(&id, "args", "is no object"));
        }
        Ok(Self { id, source, identifiers, mapping, args: args.map(|args| args.get().into()) })
    }
}

/// Shows enough of names to find them, however long they are.
pub(super) fn refused(id: &str, field: impl AsRef<str>, reason: impl Into<String>) -> Error {
    let shown = |name: &str| excerpt(name.as_bytes());
    Error::Filter { id: shown(id), field: shown(field.as_ref()), reason: reason.into() }
}

/// Whether a value is one that Python takes for none: the filters that are out there rely on it.
fn is_nothing(value: &RawValue) -> bool {
    match value.get() {
        "null" | "false" | "\"\"" => true,
        text if text.starts_with(['[', '{']) => text[1..text.len() - 1].trim_ascii().is_empty(),
        text => text.parse() == Ok(0.0),
    }
}

/// A text that has to be there.
fn required(fields: &Fields<'_>, id: &str, name: &str) -> Result<String> {
    let value = fields.given(name).ok_or_else(|| refused(id, name, "is missing"))?;
    let text: String = serde_json::from_str(value.get()).map_err(|_| refused(id, name, "is no text"))?;
    if text.is_empty() { Err(refused(id, name, "is empty")) } else { Ok(text) }
}

fn mapping(fields: &Fields<'_>, id: &str) -> Result<Mapping> {
    let refuse = |reason: &str| refused(id, "mappings", reason);
    let value = fields.given("mappings").ok_or_else(|| refuse("is missing"))?;
    let Ok(Some(mappings)) = Fields::of(value.get()) else { return Err(refuse("is no object")) };
    let entries = mappings.iter().map(|(target, path)| {
        let refuse = |reason: &str| refused(id, format!("mappings.{target}"), reason);
        let (target, half) = match target.split_once(':') {
            Some((target, "data")) => (target, Half::Data),
            Some((target, "extra")) => (target, Half::Extra),
            _ => return Err(refuse("is not a target with `:data` or `:extra` behind it")),
        };
        let path: String = serde_json::from_str(path.get()).map_err(|_| refuse("is no text"))?;
        if target.is_empty() || path.is_empty() {
            return Err(refuse("has an empty target or path"));
        }
        if path.split('.').nth(MAX_PATH_KEYS).is_some() {
            return Err(refuse("has more than 127 keys"));
        }
        Ok((half, target, path))
    });
    let entries: Vec<_> = entries.collect::<Result<_>>()?;
    if entries.is_empty() {
        return Err(refuse("is empty"));
    }
    Ok(Mapping::new(entries.iter().map(|(half, target, path)| Entry { half: *half, target, path })))
}

/// The identifiers, sorted by key; none where they are null.
fn identifiers(fields: &Fields<'_>, id: &str) -> Result<Vec<Identifier>> {
    let Some(value) = fields.given("identifiers").filter(|value| !is_nothing(value)) else { return Ok(Vec::new()) };
    let list: Vec<&RawValue> =
        serde_json::from_str(value.get()).map_err(|_| refused(id, "identifiers", "is no list"))?;
    let mut identifiers =
        (0..).zip(list).map(|(index, entry)| identifier(entry, id, index)).collect::<Result<Vec<_>>>()?;
    identifiers.sort_by(|one, other| one.key.cmp(&other.key));
    match identifiers.windows(2).find(|pair| pair[0].key == pair[1].key) {
        Some(twice) => {
            Err(refused(id, "identifiers", format!("name the key `{}` twice", excerpt(twice[0].key.as_bytes()))))
        }
        None => Ok(identifiers),
    }
}

fn identifier(entry: &RawValue, id: &str, index: usize) -> Result<Identifier> {
    let refuse = |name: &str, reason: &str| refused(id, format!("identifiers[{index}]{name}"), reason);
    let Ok(Some(fields)) = Fields::of(entry.get()) else { return Err(refuse("", "is no object")) };
    if let Some((unknown, _)) = fields.iter().find(|(name, _)| !["key", "value"].contains(name)) {
        return Err(refuse(&format!(".{unknown}"), "is unknown"));
    }
    let key = fields.get("key").ok_or_else(|| refuse(".key", "is missing"))?;
    let key: String = serde_json::from_str(key.get()).map_err(|_| refuse(".key", "is no text"))?;
    if key.is_empty() {
        return Err(refuse(".key", "is empty"));
    }
    let value = fields.get("value").filter(|value| !is_nothing(value)).map(|value| {
        let number = "is a number: values are compared as text, so give it as one";
        let reason = if value.get().parse::<f64>().is_ok() { number } else { "is no text" };
        serde_json::from_str::<Box<str>>(value.get()).map_err(|_| refuse(".value", reason))
    });
    let value = value.transpose()?;
    Ok(Identifier { key: key.into(), value })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn filter() -> Value {
        json!({"id": "f", "source": "t", "mappings": {"a:data": "x.y"}})
    }

    fn with(field: &str, value: Value) -> Value {
        let mut filter = filter();
        filter[field] = value;
        filter
    }

    #[test]
    fn each_error_names_filter_and_field() {
        let list = |value: Value| with("identifiers", json!([{"key": "k", "value": "v"}, value]));
        let cases = [
            (json!({"source": "t", "mappings": {"a:data": "x"}}), "filter: `id` is missing"),
            (with("id", json!("")), "filter: `id` is empty"),
            (with("id", json!(5)), "filter: `id` is no text"),
            (json!([1]), "filter: `payload` is no object"),
            (with("source", Value::Null), "filter `f`: `source` is missing"),
            (with("source", json!("")), "filter `f`: `source` is empty"),
            (with("source", json!("^t.*")), "filter `f`: `source` is no topic: \"^t.*\" has more than"),
            (with("mappings", Value::Null), "filter `f`: `mappings` is missing"),
            (with("mappings", json!({})), "filter `f`: `mappings` is empty"),
            (with("mappings", json!([])), "filter `f`: `mappings` is no object"),
            (with("mappings", json!({"a": "x"})), "filter `f`: `mappings.a` is not a target with"),
            (with("mappings", json!({"a:Data": "x"})), "filter `f`: `mappings.a:Data` is not a target with"),
            (with("mappings", json!({"a:b:data": "x"})), "filter `f`: `mappings.a:b:data` is not a target with"),
            (with("mappings", json!({":data": "x"})), "filter `f`: `mappings.:data` has an empty"),
            (with("mappings", json!({"a:data": ""})), "filter `f`: `mappings.a:data` has an empty"),
            (with("mappings", json!({"a:data": 5})), "filter `f`: `mappings.a:data` is no text"),
            (with("mappings", json!({"a:data": "x.".repeat(127)})), "filter `f`: `mappings.a:data` has more than 127"),
            (with("more", json!(1)), "filter `f`: `more` is unknown"),
            (with("args", json!([1])), "filter `f`: `args` is no object"),
            (with("identifiers", json!({"key": "k"})), "filter `f`: `identifiers` is no list"),
            (list(json!("k")), "filter `f`: `identifiers[1]` is no object"),
            (list(json!({"value": "v"})), "filter `f`: `identifiers[1].key` is missing"),
            (list(json!({"key": 1})), "filter `f`: `identifiers[1].key` is no text"),
            (list(json!({"key": "l", "val": "v"})), "filter `f`: `identifiers[1].val` is unknown"),
            (list(json!({"key": "k"})), "filter `f`: `identifiers` name the key `k` twice"),
            (list(json!({"key": "l", "value": 5})), "filter `f`: `identifiers[1].value` is a number"),
            (list(json!({"key": "l", "value": true})), "filter `f`: `identifiers[1].value` is no text"),
            (list(json!({"key": ""})), "filter `f`: `identifiers[1].key` is empty"),
            (list(json!({"key": "l", "value": [0]})), "filter `f`: `identifiers[1].value` is no text"),
        ];
        for (filter, expected) in cases {
            let error = Definition::parse(&filter.to_string()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}\n{expected}");
        }
        let twice = Definition::parse(r#"{"id":"f","source":"t","mappings":{"a:data":"x","a:data":"y"}}"#).unwrap_err();
        assert!(twice.to_string().contains(r#"the key "a:data" comes twice at line 1"#), "{twice}");
        let long = "é".repeat(100_000);
        for filter in [with("id", json!(long)), with(&long, json!(1)), with("source", json!(long))] {
            let filter = filter.to_string().replace("x.y", "");
            let error = Definition::parse(&filter).unwrap_err().to_string();
            assert!(error.len() < 1_000, "{error}");
        }
        assert!(Definition::parse("{").unwrap_err().to_string().starts_with("filter: `payload` cannot be read"));
    }

    #[test]
    fn what_python_takes_for_nothing_is_no_value() {
        for value in ["0", "-0.0", "0e5", "false", "null", "\"\"", "[ ]", "{}"] {
            let text = format!(
                r#"{{"id":"f","source":"t","mappings":{{"a:data":"x"}},"identifiers":[{{"key":"k","value":{value}}}]}}"#
            );
            let definition = Definition::parse(&text).unwrap();
            assert_eq!(definition.identifiers, [Identifier { key: "k".into(), value: None }], "{value}");
        }
        for nothing in [Value::Null, json!([]), json!(0), json!(false)] {
            let definition = Definition::parse(&with("identifiers", nothing).to_string()).unwrap();
            assert!(definition.identifiers.is_empty());
        }
        assert_eq!(Definition::parse(&with("args", json!("")).to_string()).unwrap().args, None);
        let args = Definition::parse(&with("args", json!({"n": 1})).to_string()).unwrap().args;
        assert_eq!(args.as_deref(), Some(r#"{"n":1}"#));
    }
}
