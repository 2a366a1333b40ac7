//! What an app sends is what the Python app sent, byte for byte; and what it cannot send it refuses.

use chrono::DateTime;
use kafka_envelope::app::{App, Context, Emitter, Event};
use kafka_envelope::{Error, HandlerError, unpack};
use rdkafka::Message as _;
use rdkafka::message::OwnedMessage;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::support::app::{Running, app, bytes, handled, headers, records, vectors};
use super::support::{PATIENCE, TestTopic, consume_all, produce_raw, shared_broker, unique};

/// The vectors' cases, with the values as they were written.
#[derive(Deserialize)]
struct Cases {
    emit: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    value_serializer: String,
    input: Input,
    record: Option<Value>,
    #[serde(default)]
    varies: Vec<String>,
}

#[derive(Deserialize)]
struct Input {
    value: Box<RawValue>,
    key: Option<String>,
    #[serde(default)]
    headers: Vec<(String, Value)>,
    partition: Option<i32>,
    timestamp_ms: Option<i64>,
}

impl Input {
    fn event<T>(&self, name: Option<&str>, payload: T, is_keyed: bool) -> Event<T> {
        let mut event = match name {
            Some(name) => Event::new(name, payload),
            None => Event::unnamed(payload),
        };
        if let Some(key) = self.key.as_ref().filter(|_| is_keyed) {
            event = event.key(key);
        }
        for (name, value) in &self.headers {
            let value = value["given_as_text"].as_str().map(|text| text.as_bytes().to_vec()).or_else(|| bytes(value));
            event = event.header(name, value.unwrap());
        }
        if let Some(partition) = self.partition {
            event = event.partition(partition);
        }
        if let Some(millis) = self.timestamp_ms {
            event = event.timestamp(DateTime::from_timestamp_millis(millis).unwrap());
        }
        event
    }
}

/// An emitter of an app that does not run.
fn emitter(build: impl FnOnce(kafka_envelope::app::AppBuilder) -> kafka_envelope::app::AppBuilder) -> Emitter {
    let builder = App::builder(&unique("app"), shared_broker()).answers([("never.used", "e")]);
    build(builder).build().unwrap().emitter()
}

/// The record that was acknowledged there.
async fn emitted<T: Serialize>(emitter: &Emitter, topic: &str, event: Event<T>) -> OwnedMessage {
    let delivery = emitter.emit(topic, event).await.unwrap();
    let found = consume_all(shared_broker(), topic).into_iter();
    let is_it = |record: &OwnedMessage| (record.partition(), record.offset()) == (delivery.partition, delivery.offset);
    found.into_iter().find(is_it).unwrap()
}

fn text(record: &OwnedMessage) -> &str {
    std::str::from_utf8(record.payload().unwrap()).unwrap()
}

fn check(case: &Case, sent: &OwnedMessage) {
    let Case { name, record, varies, .. } = case;
    let record = record.as_ref().unwrap();
    assert_eq!(text(sent), record["value"]["text"], "{name}");
    assert_eq!(sent.key().map(<[u8]>::to_vec), bytes(&record["key"]), "{name}");
    assert_eq!(headers(sent), record["headers"], "{name}");
    if !varies.iter().any(|varies| varies == "record.partition") {
        assert_eq!(sent.partition(), record["partition"], "{name}");
    }
    if !varies.iter().any(|varies| varies == "record.timestamp_ms") {
        assert_eq!(sent.timestamp().to_millis().unwrap(), record["timestamp_ms"], "{name}");
    }
}

/// The field `event` of an object, where it is one.
fn event_of(value: &RawValue) -> Option<String> {
    serde_json::from_str::<Value>(value.get()).unwrap()["event"].as_str().map(ToOwned::to_owned)
}

