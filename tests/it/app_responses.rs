//! Questions and their answers: whoever waits is woken, whatever else is busy; what comes too late is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kafka_envelope::app::{App, AppBuilder, Context, Event, MemoryCache, ResponseCache};
use kafka_envelope::{Error, HandlerError};
use rdkafka::message::OwnedMessage;
use serde_json::{Value, json};

use super::support::app::{Calls, Running, app, handled, headers, produce, records, soon, vectors};
use super::support::{PATIENCE, TestTopic, committed, consume_all, shared_broker, unique};

/// Handlers at work, and the app that is asked.
fn answering(questions: &str, answers: &str) -> AppBuilder {
    let (_, builder) = app(shared_broker());
    let to = answers.to_owned();
    let price = move |question: Value, context: Context| {
        let to = to.clone();
        async move {
            context.respond(&to, Event::new("priced", json!({"of": question["id"], "price": 9.5}))).await?;
            Ok::<_, HandlerError>(())
        }
    };
    builder.listen([questions]).on("price", price)
}

fn event_id(record: &OwnedMessage) -> String {
    headers(record).as_array().unwrap().last().unwrap()[1]["text"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_gets_its_own_answer() {
    let broker = shared_broker();
    let [questions, answers] = [(); 2].map(|()| TestTopic::new(broker, 2));
    let server = Running::start(answering(&questions, &answers).build().unwrap());
    let (_, builder) = app(broker);
    let client = builder.answers([(&*answers, "priced")]).build().unwrap();
    let emitter = client.emitter();
    let client = Running::start(client);
    let asked = (0..50).map(|id| {
        let (emitter, questions) = (emitter.clone(), questions.to_string());
        tokio::spawn(async move {
            let answer = emitter.emit_with_response(&questions, Event::new("price", json!({"id": id})), PATIENCE).await;
            let answer: Value = answer.unwrap();
            assert_eq!(answer, json!({"event": "priced", "of": id, "price": 9.5}));
        })
    });
    for asked in asked.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
    assert_eq!((client.counts.late_responses(), client.counts.unreadable_responses()), (0, 0));
    client.stop().await.unwrap();
    server.stop().await.unwrap();
}

/// With one place for handlers, each of three calls within one another waits in a handler, and the last is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_does_not_wait_for_the_handlers_that_wait_for_it() {
    let broker = shared_broker();
    let [calls, answers] = [(); 2].map(|()| TestTopic::new(broker, 1));
    let (_, builder) = app(broker);
    let topics = (calls.to_string(), answers.to_string());
    let call = move |depth: Value, context: Context| {
        let (calls, answers) = topics.clone();
        async move {
            let depth = depth["depth"].as_u64().unwrap();
            let mut below = 0;
            if depth < 3 {
                let question = Event::new("call", json!({"depth": depth + 1}));
                let answer: Value = context.emit_with_response(&calls, question, PATIENCE).await?;
                below = answer["below"].as_u64().unwrap() + 1;
            }
            context.respond(&answers, Event::new("called", json!({"below": below}))).await?;
            Ok::<_, HandlerError>(())
        }
    };
    let builder = builder.listen([&*calls]).answers([(&*answers, "called")]).max_concurrent_tasks(1).on("call", call);
    let app = builder.build().unwrap();
    let emitter = app.emitter();
    let running = Running::start(app);
    let question = Event::new("call", json!({"depth": 0}));
    let answer: Value = emitter.emit_with_response(&calls, question, PATIENCE).await.unwrap();
    assert_eq!(answer, json!({"event": "called", "below": 3}));
    handled(&running, 4);
    running.stop().await.unwrap();
}

/// The topic of the answers is listened to as well, and its handler never ends.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_there_although_the_handlers_of_its_topic_are_stuck() {
    let broker = shared_broker();
    let [questions, answers] = [(); 2].map(|()| TestTopic::new(broker, 1));
    let server = Running::start(answering(&questions, &answers).build().unwrap());
    let (_, builder) = app(broker);
    let stuck = |_: Value, _: Context| std::future::pending::<Result<(), HandlerError>>();
    let builder = builder.listen([&*answers]).answers([(&*answers, "priced")]).on("priced", stuck);
    let builder = builder.max_concurrent_tasks(1).drain_timeout(Duration::from_millis(100));
    let client = builder.build().unwrap();
    let emitter = client.emitter();
    let client = Running::start(client);
    for id in 0..5 {
        let question = Event::new("price", json!({"id": id}));
        let answer: Value = emitter.emit_with_response(&questions, question, PATIENCE).await.unwrap();
        assert_eq!(answer["of"], id);
    }
    // Its handler is given up.
    drop(client.stop().await);
    server.stop().await.unwrap();
}

