//! Filters and messages, from the first to the result.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;
use crate::error::Error;
use crate::export::python;
use crate::export::{Export, Shape};

const FORM: fn() -> Form = Form::default;

fn filters(definitions: &[Value]) -> Filters {
    let mut filters = Filters::default();
    for definition in definitions {
        filters.put(&definition.to_string()).unwrap();
    }
    filters
}

fn export(filters: &Filters, message: &str, form: &Form) -> Exports {
    filters.export(Ref::new("t", 3, 42), message.as_bytes(), form)
}

/// The one result of a filter with these mappings.
fn mapped(mappings: Value, message: &str, form: &Form) -> Export {
    let filters = filters(&[json!({"id": "f", "source": "t", "mappings": mappings})]);
    let mut exports = export(&filters, message, form);
    assert_eq!((exports.results.len(), exports.records.len(), exports.errors.len()), (1, 1, 0));
    exports.results.remove(0)
}

/// `tests/data/filters`: the filters, data and results of the Python library's own tests. Its maps keep the order of the
/// mapping, so what is compared are the pairs.
#[test]
fn results_are_those_of_the_python_library() {
    let read = |name: &str| {
        let path = format!("{}/tests/data/filters/{name}.json", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    };
    let mut filters = Filters::default();
    for message in serde_json::from_str::<Vec<BTreeMap<&str, &RawValue>>>(&read("filters")).unwrap() {
        let payload = message["payload"].get();
        let id = serde_json::from_str::<Value>(payload).unwrap()["id"].as_str().unwrap().to_owned();
        match message["method"].get() {
            "\"put\"" => assert_eq!(filters.put(payload).unwrap(), id),
            _ => drop(filters.delete(&id)),
        }
    }
    assert_eq!((filters.len(), filters.sources()), (12, vec!["src_1".to_owned(), "src_2".to_owned()]));
    assert_eq!(filters.args("export-1"), Some(json!({"arg": "test"})));
    assert_eq!((filters.args("export-2"), filters.args("export-0")), (Some(Value::Null), None));

    let data: Value = serde_json::from_str(&read("data")).unwrap();
    let values = |topic| data[topic].as_array().unwrap().iter().map(move |value| (topic, value.to_string()));
    let records: Vec<_> = values("src_1").chain(values("src_2")).collect();
    let expected: Vec<Vec<String>> = serde_json::from_str(&read("exports_results")).unwrap();
    assert_eq!(records.len(), expected.len());
    let form = FORM().data(Shape::Pairs).extra(Shape::Pairs);
    for ((topic, value), alternatives) in records.iter().zip(expected) {
        let exports = filters.export(Ref::new(*topic, 0, 0), value.as_bytes(), &form);
        let results: Vec<_> = exports.results.iter().map(spelled).collect();
        let results = format!("[{}]", results.join(", "));
        assert!(alternatives.contains(&results), "{results}\n{alternatives:?}");
    }
}

/// As Python prints a `FilterResult`.
fn spelled(export: &Export) -> String {
    let map = |pairs: &Value| match pairs {
        Value::Array(pairs) => {
            let pairs = pairs.iter().map(|pair| python::text(pair).replacen(", ", ": ", 1));
            let pairs: Vec<_> = pairs.map(|pair| pair[1..pair.len() - 1].to_owned()).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        other => python::text(other),
    };
    let (data, extra) = (map(&export.data), map(&export.extra));
    let ids: Vec<_> = export.filter_ids.iter().map(|id| format!("'{id}'")).collect();
    let ids = if ids.len() == 1 { format!("{},", ids[0]) } else { ids.join(", ") };
    let error = export.error.as_ref().map_or("None".into(), |error| {
        let Error::Mapping { target, reason, .. } = error else { panic!("{error}") };
        let (target, path) = (target.trim_end_matches(":data"), reason.split('`').nth(1).unwrap());
        format!("mapping error: reason=[KeyError: '{path}'] mapping={{'src_path': '{path}', 'dst_path': '{target}'}}")
    });
    format!("FilterResult(data={data}, extra={extra}, filter_ids=({ids}), ex={error})")
}

#[test]
fn a_refused_filter_leaves_no_traces() {
    let mut filters = filters(&[json!({"id": "f", "source": "t", "mappings": {"a:data": "a"}})]);
    for refused in [
        json!({"id": "f", "source": "other", "mappings": {"b:data": "b"}, "identifiers": [{"key": "a"}]}),
        json!({"id": "g", "source": "other", "mappings": {"b:data": "b"}, "identifiers": [{"key": "a", "value": 5}]}),
    ] {
        assert!(matches!(filters.put(&refused.to_string()), Err(Error::Filter { .. })));
    }
    assert_eq!((filters.len(), filters.sources()), (1, vec!["t".to_owned()]));
    assert_eq!(export(&filters, r#"{"a": 1}"#, &FORM()).results[0].filter_ids, ["f"]);
    assert!(filters.delete("f") && !filters.delete("f") && filters.holds_nothing());
}

#[test]
fn what_is_missing_is_an_error_of_its_result_alone() {
    let definitions = [
        json!({"id": "whole", "source": "t", "mappings": {"a:data": "a.b", "c:extra": "c"}}),
        json!({"id": "lacking", "source": "t", "mappings": {"a:data": "a.b", "x:data": "a.x"}}),
    ];
    let exports = export(&filters(&definitions), r#"{"a": {"b": [1]}, "c": null}"#, &FORM());
    let [whole, lacking] = &exports.results[..] else { panic!("{exports:?}") };
    assert_eq!((&whole.data, &whole.extra), (&json!({"a": [1]}), &json!({"c": null})));
    assert_eq!((&lacking.data, &lacking.extra), (&Value::Null, &Value::Null));
    let error = lacking.error.as_ref().unwrap().to_string();
    assert_eq!(error, "cannot map t:3:42 to `x:data`: `a.x` is missing");
}

#[test]
fn missing_keys_are_ignored_where_it_is_said_and_nothing_else() {
    let mappings = json!({"a:data": "a", "x:data": "x.y", "z:extra": "z"});
    let (message, ignoring) = (r#"{"a": 1, "x": {}}"#, FORM().data_ignore_missing_keys(true));
    let export = mapped(mappings.clone(), message, &ignoring);
    assert!(export.error.unwrap().to_string().ends_with("to `z:extra`: `z` is missing"));
    let both = ignoring.extra_ignore_missing_keys(true);
    let export = mapped(mappings.clone(), message, &both);
    assert_eq!((export.data, export.extra), (json!({"a": 1}), json!({})));
    for no_map in ["null", "[]", "\"text\"", "5.0", "true"] {
        let export = mapped(mappings.clone(), &format!(r#"{{"a": 1, "x": {no_map}}}"#), &both);
        let error = export.error.unwrap().to_string();
        assert!(error.ends_with("to `x:data`: `x.y` leads through what is no map"), "{error}");
    }
}

#[test]
fn paths_that_share_a_way_do_not_hinder_each_other() {
    let mappings =
        json!({"all:data": "a", "b:data": "a.b", "c:data": "a.b.c", "again:extra": "a.b.c", "dot:data": "."});
    let export = mapped(mappings, r#"{"a": {"b": {"c": 1}, "b": {"c": 2}}, "": {"": 3}}"#, &FORM());
    assert_eq!(export.data, json!({"all": {"b": {"c": 2}}, "b": {"c": 2}, "c": 2, "dot": 3}));
    assert_eq!(export.extra, json!({"again": 2}));
}

#[test]
fn shapes_are_those_of_the_python_library_and_ones_own() {
    // More entries than a small object has, to show that their order stays.
    let mappings = r#"{"z:data": "n", "b:data": "t", "a:data": "l", "k:extra": "n"}"#;
    let message = r#"{"n": 8.0, "t": true, "l": ["x", null]}"#;
    let definition = format!(r#"{{"id": "f", "source": "t", "mappings": {mappings}}}"#);
    let mut filters = Filters::default();
    filters.put(&definition).unwrap();
    let data = |shape| export(&filters, message, &FORM().data(shape)).results.remove(0);
    assert_eq!(data(Shape::Map).data, json!({"a": ["x", null], "b": true, "z": 8.0}));
    assert_eq!(data(Shape::KeyValue).data, json!(["z=8.0", "b=True", "a=['x', None]"]));
    assert_eq!(data(Shape::Pairs).data.to_string(), r#"[["z",8.0],["b",true],["a",["x",null]]]"#);
    let count = Shape::custom(|pairs| Ok(pairs.len().into()));
    assert_eq!((data(count).data, data(Shape::Map).extra), (json!(3), json!({"k": 8.0})));
    for (shape, expected) in [
        (Shape::custom(|_| Err("no room".into())), "cannot map t:3:42 to `data`: no room"),
        (Shape::custom(|_| panic!("out of paper")), "cannot map t:3:42 to `data`: it panicked: out of paper"),
    ] {
        let export = data(shape);
        assert_eq!((export.error.unwrap().to_string().as_str(), export.extra), (expected, Value::Null));
    }
}

#[test]
fn numbers_keep_their_value_whatever_their_size() {
    let message = r#"{"n": [100000000000000000000, -18446744073709551616, 0.1, 1e400]}"#;
    let export = mapped(json!({"n:data": "n"}), message, &FORM());
    assert_eq!(export.data.to_string(), r#"{"n":[100000000000000000000,-18446744073709551616,0.1,1e+400]}"#);
    let filters = filters(&[json!({"id": "f", "source": "s", "mappings": {"n:data": "n"},
        "identifiers": [{"key": "n", "value": "100000000000000000000"}]})]);
    assert_eq!(self::export(&filters, r#"{"n": 100000000000000000000}"#, &FORM()).results.len(), 1);
    assert_eq!(self::export(&filters, r#"{"n": 100000000000000000001}"#, &FORM()).results.len(), 0);
}

#[test]
fn what_cannot_be_read_is_an_error_beside_the_results() {
    let filters = filters(&[json!({"id": "f", "source": "t", "mappings": {"a:data": "a"}})]);
    let mut exports = Exports::default();
    let record = |offset| Ref { key: Some("k".into()), ..Ref::new("t", 0, offset) };
    let values: [Option<&[u8]>; 8] = [
        Some(b"{\"a\":1}"),
        Some(b"{"),
        None,
        Some(b"[1]"),
        Some(b""),
        Some(b"{\"a\":\xff}"),
        Some(b"NaN"),
        Some(b"{\"a\":2}"),
    ];
    for (offset, value) in (0..).zip(values) {
        exports.add(&filters, record(offset), value, &FORM());
    }
    let offsets: Vec<_> = exports.results.iter().map(|export| export.reference.offset).collect();
    assert_eq!((offsets, exports.records.len()), (vec![0, 7], 8));
    let errors: Vec<_> = exports.errors.iter().map(Error::to_string).collect();
    let expected = [
        "cannot decode t:0:1:k: EOF while parsing an object at line 1 column 1",
        "cannot decode t:0:4:k: the value is empty at line 1 column 1",
        "cannot decode t:0:5:k: not UTF-8 at byte 5 at line 1 column 6",
        "cannot decode t:0:6:k: NaN is not JSON at line 1 column 1",
    ];
    assert_eq!(errors, expected);
    let error =
        exports.each(|export| if export.reference.offset == 7 { Err("no".into()) } else { Ok(()) }).unwrap_err();
    assert_eq!(error.index(), Some(1), "of the results");
}

#[test]
fn of_an_envelope_filters_see_the_item() {
    let filters = filters(&[json!({"id": "f", "source": "t", "mappings": {"a:data": "a"}})]);
    let form = FORM().envelopes(true);
    let value = crate::envelope::pack("svc", &json!({"a": 1}), &[]).unwrap();
    let exports = filters.export(Ref::new("t", 0, 0), &value, &form);
    assert_eq!(exports.results[0].data, json!({"a": 1}));
    assert_eq!(exports.results[0].reference.history.as_ref().unwrap().stage().unwrap().service, "svc");
    assert!(exports.records[0].history.is_some());
    assert_eq!(filters.export(Ref::new("t", 0, 0), b"{\"a\":1}", &form).errors.len(), 1);
    assert!(filters.export(Ref::new("t", 0, 0), b"{\"item\":5}", &form).results.is_empty());
}

#[test]
fn exports_are_told_apart_by_their_filters() {
    let definition = |id: &str, path: &str| json!({"id": id, "source": "t", "mappings": {"v:data": path}});
    let filters = filters(&[definition("f", "a"), definition("g", "a"), definition("h", "b")]);
    let mut exports = Exports::default();
    for (offset, value) in (0..).zip([r#"{"a":1,"b":2}"#, r#"{"a":3}"#]) {
        exports.add(&filters, Ref::new("t", 0, offset), Some(value.as_bytes()), &FORM());
    }
    let (one, two, three) = (json!({"v": 1}), json!({"v": 2}), json!({"v": 3}));
    let both = vec![&one, &three];
    let expected = [("f", both.clone()), ("g", both), ("h", vec![&two])];
    assert_eq!(exports.by_export_id().into_iter().collect::<Vec<_>>(), expected);
    let expected = [("f", &three), ("g", &three), ("h", &two)];
    assert_eq!(exports.latest_by_export_id().into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn deep_and_wide_messages_and_filters_are_no_danger() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let export = mapped(json!({"a:data": "a"}), &deep, &FORM());
    assert!(export.error.unwrap().to_string().contains("`a` cannot be read: recursion limit exceeded"));
    let with_value =
        json!({"id": "f", "source": "t", "mappings": {"a:data": "b"}, "identifiers": [{"key": "a", "value": "x"}]});
    assert!(self::export(&filters(&[with_value]), &deep, &FORM()).results.is_empty());
    let wide: String = (0..50_000).map(|number| format!("\"k{number}\":{number},")).collect();
    let export = mapped(json!({"a:data": "k49999", "b:data": "z"}), &format!("{{{wide}\"z\":0}}"), &FORM());
    assert_eq!(export.data, json!({"a": 49_999, "b": 0}));
}

/// A text with some of its bytes changed, doubled or left out.
fn damaged(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let damage = (0..text.len(), prop_oneof![any::<u8>(), prop::sample::select(&b"{}[]\":,\\0.e-\xff"[..])], 0..3u8);
    prop::collection::vec(damage, 0..6).prop_map(move |damages| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte, kind) in damages {
            let at = at.min(bytes.len().saturating_sub(1));
            match kind {
                0 if !bytes.is_empty() => bytes[at] = byte,
                1 if !bytes.is_empty() => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}

const FILTER: &str = r#"{"id":"f","source":"t","mappings":{"a:data":"a.b","c:extra":"c"},"identifiers":[{"key":"k","value":"v"}],"args":{"n":[1e5]}}"#;
const MESSAGE: &str = r#"{"a":{"b":[1.5e300,"\u00e9\n",null]},"c":{"d":100000000000000000000},"k":"v"}"#;

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    /// Whatever comes, a filter is held whole or not at all, and a message has results or is an error.
    #[test]
    fn damaged_filters_and_messages_do_no_harm(filter in damaged(FILTER), message in damaged(MESSAGE), key_value: bool) {
        let mut filters = Filters::default();
        match filters.put(&String::from_utf8_lossy(&filter)) {
            Ok(id) => prop_assert!(filters.len() == 1 && filters.args(&id).is_some()),
            Err(error) => {
                let is_filter = matches!(error, Error::Filter { .. });
                prop_assert!(is_filter && filters.holds_nothing());
                prop_assert!(error.to_string().len() < 1_000);
            }
        }
        let _ = filters.put(FILTER);
        let form = if key_value { FORM().data(Shape::KeyValue) } else { FORM() };
        let exports = filters.export(Ref::new("t", 0, 0), &message, &form);
        prop_assert_eq!(exports.records.len(), 1);
        prop_assert!(exports.errors.is_empty() || exports.results.is_empty());
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&message).is_ok();
        prop_assert!(!exports.errors.is_empty() || is_json);
    }
}
