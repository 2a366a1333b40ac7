//! From a record's value to its item.

use std::fmt;
use std::marker::PhantomData;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::cursor::{BROKEN, Cursor, Fault, HALF, lone_surrogate};
use super::walk::{walk, walk_from};
use super::{MAX_HISTORY_DEPTH, MAX_VALUE_BYTES};

/// What an envelope holds.
#[derive(Debug)]
pub(crate) struct Decoded<'a, T> {
    pub(crate) item: T,
    /// The history's text, checked.
    pub(crate) history: Option<&'a str>,
    /// There is a history, but one beyond the limits.
    pub(crate) truncated: bool,
}

/// Reads an envelope whose item is a `T`. Errors are [`bounded`], their line and column are those of `value`.
#[cfg(any(feature = "stream", test))]
pub(crate) fn decode<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<Decoded<'a, T>, serde_json::Error> {
    let text = text(value)?;
    decode_usual(text, Cursor::value).or_else(|_| decode_any(text))
}

/// Reads an envelope whose item stays text. Errors are [`bounded`], their line and column are those of `value`.
pub(crate) fn decode_raw(value: &[u8]) -> Result<Decoded<'_, &RawValue>, serde_json::Error> {
    let text = text(value)?;
    decode_usual(text, Cursor::raw).or_else(|_| decode_any(text))
}

/// Reads the item of an envelope, and says whether there is a history. Of that it sees no more than that its quotes and
/// brackets are even, so that nothing was cut off: [`decode_raw`] looks at it for whoever asks for it.
pub(crate) fn decode_item<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<(T, bool), serde_json::Error> {
    item(text(value)?, Cursor::value)
}

/// The same, with the item as text.
pub(crate) fn decode_raw_item(value: &[u8]) -> Result<(&RawValue, bool), serde_json::Error> {
    item(text(value)?, Cursor::raw)
}

fn item<'a, T: Deserialize<'a>>(text: &'a str, read: Read<'a, T>) -> Result<(T, bool), serde_json::Error> {
    if let Some(found) = item_usual(text, read) {
        return Ok(found);
    }
    let decoded = decode_usual(text, read).or_else(|_| decode_any(text))?;
    Ok((decoded.item, decoded.history.is_some() || decoded.truncated))
}

/// How an item is read from the cursor that stands on it.
type Read<'a, T> = fn(&mut Cursor<'a>) -> Result<T, Fault>;

#[inline]
fn item_usual<'a, T>(text: &'a str, read: Read<'a, T>) -> Option<(T, bool)> {
    let blank = [' ', '\n', '\r', '\t'];
    let mut cursor = Cursor::new(text);
    let item = first_member(&mut cursor, read).ok()?;
    let history = text.get(cursor.at..)?.trim_end_matches(blank).strip_suffix('}')?.trim_end_matches(blank);
    let is_null = history == "null";
    (is_null || looks_whole(history.as_bytes())).then_some((item, !is_null))
}

/// Whether this could be a history within the limits, by the bytes that give it its structure. What it cannot tell from one
/// is a history with more members of the envelope after it, but for a second `item`.
fn looks_whole(history: &[u8]) -> bool {
    const BLOCK: usize = 32;
    /// Counters of a byte make a loop of vectors.
    const PART: usize = u8::MAX as usize / BLOCK * BLOCK;
    static ITEM: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"item\""));
    let (mut opened, mut closed, mut quotes, mut is_plain) = (0_usize, 0_usize, 0_usize, true);
    let mut look = |part: &[u8]| {
        let (mut opens, mut closes, mut marks, mut others) = (0_u8, 0_u8, 0_u8, 0_u8);
        for byte in part {
            // A bracket and a brace differ in this bit.
            let either = byte | 0x20;
            opens += u8::from(either == b'{');
            closes += u8::from(either == b'}');
            marks += u8::from(*byte == b'"');
            others |= u8::from(*byte == b'\\') | u8::from(*byte < b' ');
        }
        opened += usize::from(opens);
        closed += usize::from(closes);
        quotes += usize::from(marks);
        is_plain &= others == 0;
    };
    // The rest is padded to a block; else it would be gone through byte by byte.
    let (blocks, rest) = history.split_at(history.len() & !(BLOCK - 1));
    blocks.chunks(PART).for_each(&mut look);
    let mut last = [b' '; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    look(&last);
    let is_even = opened == closed && quotes % 2 == 0;
    // A level within another takes three: its own, that of the list it is in, and that of the ref.
    let is_short = opened < 3 * MAX_HISTORY_DEPTH - 2;
    let is_object = history.starts_with(b"{") && history.ends_with(b"}");
    is_plain && is_even && is_short && is_object && ITEM.find(history).is_none()
}

