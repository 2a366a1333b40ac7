//! Which records of an app's topics reach which handlers, and what becomes of the others.

use std::sync::Arc;
use std::time::Duration;

use kafka_envelope::app::{App, Context, Pipeline};
use kafka_envelope::{Backoff, Error, HandlerError, OnError, OnUndecodable, TimestampType, pack};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::app::{Calls, Running, app, handled, produce, produce_all, soon, vectors};
use crate::support::{TestTopic, committed, keep_logs, logged, shared_broker};

/// A handler that notes its messages.
fn noting(calls: &Calls) -> impl Fn(Value, Context) -> Result<(), HandlerError> + Send + Sync + 'static {
    let calls = calls.clone();
    move |message, _| {
        calls.push(message);
        Ok(())
    }
}

/// Each bad record of the Python app's, and a good one after it: nothing stops the app that is skipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bad_records_do_not_keep_the_next_from_being_handled() {
    keep_logs();
    let broker = shared_broker();
    for key_as_event in [false, true] {
        let topic = TestTopic::new(broker, 1);
        let calls = Calls::default();
        let (group, builder) = app(broker);
        let app = builder
            .listen([&*topic])
            .key_as_event(key_as_event)
            .consumer(|consumer| consumer.on_undecodable(OnUndecodable::Skip))
            .on("e", noting(&calls));
        let running = Running::start(app.build().unwrap());
        let cases = vectors()["bad_records"].as_array().unwrap();
        let cases: Vec<_> = cases.iter().filter(|case| case["key_as_event"] == key_as_event).collect();
        let good = &vectors()["bad_records_next_record"];
        let produced: Vec<_> = cases.iter().flat_map(|case| [case["record"].clone(), good.clone()]).collect();
        produce_all(broker, &topic, &produced).await;

        let (mut unhandled, mut without_event, mut skipped, mut extra) = (0, 0, 0, 0);
        for (case, offset) in cases.iter().zip((0..).step_by(2)) {
            let place = format!("{}:0:{offset}", &*topic);
            let lines = |level: &str| soon_logged(&[level, &place, "skip"]);
            match case["name"].as_str().unwrap() {
                "empty-event" | "unknown-event" => unhandled += 1,
                "no-event"
                | "null-event"
                | "number-event"
                | "list-value"
                | "null-json"
                | "key-as-event-no-key"
                | "key-as-event-empty-key" => {
                    without_event += 1;
                    lines("WARN");
                }
                // As everything that cannot be read: by the consumer's policy. Python stops. NaN it can read.
                "not-json" | "not-utf8" | "key-not-utf8" | "nan" => {
                    skipped += 1;
                    lines("ERROR");
                }
                // Python stops.
                "tombstone" | "empty-value" | "key-as-event-tombstone" => {}
                // A text that holds an object is that object; Python cannot dispatch what its pipes write.
                "text-value" => extra += 1,
                other => panic!("what of {other}?"),
            }
        }
        handled(&running, cases.len() as u64 + extra);
        let counts = running.counts.clone();
        soon("all are counted", || (counts.skipped() == skipped).then_some(()));
        assert_eq!((counts.unhandled(), counts.without_event()), (unhandled, without_event), "{key_as_event}");
        running.stop().await.unwrap();
        let messages = calls.get();
        assert_eq!(messages.iter().filter(|message| message["n"] == "good").count(), cases.len());
        assert_eq!(committed(broker, &group, &topic, 0), Some(2 * cases.len() as i64));
    }
}

#[track_caller]
fn soon_logged(parts: &[&str]) -> Vec<String> {
    soon(&format!("{parts:?} is logged"), || Some(logged(parts)).filter(|lines| !lines.is_empty()))
}

