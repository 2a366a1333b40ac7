//! Answers that reach another replica through Redis, as the Python app keeps them there; and a Redis that is not there.

use std::time::{Duration, Instant};

use kafka_envelope::app::{AppBuilder, Context, Event, RedisCache, ResponseCache};
use kafka_envelope::{Error, HandlerError};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::support::app::{Running, app, bytes, headers, produce, records, soon, vectors};
use super::support::redis::Redis;
use super::support::{PATIENCE, TestTopic, consume_all, shared_broker};

/// The vectors' cases, with the values as they were written.
#[derive(Deserialize)]
struct Cases {
    emit_with_response: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    key_as_event: bool,
    request_value: Box<RawValue>,
    request_record: Value,
    response_value: Box<RawValue>,
    response_record: Value,
    cached_value: Value,
    answer: Value,
}

fn cases() -> Vec<Case> {
    let cases: Cases = serde_json::from_str(include_str!("../data/app_wire.json")).unwrap();
    assert_eq!(cases.emit_with_response.len(), 4);
    cases.emit_with_response
}

fn key(event_id: &str) -> String {
    Sha256::digest(event_id).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The `event_id` of the topic's only record, once that is there.
fn asked(topic: &TestTopic) -> String {
    let record = records(shared_broker(), topic, 1).remove(0);
    headers(&record).as_array().unwrap().last().unwrap()[1]["text"].as_str().unwrap().to_owned()
}

/// The same headers with another `event_id`, which is the last.
fn with_id(record: &Value, event_id: &str) -> Value {
    let mut headers = record["headers"].clone();
    *headers.as_array_mut().unwrap().last_mut().unwrap() = json!(["event_id", {"text": event_id}]);
    headers
}

async fn asking(answers: &str, redis: &Redis) -> AppBuilder {
    let cache = RedisCache::connect(&redis.url()).await.unwrap();
    app(shared_broker()).1.answers([(answers, "priced")]).cache(cache)
}

/// The vectors' `emit_with_response`: question, answer and what is kept of it.
#[tokio::test(flavor = "multi_thread")]
async fn questions_and_answers_are_those_of_the_python_app() {
    let (broker, redis) = (shared_broker(), Redis::start());
    for case in cases() {
        let [questions, answers] = [(); 2].map(|()| TestTopic::new(broker, 1));
        let (to, response) = (answers.to_string(), case.response_value.clone());
        let price = move |_: Value, context: Context| {
            let (to, response) = (to.clone(), response.clone());
            async move {
                let trace = context.headers().get("trace").unwrap_or_default().to_vec();
                context.respond(&to, Event::new("priced", &response).header("trace", trace)).await?;
                Ok::<_, HandlerError>(())
            }
        };
        let server = app(broker).1.key_as_event(case.key_as_event).listen([&*questions]).on("price", price);
        let server = Running::start(server.build().unwrap());
        let client = asking(&answers, &redis).await.key_as_event(case.key_as_event).build().unwrap();
        let emitter = client.emitter();
        let client = Running::start(client);
        let question = Event::new("price", &case.request_value).header("trace", "abc");
        let answer: Value = emitter.emit_with_response(&questions, question, PATIENCE).await.unwrap();
        assert_eq!(answer, case.answer);

        let event_id = asked(&questions);
        for (topic, expected) in [(&questions, &case.request_record), (&answers, &case.response_record)] {
            let record = records(broker, topic, 1).remove(0);
            let (key, value) = {
                use rdkafka::Message as _;
                (record.key().map(<[u8]>::to_vec), record.payload().map(<[u8]>::to_vec))
            };
            assert_eq!((key, value), (bytes(&expected["key"]), bytes(&expected["value"])));
            assert_eq!(headers(&record), with_id(expected, &event_id));
        }
        let key = key(&event_id);
        let kept = || redis.ask::<Option<Vec<u8>>>(&["GET", &key]);
        assert_eq!(soon("the answer is kept", kept), bytes(&case.cached_value).unwrap());
        assert!((25..=30).contains(&redis.ask::<i64>(&["TTL", &key])));
        client.stop().await.unwrap();
        server.stop().await.unwrap();
    }
}

/// The same answers, from a Python app: as it writes them to Kafka, and as its replica keeps them in Redis.
#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_python_app_are_understood() {
    let (broker, redis) = (shared_broker(), Redis::start());
    for case in cases() {
        for is_direct in [true, false] {
            let [questions, answers] = [(); 2].map(|()| TestTopic::new(broker, 1));
            let client = asking(&answers, &redis).await.key_as_event(case.key_as_event).build().unwrap();
            let emitter = client.emitter();
            let client = Running::start(client);
            let to = questions.to_string();
            let question = Event::new("price", case.request_value.clone());
            let asking =
                tokio::spawn(
                    async move { emitter.emit_with_response::<Value, _>(&to, question, PATIENCE).await.unwrap() },
                );
            let event_id = asked(&questions);
            if is_direct {
                let record = &case.response_record;
                let headers = with_id(record, &event_id);
                let record = json!({"key": record["key"], "value": record["value"], "headers": headers});
                produce(broker, &answers, &record).await;
            } else {
                let value = case.cached_value["text"].as_str().unwrap();
                redis.ask::<()>(&["SET", &key(&event_id), value, "EX", "30"]);
            }
            assert_eq!(asking.await.unwrap(), case.answer);
            client.stop().await.unwrap();
        }
    }
}