/// Reads an envelope of which item and history are all there is, in this order: what this crate and the Python library
/// write. Why one is not of that kind is for [`decode_any`] to say.
fn decode_usual<'a, T>(text: &'a str, read: Read<'a, T>) -> Result<Decoded<'a, T>, Fault> {
    let mut cursor = Cursor::new(text);
    let item = first_member(&mut cursor, read)?;
    let (start, mut truncated) = (cursor.at, false);
    let mut history = None;
    if !cursor.eat(b"null") {
        truncated = walk_from(&mut cursor, &mut ())?.too_long();
        history = text.get(start..cursor.at).filter(|_| !truncated);
    }
    cursor.expect(b'}')?;
    if cursor.is_at_end() { Ok(Decoded { item, history, truncated }) } else { Err(cursor.fault(BROKEN)) }
}

/// Reads the item where that stands first, and moves past the key of a history that comes next.
fn first_member<'a, T>(cursor: &mut Cursor<'a>, read: Read<'a, T>) -> Result<T, Fault> {
    cursor.expect(b'{')?;
    member(cursor, b"\"item\"")?;
    let item = read(cursor)?;
    cursor.expect(b',')?;
    member(cursor, b"\"hist\"")?;
    Ok(item)
}

/// Moves past this key to its value.
fn member(cursor: &mut Cursor<'_>, quoted: &[u8]) -> Result<(), Fault> {
    cursor.token();
    if !cursor.eat(quoted) {
        return Err(cursor.fault(BROKEN));
    }
    cursor.expect(b':')?;
    cursor.token();
    Ok(())
}

/// Reads any envelope.
fn decode_any<'a, T: Deserialize<'a>>(text: &'a str) -> Result<Decoded<'a, T>, serde_json::Error> {
    let fields: Fields<'a, T> = serde_json::from_str(text).map_err(|error| explain(text, error))?;
    if let Some(at) = lone_surrogate(text) {
        return Err(fault(text, at, HALF));
    }
    let mut truncated = false;
    let history = fields.history.map(RawValue::get);
    if let Some(json) = history {
        let shape = walk(json, &mut ()).map_err(|found| {
            // `json` is a part of `text`.
            let start = json.as_ptr() as usize - text.as_ptr() as usize;
            fault(text, start + found.at, found.rule)
        })?;
        truncated = shape.too_long();
    }
    Ok(Decoded { item: fields.item, history: history.filter(|_| !truncated), truncated })
}

/// Reads JSON that is no envelope, with the same limits and errors.
#[cfg(any(feature = "app", feature = "export", feature = "stream"))]
pub(crate) fn decode_plain<'a, T>(
    value: &'a [u8],
    read: impl FnOnce(&'a str) -> Result<T, serde_json::Error>,
) -> Result<T, serde_json::Error> {
    let text = text(value)?;
    read(text).map_err(|error| explain(text, error))
}

fn text(value: &[u8]) -> Result<&str, serde_json::Error> {
    if value.len() > MAX_VALUE_BYTES {
        let bytes = value.len();
        return Err(serde_json::Error::custom(format_args!(
            "the value has {bytes} bytes, more than the limit of {MAX_VALUE_BYTES}"
        )));
    }
    std::str::from_utf8(value).map_err(|error| not_utf8(value, error))
}

struct Fields<'a, T> {
    item: T,
    history: Option<&'a RawValue>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Fields<'de, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor(PhantomData))
    }
}

