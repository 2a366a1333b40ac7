use std::collections::BTreeMap;

use serde_json::json;

use super::*;

fn text<T: Serialize + ?Sized>(payload: &T, name: Option<Name<'_>>) -> String {
    String::from_utf8(write(payload, name).unwrap()).unwrap()
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
