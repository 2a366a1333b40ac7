use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::app::context::Context;
use crate::app::handler::handler_task;
use crate::app::pipeline::Pipeline;
use crate::error::HandlerError;
use crate::message::TimestampType;
use crate::message::arena::{Arena, NewRecord, Source};
use crate::message::record::Record;

fn parts(topic: &str, key: Option<&[u8]>, value: Option<&[u8]>) -> Parts {
    let mut arena = Arena::default();
    let source = arena.source_index(|_| true, || Source { topic: topic.into(), partition: 0, tag: 0 });
    let timestamp_type = TimestampType::CreateTime;
    arena.push(source, &NewRecord { offset: 0, timestamp: None, timestamp_type, key, value }, |_| ());
    Parts::of(&arena, &arena.records()[0])
}

fn form(key_as_event: bool) -> Form {
    Form { key_as_event, envelopes: ["wrapped".to_owned()].into() }
}

fn task() -> Arc<dyn Task> {
    handler_task(|_: Value, _: Context| Ok::<(), HandlerError>(()))
}

fn pipeline(name: &str) -> Arc<dyn Task> {
    Pipeline::<Value>::new(name).into_task()
}

fn topics(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Handlers of `e` on both topics.
fn routes(key_as_event: bool) -> Routes {
    let mut registrations = Registrations::default();
    registrations.handler("e".into(), None, task());
    registrations.build(&topics(&["plain", "wrapped"]), form(key_as_event)).unwrap()
}

/// What becomes of a record, and of one with tasks its message.
fn outcome(routes: &Routes, mut parts: Parts) -> (Route, Option<Record>) {
    match routes.route(&mut parts) {
        Route::Tasks(tasks) => (Route::Tasks(tasks), Some(parts.share())),
        route => (route, None),
    }
}

fn value(routes: &Routes, topic: &str, value: &str) -> (Route, Option<Record>) {
    outcome(routes, parts(topic, None, Some(value.as_bytes())))
}

fn message(routes: &Routes, topic: &str, text: &str) -> String {
    let (route, record) = value(routes, topic, text);
    assert!(matches!(&route, Route::Tasks(tasks) if tasks.len() == 1), "{text}");
    String::from_utf8(record.unwrap().message().to_vec()).unwrap()
}

fn reason(routes: &Routes, topic: &str, text: &str) -> String {
    match value(routes, topic, text).0 {
        Route::NoEvent(reason) => reason.to_owned(),
        Route::Unreadable(error) => error.to_string(),
        Route::Nothing => "nothing".into(),
        Route::Unhandled => "unhandled".into(),
        Route::Tasks(_) => "tasks".into(),
    }
}

#[test]
fn the_event_stands_in_the_message() {
    let routes = routes(false);
    for text in [r#"{"event":"e"}"#, r#" {"n":{"event":"f"},"event": "e"}"#, r#"{"event":"f","\u0065vent":"\u0065"}"#] {
        assert_eq!(message(&routes, "plain", text), text);
        let wrapped = format!(r#"{{"hist":null, "item": {} }}"#, text.trim());
        assert_eq!(message(&routes, "wrapped", &wrapped), text.trim());
    }
    for (text, expected) in [
        ("", "nothing"),
        (r#"{"event":"other"}"#, "unhandled"),
        (r#"{"event":""}"#, "unhandled"),
        (r#"{"n":1}"#, "it has no `event`"),
        (r#"{"event":"e","event":null}"#, "its `event` is no text"),
        (r#"{"event":5}"#, "its `event` is no text"),
        ("[1]", "its message is no JSON object"),
        ("null", "its message is no JSON object"),
        (r#""e""#, "its message is no JSON object"),
        ("{oops", "key must be a string at line 1 column 2"),
        (" ", "EOF while parsing a value at line 1 column 1"),
        (r#"{"event":"e","n":NaN}"#, "NaN is not JSON at line 1 column 18"),
        (r#"{"event":"e"} x"#, "trailing characters at line 1 column 15"),
    ] {
        assert_eq!(reason(&routes, "plain", text), expected, "{text}");
    }
    assert_eq!(reason(&routes, "wrapped", r#"{"event":"e"}"#), "missing field `item` at line 1 column 13");
    assert_eq!(reason(&routes, "wrapped", r#"{"item":null}"#), "its message is no JSON object");
    assert!(matches!(outcome(&routes, parts("plain", Some(b"e"), None)).0, Route::Nothing));
    let binary_key = outcome(&routes, parts("plain", Some(b"\xff"), Some(br#"{"event":"e"}"#))).0;
    assert!(matches!(binary_key, Route::Unreadable(error) if error.to_string() == "the key is not UTF-8 at byte 0"));
    let not_utf8 = outcome(&routes, parts("plain", None, Some(b"\xff"))).0;
    assert!(matches!(not_utf8, Route::Unreadable(error) if error.to_string().starts_with("not UTF-8 at byte 0")));
}

#[test]
fn the_event_is_the_key() {
    let routes = routes(true);
    let with_key = |key: Option<&[u8]>, value: &str| outcome(&routes, parts("plain", key, Some(value.as_bytes())));
    // The message may then be any JSON.
    for text in [r#"{"event":"other"}"#, "[1,2]", "null"] {
        let (route, record) = with_key(Some(b"e"), text);
        assert!(matches!(&route, Route::Tasks(tasks) if tasks.len() == 1));
        assert_eq!(record.unwrap().message(), text.as_bytes());
    }
    assert!(matches!(with_key(None, "{}").0, Route::NoEvent("it has no key")));
    assert!(matches!(with_key(Some(b""), "{}").0, Route::NoEvent("its key is empty")));
    assert!(matches!(with_key(Some(b"other"), "{}").0, Route::Unhandled));
    assert!(matches!(with_key(Some(b"e"), "{").0, Route::Unreadable(_)));
    let Route::Unreadable(error) = with_key(Some(b"e\xff"), "{}").0 else { panic!() };
    assert_eq!(error.to_string(), "the key is not UTF-8 at byte 1");
    assert!(matches!(outcome(&routes, parts("plain", Some(b"\xff"), None)).0, Route::Nothing));
}

#[test]
fn an_object_that_was_encoded_twice_is_that_object() {
    let once = r#"{"event": "e", "name": "Zoë"}"#;
    let twice = serde_json::to_string(once).unwrap();
    let routes = routes(false);
    assert_eq!(message(&routes, "plain", &twice), once);
    assert_eq!(message(&routes, "wrapped", &format!(r#"{{"item":{twice}}}"#)), once);
    // Three times is nobody's doing, and a text that is no object is a text.
    let thrice = serde_json::to_string(&twice).unwrap();
    assert_eq!(reason(&routes, "plain", &thrice), "its message is no JSON object");
    assert_eq!(reason(&routes, "plain", r#""{oops""#), "its message is no JSON object");
}

#[test]
fn the_history_of_an_envelope_is_that_of_its_record() {
    let value = r#"{"item":{"event":"e"},"hist":{"svc":"shop","dt":"2026-11-20T18:07:24+00:00","refs":[]}}"#;
    let routes = routes(false);
    let (_, record) = outcome(&routes, parts("wrapped", None, Some(value.as_bytes())));
    let history = record.unwrap().reference().history.unwrap();
    assert_eq!(history.stage().unwrap().service, "shop");
    let (_, record) = outcome(&routes, parts("plain", None, Some(br#"{"event":"e","hist":{}}"#)));
    assert!(record.unwrap().reference().history.is_none());
}

#[test]
fn a_message_that_does_not_fit_tells_its_place_in_the_value() {
    let routes = routes(false);
    let error = |topic: &str, text: &str| {
        let record = value(&routes, topic, text).1.unwrap();
        crate::app::read::message::<std::collections::HashMap<String, String>>(&record).unwrap_err().to_string()
    };
    assert!(error("plain", r#"{"event":"e","n":5}"#).ends_with("expected a string at line 1 column 18"));
    assert!(error("wrapped", r#"{"item":{"event":"e","n":5}}"#).ends_with("expected a string at line 1 column 26"));
}

#[test]
fn a_topic_may_have_one_type() {
    #[derive(serde::Deserialize)]
    struct Numbered {
        #[allow(dead_code)]
        n: u32,
    }
    let mut registrations = Registrations::default();
    registrations.payload::<Numbered>("plain".into());
    registrations.handler("e".into(), None, task());
    let routes = registrations.build(&topics(&["plain", "wrapped"]), form(false)).unwrap();
    assert_eq!(reason(&routes, "plain", r#"{"event":"e","n":5}"#), "tasks");
    assert!(reason(&routes, "plain", r#"{"event":"e","n":"5"}"#).contains("expected u32 at line 1 column 20"));
    assert_eq!(reason(&routes, "wrapped", r#"{"item":{"event":"e","n":"5"}}"#), "tasks");
}

/// The event alone comes before topic and event, and a handler goes beside a pipeline.
/// A type's own code is the user's.
#[test]
fn a_payload_whose_type_panics_is_one_that_cannot_be_read() {
    struct Broken;
    impl<'de> serde::Deserialize<'de> for Broken {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            panic!("not today")
        }
    }
    let mut registrations = Registrations::default();
    registrations.handler("e".into(), None, task());
    registrations.payload::<Broken>("plain".into());
    let routes = registrations.build(&topics(&["plain"]), form(false)).unwrap();
    let (route, _) = value(&routes, "plain", r#"{"event": "e"}"#);
    assert!(matches!(route, Route::Unreadable(error) if error.to_string() == "its type panicked: not today"));
}

#[test]
fn pipelines_have_two_kinds_of_names() {
    let mut registrations = Registrations::default();
    registrations.handler("x".into(), Some("a".into()), task());
    for name in ["x", "a.x", "b.y", "b.", "c.z"] {
        registrations.pipeline(name.into(), pipeline(name));
    }
    let routes = registrations.build(&topics(&["a", "b", "b"]), Form::default()).unwrap();
    let names = |topic: &str, event: &str| -> Vec<String> {
        match value(&routes, topic, &format!(r#"{{"event":"{event}"}}"#)).0 {
            Route::Tasks(tasks) => {
                let places = tasks.first..tasks.first + tasks.len();
                let name = |place| routes.task(place).unwrap().pipeline().map_or("", |name| name).to_owned();
                places.map(name).collect()
            }
            _ => Vec::new(),
        }
    };
    assert_eq!(names("a", "x"), ["", "x"]);
    assert_eq!(names("b", "x"), ["x"]);
    assert_eq!(names("b", "y"), ["b.y"]);
    assert_eq!(names("a", "b.y"), ["b.y"]);
    assert!(names("a", "y").is_empty() && names("b", "").is_empty() && names("b", "z").is_empty());
}

#[test]
fn what_cannot_work_is_refused() {
    fn error(topics: &[&str], register: impl FnOnce(&mut Registrations)) -> String {
        let mut registrations = Registrations::default();
        register(&mut registrations);
        let topics: Vec<_> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        registrations.build(&topics, Form::default()).err().map(|error| error.to_string()).unwrap_or_default()
    }
    let on = |event: &'static str| move |r: &mut Registrations| r.handler(event.into(), None, task());
    assert_eq!(error(&["a"], on("e")), "");
    assert_eq!(error(&["a", "a"], on("e")), "");
    assert_eq!(error(&["a"], on("")), "setting `on`: the event's name is empty");
    assert!(error(&[], on("e")).starts_with("setting `listen`: there is no topic"));
    assert!(error(&["^a"], on("e")).starts_with("setting `listen`: `^a` is a pattern"));
    assert!(error(&["a b"], on("e")).starts_with("setting `topic`: "));
    let unknown = error(&["a"], |r| r.handler("e".into(), Some("b".into()), task()));
    assert_eq!(unknown, "setting `on_topic`: the topic `b` is not listened to");
    for topics in [[None, None], [None, Some("a")], [Some("a"), None], [Some("a"), Some("a")]] {
        let twice = error(&["a", "b"], |r| {
            for topic in topics {
                r.handler("e".into(), topic.map(str::to_owned), task());
            }
        });
        assert!(twice.contains("the event `e` of the topic `") && twice.ends_with("` has two handlers"), "{twice}");
    }
    let payloads = |topics: &'static [&str]| {
        error(&["a"], |r| topics.iter().for_each(|topic| r.payload::<Value>((*topic).to_owned())))
    };
    assert_eq!(payloads(&["b"]), "setting `payload`: the topic `b` is not listened to");
    assert_eq!(payloads(&["a", "a"]), "setting `payload`: the topic `a` has two types");
    let pipelines = |pipelines: &'static [(&str, &str)]| {
        error(&["a"], |r| pipelines.iter().for_each(|(key, name)| r.pipeline((*key).to_owned(), pipeline(name))))
    };
    assert_eq!(pipelines(&[("x", "p"), ("a.x", "p")]), "");
    assert_eq!(pipelines(&[("x", "p"), ("x", "q")]), "setting `pipeline`: there are two for `x`");
    assert_eq!(pipelines(&[("", "p")]), "setting `pipeline`: the event's name is empty");
    assert_eq!(pipelines(&[("x", "")]), "setting `pipeline`: a pipeline has no name");
    let piping = |pipeline: Pipeline<Value>| error(&["a"], |r| r.pipeline("x".into(), pipeline.into_task()));
    let new = || Pipeline::<Value>::new("p");
    let second = std::time::Duration::from_secs(1);
    assert_eq!(piping(new().pipe("b", "")), "setting `pipeline`: `p` the event that is piped to `b` has no name");
    assert!(piping(new().pipe("", "e")).starts_with("setting `pipeline`: `p` cannot pipe: "));
    let unnamed = piping(new().pipe_and_wait("b", "e", ("c", ""), second));
    assert!(unnamed.contains("`p` the response that is awaited from `c` has no name"), "{unnamed}");
    assert!(piping(new().pipe_and_wait("b", "e", ("c", "f"), std::time::Duration::ZERO)).contains("waits no time"));
}

proptest! {
    /// What stands in a value is found as serde_json finds it, which lets the last of several fields win, too.
    #[test]
    fn an_event_is_what_a_map_has(
        text in r#" ?\{(("(e|event|ev\\u0065nt)":("e"|"\\u0065"|""|1\.5|null|\[1\]|\{"event":"e"\}),?){0,3}|"event":"e)\} ?"#
    ) {
        let routes = routes(false);
        let (route, record) = value(&routes, "plain", &text);
        match serde_json::from_str::<Value>(&text).map(|message| message.get("event").cloned()) {
            Err(_) => prop_assert!(matches!(route, Route::Unreadable(_))),
            Ok(Some(Value::String(event))) if event == "e" => prop_assert!(matches!(route, Route::Tasks(_)) && record.is_some()),
            Ok(Some(Value::String(_))) => prop_assert!(matches!(route, Route::Unhandled)),
            Ok(_) => prop_assert!(matches!(route, Route::NoEvent(_))),
        }
    }

    #[test]
    fn no_value_is_too_bad(value: Vec<u8>, key: Option<Vec<u8>>, key_as_event: bool, topic in "plain|wrapped|other") {
        outcome(&routes(key_as_event), parts(&topic, key.as_deref(), Some(&value)));
    }
}