/// The vectors' `response_caching`. A binary header beside the `event_id` is no error here.
#[tokio::test(flavor = "multi_thread")]
async fn responses_are_kept_as_the_python_app_keeps_them() {
    let (broker, redis) = (shared_broker(), Redis::start());
    let answers = TestTopic::new(broker, 1);
    let client = Running::start(asking(&answers, &redis).await.build().unwrap());
    let mut unreadable = 0;
    for case in vectors()["response_caching"].as_array().unwrap() {
        let name = &case["name"];
        produce(broker, &answers, &case["record"]).await;
        let end = json!({"value": r#"{"event":"priced"}"#, "headers": [["event_id", {"text": "end"}]]});
        produce(broker, &answers, &end).await;
        let end = key("end");
        soon("what follows is kept", || redis.ask::<Option<Vec<u8>>>(&["GET", &end]));
        let kept: Vec<String> =
            redis.ask::<Vec<String>>(&["KEYS", "*"]).into_iter().filter(|key| *key != end).collect();
        if name == "other-binary-header" {
            assert_eq!(kept, [key("2d5b1d3c-7b1f-4f66-8a55-9c3e6a1b0c0d")], "{name}");
        } else {
            let expected = case["cached"].as_object().unwrap();
            assert_eq!(kept, expected.keys().cloned().collect::<Vec<_>>(), "{name}");
            for (key, value) in expected {
                assert_eq!(redis.ask::<Option<Vec<u8>>>(&["GET", key]), bytes(value), "{name}");
                assert!((25..=30).contains(&redis.ask::<i64>(&["TTL", key])), "{name}");
            }
            unreadable += u64::from(case["error_logged"].as_bool().unwrap());
        }
        assert_eq!(client.counts.unreadable_responses(), unreadable, "{name}");
        redis.ask::<()>(&["FLUSHALL"]);
    }
    assert_eq!(client.counts.late_responses(), 0);
    client.stop().await.unwrap();
}

/// Two replicas: one asks and reads nothing, the other reads the answers.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_another_replica_read_arrives() {
    let (broker, redis) = (shared_broker(), Redis::start());
    let [questions, answers] = [(); 2].map(|()| TestTopic::new(broker, 1));
    let to = answers.to_string();
    let price = move |question: Value, context: Context| {
        let to = to.clone();
        async move {
            context.respond(&to, Event::new("priced", json!({"of": question["id"]}))).await?;
            Ok::<_, HandlerError>(())
        }
    };
    let server = Running::start(app(broker).1.listen([&*questions]).on("price", price).build().unwrap());
    let reading = Running::start(asking(&answers, &redis).await.build().unwrap());
    let silent = asking(&answers, &redis).await.build().unwrap();
    for id in 0..20 {
        let question = Event::new("price", json!({"id": id}));
        let answer: Value = silent.emitter().emit_with_response(&questions, question, PATIENCE).await.unwrap();
        assert_eq!(answer, json!({"event": "priced", "of": id}));
    }
    assert_eq!(reading.counts.late_responses(), 0, "nobody waited here, but elsewhere");
    reading.stop().await.unwrap();
    server.stop().await.unwrap();
}

/// A Redis that is down, or hangs, fails who waits, within about a second. The app goes on, and uses it once it is back.
#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_question_fails_and_the_app_lives_on() {
    let (broker, mut redis) = (shared_broker(), Redis::start());
    let [questions, answers] = [(); 2].map(|()| TestTopic::new(broker, 1));
    let to = answers.to_string();
    let price = move |_: Value, context: Context| {
        let to = to.clone();
        async move {
            context.respond(&to, Event::new("priced", json!({}))).await?;
            Ok::<_, HandlerError>(())
        }
    };
    let server = Running::start(app(broker).1.listen([&*questions]).on("price", price).build().unwrap());
    let client = asking(&answers, &redis).await.build().unwrap();
    let emitter = client.emitter();
    let client = Running::start(client);
    // Nobody answers these, so that only the cache ends the wait.
    let unanswered = TestTopic::new(broker, 1);
    let fails = || async {
        let start = Instant::now();
        let asking = emitter.emit_with_response::<Value, _>(&unanswered, Event::new("e", json!({})), PATIENCE).await;
        let error = asking.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        let text = error.to_string();
        assert!(matches!(&error, Error::NoResponse { .. }), "{text}");
        assert!(text.contains("the cache failed: Redis at 127.0.0.1:"), "{text}");
    };
    let works = || async {
        let asking = emitter.emit_with_response(&questions, Event::new("price", json!({})), PATIENCE).await;
        let answer: Value = asking.unwrap();
        assert_eq!(answer["event"], "priced");
    };
    works().await;
    redis.kill();
    fails().await;
    fails().await;
    emitter.emit(&unanswered, Event::new("e", json!({}))).await.unwrap();
    redis.start_again();
    works().await;
    redis.signal("STOP");
    fails().await;
    redis.signal("CONT");
    works().await;
    client.stop().await.unwrap();
    server.stop().await.unwrap();
    assert!(consume_all(broker, &unanswered).len() >= 2);
}

