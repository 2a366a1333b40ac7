//! The envelope, against what the Python library wrote and read, and against input that nobody should write.

#![allow(clippy::unwrap_used)] // A failing unwrap is a failing test.

use chrono::{DateTime, Utc};
use kafka_envelope::envelope::{MAX_HISTORY_DEPTH, MAX_REFS};
use kafka_envelope::{BatchRef, Error, History, Ref, pack, pack_into, stage_latencies, unpack};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::fuzz_bodies;

const ENVELOPES: &str = include_str!("../data/envelopes.json");
const RECORDS: &str = include_str!("../data/phq/records.json");

#[derive(Deserialize)]
struct Envelopes {
    unpack: Vec<UnpackCase>,
    batch_ref: Vec<BatchCase>,
    latencies: Vec<LatencyCase>,
}

#[derive(Deserialize)]
struct UnpackCase {
    name: String,
    topic: String,
    partition: i32,
    offset: i64,
    key: Option<String>,
    value: Option<String>,
    item: Option<Box<RawValue>>,
    ref_hist: Option<String>,
    ref_text: Option<String>,
    #[serde(default)]
    skip: bool,
    python_error: Option<String>,
}

#[derive(Deserialize)]
struct BatchCase {
    offsets: Vec<(String, i32, i64, i64)>,
    text: String,
}

#[derive(Deserialize)]
struct LatencyCase {
    service: String,
    now: String,
    r#ref: Ref,
    target: Option<String>,
    stages: Vec<(String, f64)>,
    total_seconds: f64,
}

fn vectors() -> Envelopes {
    serde_json::from_str(ENVELOPES).unwrap()
}

/// The text without blanks between tokens: a way to compare JSON that is too deep for `Value`.
fn compact(json: &str) -> String {
    let mut in_text = false;
    let mut escaped = false;
    json.chars()
        .filter(|&c| {
            let keep = in_text || !c.is_ascii_whitespace();
            in_text ^= c == '"' && !escaped;
            escaped = in_text && c == '\\' && !escaped;
            keep
        })
        .collect()
}

fn history(json: &str) -> History {
    serde_json::from_str(json).unwrap()
}

