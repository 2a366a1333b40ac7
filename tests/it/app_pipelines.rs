//! Messages through chains of transactions: what is sent on, what comes back, and what a failure says.

use std::sync::Arc;
use std::time::Duration;

use kafka_envelope::app::{Context, MemoryCache, Pipeline};
use kafka_envelope::{Error, HandlerError};
use rdkafka::Message as _;
use rdkafka::message::OwnedMessage;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::app::{Calls, Running, app, handled, headers, produce, records, vector, vectors};
use crate::support::{PATIENCE, TestTopic, committed, shared_broker};

/// A transaction that adds a field to what is an object, its own argument.
fn adding(field: &str, value: Value) -> impl Fn(Value, Context) -> Result<Value, HandlerError> + Send + Sync + 'static {
    let field = field.to_owned();
    move |mut message, _| {
        if let Value::Object(object) = &mut message {
            object.insert(field.clone(), value.clone());
        }
        Ok(message)
    }
}

/// A transaction that notes its message.
fn noting(calls: &Calls) -> impl Fn(Value, Context) -> Result<Value, HandlerError> + Send + Sync + 'static {
    let calls = calls.clone();
    move |message, _| {
        calls.push(message.clone());
        Ok(message)
    }
}

fn text(bytes: Option<&[u8]>) -> Option<&str> {
    bytes.map(|bytes| std::str::from_utf8(bytes).unwrap())
}

/// A record as the vectors tell of it. An `event_id` that was made on the way is compared as a UUID alone.
#[track_caller]
fn assert_record(found: &OwnedMessage, expected: &Value, has_new_id: bool) {
    assert_eq!(text(found.key()), expected["key"]["text"].as_str());
    let value = expected["value"]["text"].as_str().unwrap();
    // Python's default serializer encodes what is piped twice, so that no app can dispatch it. Here it is encoded once.
    let once = serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned());
    assert_eq!(text(found.payload()), Some(&*once));
    let (mut found, mut expected) = (headers(found), expected["headers"].clone());
    if has_new_id {
        for headers in [&mut found, &mut expected] {
            let header = headers.as_array_mut().unwrap().iter_mut().find(|header| header[0] == "event_id").unwrap();
            let id = header[1]["text"].take();
            let id = id.as_str().unwrap();
            let uuid = uuid::Uuid::parse_str(id).unwrap();
            assert_eq!((uuid.get_version_num(), uuid.to_string().as_str()), (4, id));
        }
    }
    assert_eq!(found, expected);
}

fn varies(case: &Value, what: &str) -> bool {
    case["varies"].as_array().unwrap().iter().any(|varies| varies == what)
}

/// Every piped record of the Python app's, byte by byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_is_piped_as_python_pipes_it() {
    let cases = vectors()["pipe"].as_array().unwrap();
    cases.iter().map(check_pipe).collect::<JoinSet<_>>().join_all().await;
}

async fn check_pipe(case: &'static Value) {
    let broker = shared_broker();
    let name = case["name"].as_str().unwrap();
    let (incoming, out) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
    let calls = Calls::default();
    let pipeline = Pipeline::new(name)
        .then(adding("step", json!(1)))
        .pipe(&*out, case["pipe"]["event"].as_str().unwrap())
        .then(noting(&calls));
    let (_, builder) = app(broker);
    let key_as_event = case["key_as_event"] == true;
    let app = builder.listen([&*incoming]).key_as_event(key_as_event).pipeline("order_placed", pipeline);
    let running = Running::start(app.build().unwrap());
    produce(broker, &incoming, &case["incoming"]).await;
    handled(&running, 1);
    running.stop().await.unwrap();
    let found = &records(broker, &out, 1)[0];
    match case["pipeline_ended_with"].as_str() {
        None => assert_record(found, &case["records"][0], varies(case, "records.headers.event_id")),
        // Python fails on headers that are no texts. Here they pass through.
        Some(_) => {
            let like = &vector("pipe", "text-serializer-event_id-kept")["records"][0];
            let expected = json!({"key": null, "value": like["value"], "headers": case["incoming"]["headers"]});
            assert_record(found, &expected, false);
        }
    }
    // The next transaction gets the message as it was: a type need not have an `event`, which Python puts there.
    let mut sees = case["next_transaction_sees"].clone();
    if sees.is_null() {
        sees = vector("pipe", "text-serializer-event_id-kept")["next_transaction_sees"].clone();
    }
    if let Some(event) = sees.get_mut("event") {
        *event = json!("order_placed");
    }
    assert_eq!(calls.get(), [sees], "{name}");
}