/// Unless the policy says otherwise, a record that cannot be read ends the app, and is not committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_cannot_be_read_stops_the_app() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let (group, builder) = app(broker);
    let running = Running::start(builder.listen([&*topic]).on("e", noting(&Calls::default())).build().unwrap());
    produce(broker, &topic, &json!({"value": r#"{"event":"e"}"#})).await;
    handled(&running, 1);
    produce(broker, &topic, &json!({"value": "{oops", "key": "k"})).await;
    let error = running.error().await;
    let Error::Undecodable { offset, key, .. } = &error else { panic!("{error}") };
    assert_eq!((*offset, key.as_deref()), (1, Some("k")));
    assert_eq!(committed(broker, &group, &topic, 0), Some(1));
}

/// A handler of every topic, one of a single topic, pipelines by event and by topic and event: who gets what.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_event_reaches_its_handler_and_its_pipeline() {
    keep_logs();
    let broker = shared_broker();
    let (a, b) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
    let topic = |name: &Value| if name == "disp-a" { &a } else { &b };
    let calls = Calls::default();
    let note = |who: &str| {
        let (who, calls) = (who.to_owned(), calls.clone());
        move |message: Value, context: Context| {
            calls.push(json!([who, context.record().topic(), message["n"]]));
            Ok::<(), HandlerError>(())
        }
    };
    let (_, builder) = app(broker);
    let app = builder
        .listen([&*a, &*b])
        // In Python a second handler of an event replaces the first; here two are an error, see below.
        .on_topic("x", &*a, note("handler x second"))
        .on_topic("x", &*b, note("handler disp-b x"))
        .on_topic("y", &*a, note("handler disp-a y"))
        .pipeline("x", Pipeline::new("by event").then(note("pipeline x")))
        .pipeline(format!("{}.x", &*a), Pipeline::new("never").then(note("pipeline disp-a.x")))
        .pipeline(format!("{}.y", &*b), Pipeline::new("by both").then(note("pipeline disp-b.y")))
        .build()
        .unwrap();
    let running = Running::start(app);
    let records = vectors()["dispatch"]["records"].as_array().unwrap();
    for record in records {
        let value = json!({"event": record[1], "n": record[2]}).to_string();
        produce(broker, topic(&record[0]), &json!({"value": value})).await;
    }
    handled(&running, 4);
    running.stop().await.unwrap();
    let expected = vectors()["dispatch"]["calls_[who,topic,n]"].as_array().unwrap();
    let mut expected: Vec<_> = expected.iter().map(|call| json!([call[0], &**topic(&call[1]), call[2]])).collect();
    let mut called = calls.get();
    for calls in [&mut expected, &mut called] {
        calls.sort_by_key(Value::to_string);
    }
    assert_eq!(called, expected);
    let shadowed = format!("the pipeline for `{}.x` gets nothing", &*a);
    assert_eq!(logged(&["WARN", &shadowed]).len(), 1);
}

#[derive(Debug, Deserialize)]
struct Numbered {
    event: String,
    n: i64,
}

/// A type fits or it does not: a text with a number in it is no number, as it is in Python. Neither handler nor pipeline
/// sees what does not fit the type of its topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn messages_have_types() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let calls = Calls::default();
    let typed = {
        let calls = calls.clone();
        async move |message: Numbered, _: Context| calls.push(json!([message.event, message.n]))
    };
    let typed = move |message: Numbered, context: Context| {
        let calls = typed.clone();
        async move {
            calls(message, context).await;
            Ok::<(), HandlerError>(())
        }
    };
    let (_, builder) = app(broker);
    let app = builder
        .listen([&*topic])
        .payload::<Numbered>(&*topic)
        .consumer(|consumer| consumer.on_undecodable(OnUndecodable::Skip))
        .on("e", typed)
        .pipeline("e", Pipeline::new("untyped").then(noting(&calls)));
    let running = Running::start(app.build().unwrap());
    let values = vectors()["typed_messages"]["records"].as_array().unwrap();
    let values: Vec<_> = values.iter().map(|value| json!({"value": value})).collect();
    produce_all(broker, &topic, &values).await;
    handled(&running, 1);
    assert_eq!(running.counts.skipped(), 2);
    running.stop().await.unwrap();
    let mut calls = calls.get();
    calls.sort_by_key(Value::to_string);
    assert_eq!(calls, [json!(["e", 6]), json!({"event": "e", "n": 6})]);
}

