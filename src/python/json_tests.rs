use std::collections::BTreeMap;

use serde_json::Value;

use super::*;

fn text<T: Serialize + ?Sized>(value: &T) -> String {
    String::from_utf8(write(value).unwrap()).unwrap()
}

fn recoded(json: &str) -> String {
    String::from_utf8(recode(json).unwrap()).unwrap()
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
        assert_eq!(text(&raw), expected, "{json}");
        // Untyped values keep the order and the digits where a feature says so.
        if !json.contains("890") {
            let value: Value = serde_json::from_str(json).unwrap();
            assert_eq!(text(&value), expected, "{json}");
        }
    }
}

#[test]
fn numbers_of_rust_are_written_as_python_does() {
    assert_eq!(text(&[0.1_f32, 1e20, 16_777_216.0]), "[0.1, 1e+20, 16777216.0]");
    assert_eq!(
        text(&(u64::MAX, i128::MIN, f64::NAN, f64::INFINITY)),
        format!("[{}, {}, null, null]", u64::MAX, i128::MIN)
    );
    assert_eq!(text(&BTreeMap::from([(1, 2.5)])), r#"{"1": 2.5}"#);
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
