//! JSON values as the text that Python's `str()` makes of them: filters compare them so, and `key=value` lists show
//! them so.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::python::number;

/// The text of a value.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => repr(other),
    }
}

/// The text of a value that is JSON text itself. None where that nests too deep.
pub(super) fn text_of(raw: &RawValue) -> Option<Cow<'_, str>> {
    let json = raw.get();
    match json.as_bytes().first()? {
        b'"' => match json[1..json.len() - 1].contains('\\') {
            false => Some(json[1..json.len() - 1].into()),
            true => serde_json::from_str(json).ok().map(Cow::Owned),
        },
        b'-' | b'0'..=b'9' => Some(number(json)),
        _ => serde_json::from_str(json).ok().map(|value| repr(&value).into()),
    }
}

/// The text of a value within another.
fn repr(value: &Value) -> String {
    let mut out = String::new();
    write_repr(value, &mut out);
    out
}

fn write_repr(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Number(value) => out.push_str(&number(value.as_str())),
        Value::String(text) => write_quoted(text, out),
        Value::Array(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(value, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (index, (key, value)) in fields.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_quoted(key, out);
                out.push_str(": ");
                write_repr(value, out);
            }
            out.push('}');
        }
    }
}

/// A text in quotes, as in a list.
fn write_quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        // Writing to a `String` does not fail.
        let _ = match c {
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            c if c == quote => write!(out, "\\{c}"),
            c if is_printable(c) => out.write_char(c),
            c => match u32::from(c) {
                code @ ..=0xff => write!(out, "\\x{code:02x}"),
                code @ ..=0xffff => write!(out, "\\u{code:04x}"),
                code => write!(out, "\\U{code:08x}"),
            },
        };
    }
    out.push(quote);
}

/// As `str.isprintable`. Rust's `escape_debug` goes by the same Unicode categories; behind another character it does not
/// escape what merely combines with that.
fn is_printable(c: char) -> bool {
    let pair: String = ['a', c].into_iter().collect();
    c == '\'' || c == '"' || pair.escape_debug().eq(pair.chars())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: &str) {
        let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
        assert_eq!(text_of(&raw).unwrap(), expected, "{json}");
        assert_eq!(text(&serde_json::from_str(json).unwrap()), expected, "{json}");
    }

    /// Each pair is `str(json.loads(json))` of Python 3.
    #[test]
    fn values_are_spelled_as_python_spells_them() {
        let cases = [
            ("true", "True"),
            ("false", "False"),
            ("null", "None"),
            (r#""a\"b\u00e9""#, "a\"b\u{e9}"),
            ("\"\"", ""),
            ("5", "5"),
            ("-0", "0"),
            ("-7", "-7"),
            ("100000000000000000000", "100000000000000000000"),
            ("5.0", "5.0"),
            ("-0.0", "-0.0"),
            ("1.50", "1.5"),
            ("1E5", "100000.0"),
            ("1e15", "1000000000000000.0"),
            // As far from the one digit as from the next.
            ("1371587721894174.25", "1371587721894174.2"),
            ("1371587721894174.75", "1371587721894174.8"),
            ("9999999999999998.0", "9999999999999998.0"),
            ("1e16", "1e+16"),
            ("1e20", "1e+20"),
            ("1.5e300", "1.5e+300"),
            ("1e400", "inf"),
            ("-1e400", "-inf"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1.25e-7", "1.25e-07"),
            ("1e-320", "1e-320"),
            ("0.1", "0.1"),
            ("2.5e-400", "0.0"),
            ("[]", "[]"),
            ("{}", "{}"),
            (r#"[1, "a", null, 2.0, [true]]"#, "[1, 'a', None, 2.0, [True]]"),
            (r#"{"k": "it's", "l": {"m": 1e16}}"#, r#"{'k': "it's", 'l': {'m': 1e+16}}"#),
            (r#"["it's \"so\""]"#, r#"['it\'s "so"']"#),
            (
                r#"["\n\r\t\\\u0000\u007f\u00e9\u00ad\u200b\u0301\ud83d\ude00\udb40\udc01"]"#,
                "['\\n\\r\\t\\\\\\x00\\x7f\u{e9}\\xad\\u200b\u{301}\u{1f600}\\U000e0001']",
            ),
        ];
        for (json, expected) in cases {
            check(json, expected);
        }
    }
}