/// An empty `event_id` is none, as in Python: else all records that have one would get each other's answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_empty_event_id_is_not_sent_on() {
    let broker = shared_broker();
    let case = vector("pipe", "text-serializer-other-headers-no-event_id");
    let (incoming, out) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
    let pipeline = Pipeline::new("p").then(adding("step", json!(1))).pipe(&*out, "order_priced");
    let (_, builder) = app(broker);
    let running = Running::start(builder.listen([&*incoming]).pipeline("order_placed", pipeline).build().unwrap());
    let headers = json!([["trace", {"text": "abc"}], ["event_id", {"text": ""}]]);
    produce(broker, &incoming, &json!({"value": case["incoming"]["value"], "headers": headers})).await;
    handled(&running, 1);
    running.stop().await.unwrap();
    assert_record(&records(broker, &out, 1)[0], &case["records"][0], true);
}

/// A pipeline goes on with the response, or fails with all the names that it knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pipeline_goes_on_with_the_response() {
    let cases = vectors()["pipe_with_response"].as_array().unwrap();
    cases.iter().map(check_pipe_and_wait).collect::<JoinSet<_>>().join_all().await;
}

async fn check_pipe_and_wait(case: &'static Value) {
    let broker = shared_broker();
    let name = case["name"].as_str().unwrap();
    let [incoming, questions, answers] = [(); 3].map(|()| TestTopic::new(broker, 1));
    let calls = Calls::default();
    let timeout = if name == "timeout" { Duration::from_millis(300) } else { PATIENCE };
    let pipeline = Pipeline::new("pricing")
        .then(adding("step", json!("one")))
        .pipe_and_wait(&*questions, "price", (&*answers, "priced"), timeout)
        .then(noting(&calls));
    let (group, builder) = app(broker);
    let key_as_event = case["key_as_event"] == true;
    let app = builder.listen([&*incoming]).key_as_event(key_as_event).pipeline("order_placed", pipeline);
    let running = Running::start(app.build().unwrap());
    produce(broker, &incoming, &case["incoming"]).await;
    assert_record(&records(broker, &questions, 1)[0], &case["piped_records"][0], false);
    if !case["response_given"].is_null() {
        produce(broker, &answers, &case["response_given"]).await;
        handled(&running, 1);
        running.stop().await.unwrap();
        assert_eq!(json!(calls.get()), case["next_transaction_sees"], "{name}");
        return;
    }
    let error = running.error().await.to_string();
    let event_id = case["incoming"]["headers"][0][1]["text"].as_str().unwrap();
    for named in ["pricing", "price", &*questions, "priced", &*answers, event_id] {
        assert!(error.contains(named), "no {named} in {error}");
    }
    assert!(calls.get().is_empty());
    // Python has committed it by then.
    assert_eq!(committed(broker, &group, &incoming, 0), None);
}

/// Both questions of one record have its `event_id`. Each gets an answer of its own event; in Python the second gets the
/// first one's out of the cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_questions_of_a_pipeline_get_two_answers() {
    let cases = [(false, true), (true, true), (true, false)].into_iter();
    cases.map(|case| check_two_questions(case.0, case.1)).collect::<JoinSet<_>>().join_all().await;
}