struct FieldsVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldsVisitor<T> {
    type Value = Fields<'de, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an envelope, which is an object with `item`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut item = None;
        let mut history = None;
        while let Some(key) = map.next_key()? {
            match key {
                Field::Item if item.is_some() => return Err(A::Error::duplicate_field("item")),
                Field::Item => item = Some(map.next_value()?),
                Field::Hist if history.is_some() => return Err(A::Error::duplicate_field("hist")),
                Field::Hist => history = Some(map.next_value::<Option<&'de RawValue>>()?),
                Field::Unknown => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        // Not `missing_field` of a helper that would make a missing item None.
        let item = item.ok_or_else(|| A::Error::missing_field("item"))?;
        Ok(Fields { item, history: history.flatten() })
    }
}

enum Field {
    Item,
    Hist,
    Unknown,
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldVisitor;

        impl Visitor<'_> for FieldVisitor {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Field, E> {
                Ok(match name {
                    "item" => Field::Item,
                    "hist" => Field::Hist,
                    _ => Field::Unknown,
                })
            }
        }

        deserializer.deserialize_identifier(FieldVisitor)
    }
}

/// The most characters that an error's text shows, its line and column apart.
const MAX_TEXT: usize = 120;
/// How many of them are from the end of a longer text, where serde says what it expected.
const TAIL: usize = 40;

/// The same error with a text of bounded length: serde quotes the whole of a value that it did not expect.
pub(crate) fn bounded(error: serde_json::Error) -> serde_json::Error {
    let text = rule(&error);
    let chars = text.chars().count();
    if chars <= MAX_TEXT {
        return error;
    }
    let head: String = text.chars().take(MAX_TEXT - TAIL - 1).collect();
    let tail: String = text.chars().skip(chars - TAIL).collect();
    positioned(format_args!("{head}…{tail}"), error.line(), error.column())
}

/// An error in `part`, which is a slice of `whole`, with its line and column in `whole`.
pub(crate) fn within(whole: &str, part: &str, error: serde_json::Error) -> serde_json::Error {
    let error = bounded(error);
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    let (line, column) = locate(whole, start);
    let (line, column) = match error.line() {
        // An error of the type itself, made after the text was read.
        0 => (line, column),
        1 => (line, column - 1 + error.column()),
        more => (line + more - 1, error.column()),
    };
    positioned(rule(&error), line, column)
}

/// An error of our own at a byte of `text`.
pub(super) fn fault(text: &str, at: usize, rule: impl fmt::Display) -> serde_json::Error {
    let (line, column) = locate(text, at);
    positioned(rule, line, column)
}

/// serde_json takes line and column of a custom error from the end of its text.
fn positioned(rule: impl fmt::Display, line: usize, column: usize) -> serde_json::Error {
    match line {
        0 => serde_json::Error::custom(rule),
        _ => serde_json::Error::custom(format_args!("{rule} at line {line} column {column}")),
    }
}

/// An error's text without line and column.
fn rule(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    if text.ends_with(&position) {
        text.truncate(text.len() - position.len());
    }
    text
}

/// Line and column of a byte, counted as serde_json counts: from 1, columns in bytes.
fn locate(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    (1 + before.iter().filter(|byte| **byte == b'\n').count(), before.len() - line_start + 1)
}

fn not_utf8(value: &[u8], error: std::str::Utf8Error) -> serde_json::Error {
    let at = error.valid_up_to();
    let valid = std::str::from_utf8(&value[..at]).unwrap_or_default();
    fault(valid, at, format_args!("not UTF-8 at byte {at}"))
}