/// The vectors' `emit`. Python's app has the event in the value; here it is given by name.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_written_as_python_writes_them() {
    let topic = TestTopic::new(shared_broker(), 2);
    let plain = emitter(|app| app);
    let by_key = emitter(|app| app.key_as_event(true));
    let cases: Cases = serde_json::from_str(include_str!("../data/app_wire.json")).unwrap();
    assert_eq!(cases.emit.len(), vectors()["emit"].as_array().unwrap().len());
    for case in cases.emit.iter().filter(|case| case.value_serializer == "json") {
        let Case { name, input, .. } = case;
        let as_it_is = || input.event(None, &input.value, true);
        if case.record.is_none() {
            let error = plain.emit(&topic, as_it_is()).await.unwrap_err();
            assert!(matches!(error, Error::Setting { .. }), "{name}: {error}");
            continue;
        }
        check(case, &emitted(&plain, &topic, as_it_is()).await);
        if name == "key-as-event" {
            let event = input.event(input.key.as_deref(), &input.value, false);
            check(case, &emitted(&by_key, &topic, event).await);
        } else if let Some(event) = event_of(&input.value) {
            // In place of the same.
            check(case, &emitted(&plain, &topic, input.event(Some(&event), &input.value, true)).await);
            // Where the payload does not have it: first.
            let without = input.value.get().replacen(&format!("\"event\": \"{event}\""), "", 1);
            let without: Box<RawValue> = serde_json::from_str(&without.replacen("{, ", "{", 1)).unwrap();
            assert_eq!(event_of(&without), None);
            check(case, &emitted(&plain, &topic, input.event(Some(&event), &without, true)).await);
        }
    }
}

/// The vectors' `emit` with Python's text serializer: there the caller writes the JSON. Here what is written is always
/// spelled the same, and an object can be sent as well.
#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_there_already_is_sent_as_the_same_json() {
    let topic = TestTopic::new(shared_broker(), 2);
    let plain = emitter(|app| app);
    let cases: Cases = serde_json::from_str(include_str!("../data/app_wire.json")).unwrap();
    let texts: Vec<_> = cases.emit.iter().filter(|case| case.value_serializer == "text").collect();
    assert_eq!(texts.len(), 2);
    for Case { name, input, record, .. } in texts {
        let json = match serde_json::from_str::<String>(input.value.get()) {
            Ok(text) => serde_json::from_str(&text).unwrap(),
            Err(_) => input.value.clone(),
        };
        let sent = emitted(&plain, &topic, Event::unnamed(&json)).await;
        let expected = record.as_ref().map_or(input.value.get(), |record| record["value"]["text"].as_str().unwrap());
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(parsed(text(&sent)), parsed(expected), "{name}");
    }
}

/// The vectors' `partition_of_key`.
#[tokio::test(flavor = "multi_thread")]
async fn keys_go_to_the_partitions_that_other_clients_choose() {
    let vector = &vectors()["partition_of_key"];
    let topic = TestTopic::new(shared_broker(), i32::try_from(vector["partitions"].as_i64().unwrap()).unwrap());
    let emitter = emitter(|app| app);
    for (key, partition) in vector["keys"].as_object().unwrap() {
        let delivery = emitter.emit(&topic, Event::new("e", json!({})).key(key)).await.unwrap();
        assert_eq!(delivery.partition, *partition, "{key}");
    }
}

/// What is refused is refused before anything is sent.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_an_error_and_nothing_is_sent() {
    let topic = TestTopic::new(shared_broker(), 1);
    let small = emitter(|app| app.producer_config([("message.max.bytes", "2000")]));
    let error = small.emit(&topic, Event::new("e", json!({"a": "x".repeat(2000)}))).await.unwrap_err();
    assert!(matches!(error, Error::Oversize { index: 0, limit: 2000, bytes: 2000.. }), "{error}");
    let error = small.emit_with_response::<Value, _>(&topic, Event::new("e", "text"), PATIENCE).await.unwrap_err();
    assert!(matches!(error, Error::Encode { .. }), "{error}");
    let error = small.emit("no topic", Event::new("e", json!({}))).await.unwrap_err();
    assert!(matches!(&error, Error::Setting { key, .. } if key == "topic"), "{error}");
    // A future that is not polled sends nothing.
    drop(small.emit(&topic, Event::new("e", json!({}))));
    assert_eq!(consume_all(shared_broker(), &topic).len(), 0);
    // Its payload is written before: what it was made of may be gone.
    let sending = {
        let payload = json!({"a": 1});
        small.emit(&topic, Event::new("e", payload))
    };
    sending.await.unwrap();
    assert_eq!(text(&consume_all(shared_broker(), &topic)[0]), r#"{"event": "e", "a": 1}"#);
}