/// The vectors' `emit_with_response_without_answer`, and what happens to an answer that comes after all.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_without_an_answer_is_an_error_that_names_it() {
    let broker = shared_broker();
    let [questions, answers] = [(); 2].map(|()| TestTopic::new(broker, 1));
    let vector = &vectors()["emit_with_response_without_answer"][0];
    let (_, builder) = app(broker);
    let client = builder.answers([(&*answers, "priced")]).build().unwrap();
    let emitter = client.emitter();
    let client = Running::start(client);

    let given = vector["request_headers"][0][1]["text"].as_str().unwrap();
    let question = Event::new("price", json!({})).header("event_id", given);
    let asked = Instant::now();
    let error = emitter.emit_with_response::<Value, _>(&questions, question, Duration::from_secs(1)).await.unwrap_err();
    assert!(asked.elapsed() >= Duration::from_secs(1));
    let sent = records(broker, &questions, 1).remove(0);
    let id = event_id(&sent);
    let mut expected = vector["request_record"]["headers"].clone();
    expected[1][1]["text"] = json!(id);
    assert_eq!(headers(&sent), expected);
    assert_ne!(id, given);
    assert!(
        matches!(&error, Error::NoResponse { topic, event_id, .. } if *topic == *questions && *event_id == id),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains(&*questions) && text.contains(&id) && text.contains("1s"), "{text}");

    let late = json!({"value": r#"{"event":"priced"}"#, "headers": [["event_id", {"text": id}]]});
    produce(broker, &answers, &late).await;
    soon("it is counted as late", || (client.counts.late_responses() == 1).then_some(()));
    client.stop().await.unwrap();
}

/// The vectors' other case without an answer: the app was not told what a response is.
#[tokio::test(flavor = "multi_thread")]
async fn without_answers_nothing_is_asked() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let (_, builder) = app(broker);
    let app = builder.listen([&*topic]).build().unwrap();
    let asking = app.emitter().emit_with_response::<Value, _>(&topic, Event::new("price", json!({})), PATIENCE).await;
    assert!(matches!(&asking, Err(Error::Setting { key, .. }) if key == "answers"), "{asking:?}");
    assert_eq!(consume_all(broker, &topic).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_type_is_an_error_of_the_call() {
    let broker = shared_broker();
    let [questions, answers] = [(); 2].map(|()| TestTopic::new(broker, 1));
    let server = Running::start(answering(&questions, &answers).build().unwrap());
    let (_, builder) = app(broker);
    let client = builder.answers([(&*answers, "priced")]).build().unwrap();
    let emitter = client.emitter();
    let client = Running::start(client);
    let asking = emitter.emit_with_response::<Vec<u8>, _>(&questions, Event::new("price", json!({})), PATIENCE).await;
    assert!(matches!(&asking, Err(Error::NoResponse { reason, .. }) if reason.contains("does not fit")), "{asking:?}");
    client.stop().await.unwrap();
    server.stop().await.unwrap();
}

/// What is no response: logged, counted, and passed. Other events of that topic are somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_no_responses_are_passed() {
    let broker = shared_broker();
    let [questions, answers] = [(); 2].map(|()| TestTopic::new(broker, 1));
    for record in [
        json!({"value": "{oops"}),
        json!({"value": "[1]"}),
        json!({"value": r#"{"event":"priced"}"#}),
        json!({"value": r#"{"event":"priced"}"#, "headers": [["event_id", {"base64": "/w=="}]]}),
        json!({"value": r#"{"event":"priced"}"#, "headers": [["event_id", null]]}),
        json!({"value": null, "key": "k"}),
        json!({"value": r#"{"event":"else"}"#}),
    ] {
        produce(broker, &answers, &record).await;
    }
    let server = Running::start(answering(&questions, &answers).build().unwrap());
    let (_, builder) = app(broker);
    let client = builder.answers([(&*answers, "priced")]).build().unwrap();
    let emitter = client.emitter();
    let client = Running::start(client);
    let answer: Value =
        emitter.emit_with_response(&questions, Event::new("price", json!({"id": 1})), PATIENCE).await.unwrap();
    assert_eq!(answer["of"], 1);
    assert_eq!((client.counts.unreadable_responses(), client.counts.late_responses()), (5, 0));
    client.stop().await.unwrap();
    server.stop().await.unwrap();
}

/// Answers may be envelopes, and JSON within a JSON text, as the Python app's pipelines write it.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_read_in_the_form_of_its_topic() {
    let broker = shared_broker();
    let [questions, answers, twice] = [(); 3].map(|()| TestTopic::new(broker, 1));
    let server = answering(&questions, &answers).envelopes([&*answers]);
    let to = twice.to_string();
    let sell = move |_: Value, context: Context| {
        let to = to.clone();
        async move {
            context.respond(&to, Event::unnamed(r#"{"event": "sold", "n": 7}"#)).await?;
            Ok::<_, HandlerError>(())
        }
    };
    let server = Running::start(server.on("sell", sell).build().unwrap());
    let (_, builder) = app(broker);
    let builder = builder.answers([(&*answers, "priced"), (&*twice, "sold")]).envelopes([&*answers]);
    let client = builder.build().unwrap();
    let emitter = client.emitter();
    let client = Running::start(client);
    let priced: Value =
        emitter.emit_with_response(&questions, Event::new("price", json!({"id": 3})), PATIENCE).await.unwrap();
    assert_eq!(priced, json!({"event": "priced", "of": 3, "price": 9.5}));
    let sold: Value = emitter.emit_with_response(&questions, Event::new("sell", json!({})), PATIENCE).await.unwrap();
    assert_eq!(sold, json!({"event": "sold", "n": 7}));
    client.stop().await.unwrap();
    server.stop().await.unwrap();
}

/// Of two questions with the record's `event_id` each gets an answer of its own, by a cache alone, too. Python gives the
/// first one's to both.
#[tokio::test(flavor = "multi_thread")]
async fn two_waits_with_one_event_id_get_an_answer_each() {
    let broker = shared_broker();
    let name = unique("app");
    for is_reading in [true, false] {
        let [records, questions, answers] = [(); 3].map(|()| TestTopic::new(broker, 1));
        let cache = MemoryCache::default();
        let asked = Arc::new(AtomicU32::new(0));
        let to = answers.to_string();
        let answer = move |_: Value, context: Context| {
            let (to, n) = (to.clone(), asked.fetch_add(1, Ordering::Relaxed));
            async move {
                context.respond(&to, Event::new("answer", json!({"n": n}))).await?;
                Ok::<_, HandlerError>(())
            }
        };
        let server = app(broker).1.listen([&*questions]).on("ask", answer);
        let server = Running::start(server.build().unwrap());
        let got: Calls = Calls::default();
        let (to, from) = (questions.to_string(), answers.to_string());
        let go = {
            let got = got.clone();
            move |message: Value, context: Context| {
                let (to, from, got) = (to.clone(), from.clone(), got.clone());
                async move {
                    for _ in 0..2 {
                        let answer = (from.as_str(), "answer");
                        got.push(context.pipe_and_wait(&to, "ask", answer, &message, PATIENCE).await?);
                    }
                    // Which begins `{"`: answers have no place in a log.
                    assert!(!format!("{context:?}").contains("123, 34"), "{context:?}");
                    Ok::<_, HandlerError>(())
                }
            }
        };
        // Where another replica reads the answers, they come by the cache alone.
        let group = unique("group");
        let reader = App::builder(&name, broker).group(&group).answers([(&*answers, "answer")]).cache(cache.clone());
        let reader = (!is_reading).then(|| Running::start(reader.build().unwrap()));
        if reader.is_some() {
            // A first answer that is kept shows that it has the topic's only partition.
            let first = json!({"value": r#"{"event":"answer"}"#, "headers": [["event_id", {"text": "first"}]]});
            produce(broker, &answers, &first).await;
            let key = "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e";
            while cache.get(key).await.unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        }
        let client = App::builder(&name, broker).group(&group).answers([(&*answers, "answer")]).cache(cache);
        let client = Running::start(client.listen([&*records]).on("go", go).build().unwrap());
        let record = json!({"value": r#"{"event":"go"}"#, "headers": [["event_id", {"text": "same"}]]});
        produce(broker, &records, &record).await;
        handled(&client, 1);
        let answer = |n: u32| json!({"event": "answer", "n": n});
        assert_eq!(got.get(), [answer(0), answer(1)], "reading itself: {is_reading}");
        client.stop().await.unwrap();
        server.stop().await.unwrap();
        if let Some(reader) = reader {
            reader.stop().await.unwrap();
        }
    }
}

/// Of a custom function or a handler: an answer that nobody declared could not be known as one.
#[tokio::test(flavor = "multi_thread")]
async fn piping_waits_only_for_what_is_an_answer() {
    let broker = shared_broker();
    let [records, questions] = [(); 2].map(|()| TestTopic::new(broker, 1));
    let errors: Calls<String> = Calls::default();
    let (to, seen) = (questions.to_string(), errors.clone());
    let go = move |message: Value, context: Context| {
        let (to, seen) = (to.clone(), seen.clone());
        async move {
            let asked = context.pipe_and_wait::<Value, _>(&to, "ask", ("nowhere", "answer"), &message, PATIENCE).await;
            seen.push(asked.unwrap_err().to_string());
            Ok::<_, HandlerError>(())
        }
    };
    let (_, builder) = app(broker);
    let running = Running::start(builder.listen([&*records]).on("go", go).build().unwrap());
    produce(broker, &records, &json!({"value": r#"{"event":"go"}"#})).await;
    let error = &errors.wait(1)[0];
    assert!(error.contains("answers") && error.contains("`answer`") && error.contains("`nowhere`"), "{error}");
    running.stop().await.unwrap();
    assert_eq!(consume_all(broker, &questions).len(), 0);
}

/// An answer of an earlier attempt is taken from the cache. The question goes out all the same, as in Python.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_sent_although_its_answer_is_kept_already() {
    let broker = shared_broker();
    let [events, questions, answers] = [(); 3].map(|()| TestTopic::new(broker, 1));
    let cache = MemoryCache::default();
    // SHA-256 of `same`.
    let key = "0967115f2813a3541eaef77de9d9d5773f1c0c04314b0bbfe4ff3b3b1c55b5d5";
    cache.set(key, br#"{"event": "answer", "n": 1}"#, PATIENCE).await.unwrap();
    let got: Calls = Calls::default();
    let (to, from, seen) = (questions.to_string(), answers.to_string(), got.clone());
    let go = move |message: Value, context: Context| {
        let (to, from, seen) = (to.clone(), from.clone(), seen.clone());
        async move {
            let answer = (from.as_str(), "answer");
            seen.push(context.pipe_and_wait(&to, "ask", answer, &message, PATIENCE).await?);
            Ok::<_, HandlerError>(())
        }
    };
    let builder = app(broker).1.answers([(&*answers, "answer")]).cache(cache).listen([&*events]).on("go", go);
    let running = Running::start(builder.build().unwrap());
    let record = json!({"value": r#"{"event":"go"}"#, "headers": [["event_id", {"text": "same"}]]});
    produce(broker, &events, &record).await;
    assert_eq!(got.wait(1), [json!({"event": "answer", "n": 1})]);
    assert_eq!(event_id(&records(broker, &questions, 1)[0]), "same");
    running.stop().await.unwrap();
}

/// A cache that keeps nothing, and never says so.
struct Hanging;

impl ResponseCache for Hanging {
    async fn get(&self, _: &str) -> Result<Option<Vec<u8>>, HandlerError> {
        Ok(None)
    }

    async fn set(&self, _: &str, _: &[u8], _: Duration) -> Result<(), HandlerError> {
        std::future::pending().await
    }
}

/// Who waits in this process has its answer all the same, and the answers are committed in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_hangs_holds_no_answer_up() {
    let broker = shared_broker();
    let [questions, answers] = [(); 2].map(|()| TestTopic::new(broker, 1));
    let server = Running::start(answering(&questions, &answers).build().unwrap());
    let (group, builder) = app(broker);
    let client = builder.answers([(&*answers, "priced")]).cache(Hanging).build().unwrap();
    let emitter = client.emitter();
    let client = Running::start(client);
    let ask = async |id: u32, patience: Duration| {
        let question = Event::new("price", json!({"id": id}));
        emitter.emit_with_response::<Value, _>(&questions, question, patience).await.unwrap()
    };
    // The first waits for the groups to be there.
    ask(0, PATIENCE).await;
    for id in 1..4 {
        assert_eq!(ask(id, Duration::from_secs(4)).await["of"], id);
    }
    let group = format!("{group}-answers");
    soon("all are given up, and done", || (committed(broker, &group, &answers, 0) == Some(4)).then_some(()));
    client.stop().await.unwrap();
    server.stop().await.unwrap();
}
