use super::*;

fn reason(line: &str) -> String {
    let Refused { column, reason } = message(line.as_bytes()).unwrap_err();
    format!("{column}: {reason}")
}

#[test]
fn a_line_may_say_as_little_as_a_payload() {
    let read = message(br#"{"payload": {"a" : 1.50}}"#).unwrap();
    assert_eq!(read.payload.get(), r#"{"a" : 1.50}"#);
    assert_eq!((read.id.len(), read.refs.len()), (36, 0));
    assert_eq!(message(br#"{"id":null,"payload":null,"refs":null,"headers":null}"#).unwrap().id, "");
}

#[test]
fn refs_are_objects_or_texts() {
    let line = br#"{"id":"a","payload":1,"refs":["t:0:7:k:with:colons","t:1:8","t:1:9:",
        {"topic":"t","partition":2,"offset":3,"key":null,"hist":{"svc":"s","dt":"2026-01-02T03:04:05Z","refs":[]}}]}"#;
    let refs = message(line).unwrap().refs;
    let texts: Vec<_> = refs.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["t:0:7:k:with:colons", "t:1:8:", "t:1:9:", "t:2:3:"]);
    assert_eq!(refs[2].key, None);
    assert_eq!(refs[3].history.as_ref().unwrap().depth(), 1);
    for text in ["t", ":0:1", "t:a:1", "t:0:-1", "t:-1:0", ""] {
        assert_eq!(reference(text), None, "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_without_what_stood_there() {
    assert_eq!(reason("{}"), "2: missing field `payload`");
    assert_eq!(reason("nonsense"), "2: expected ident");
    assert_eq!(reason(r#""secret""#), "8: invalid type: string, expected an object with `payload`");
    assert_eq!(reason(r#"{"payload":1,"headers":"secret"}"#), "31: invalid type: string, expected an object of texts");
    assert!(
        reason(r#"{"payload":1,"headers":{"a":5}}"#).ends_with("integer, expected a header's text, or a list of them")
    );
    assert_eq!(reason(r#"["a",1,[],{}]"#), "1: is a list, expected an object with `payload`");
    assert!(reason(r#"{"id":5,"payload":1}"#).ends_with("invalid type: integer, expected a string"));
    assert!(reason(r#"{"payload":1,"more":2}"#).starts_with("19: unknown field `more`, expected one of"));
    assert!(reason(r#"{"payload":1,"payload":2}"#).ends_with("duplicate field `payload`"));
    assert!(reason(r#"{"payload":1,"refs":["secret"]}"#).ends_with(": a ref is not topic:partition:offset:key"));
    assert_eq!(reason("null"), "4: invalid type: null, expected an object with `payload`");
    for wrong in [r#""topic":"","partition":0,"offset":0"#, r#""topic":"t","partition":-1,"offset":0"#] {
        let line = format!(r#"{{"payload":1,"refs":[{{{wrong}}}]}}"#);
        assert!(reason(&line).ends_with(": a ref names no topic, or a partition or offset below 0"), "{line}");
    }
    assert_eq!(message(b"{\"id\":\"\xff\"}").unwrap_err(), Refused { column: 8, reason: "is not UTF-8".into() });
}

#[test]
fn what_no_reader_takes_is_refused() {
    assert_eq!(reason(r#"{"payload":"\ud800"}"#), "0: `payload`: half a surrogate pair in a text");
    assert!(message(br#"{"payload":"\ud83d\ude00 \u00e4"}"#).is_ok());
}