/// A handler's own type decides where the topic has none: what it cannot read does not keep the pipeline from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_that_does_not_fit_its_handler_cannot_be_read() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let (_, builder) = app(broker);
    let typed = |_: Numbered, _: Context| Ok::<(), HandlerError>(());
    let running = Running::start(builder.listen([&*topic]).on("e", typed).build().unwrap());
    produce(broker, &topic, &json!({"value": r#"{"event":"e","n":"5"}"#})).await;
    let error = running.error().await;
    assert!(matches!(error, Error::Undecodable { .. }), "{error}");
    assert!(error.to_string().ends_with(r#"invalid type: string "5", expected i64 at line 1 column 20"#), "{error}");
}

/// What a handler is told of its record.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_sees_the_record() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let vector = &vectors()["metadata_given_to_a_transaction_or_handler"];
    let (incoming, given) = (&vector["incoming"], &vector["given"]);
    let calls = Calls::default();
    let seen = {
        let (calls, topic) = (calls.clone(), topic.to_owned());
        move |message: Value, context: Context| {
            let record = context.record();
            assert_eq!((record.topic(), record.partition(), record.offset()), (topic.as_str(), 0, 0));
            assert_eq!(record.timestamp_type(), TimestampType::CreateTime);
            assert!(record.timestamp().is_some_and(|at| (chrono::Utc::now() - at).num_seconds() < 60));
            assert_eq!(context.attempt(), 1);
            let headers: Vec<_> = context.headers().iter().collect();
            let header_bytes: usize =
                headers.iter().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
            let texts =
                headers.iter().map(|(name, value)| json!([name, {"text": String::from_utf8_lossy(value.unwrap())}]));
            calls.push(json!({
                "key": std::str::from_utf8(record.key().unwrap()).unwrap(),
                "headers": texts.collect::<Vec<_>>(),
                "serialized_key_size": record.key().unwrap().len(),
                "serialized_value_size": record.value().unwrap().len(),
                "serialized_header_size": header_bytes,
                "name": message["name"],
                "pipeline": context.pipeline(),
            }));
            Ok::<(), HandlerError>(())
        }
    };
    let (_, builder) = app(broker);
    let app = builder
        .listen([&*topic])
        .on("order_placed", seen.clone())
        .pipeline("order_placed", Pipeline::new("p").then(seen))
        .build()
        .unwrap();
    let running = Running::start(app);
    produce(broker, &topic, incoming).await;
    handled(&running, 1);
    running.stop().await.unwrap();
    let mut calls = calls.get();
    calls.sort_by_key(|call| call["pipeline"] == "p");
    for (mut call, pipeline) in calls.into_iter().zip([Value::Null, json!("p")]) {
        let call = call.as_object_mut().unwrap();
        assert_eq!((call.remove("name"), call.remove("pipeline")), (Some(json!("Zoë")), Some(pipeline)));
        for (field, value) in call {
            assert_eq!(value, &given[field], "{field}");
        }
    }
}

/// From a topic of envelopes a handler gets the item, and its record knows the history.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_envelope_is_opened() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let calls = Calls::default();
    let seen = {
        let calls = calls.clone();
        move |message: Value, context: Context| {
            let history = context.record().reference().history.unwrap();
            calls.push(json!([message, history.stage()?.service]));
            Ok::<(), HandlerError>(())
        }
    };
    let (_, builder) = app(broker);
    let running = Running::start(builder.listen([&*topic]).envelopes([&*topic]).on("e", seen).build().unwrap());
    let item = json!({"event": "e", "n": 1});
    let value = String::from_utf8(pack("shop", &item, &[]).unwrap()).unwrap();
    produce(broker, &topic, &json!({"value": value})).await;
    handled(&running, 1);
    running.stop().await.unwrap();
    assert_eq!(calls.get(), [json!([item, "shop"])]);
}

/// The first failure stops the app by default, and what failed is not committed, whoever failed. Python commits it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failure_stops_the_app_before_its_record_is_committed() {
    fn fail(calls: &Calls, message: &Value) -> Result<(), HandlerError> {
        calls.push(message["n"].clone());
        if message["n"] == 0 { Err("this one never".into()) } else { Ok(()) }
    }
    let broker = shared_broker();
    for case in vectors()["failing"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let topic = TestTopic::new(broker, 1);
        let calls = Calls::default();
        let (group, builder) = app(broker);
        let builder = builder.listen([&*topic]);
        let (sync, asynchronous) = (calls.clone(), calls.clone());
        let sync = move |message: Value, _: Context| fail(&sync, &message);
        let asynchronous = move |message: Value, _: Context| {
            let calls = asynchronous.clone();
            async move { fail(&calls, &message) }
        };
        let middleware = |context: Context| match context.record().offset() {
            0 => Err::<(), HandlerError>("not this one".into()),
            _ => Ok(()),
        };
        let app = match name {
            "sync-handler" => builder.on("e", sync),
            "async-handler" => builder.on("e", asynchronous),
            "pipeline" => builder.pipeline("e", Pipeline::new("p").then(sync)),
            "middleware" => builder.middleware(middleware).on("e", noting(&calls)),
            other => panic!("what of {other}?"),
        };
        let running = Running::start(app.build().unwrap());
        // One key: what comes behind the failure is not begun.
        let records: Vec<_> =
            (0..3).map(|n| json!({"key": "k", "value": json!({"event": "e", "n": n}).to_string()})).collect();
        produce_all(broker, &topic, &records).await;
        if name == "middleware" {
            handled(&running, 2);
            assert_eq!(running.counts.rejected(), 1);
            running.stop().await.unwrap();
            let called: Vec<_> = calls.get().iter().map(|message| message["n"].clone()).collect();
            assert_eq!(json!(called), case["called_with"]);
            assert_eq!(committed(broker, &group, &topic, 0), case["committed_offset"].as_i64());
            continue;
        }
        let error = running.error().await;
        assert!(matches!(error, Error::Handler { .. }), "{name}: {error}");
        let text = error.to_string();
        assert!(text.contains(&*topic) && text.contains("[0=0:1]") && text.contains("this one never"), "{text}");
        assert_eq!(calls.get(), [json!(0)], "{name}");
        assert_eq!(committed(broker, &group, &topic, 0), None, "{name}");
    }
}

/// An offset is committed when its handler is done, not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_committed_while_its_handler_works() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let records = vectors()["commit"]["records"].as_i64().unwrap();
    let (begun, go) = (Calls::default(), Arc::new(Semaphore::new(0)));
    let waiting = {
        let (begun, go) = (begun.clone(), Arc::clone(&go));
        move |message: Value, _: Context| {
            let (begun, go) = (begun.clone(), Arc::clone(&go));
            async move {
                begun.push(message["n"].clone());
                go.acquire().await?.forget();
                Ok::<(), HandlerError>(())
            }
        }
    };
    let (group, builder) = app(broker);
    let running = Running::start(builder.listen([&*topic]).on("e", waiting).build().unwrap());
    let values = (0..records).map(|n| json!({"value": json!({"event": "e", "n": n}).to_string()}));
    produce_all(broker, &topic, &values.collect::<Vec<_>>()).await;
    begun.wait(5);
    assert_eq!(committed(broker, &group, &topic, 0), None);
    go.add_permits(5);
    handled(&running, 5);
    running.stop().await.unwrap();
    assert_eq!(committed(broker, &group, &topic, 0), Some(5));
}