/// serde_json says "expected value" to what some writers take for JSON; here it is called by its name.
fn explain(text: &str, error: serde_json::Error) -> serde_json::Error {
    if text.is_empty() {
        return fault(text, 0, "the value is empty");
    }
    if text.starts_with('\u{feff}') {
        return fault(text, 0, "a byte order mark stands before the JSON");
    }
    if error.is_syntax() {
        let lines: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
        let rest = text.as_bytes().get((lines + error.column()).saturating_sub(1)..).unwrap_or_default();
        for name in ["NaN", "Infinity"] {
            if rest.starts_with(name.as_bytes()) {
                return positioned(format_args!("{name} is not JSON"), error.line(), error.column());
            }
        }
    }
    bounded(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<'a, T: Deserialize<'a> + fmt::Debug>(value: &'a str) -> String {
        decode::<T>(value.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_missing_item_is_not_none() {
        assert_eq!(error::<Option<u32>>("{}"), "missing field `item` at line 1 column 2");
        assert_eq!(decode::<Option<u32>>(br#"{"item":null}"#).unwrap().item, None);
    }

    #[test]
    fn an_envelope_is_an_object() {
        assert!(error::<u32>("[1,null]").starts_with("invalid type: sequence, expected an envelope"));
    }

    #[test]
    fn a_long_error_keeps_its_end_and_its_position() {
        let value = format!("{{\n \"item\": \"{}\"}}", "é".repeat(500_000));
        let error = decode::<u32>(value.as_bytes()).unwrap_err();
        assert_eq!((error.line(), error.column()), (2, 1_000_011));
        let text = error.to_string();
        assert!(text.starts_with("invalid type: string \"éé"), "{text}");
        assert!(text.ends_with("éé\", expected u32 at line 2 column 1000011"), "{text}");
        assert!(text.chars().count() < 150);
    }

    #[test]
    fn what_python_may_write_is_called_by_its_name() {
        assert_eq!(error::<f64>("{\n\"item\":NaN}"), "NaN is not JSON at line 2 column 8");
        assert_eq!(error::<&RawValue>(r#"{"item":-Infinity}"#), "Infinity is not JSON at line 1 column 10");
        assert_eq!(error::<&RawValue>("\u{feff}{}"), "a byte order mark stands before the JSON at line 1 column 1");
        assert_eq!(error::<&RawValue>(""), "the value is empty at line 1 column 1");
    }

    #[test]
    fn faults_of_a_history_have_their_place_in_the_value() {
        let error = decode::<u32>(b"{\"item\":1,\n\"hist\": {\"refs\": 5}}").unwrap_err();
        assert_eq!(error.to_string(), "`refs` must be a list or null at line 2 column 18");
        assert_eq!((error.line(), error.column()), (2, 18));
    }

    /// A generator of numbers that are the same in each run.
    fn numbers() -> impl FnMut(usize) -> usize {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        }
    }

    #[test]
    fn the_usual_way_reads_nothing_that_the_other_does_not() {
        const PARTS: [&str; 24] = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            " ",
            "0",
            "-1",
            "1.5",
            "null",
            "nul",
            "\u{1}",
            "\n",
            "é",
            "\\u00e9",
            "\\ud83d",
            "\\ude00",
            "\"hist\":",
            "\"refs\":",
            "\"topic\":\"\",",
            "\"x\":[{}],",
        ];
        let usual = [
            r#"{"item": {"a": [1, 2.5e3, "x\n"], "b": null}, "hist": {"svc": "s", "dt": "2026-01-02T03:04:05+00:00", "refs": []}}"#,
            r#"{"item":"\ud83d\ude00é","hist":{"svc":"s","dt":"d","refs":[{"topic":"t","partition":3,"offset":42,"key":"k","hist":{"svc":"r","dt":"d","refs":[]}},{"topic":"t","partition":3,"offset":43,"key":null,"hist":null}]}}"#,
            r#"{"item":-7,"hist":null}"#,
            r#"{"item":[],"hist":{"refs":[{"offset":9223372036854775807,"x":{"y":[{}]},"partition":-1,"topic":"\u0074"}],"svc":null,"dt":[]}}"#,
        ];
        let mut number = numbers();
        let (mut read, mut refused) = (0, 0);
        for text in usual {
            assert!(decode_usual(text, Cursor::raw).is_ok(), "{text}");
            for _ in 0..20_000 {
                let mut mutated = text.to_owned();
                for _ in 0..=number(2) {
                    let places: Vec<_> = (0..=mutated.len()).filter(|at| mutated.is_char_boundary(*at)).collect();
                    let start = number(places.len());
                    let end = (start + number(4)).min(places.len() - 1);
                    mutated.replace_range(places[start]..places[end], PARTS[number(PARTS.len())]);
                }
                // Whoever only wants the item is told of whatever is not JSON before the history, and of one that is cut off.
                let (item, any) = (item_usual(&mutated, Cursor::raw), decode_any::<&RawValue>(&mutated));
                if let (Some((item, has)), Ok(any)) = (item, &any) {
                    assert_eq!((item.get(), has), (any.item.get(), any.history.is_some()), "{mutated}");
                }
                // It is the same whether serde reads the item or the cursor.
                let by_serde = item_usual::<&RawValue>(&mutated, Cursor::value);
                let text = |(item, has): (&RawValue, bool)| (item.get().to_owned(), has);
                assert_eq!(item.map(text), by_serde.map(text), "{mutated}");
                let Ok(usual) = decode_usual(&mutated, Cursor::raw) else {
                    refused += 1;
                    continue;
                };
                read += 1;
                let any = any.unwrap_or_else(|error| panic!("{error}: {mutated}"));
                assert_eq!(usual.item.get(), any.item.get(), "{mutated}");
                assert_eq!((usual.history, usual.truncated), (any.history, any.truncated), "{mutated}");
                if let Some(history) = usual.history {
                    assert!(serde_json::from_str::<&RawValue>(history).is_ok(), "{mutated}");
                }
            }
        }
        assert!(read > 1_000 && refused > 1_000, "{read} {refused}");
    }

    #[test]
    fn a_second_item_is_noticed() {
        for text in [r#"{"item":1,"hist":{},"item":{}}"#, r#"{"item":1,"hist":{},"it\u0065m":{}}"#] {
            let error = decode_item::<u32>(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("duplicate field `item`"), "{error}");
        }
        // As part of another text it is none.
        assert!(decode_item::<u32>(br#"{"item":1,"hist":{"svc":"item"}}"#).unwrap().1);
    }

    #[test]
    fn a_history_that_is_cut_off_is_noticed() {
        let text = r#"{"item":1,"hist":{"svc":"s","dt":"d","refs":[{"topic":"t","partition":3,"offset":42,"key":"k","hist":null}]}}"#;
        assert!(decode_item::<u32>(text.as_bytes()).unwrap().1);
        for end in 0..text.len() {
            assert!(decode_item::<u32>(&text.as_bytes()[..end]).is_err(), "{}", &text[..end]);
        }
        for (history, has) in [("null", false), ("{}", true), (" { } ", true)] {
            let text = format!(r#"{{"item":1,"hist":{history} }} "#);
            assert_eq!(item_usual::<u32>(&text, Cursor::value), Some((1, has)), "{text}");
        }
        let deep = format!(
            "{}null{}",
            r#"{"refs":[{"topic":"t","partition":0,"offset":0,"hist":"#.repeat(100),
            "}]}".repeat(100)
        );
        let text = format!(r#"{{"item":1,"hist":{deep}}}"#);
        assert_eq!(item_usual::<u32>(&text, Cursor::value), None);
        assert!(decode_item::<u32>(text.as_bytes()).unwrap().1);
    }
}