async fn check_two_questions(has_cache: bool, second_is_answered: bool) {
    let broker = shared_broker();
    let case = &vectors()["two_responses_in_one_pipeline"];
    let id = json!([["event_id", {"text": case["incoming_event_id"]}]]);
    let [incoming, questions, answers] = [(); 3].map(|()| TestTopic::new(broker, 1));
    let calls = Calls::default();
    let step = |number: u64| {
        let calls = calls.clone();
        move |mut message: Value, _: Context| {
            calls.push(json!([number, message]));
            let object = message.as_object_mut().unwrap();
            object.remove("event");
            object.insert("step".into(), number.into());
            Ok::<_, HandlerError>(message)
        }
    };
    let patience = if second_is_answered { PATIENCE } else { Duration::from_secs(2) };
    let pipeline = Pipeline::new("p")
        .then(step(1))
        .pipe_and_wait::<Value>(&*questions, "ask1", (&*answers, "answer1"), PATIENCE)
        .then(step(2))
        .pipe_and_wait::<Value>(&*questions, "ask2", (&*answers, "answer2"), patience)
        .then(step(3));
    let (_, mut builder) = app(broker);
    if has_cache {
        builder = builder.cache(MemoryCache::default());
    }
    let running = Running::start(builder.listen([&*incoming]).pipeline("go", pipeline).build().unwrap());
    produce(broker, &incoming, &json!({"value": r#"{"event": "go"}"#, "headers": id})).await;
    assert_record(&records(broker, &questions, 1)[0], &case["requests"][0], false);
    produce(broker, &answers, &json!({"value": r#"{"event": "answer1", "a": 1}"#, "headers": id})).await;
    assert_record(&records(broker, &questions, 2)[1], &case["requests"][1], false);
    let saw = case["transactions_saw"].as_array().unwrap();
    if !second_is_answered {
        let error = running.error().await.to_string();
        assert!(error.contains("answer2") && error.contains(case["incoming_event_id"].as_str().unwrap()), "{error}");
        assert_eq!(calls.get(), saw[..2]);
        return;
    }
    produce(broker, &answers, &json!({"value": r#"{"event": "answer2", "b": 2}"#, "headers": id})).await;
    handled(&running, 1);
    running.stop().await.unwrap();
    let third = json!([3, {"event": "answer2", "b": 2}]);
    assert_eq!(calls.get(), [saw[0].clone(), saw[1].clone(), third]);
}

/// A piping function of one's own knows app and pipeline, and its result is not the next message.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_custom_function_pipes_as_it_likes() {
    let broker = shared_broker();
    let case = &vectors()["custom_pipe"];
    let [incoming, questions, answers] = [(); 3].map(|()| TestTopic::new(broker, 1));
    let calls = Calls::default();
    let custom = {
        let (calls, questions, answers) = (calls.clone(), questions.to_owned(), answers.to_owned());
        move |message: Value, context: Context| {
            let (calls, questions, answers) = (calls.clone(), questions.clone(), answers.clone());
            async move {
                let answer = (&*answers, "answer");
                let answer: Value = context.pipe_and_wait(&questions, "ask", answer, &message, PATIENCE).await?;
                calls.push(json!(["custom", context.app_id(), context.pipeline(), answer]));
                Ok::<(), HandlerError>(())
            }
        }
    };
    let next = {
        let calls = calls.clone();
        move |message: Value, _: Context| {
            calls.push(json!(["next", message]));
            Ok::<(), HandlerError>(())
        }
    };
    let pipeline = Pipeline::new("p").then(adding("step", json!(1))).custom([(&*answers, "answer")], custom).then(next);
    let (_, builder) = app(broker);
    let running =
        Running::start(builder.app_id("app-1").listen([&*incoming]).pipeline("go", pipeline).build().unwrap());
    produce(broker, &incoming, &json!({"value": case["incoming"]})).await;
    let question = &records(broker, &questions, 1)[0];
    assert_record(question, &case["requests"][0], true);
    produce(broker, &answers, &json!({"value": case["answer_given"], "headers": headers(question)})).await;
    handled(&running, 1);
    running.stop().await.unwrap();
    assert_eq!(json!(calls.get()), case["saw"]);
}

/// With a limit of one, a pipeline that waits for its response does not keep the next from asking, nor from being
/// answered first.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pipeline_that_waits_takes_no_place() {
    let broker = shared_broker();
    let [incoming, questions, answers] = [(); 3].map(|()| TestTopic::new(broker, 1));
    let calls = Calls::default();
    let pipeline = Pipeline::<Value>::new("p")
        .pipe_and_wait(&*questions, "ask", (&*answers, "answer"), PATIENCE)
        .then(noting(&calls));
    let (_, builder) = app(broker);
    let app = builder.listen([&*incoming]).max_concurrent_pipelines(1).pipeline("go", pipeline);
    let running = Running::start(app.build().unwrap());
    for n in 0..3 {
        produce(broker, &incoming, &json!({"value": json!({"event": "go", "n": n}).to_string()})).await;
    }
    for (question, done) in records(broker, &questions, 3).iter().rev().zip(1..) {
        let asked: Value = serde_json::from_slice(question.payload().unwrap()).unwrap();
        let answer = json!({"event": "answer", "n": asked["n"]}).to_string();
        produce(broker, &answers, &json!({"value": answer, "headers": headers(question)})).await;
        // Of two answers that come at once either may go on first.
        handled(&running, done);
    }
    running.stop().await.unwrap();
    let order: Vec<_> = calls.get().iter().map(|call| call["n"].as_i64().unwrap()).collect();
    assert_eq!(order, [2, 1, 0]);
}

#[derive(Debug, thiserror::Error)]
#[error("no price of {0}")]
struct NoPrice(String);

/// An error says which pipeline failed and where, and the transaction's own error can be had. What comes behind is not
/// called.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failing_transaction_ends_its_pipeline() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let calls = Calls::default();
    async fn price(message: Value, _: Context) -> Result<f64, HandlerError> {
        Err(NoPrice(message["sku"].to_string()))?
    }
    let uncalled = {
        let calls = calls.clone();
        move |price: f64, _: Context| {
            calls.push(json!(price));
            Ok::<(), HandlerError>(())
        }
    };
    let pipeline = Pipeline::new("pricing").then(noting(&calls)).then(price).then(uncalled);
    let (_, builder) = app(broker);
    let running = Running::start(builder.listen([&*topic]).pipeline("e", pipeline).build().unwrap());
    produce(broker, &topic, &json!({"value": r#"{"event":"e","sku":"apple"}"#})).await;
    let error = running.error().await;
    let Error::Handler { batch, source } = &error else { panic!("{error}") };
    assert_eq!(*batch, format!("{}[0=0:1]", &*topic));
    assert_eq!(source.to_string(), r#"pipeline `pricing`, transaction 2: no price of "apple""#);
    assert_eq!(source.source().unwrap().downcast_ref::<NoPrice>().unwrap().0, r#""apple""#);
    assert_eq!(calls.get().len(), 1);
}

/// Transactions have types of their own, one after the other, sync and async, and arguments that their closures bring.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transactions_have_types_and_arguments() {
    #[derive(serde::Deserialize)]
    struct Order {
        quantity: u32,
    }
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let calls = Calls::default();
    let prices = Arc::new([1.5, 2.5]);
    let price = move |order: Order, _: Context| {
        let prices = Arc::clone(&prices);
        async move { Ok::<f64, HandlerError>(f64::from(order.quantity) * prices[0]) }
    };
    let last = {
        let calls = calls.clone();
        move |total: f64, context: Context| {
            calls.push(json!([total, context.pipeline()]));
            Ok::<(), HandlerError>(())
        }
    };
    let (_, builder) = app(broker);
    let pipeline = Pipeline::new("p").then(price).then(last);
    let running = Running::start(builder.listen([&*topic]).pipeline("e", pipeline).build().unwrap());
    produce(broker, &topic, &json!({"value": r#"{"event":"e","quantity":3}"#})).await;
    handled(&running, 1);
    running.stop().await.unwrap();
    assert_eq!(calls.get(), [json!([4.5, "p"])]);
}
