use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

fn text<T: Serialize + ?Sized>(payload: &T, name: Option<Name<'_>>) -> String {
    String::from_utf8(write(payload, name).unwrap()).unwrap()
}

fn recoded(json: &str) -> String {
    String::from_utf8(recode(json).unwrap()).unwrap()
}

#[derive(Serialize)]
struct Order<'a> {
    id: u64,
    event: &'a str,
    nested: Nested<'a>,
}

#[derive(Serialize)]
struct Nested<'a> {
    event: &'a str,
}

/// Each pair is `json.dumps(json.loads(json))` of Python 3.
#[test]
fn values_are_written_as_json_dumps_writes_them() {
    let cases = [
        (r#"{"a":[1,2.0,{"b":null}],"c":true}"#, r#"{"a": [1, 2.0, {"b": null}], "c": true}"#),
        ("[]", "[]"),
        ("{}", "{}"),
        (r#"[[],{}]"#, "[[], {}]"),
        (r#""Zoë""#, r#""Zo\u00eb""#),
        ("\"\u{1f600}\u{7f}\u{80}\u{ffff}\"", "\"\\ud83d\\ude00\\u007f\\u0080\\uffff\""),
        (r#""\u0000\u001f\"\\\/\b\f\n\r\t""#, r#""\u0000\u001f\"\\/\b\f\n\r\t""#),
        (r#"{"é\n":"\u00e9"}"#, r#"{"\u00e9\n": "\u00e9"}"#),
        ("1e5", "100000.0"),
        ("1E16", "1e+16"),
        ("1.50", "1.5"),
        ("-0.0", "-0.0"),
        ("0.00001", "1e-05"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("-7", "-7"),
    ];
    for (json, expected) in cases {
        assert_eq!(recoded(json), expected, "{json}");
        let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
        assert_eq!(text(&raw, None), expected, "{json}");
        // Untyped values keep the order and the digits where a feature says so.
        if !json.contains("890") {
            let value: Value = serde_json::from_str(json).unwrap();
            assert_eq!(text(&value, None), expected, "{json}");
        }
    }
}

#[test]
fn numbers_of_rust_are_written_as_python_does() {
    assert_eq!(text(&[0.1_f32, 1e20, 16_777_216.0], None), "[0.1, 1e+20, 16777216.0]");
    assert_eq!(
        text(&(u64::MAX, i128::MIN, f64::NAN, f64::INFINITY), None),
        format!("[{}, {}, null, null]", u64::MAX, i128::MIN)
    );
    assert_eq!(text(&BTreeMap::from([(1, 2.5)]), None), r#"{"1": 2.5}"#);
    assert_eq!(recoded("1e400"), "1e400");
    assert_eq!(recoded("-0"), "0");
}

#[test]
fn of_a_key_that_comes_again_the_last_value_stands_at_the_first_place() {
    assert_eq!(recoded(r#"{"a":1,"b":2,"\u0061":3}"#), r#"{"a": 3, "b": 2}"#);
}

#[test]
fn depth_is_bounded_and_what_is_no_json_is_an_error() {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(recoded(&nested(127)), nested(127));
    assert!(recode(&nested(128)).unwrap_err().to_string().contains("deeper than 127"));
    assert!(recode(&nested(100_000)).is_err());
    for json in ["", " ", "{", "{oops", "NaN", "1 2", "01", "\"\\ud800\"", "[1,]", "nul"] {
        assert!(recode(json).is_err(), "{json}");
    }
}

#[test]
fn a_name_is_set_where_the_object_has_it() {
    let order = Order { id: 7, event: "old \"é", nested: Nested { event: "mine" } };
    let expected = r#"{"id": 7, "event": "n\u00e9w", "nested": {"event": "mine"}}"#;
    assert_eq!(text(&order, Some(Name::First("néw"))), expected);
    assert_eq!(text(&order, Some(Name::Last("néw"))), expected);
    let raw = serde_json::value::to_raw_value(&order).unwrap();
    assert_eq!(text(&raw, Some(Name::Last("néw"))), expected);
    assert_eq!(text(&json!({"event": [1, {"event": 2}]}), Some(Name::First("e"))), r#"{"event": "e"}"#);
}

#[test]
fn a_name_that_the_object_lacks_comes_first_or_last() {
    for payload in [json!({"a": {"event": 1}}), json!({"a": {"event": 1}, "ev\nent": 1}), json!({})] {
        let plain = text(&payload, None);
        let inner = plain.trim_matches(['{', '}']);
        let brace = if inner.is_empty() { "" } else { ", " };
        let inner = &plain[1..plain.len() - 1];
        assert_eq!(text(&payload, Some(Name::First("e"))), format!(r#"{{"event": "e"{brace}{inner}}}"#));
        assert_eq!(text(&payload, Some(Name::Last("e"))), format!(r#"{{{inner}{brace}"event": "e"}}"#));
    }
}

#[test]
fn a_name_needs_an_object_that_has_it_once() {
    for payload in [json!(null), json!("{}"), json!([{"event": 1}]), json!(5)] {
        let error = write(&payload, Some(Name::First("e"))).unwrap_err();
        assert!(matches!(&error, Error::Encode { source } if source.to_string().contains("no JSON object")), "{error}");
    }
    #[derive(Serialize)]
    struct Twice {
        event: u8,
        #[serde(flatten)]
        more: BTreeMap<&'static str, u8>,
    }
    let twice = Twice { event: 1, more: BTreeMap::from([("event", 2)]) };
    assert!(write(&twice, Some(Name::First("e"))).is_err());
}