/// A history of so many levels.
fn chain(levels: usize) -> String {
    let dt = "2026-01-02T03:04:05+00:00";
    let mut text = String::new();
    for level in (1..levels).rev() {
        text += &format!(
            r#"{{"svc":"s{}","dt":"{dt}","refs":[{{"topic":"t","partition":0,"offset":{level},"key":"k","hist":"#,
            level % 3
        );
    }
    text += &format!(r#"{{"svc":"first","dt":"{dt}","refs":[]}}"#);
    text + &"}]}".repeat(levels - 1)
}

/// Every record of the vectors gives the item, ref and history that the Python library read, or an error as there.
#[test]
fn unpacks_what_the_python_library_unpacks() {
    for case in vectors().unpack {
        let name = &case.name;
        let value = case.value.unwrap_or_default();
        // The consumer skips these before it comes to unpacking.
        if case.skip {
            assert!(value.is_empty(), "{name}");
            continue;
        }
        let envelope = match unpack(value.as_bytes()) {
            Ok(envelope) => envelope,
            Err(error) => {
                assert!(case.python_error.is_some(), "{name}: {error}");
                continue;
            }
        };
        if case.python_error.is_some() {
            assert_eq!(name, "no-key");
            continue;
        }
        let item: Value = envelope.payload().unwrap();
        // A `null` item reads as None here.
        let wanted = case.item.map_or(Value::Null, |item| serde_json::from_str(item.get()).unwrap());
        assert_eq!(item, wanted, "{name}");
        let text = envelope.history().map(|text| compact(text.get()));
        assert_eq!(text, case.ref_hist.as_deref().map(compact), "{name}");
        let too_long = ["chain-100", "legacy-refs-object", "legacy-refs-object-nested"].contains(&&**name);
        assert_eq!(envelope.history_dropped(), too_long, "{name}");

        let history = envelope.history().map(|text| history(text.get()));
        if let Some(depth) =
            name.strip_prefix("chain-").and_then(|depth| depth.parse().ok()).filter(|depth| *depth < 100)
        {
            assert_eq!(history.as_ref().map(History::depth), Some(depth));
        }
        let from = Ref { key: case.key, history, ..Ref::new(case.topic, case.partition, case.offset) };
        assert_eq!(Some(from.to_string()), case.ref_text, "{name}");
    }
}

/// A message made from one with 98 levels still shows them; from one with 99 it has 100, which no reader takes.
#[test]
fn a_history_is_dropped_where_it_reaches_the_limit() {
    let cases = vectors().unpack;
    let value = |name: &str| cases.iter().find(|case| case.name == name).unwrap().value.clone().unwrap();
    let longest = value("chain-99");
    let text = unpack(longest.as_bytes()).unwrap().history().unwrap();
    let from = Ref { history: Some(history(text.get())), ..Ref::new("deep", 2, 99) };
    let packed = pack("next", &(), &[from]).unwrap();
    assert!(unpack(&packed).unwrap().history_dropped());

    // A history that is too long by itself is not even written.
    let too_long = value("chain-100");
    let text = too_long.split_once(r#""hist": "#).unwrap().1.strip_suffix('}').unwrap();
    let from = Ref { history: Some(history(text)), ..Ref::new("deep", 2, 100) };
    assert_eq!(from.history.as_ref().unwrap().depth(), MAX_HISTORY_DEPTH);
    let packed = pack("next", &(), &[from]).unwrap();
    let level = unpack(&packed).unwrap().history().unwrap();
    assert!(level.get().ends_with(r#""refs":[{"topic":"deep","partition":2,"offset":100,"key":null,"hist":null}]}"#));
}

#[test]
fn a_batch_has_the_text_form_of_the_python_library() {
    for case in vectors().batch_ref {
        let refs: Vec<Ref> = case
            .offsets
            .iter()
            .rev()
            .flat_map(|(topic, partition, first, last)| {
                [Ref::new(topic, *partition, *first), Ref::new(topic, *partition, *last)]
            })
            .collect();
        assert_eq!(BatchRef::from_iter(&refs).to_string(), case.text);
    }
}

#[test]
fn stage_latencies_are_those_of_the_python_library() {
    for (index, case) in vectors().latencies.into_iter().enumerate() {
        let latencies =
            stage_latencies(&case.service, &case.r#ref, case.target.as_deref(), case.now.parse().unwrap()).unwrap();
        let seconds: Vec<_> = latencies.stages.into_iter().map(|(name, took)| (name, took.as_seconds_f64())).collect();
        assert_eq!((seconds, latencies.total.as_seconds_f64()), (case.stages, case.total_seconds), "case {index}");
    }
}

#[derive(Deserialize)]
struct Records {
    produce: Vec<ProduceCase>,
    consume: Vec<ConsumeCase>,
}

#[derive(Deserialize)]
struct ProduceCase {
    name: String,
    input: Input,
    record: Record,
}

#[derive(Deserialize)]
struct Input {
    payload: Option<Box<RawValue>>,
    payload_python: Option<String>,
    r#ref: Value,
}

#[derive(Deserialize)]
struct Record {
    value: Value,
}

impl Record {
    fn bytes(&self) -> Option<Vec<u8>> {
        let text = |value: &Value| value.as_str().map(|text| text.as_bytes().to_vec());
        match &self.value {
            Value::Null => None,
            Value::Object(form) if form.contains_key("base64") => {
                // The only one there is, as the vectors write it.
                assert_eq!(form["base64"], "eyJpdGVtIjoi/yJ9");
                Some(b"{\"item\":\"\xff\"}".to_vec())
            }
            Value::Object(form) => text(&form["text"]),
            plain => text(plain),
        }
    }
}

#[derive(Deserialize)]
struct ConsumeCase {
    name: String,
    records: Vec<Record>,
    handler_calls: Vec<Vec<Value>>,
}

fn records() -> Records {
    serde_json::from_str(RECORDS).unwrap()
}

/// Takes the outermost `dt` out of an envelope, once it has been found to have its form.
fn without_time(mut envelope: Value) -> Value {
    let dt = envelope["hist"]["dt"].take();
    let form: String = dt.as_str().unwrap().chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00+00:00");
    envelope
}

/// The same messages packed here are the same JSON, but for the time.
#[test]
fn packs_what_the_python_library_packs() {
    for case in records().produce {
        let name = &case.name;
        let value = case.record.bytes().unwrap();
        if name == "nan-infinity" {
            assert!(unpack(&value).unwrap_err().to_string().contains("NaN is not JSON at line 1 column 11"));
            continue;
        }
        let refs: Vec<Ref> = match case.input.r#ref {
            Value::Null => Vec::new(),
            Value::Object(none) if none.is_empty() => Vec::new(),
            Value::Array(refs) => refs.into_iter().map(|from| serde_json::from_value(from).unwrap()).collect(),
            one => vec![serde_json::from_value(one).unwrap()],
        };
        let item = match &case.input.payload_python {
            Some(_) => RawValue::from_string(r#"{"1":"t","null":"n","2.5":"f"}"#.into()).unwrap(),
            None => case.input.payload.unwrap_or_else(|| RawValue::NULL.to_owned()),
        };
        let ours = pack("billing", &item, &refs).unwrap();
        let ours: Value = serde_json::from_slice(&ours).unwrap();
        let theirs: Value = serde_json::from_slice(&value).unwrap();
        assert_eq!(without_time(ours), without_time(theirs), "{name}");
    }
}

/// Records are read as there, but for what this crate accepts or refuses on purpose.
#[test]
fn reads_the_records_that_the_python_library_reads() {
    let refused = ["not-json", "no-item", "value-not-utf8", "nan", "list-value", "duplicate-fields"];
    let accepted = ["no-key", "key-not-utf8", "ref-without-hist", "hist-without-refs"];
    let mut read = 0;
    for case in records().consume {
        let name = &*case.name;
        let messages: Vec<&Value> = case.handler_calls.iter().flatten().collect();
        for (offset, record) in case.records.iter().enumerate() {
            let Some(value) = record.bytes().filter(|value| !value.is_empty()) else { continue };
            let result = unpack(&value);
            if refused.contains(&name) {
                assert!(result.is_err(), "{name}");
                continue;
            }
            let is_nan = value.windows(3).any(|part| part == b"NaN");
            if is_nan {
                assert!(result.is_err(), "{name}");
                continue;
            }
            let envelope = result.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!envelope.history_dropped(), "{name}");
            match messages.iter().find(|message| message["ref"]["offset"] == offset) {
                Some(message) => {
                    assert_eq!(envelope.payload::<Value>().unwrap(), message["payload"], "{name}");
                    let history = envelope.history().map(|text| serde_json::from_str::<Value>(text.get()).unwrap());
                    assert_eq!(history.unwrap_or_default(), message["ref"]["hist"], "{name}");
                    read += 1;
                }
                // It raised on the batch, or passed only the last message of an id.
                None => assert!(accepted.contains(&name) || name == "empty-value" || name == "duplicate-ids", "{name}"),
            }
        }
    }
    assert!(read > 15, "{read}");
}

/// A service hands on the history that it got as the bytes that it was, blanks, escapes and unknown keys too.
#[test]
fn a_history_passes_through_as_it_was() {
    let inner = "{ \"svc\" : \"caf\\u00e9\",\t\"dt\":\"2020-01-01T00:00:00.5+13:00\",\n \"x\": [1e400, {\"refs\": 5}], \"refs\":[ ] }";
    let value = format!("{{\"hist\":{inner},\"item\":1}}");
    let text = unpack(value.as_bytes()).unwrap().history().unwrap();
    assert_eq!(text.get(), inner);
    let from = Ref { key: Some("k".into()), history: Some(history(text.get())), ..Ref::new("t", 3, 42) };
    let packed = pack("next", &2, std::slice::from_ref(&from)).unwrap();
    let end = format!(r#""refs":[{{"topic":"t","partition":3,"offset":42,"key":"k","hist":{inner}}}]}}}}"#);
    assert!(packed.ends_with(end.as_bytes()));

    let stage = history(unpack(&packed).unwrap().history().unwrap().get()).stage().unwrap();
    assert_eq!((&*stage.service, stage.refs), ("next", vec![from]));
    assert_eq!(history(inner).stage().unwrap().at.to_rfc3339(), "2020-01-01T00:00:00.500+13:00");
}

/// What is appended to a buffer leaves alone what stands there, and an error leaves nothing behind.
#[test]
fn packing_appends_all_or_nothing() {
    struct Fails;
    impl serde::Serialize for Fails {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("no words for it"))
        }
    }
    let at = "2026-01-02T03:04:05.999Z".parse().unwrap();
    let mut buffer = b"before".to_vec();
    let error = pack_into(&mut buffer, "s", at, &[Fails], &[]).unwrap_err();
    assert_eq!(error.to_string(), "cannot encode the payload as JSON: no words for it");
    let refs = vec![Ref::new("t", 0, 0); MAX_REFS + 1];
    let error = pack_into(&mut buffer, "s", at, &1, &refs).unwrap_err();
    assert!(matches!(error, Error::Limit { actual: 10_001, limit: MAX_REFS, .. }), "{error}");
    assert_eq!(buffer, b"before");
    pack_into(&mut buffer, "s", at, &1, &refs[1..]).unwrap();
    let envelope = unpack(&buffer[6..]).unwrap();
    assert!(envelope.history().is_some());

    // One more is more than a reader takes.
    let wider = String::from_utf8(buffer[6..].to_vec())
        .unwrap()
        .replace(r#""refs":["#, r#""refs":[{"topic":"t","partition":0,"offset":0},"#);
    assert!(unpack(wider.as_bytes()).unwrap().history_dropped());
}

/// Each kind of bad input is refused by a rule that has a name, with line and column.
#[test]
fn bad_input_is_refused_with_rule_and_place() {
    let hist = |hist: &str| format!(r#"{{"item":1,"hist":{hist}}}"#).into_bytes();
    let refs = |refs: &str| hist(&format!(r#"{{"svc":"s","dt":"2020-01-01T00:00:00Z","refs":{refs}}}"#));
    let table: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "the value is empty at line 1 column 1"),
        (b" \n ".to_vec(), "EOF while parsing a value at line 2"),
        (b"{\"item\":\n\"\xff\"}".to_vec(), "not UTF-8 at byte 10 at line 2 column 2"),
        (b"\xff\xfe{\0".to_vec(), "not UTF-8 at byte 0 at line 1 column 1"),
        (b"{oops".to_vec(), "key must be a string at line 1 column 2"),
        (b"{\"item\":".to_vec(), "EOF while parsing a value at line 1 column 8"),
        (b"{\"item\":1}x".to_vec(), "trailing characters at line 1 column 11"),
        (b"{\"item\":1}{\"item\":1}".to_vec(), "trailing characters at line 1 column 11"),
        ("\u{feff}{\"item\":1}".into(), "a byte order mark stands before the JSON at line 1 column 1"),
        (br#"{"item":"\ud800"}"#.to_vec(), "half a surrogate pair in a text at line 1 column 10"),
        (br#"{"item":"\udc00\ud800"}"#.to_vec(), "half a surrogate pair in a text at line 1 column 10"),
        (br#"{"item":1,"x":{"\ud800\u0041":1}}"#.to_vec(), "half a surrogate pair in a text at line 1 column 17"),
        (hist(r#"{"svc":"\ud800"}"#), "half a surrogate pair in a text at line 1 column 26"),
        (br#"{"item":"\x"}"#.to_vec(), "invalid escape at line 1 column 11"),
        (b"{\"item\":\"\x01\"}".to_vec(), "control character"),
        (br#"{"item":NaN}"#.to_vec(), "NaN is not JSON at line 1 column 9"),
        (br#"{"item":[1,-Infinity]}"#.to_vec(), "Infinity is not JSON at line 1 column 13"),
        (br#"{"item":01}"#.to_vec(), "invalid number at line 1 column 10"),
        (br#"{"item":1,}"#.to_vec(), "trailing comma at line 1 column 11"),
        (br#"{'item':1}"#.to_vec(), "key must be a string at line 1 column 2"),
        (br#"{"payload":1}"#.to_vec(), "missing field `item` at line 1 column 13"),
        (b"[1,2]".to_vec(), "invalid type: sequence, expected an envelope"),
        (b"\"item\"".to_vec(), "expected an envelope"),
        (b"null".to_vec(), "invalid type: null, expected an envelope"),
        (br#"{"item":1,"item":1}"#.to_vec(), "duplicate field `item` at line 1 column 1"),
        (br#"{"item":1,"it\u0065m":1}"#.to_vec(), "duplicate field `item` at line 1 column 2"),
        (br#"{"hist":null,"hist":null,"item":1}"#.to_vec(), "duplicate field `hist` at line 1 column 19"),
        (hist("5"), "`hist` must be an object or null at line 1 column 18"),
        (hist("[]"), "`hist` must be an object or null"),
        (hist("\"{}\""), "`hist` must be an object or null"),
        (refs("5"), "`refs` must be a list or null at line 1 column 64"),
        (refs("\"\""), "`refs` must be a list or null"),
        (refs("[null]"), "an entry of `refs` must be an object at line 1 column 65"),
        (refs("[[]]"), "an entry of `refs` must be an object"),
        (refs("[{}]"), "a ref without `topic` at line 1 column 66"),
        (refs(r#"[{"topic":"t","offset":0}]"#), "a ref without `partition`"),
        (refs(r#"[{"topic":"t","partition":0}]"#), "a ref without `offset`"),
        (refs(r#"[{"topic":null,"partition":0,"offset":0}]"#), "`topic` of a ref must be a text"),
        (refs(r#"[{"topic":"t","partition":"0","offset":0}]"#), "`partition` of a ref must be a 32-bit integer"),
        (refs(r#"[{"topic":"t","partition":2147483648,"offset":0}]"#), "`partition` of a ref must be a 32-bit integer"),
        (refs(r#"[{"topic":"t","partition":0,"offset":1.5}]"#), "`offset` of a ref must be a 64-bit integer"),
        (refs(r#"[{"topic":"t","partition":0,"offset":null}]"#), "`offset` of a ref must be a 64-bit integer"),
        (refs(r#"[{"topic":"t","partition":0,"offset":0,"key":5}]"#), "`key` of a ref must be a text or null"),
        (refs(r#"[{"topic":"t","partition":0,"offset":0,"hist":[]}]"#), "`hist` of a ref must be an object or null"),
        (refs(r#"[{"topic":"t","topic":"t","partition":0,"offset":0}]"#), "duplicate key `topic` in a ref"),
        (
            refs(r#"[{"topic":"t","partition":0,"offset":0,"hist":{"refs":[],"refs":[]}}]"#),
            "duplicate key `refs` in a history",
        ),
        (hist(r#"{"svc":"s","svc":"s"}"#), "duplicate key `svc` in a history at line 1 column 29"),
        (hist(r#"{"dt":1,"\u0064t":2}"#), "duplicate key `dt` in a history"),
    ];
    for (value, rule) in table {
        let text = String::from_utf8_lossy(&value).into_owned();
        let error = unpack(&value).expect_err(&text);
        let Error::Decode { source } = &error else { panic!("{text}: {error}") };
        assert!(error.to_string().contains(rule), "{text}: {error}");
        assert!(source.line() > 0 && error.to_string().contains(" at line "), "{text}: {error}");
    }
}

/// What JSON allows but no number or no tree can hold is an error of whoever wants it, not of the envelope.
#[test]
fn an_item_is_only_looked_at_when_it_is_wanted() {
    let envelope = unpack(b"{\n\"item\": 1e999}").unwrap();
    let error = envelope.payload::<f64>().unwrap_err().to_string();
    assert_eq!(error, "cannot decode: number out of range at line 2 column 13");
    assert_eq!(envelope.item().get(), "1e999");

    let deep = format!(r#"{{"item":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let error = unpack(deep.as_bytes()).unwrap().payload::<Value>().unwrap_err().to_string();
    assert!(error.contains("recursion limit exceeded at line 1 column "), "{error}");
}

/// An error about a payload of a megabyte shows a little of it.
#[test]
fn errors_are_short_however_long_the_value_is() {
    let long = "é".repeat(500_000);
    let short = |error: Error| assert!(error.to_string().chars().count() < 200, "{error}");
    short(unpack(format!("\"{long}\"").as_bytes()).unwrap_err());
    short(unpack(format!(r#"{{"item":1,"hist":"{long}"}}"#).as_bytes()).unwrap_err());
    short(unpack(format!(r#"{{"{long}":1}}"#).as_bytes()).unwrap_err());
    let value = format!(r#"{{"item":"{long}"}}"#);
    let envelope = unpack(value.as_bytes()).unwrap();
    assert!(format!("{envelope:?}").len() < 200);
    let error = envelope.payload::<u32>().unwrap_err();
    assert!(error.to_string().ends_with("\", expected u32 at line 1 column 1000010"), "{error}");
    short(error);

    #[derive(Debug, Deserialize)]
    enum Kind {
        Known,
    }
    assert!(matches!(serde_json::from_str("\"Known\""), Ok(Kind::Known)));
    short(envelope.payload::<Kind>().unwrap_err());

    let json = json!({"svc": "s", "dt": long}).to_string();
    short(history(&json).stage().unwrap_err());
}

/// A history much deeper than a stack can follow is read, measured, walked and written on a small stack.
#[test]
fn a_very_deep_history_needs_no_stack() {
    let deep = || {
        for levels in [10_000, 20_000] {
            let text = chain(levels);
            let value = format!(r#"{{"item":1,"hist":{text}}}"#);
            let envelope = unpack(value.as_bytes()).unwrap();
            assert!(envelope.history_dropped() && envelope.history().is_none());

            let history = history(&text);
            assert_eq!(history.depth(), levels);
            let stage = history.stage().unwrap();
            assert_eq!(stage.refs[0].history.as_ref().unwrap().depth(), levels - 1);
            let from = Ref { history: Some(history), ..Ref::new("t", 0, 0) };
            let latencies = stage_latencies("me", &from, None, Utc::now()).unwrap();
            // Of the first there is no latency; the last is `me`.
            assert_eq!(latencies.stages.len(), levels);
            let packed = pack("me", &1, &[from]).unwrap();
            assert!(unpack(&packed).unwrap().history().unwrap().get().ends_with(r#""hist":null}]}"#));
        }
        // Depth in what is only skipped, too.
        let brackets = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let value = format!(r#"{{"item":{brackets},"x":{brackets},"hist":{{"x":{brackets}}}}}"#);
        assert!(unpack(value.as_bytes()).unwrap().history().is_some());
    };
    std::thread::Builder::new().stack_size(256 * 1024).spawn(deep).unwrap().join().unwrap();
}

/// The fuzz targets' bodies over a bounded number of inputs, the same at each run.
#[test]
fn mutated_envelopes_do_no_harm() {
    let cases = vectors();
    let mut seeds: Vec<String> = cases.unpack.into_iter().filter_map(|case| case.value).collect();
    seeds.extend(cases.latencies.iter().filter_map(|case| Some(case.r#ref.history.as_ref()?.as_json().to_owned())));
    seeds.retain(|seed| (1..600).contains(&seed.len()));
    let tokens: &[&[u8]] = &[
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"\\",
        b"null",
        b"\\u0064",
        b"\\ud800",
        b"-",
        b"1e999",
        b"\"hist\":",
        b"\"refs\":[",
        b"\"item\":",
        b"\"topic\":\"t\",",
        b"\"dt\":",
        b" ",
        b"\n",
        b"\xff",
        b"NaN",
        b"{}",
        b"[]",
        b"99999999999999999999",
    ];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below.max(1)
    };
    for _ in 0..200_000 {
        let mut bytes = seeds[random(seeds.len())].clone().into_bytes();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            let end = (at + random(24)).min(bytes.len());
            match random(4) {
                0 if at < bytes.len() => bytes[at] = random(256) as u8,
                1 => drop(bytes.drain(at..end)),
                2 => bytes.extend_from_within(at..end),
                _ => drop(bytes.splice(at..at, tokens[random(tokens.len())].iter().copied())),
            }
        }
        fuzz_bodies::unpack(&bytes);
        fuzz_bodies::history(&bytes);
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn any_ref() -> impl Strategy<Value = Ref> {
    (any::<String>(), any::<i32>(), any::<i64>(), any::<Option<String>>(), 0..4_usize).prop_map(
        |(topic, partition, offset, key, levels)| {
            let history = (levels > 0).then(|| history(&chain(levels)));
            Ref { topic, partition, offset, key, history }
        },
    )
}

proptest! {
    /// Any item, service and refs come back as they went in.
    #[test]
    fn pack_then_unpack_is_the_identity(
        item in any_json(),
        service in any::<String>(),
        refs in prop::collection::vec(any_ref(), 0..4),
        seconds in -60_000_000_000_i64..250_000_000_000,
    ) {
        let at = DateTime::from_timestamp(seconds, 0).unwrap();
        let mut packed = Vec::new();
        pack_into(&mut packed, &service, at, &item, &refs).unwrap();
        let envelope = unpack(&packed).unwrap();
        prop_assert_eq!(envelope.item().get(), item.to_string());
        prop_assert_eq!(envelope.payload::<Value>().unwrap(), item);
        let stage = history(envelope.history().unwrap().get()).stage().unwrap();
        prop_assert_eq!((stage.service, stage.at.to_utc(), stage.refs), (service, at, refs));
    }

    /// A ref is read as it was written, whatever its texts are.
    #[test]
    fn a_ref_is_read_as_it_was_written(from in any_ref()) {
        let json = serde_json::to_string(&from).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Ref>(&json).unwrap(), &from);
        prop_assert_eq!(&serde_json::from_value::<Ref>(serde_json::to_value(&from).unwrap()).unwrap().topic, &from.topic);
    }

    /// No bytes make a reader panic.
    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..512), json in any_json()) {
        fuzz_bodies::unpack(&bytes);
        fuzz_bodies::history(&bytes);
        let text = json.to_string();
        fuzz_bodies::unpack(format!(r#"{{"item":1,"hist":{text}}}"#).as_bytes());
        fuzz_bodies::unpack(format!(r#"{{"item":1,"hist":{{"refs":[{text}]}}}}"#).as_bytes());
        fuzz_bodies::history(format!(r#"{{"refs":{text}}}"#).as_bytes());
    }
}