/// Errors say where Redis was looked for, and never a password.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_cannot_be_used_is_an_error_without_secrets() {
    let mut redis = Redis::start();
    redis.ask::<()>(&["CONFIG", "SET", "requirepass", "right"]);
    let port = redis.port();
    let connect = |url: String| async move { RedisCache::connect(&url).await };
    let good = connect(format!("redis://:right@127.0.0.1:{port}/3")).await.unwrap();
    good.set("a", b"1", Duration::from_millis(10)).await.unwrap();
    assert_eq!(good.get("a").await.unwrap().unwrap(), b"1");
    assert_eq!(good.get("b").await.unwrap(), None);
    assert!(!format!("{good:?}").contains("right"));

    let error = connect(format!("redis://:secret@127.0.0.1:{port}/")).await.unwrap_err();
    assert!(matches!(&error, Error::Setting { key, .. } if key == "redis"), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    for url in ["", "127.0.0.1", "http://:secret@127.0.0.1/", "redis://:secret@127.0.0.1:port/", "redis://:secret@h/x"]
    {
        let error = connect(url.to_owned()).await.unwrap_err();
        assert!(matches!(&error, Error::Setting { key, .. } if key == "redis"), "{url}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
    redis.kill();
    let start = Instant::now();
    let error = connect(format!("redis://:secret@127.0.0.1:{port}/")).await.unwrap_err();
    assert!(matches!(&error, Error::Redis { address, .. } if *address == format!("127.0.0.1:{port}")), "{error:?}");
    assert!(error.is_retriable() && !error.is_fatal());
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(3));
}