/// A handler that blocks its thread does not hold up others, sync or async.
#[tokio::test(flavor = "current_thread")]
async fn a_blocking_handler_holds_nobody_up() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let (shut, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let blocking = move |_: Value, _: Context| {
        // Until the other has been called.
        wait.lock().unwrap().recv_timeout(Duration::from_secs(30))?;
        Ok::<(), HandlerError>(())
    };
    async fn opening(shut: std::sync::mpsc::Sender<()>) -> Result<(), HandlerError> {
        Ok(shut.send(())?)
    }
    let (_, builder) = app(broker);
    let app = builder
        .listen([&*topic])
        .on("slow", blocking)
        .on("fast", move |_: Value, _: Context| opening(shut.clone()))
        .build()
        .unwrap();
    let counts = app.counts();
    let values = ["slow", "fast"].map(|event| json!({"value": json!({"event": event}).to_string()}));
    produce_all(broker, &topic, &values).await;
    let both = async {
        while counts.handled() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), app.run_until(both)).await.unwrap().unwrap();
}

/// One of the two that a record reaches fails at first: only that one is called again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pipeline_is_tried_again_without_its_handler() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let calls = Calls::default();
    let second = {
        let calls = calls.clone();
        move |message: Value, context: Context| {
            calls.push(json!(context.attempt()));
            if context.attempt() > 1 { Ok(message) } else { Err("at first".into()) }
        }
    };
    let backoff = Backoff { first: Duration::from_millis(1), ..Backoff::default() };
    let (_, builder) = app(broker);
    let app = builder
        .listen([&*topic])
        .consumer(|consumer| consumer.on_error(OnError::retry(backoff)))
        .on("e", noting(&calls))
        .pipeline("e", Pipeline::new("p").then(second));
    let running = Running::start(app.build().unwrap());
    let value = json!({"event": "e"});
    produce(broker, &topic, &json!({"value": value.to_string()})).await;
    handled(&running, 1);
    assert_eq!(running.counts.retried(), 1);
    running.stop().await.unwrap();
    let mut calls = calls.get();
    calls.sort_by_key(Value::to_string);
    assert_eq!(calls, [json!(1), json!(2), value]);
}