/// A delivery that fails is told at once, by who waits for a response too.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_delivery_is_the_error_of_the_call() {
    let emitter = emitter(|app| app.producer_config([("topic.metadata.propagation.max.ms", "200")]));
    let partition = || Event::new("e", json!({})).partition(7);
    let topic = TestTopic::new(shared_broker(), 1);
    let error = emitter.emit(&topic, partition()).await.unwrap_err();
    assert!(matches!(error, Error::NotDelivered { .. }), "{error}");
    let error = emitter.emit_with_response::<Value, _>(&topic, partition(), PATIENCE).await.unwrap_err();
    assert!(matches!(error, Error::NotDelivered { .. }), "{error}");
}

/// An envelope says which record its sender was handling, and what that one came from.
#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_refers_to_the_record_that_is_handled() {
    let broker = shared_broker();
    let [first, second, plain] = [(); 3].map(|()| TestTopic::new(broker, 1));
    let (name, builder) = app(broker);
    let (to, and_to) = (second.to_string(), plain.to_string());
    let handler = move |message: Value, context: Context| {
        let (to, and_to) = (to.clone(), and_to.clone());
        async move {
            context.emit(&to, Event::new("second", &message)).await?;
            context.emit(&and_to, Event::new("third", &message)).await?;
            Ok::<_, HandlerError>(())
        }
    };
    let built = builder.listen([&*first]).envelopes([&*first, &*second]).on("first", handler).build().unwrap();
    let outside = built.emitter();
    let running = Running::start(built);
    outside.emit(&first, Event::new("first", json!({"n": 1})).key("k")).await.unwrap();
    handled(&running, 1);
    running.stop().await.unwrap();

    let [source, sent, bare] = [&first, &second, &plain].map(|topic| records(broker, topic, 1).remove(0));
    let source = unpack(source.payload().unwrap()).unwrap();
    assert_eq!(source.item().get(), r#"{"event": "first", "n": 1}"#);
    let history: Value = serde_json::from_str(source.history().unwrap().get()).unwrap();
    assert_eq!((&history["svc"], &history["refs"]), (&json!(name), &json!([])));

    let sent = unpack(sent.payload().unwrap()).unwrap();
    assert_eq!(sent.payload::<Value>().unwrap(), json!({"event": "second", "n": 1}));
    let history: Value = serde_json::from_str(sent.history().unwrap().get()).unwrap();
    let from = &history["refs"][0];
    assert_eq!((&from["topic"], &from["offset"], &from["key"]), (&json!(&*first), &json!(0), &json!("k")));
    assert_eq!(from["hist"]["svc"], json!(name));
    assert_eq!(serde_json::from_str::<Value>(text(&bare)).unwrap(), json!({"event": "third", "n": 1}));
}

/// Without an `event_id` the record is no question, and the answer an event like any other.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_the_event_id_of_its_question() {
    let broker = shared_broker();
    let [questions, answers] = [(); 2].map(|()| TestTopic::new(broker, 1));
    let (_, builder) = app(broker);
    let to = answers.to_string();
    let handler = move |n: Value, context: Context| {
        let to = to.clone();
        async move {
            context.respond(&to, Event::new("priced", &n).header("a", "1")).await?;
            Ok::<_, HandlerError>(())
        }
    };
    let built = builder.listen([&*questions]).on("price", handler).build().unwrap();
    let outside = built.emitter();
    let running = Running::start(built);
    outside
        .emit(&questions, Event::new("price", json!({})).header("event_id", "1").header("event_id", "2"))
        .await
        .unwrap();
    handled(&running, 1);
    produce_raw(broker, &questions, 0, Some(b"k"), Some(br#"{"event":"price"}"#));
    handled(&running, 2);
    running.stop().await.unwrap();
    let answers = records(broker, &answers, 2);
    assert_eq!(headers(&answers[0]), json!([["a", {"text": "1"}], ["event_id", {"text": "2"}]]));
    assert_eq!(headers(&answers[1]), json!([["a", {"text": "1"}]]));
    assert!(answers.iter().all(|answer| answer.key().is_none()));
}