/// What cannot work is an error before anything connects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_is_an_error_at_build() {
    fn handler(_: Value, _: Context) -> Result<(), HandlerError> {
        Ok(())
    }
    let key = |builder: kafka_envelope::app::AppBuilder| match builder.build() {
        Err(Error::Setting { key, .. }) => key,
        other => panic!("{other:?}"),
    };
    let app = || App::builder("shop", "localhost:1").listen(["a", "b"]);
    let pipeline = || Pipeline::<Value>::new("p");
    let second = Duration::from_secs(1);
    assert_eq!(key(app().on("x", handler).on("x", handler)), "on");
    assert_eq!(key(app().on("x", handler).on_topic("x", "a", handler)), "on_topic");
    assert_eq!(key(app().on_topic("x", "a", handler).on("x", handler)), "on");
    assert_eq!(key(app().on_topic("x", "a", handler).on_topic("x", "a", handler)), "on_topic");
    assert_eq!(key(app().on("", handler)), "on");
    assert_eq!(key(app().on_topic("", "a", handler)), "on_topic");
    assert_eq!(key(app().on_topic("x", "c", handler)), "on_topic");
    assert_eq!(key(app().payload::<Value>("c")), "payload");
    assert_eq!(key(app().listen(["^c"]).on("x", handler)), "listen");
    assert_eq!(key(app().listen([""]).on("x", handler)), "topic");
    assert_eq!(key(App::builder("shop", "localhost:1")), "listen");
    assert_eq!(key(App::builder("shop", "localhost:1").on("x", handler)), "listen");
    assert_eq!(key(app().pipeline("x", pipeline()).pipeline("x", pipeline())), "pipeline");
    assert_eq!(key(app().pipeline("", pipeline())), "pipeline");
    assert_eq!(key(app().pipeline("x", Pipeline::<Value>::new(""))), "pipeline");
    assert_eq!(key(app().pipeline("x", pipeline().pipe("c", ""))), "pipeline");
    let waiting = |answer: (&str, &str), timeout| pipeline().pipe_and_wait::<Value>("c", "ask", answer, timeout);
    assert_eq!(key(app().pipeline("x", waiting(("d", "answer"), Duration::ZERO))), "pipeline");
    assert_eq!(key(app().pipeline("x", waiting(("d", ""), second))), "answers");
    assert_eq!(key(app().max_concurrent_tasks(0)), "max_concurrent_tasks");
    assert_eq!(key(app().config([("group.id", "else")])), "group.id");
    // The same event of different topics is two.
    let _ = app().on_topic("x", "a", handler).on_topic("x", "b", handler).build().unwrap();
}
