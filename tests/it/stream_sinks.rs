//! Sinks of stream workers: what they write is what the Python library's write, and a sink that fails loses nothing.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use kafka_envelope::stream::{Agent, KafkaSink, RedisSink, Sink, Sinks, Worker};
use kafka_envelope::testing::EmbeddedBroker;
use kafka_envelope::{Backoff, Error, HandlerError};
use rdkafka::Message as _;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::support::redis::Redis;
use super::support::stream::{Running, soon, topic_of};
use super::support::{TestTopic, committed, consume_all, keep_logs, logged, produce_raw_batch, shared_broker, unique};

/// Pauses short enough for a test, for longer than Redis takes to start.
const QUICK: Backoff = Backoff {
    first: Duration::from_millis(10),
    max: Duration::from_millis(200),
    factor: 2.0,
    jitter: 0.0,
    attempts: 100,
};

/// What the Python library really sent.
fn vectors(kind: &str) -> &'static Value {
    static VECTORS: OnceLock<Value> = OnceLock::new();
    &VECTORS.get_or_init(|| serde_json::from_str(include_str!("../data/stream_wire.json")).unwrap())[kind]
}

/// The bytes that a vector means.
fn bytes(value: &Value) -> Vec<u8> {
    match (value.as_str().or_else(|| value["text"].as_str()), value["base64"].as_str()) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some("AP8=")) => b"\0\xff".to_vec(),
        (None, Some("AP9yYXc=")) => b"\0\xffraw".to_vec(),
        (None, Some(other)) => panic!("not known: {other}"),
        (None, None) => value.to_string().into_bytes(),
    }
}

/// A list of them; a text is a list of its characters, as in Python.
fn list(value: &Value) -> Vec<Vec<u8>> {
    match value.as_str() {
        Some(text) => text.chars().map(|c| c.to_string().into_bytes()).collect(),
        None => value.as_array().unwrap().iter().map(bytes).collect(),
    }
}

fn cases(kind: &str) -> &'static [Value] {
    vectors(kind).as_array().unwrap()
}

fn is_answer(expected: &Value, answer: &redis::Value) -> bool {
    match (expected, answer) {
        (Value::Bool(true), redis::Value::Okay | redis::Value::Int(1)) => true,
        (Value::Number(number), redis::Value::Int(found)) => number.as_i64() == Some(*found),
        (Value::Object(_), redis::Value::BulkString(found)) => bytes(expected) == *found,
        (Value::Array(pairs), redis::Value::Array(found)) => {
            let all: Vec<_> = pairs.iter().flat_map(|pair| pair.as_array().unwrap()).collect();
            all.len() == found.len() && all.iter().zip(found).all(|(expected, found)| is_answer(expected, found))
        }
        _ => false,
    }
}

fn values(broker: &str, topic: &str) -> Vec<Vec<u8>> {
    consume_all(broker, topic).iter().map(|record| record.payload().unwrap().to_vec()).collect()
}

/// A sink of a test's own.
#[derive(Clone)]
struct Own {
    id: String,
    taken: Arc<Mutex<Vec<u64>>>,
    closes: bool,
}

impl Own {
    fn new(id: &str) -> Self {
        Self { id: id.to_owned(), taken: Arc::default(), closes: true }
    }

    fn take(&self, value: u64) -> Result<(), HandlerError> {
        if value == 13 {
            return Err("no such number".into());
        }
        self.taken.lock().unwrap().push(value);
        Ok(())
    }

    fn taken(&self) -> Vec<u64> {
        self.taken.lock().unwrap().clone()
    }
}

impl Sink for Own {
    fn id(&self) -> &str {
        &self.id
    }

    async fn close(&self, _: Duration) -> Result<(), Error> {
        assert!(self.closes, "it does not");
        self.taken.lock().unwrap().push(0);
        Ok(())
    }
}

/// Byte by byte, and without a key.
#[tokio::test(flavor = "multi_thread")]
async fn messages_on_kafka_are_those_of_the_python_library() {
    #[derive(Deserialize)]
    struct Case {
        value: Box<RawValue>,
        record: Value,
    }
    #[derive(Deserialize)]
    struct Vectors {
        producer_send: Vec<Case>,
    }
    let vectors_: Vectors = serde_json::from_str(include_str!("../data/stream_wire.json")).unwrap();
    let topic = TestTopic::new(shared_broker(), 1);
    let sink = KafkaSink::with_config(unique("sink"), shared_broker(), [("linger.ms", "0")]).unwrap();
    for case in &vectors_.producer_send {
        let delivery = sink.send(&topic, &case.value).await.unwrap();
        assert_eq!(Some(delivery.offset), case.record["offset"].as_i64());
    }
    let raw = vectors("producer_send_without_serializer");
    sink.send_bytes(&topic, &bytes(&raw["value"])).await.unwrap();
    for nothing in ["null", " null "] {
        let error = sink.send(&topic, &serde_json::from_str::<Box<RawValue>>(nothing).unwrap()).await.unwrap_err();
        assert!(matches!(&error, Error::Setting { key, .. } if key == "message"), "{error}");
    }
    assert!(sink.send(&topic, &None::<u8>).await.is_err());
    let records = consume_all(shared_broker(), &topic);
    let expected = vectors_.producer_send.iter().map(|case| &case.record).chain([&raw["record"]]);
    let expected: Vec<_> = expected.map(|record| bytes(&record["value"])).collect();
    assert_eq!(expected.len(), records.len());
    for (record, expected) in records.iter().zip(expected) {
        assert_eq!(record.payload().map(<[u8]>::to_vec), Some(expected));
        assert!(record.key().is_none() && record.headers().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_their_answers_are_those_of_the_python_library() {
    let redis = Redis::start();
    let sink = RedisSink::connect("cache", &redis.url()).await.unwrap();
    for case in cases("redis_batch_execute") {
        let commands: Vec<_> = case["commands"].as_array().unwrap().iter().map(list).collect();
        let answers = sink.batch_execute(&commands).await;
        match case["answer"].as_array() {
            Some(expected) => {
                let answers = answers.unwrap();
                assert_eq!(answers.len(), expected.len(), "{case}");
                assert!(expected.iter().zip(&answers).all(|(one, other)| is_answer(one, other)), "{case}: {answers:?}");
            }
            None => assert!(matches!(answers, Err(Error::Redis { .. })), "{case}: {answers:?}"),
        }
    }
    // The first error, while all was sent.
    let wrong = [vec!["SET", "s", "x"], vec!["LPUSH", "s", "y"], vec!["NOSUCH"], vec!["SET", "last", "z"]];
    let error = sink.batch_execute(&wrong).await.unwrap_err().to_string();
    assert!(error.contains("command 2 of 4, `LPUSH`: ") && error.contains("WRONGTYPE"), "{error}");
    assert_eq!(redis.ask::<String>(&["GET", "last"]), "z");
    // In a transaction, too, whose answer is a list.
    let wrong = [vec!["MULTI"], vec!["LPUSH", "s", "y"], vec!["EXEC"]];
    let error = sink.batch_execute(&wrong).await.unwrap_err().to_string();
    assert!(error.contains("command 3 of 3, `EXEC`: ") && error.contains("WRONGTYPE"), "{error}");
    let error = sink.batch_execute(&[vec!["SET", "never", "x"], vec![]]).await.unwrap_err();
    assert!(matches!(&error, Error::Setting { key, .. } if key == "redis"), "{error}");
    assert_eq!(redis.ask::<Option<String>>(&["GET", "never"]), None);
}

/// Fields that are set are kept. Lists of unequal length are cut there, and refused here.
#[tokio::test(flavor = "multi_thread")]
async fn fields_are_put_as_by_the_python_library() {
    let redis = Redis::start();
    let sink = RedisSink::connect("cache", &redis.url()).await.unwrap();
    for case in cases("redis_put") {
        let [names, keys, values] = ["names", "keys", "values"].map(|part| list(&case[part]));
        let put = sink.put(&names, &keys, &values).await;
        if names.len() != keys.len() || names.len() != values.len() {
            assert!(matches!(&put, Err(Error::Setting { key, .. }) if key == "redis"), "{case}: {put:?}");
            assert_eq!(redis.ask::<u64>(&["EXISTS", "h3", "h4"]), 0);
            continue;
        }
        put.unwrap();
        for sent in case["sent"].as_array().unwrap().iter().filter(|sent| sent[0] == "HSETNX") {
            let [name, key] = [1, 2].map(|word| sent[word].as_str().unwrap());
            let kept = if case["name"] == "existing-field-kept" { "1" } else { sent[3].as_str().unwrap() };
            assert_eq!(redis.ask::<String>(&["HGET", name, key]), kept, "{case}");
        }
    }
    sink.put(&["n", "n"], &["f", "g"], &[0.1, -7.5]).await.unwrap();
    assert_eq!(redis.ask::<Vec<String>>(&["HMGET", "n", "f", "g"]), ["0.1", "-7.5"]);
}

/// Redis counts how often it reads.
#[tokio::test(flavor = "multi_thread")]
async fn commands_go_in_one_round_trip_and_none_without_commands() {
    let redis = Redis::start();
    let sink = RedisSink::connect("cache", &redis.url()).await.unwrap();
    let count = |field: &str| -> u64 {
        let stats: String = redis.ask(&["INFO", "stats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.trim().parse().unwrap()
    };
    let keys: Vec<u32> = (0..500).collect();
    let before = (count("total_reads_processed"), count("total_commands_processed"));
    sink.put(&vec!["h"; 500], &keys, &keys).await.unwrap();
    let (reads, commands) = (count("total_reads_processed") - before.0, count("total_commands_processed") - before.1);
    assert!(commands >= 500 && reads < 50, "{commands} commands in {reads} reads");

    drop(redis);
    // There is nobody to send it to.
    assert!(sink.batch_execute::<&str>(&[]).await.unwrap().is_empty());
    sink.put::<&str, &str, &str>(&[], &[], &[]).await.unwrap();
}

/// Killed in the middle of the work and started again: the worker waits for it, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_outlives_its_redis() {
    keep_logs();
    let mut redis = Redis::start();
    let (topic, group, id) = (topic_of(["[1]"]), unique("worker"), unique("cache"));
    let sink = RedisSink::connect_with(&id, &redis.url(), QUICK).await.unwrap();
    let name = id.clone();
    let put = Agent::new("put", move |value: u64, sinks: Sinks| {
        let name = name.clone();
        async move {
            sinks.redis(&name).put(&["seen"], &[value], &[value]).await?;
            Ok::<_, HandlerError>(None::<()>)
        }
    });
    let worker = Worker::builder(&topic, shared_broker(), &group).sink(sink).agent(put).build().unwrap();
    let running = Running::start(worker);
    soon("the first is there", || (redis.ask::<u64>(&["HLEN", "seen"]) == 1).then_some(()));
    redis.kill();
    produce_raw_batch(shared_broker(), &topic, [(0, None::<&str>, Some("[2, 3]"))]);
    let said = || (!logged(&[&format!("sink `{id}`: attempt 2 of 100, again in 20ms")]).is_empty()).then_some(());
    soon("it tries again", said);
    redis.start_again();
    soon("all is committed", || (committed(shared_broker(), &group, &topic, 0) == Some(2)).then_some(()));
    assert_eq!(redis.ask::<Vec<String>>(&["HVALS", "seen"]), ["2", "3"]);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stays_away_is_an_error() {
    let mut redis = Redis::start();
    let short = Backoff { attempts: 2, ..QUICK };
    let sink = RedisSink::connect_with("cache", &redis.url(), short).await.unwrap();
    redis.kill();
    let error = sink.put(&["h"], &["k"], &["v"]).await.unwrap_err();
    assert!(matches!(&error, Error::Redis { address, .. } if address.contains("127.0.0.1")), "{error}");
    let error = RedisSink::connect_with("cache", &redis.url(), short).await.unwrap_err();
    assert!(matches!(error, Error::Redis { .. }), "{error}");
    // It comes while it is waited for.
    let url = redis.url();
    let connecting = tokio::spawn(async move { RedisSink::connect_with("cache", &url, QUICK).await });
    redis.start_again();
    connecting.await.unwrap().unwrap().put(&["h"], &["k"], &["v"]).await.unwrap();
    // It freezes: no answer within a second is no answer.
    redis.signal("STOP");
    assert!(matches!(sink.put(&["h"], &["k"], &["v"]).await, Err(Error::Redis { .. })));
    redis.signal("CONT");
    sink.put(&["h"], &["k"], &["v"]).await.unwrap();

    for (id, url, backoff) in [
        ("", redis.url(), QUICK),
        ("cache", "nonsense".into(), QUICK),
        ("cache", redis.url(), Backoff { attempts: 0, ..QUICK }),
    ] {
        let error = RedisSink::connect_with(id, &url, backoff).await.unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{error}");
    }
}

/// What goes there goes on to a Redis, until it is told to swallow what came so far and comes on the connections of then.
fn lead_to(redis: &Redis) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, port) = (format!("redis://{}/", listener.local_addr().unwrap()), redis.port());
    let is_gone = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&is_gone);
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
            let is_old = !gone.load(Ordering::Relaxed);
            for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                let gone = Arc::clone(&gone);
                thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = from.read(&mut buffer) {
                        if !(is_old && gone.load(Ordering::Relaxed)) && to.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                    }
                });
            }
        }
    });
    (url, is_gone)
}

/// Its host is gone, which no packet says, and another one has its address.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_falls_silent_is_made_anew() {
    let redis = Redis::start();
    let (url, is_gone) = lead_to(&redis);
    let sink = RedisSink::connect_with("cache", &url, Backoff { attempts: 3, ..QUICK }).await.unwrap();
    sink.put(&["h"], &["before"], &["v"]).await.unwrap();
    is_gone.store(true, Ordering::Relaxed);
    sink.put(&["h"], &["after"], &["v"]).await.unwrap();
    assert_eq!(redis.ask::<u64>(&["HLEN", "h"]), 2);
}

/// What takes Redis longer than a second would otherwise never get there.
#[tokio::test(flavor = "multi_thread")]
async fn many_commands_have_more_time() {
    let redis = Redis::start();
    let sink = RedisSink::connect_with("cache", &redis.url(), Backoff { attempts: 1, ..QUICK }).await.unwrap();
    let slow = "local since = redis.call('TIME')[1] while redis.call('TIME')[1] - since < 3 do end";
    let mut commands = vec![vec!["EVAL", slow, "0"]];
    assert!(matches!(sink.batch_execute(&commands).await, Err(Error::Redis { .. })));
    commands.resize(5_000, vec!["PING"]);
    soon("it answers again", || (redis.ask::<String>(&["PING"]) == "PONG").then_some(()));
    assert_eq!(sink.batch_execute(&commands).await.unwrap().len(), 5_000);
}

/// Before anything runs, and without a broker.
#[test]
fn sinks_that_cannot_be_are_refused() {
    let refused = |sinks: &[&str]| {
        let builder = Worker::builder("t", "localhost:1", "g").agent(Agent::new("a", async |_: u64, _| Ok(Some(1))));
        let builder = sinks.iter().fold(builder, |builder, id| builder.sink(Own::new(id)));
        let error = builder.build().unwrap_err();
        assert!(matches!(&error, Error::Setting { key, .. } if key == "sink"), "{error}");
        error.to_string()
    };
    assert!(refused(&["a", "b", "a"]).contains("two of the id `a`"));
    assert!(refused(&["a", ""]).contains("the id is empty"));
    assert!(matches!(KafkaSink::new("", "localhost:1"), Err(Error::Setting { key, .. }) if key == "sink"));
    assert!(matches!(KafkaSink::new("a", ""), Err(Error::Setting { key, .. }) if key == "bootstrap.servers"));
    let error = KafkaSink::with_config("a", "localhost:1", [("linger.nonsense", "1")]).unwrap_err();
    assert!(matches!(&error, Error::Setting { key, .. } if key == "linger.nonsense"), "{error}");
}

/// One worker, agents that send to the same sink and to others, and a cluster that is not the worker's.
#[tokio::test(flavor = "multi_thread")]
async fn any_agent_sends_to_any_sink() {
    let elsewhere = EmbeddedBroker::start().unwrap();
    elsewhere.create_topic("copies", 1).unwrap();
    let here = TestTopic::new(shared_broker(), 1);
    let (topic, group, own) = (topic_of(["[1, 2]", "[3]"]), unique("worker"), Own::new("own"));
    let name = here.to_string();
    let first = Agent::new("first", move |value: u64, sinks: Sinks| {
        let name = name.clone();
        async move {
            sinks.kafka("here").send(&name, &[value]).await?;
            sinks.kafka("elsewhere").send("copies", &value).await?;
            sinks.get::<Own>("own")?.take(value)?;
            Ok::<_, HandlerError>(Some(value * 10))
        }
    });
    let second = Agent::batched("second", 3, async |values: Vec<u64>, sinks: Sinks| {
        for value in &values {
            sinks.get::<Own>("own")?.take(*value)?;
        }
        sinks.kafka("elsewhere").send("copies", &values).await?;
        Ok::<_, HandlerError>(None::<()>)
    });
    let builder = Worker::builder(&topic, shared_broker(), &group)
        .sink(KafkaSink::new("here", shared_broker()).unwrap())
        .sink(KafkaSink::new("elsewhere", elsewhere.bootstrap_servers()).unwrap())
        .sink(own.clone());
    let running = Running::start(builder.agent(first).agent(second).build().unwrap());
    soon("all is committed", || (committed(shared_broker(), &group, &topic, 0) == Some(2)).then_some(()));
    running.stop().await.unwrap();
    assert_eq!(values(shared_broker(), &here), [b"[1]", b"[2]", b"[3]"]);
    assert_eq!(values(elsewhere.bootstrap_servers(), "copies"), [&b"1"[..], b"2", b"3", b"[10, 20, 30]"]);
    // The last is its end.
    assert_eq!(own.taken(), [1, 2, 3, 10, 20, 30, 0]);
}

/// Its error is the worker's, and of its record nothing is committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_sink_stops_the_worker() {
    type Send = fn(u64, Sinks) -> std::pin::Pin<Box<dyn Future<Output = Result<(), HandlerError>> + std::marker::Send>>;
    let sends: [(Send, &str); 5] = [
        (|value, sinks| Box::pin(async move { sinks.get::<Own>("own")?.take(value) }), "no such number"),
        (
            |_, sinks| {
                Box::pin(async move {
                    sinks.kafka("nobody").send("t", &1).await?;
                    Ok(())
                })
            },
            "none of the id `nobody`",
        ),
        (
            |_, sinks| {
                Box::pin(async move {
                    sinks.kafka("own").send_bytes("t", b"1").await?;
                    Ok(())
                })
            },
            "`own` is of another kind",
        ),
        (|_, sinks| Box::pin(async move { Ok(sinks.redis("own").put(&["h"], &["k"], &["v"]).await?) }), "another kind"),
        (
            |_, sinks| {
                Box::pin(async move {
                    sinks.redis("gone").batch_execute(&[vec!["PING"]]).await?;
                    Ok(())
                })
            },
            "Redis at 127.0.0.1",
        ),
    ];
    let mut redis = Redis::start();
    let once = Backoff { attempts: 1, ..QUICK };
    for (send, expected) in sends {
        let gone = RedisSink::connect_with("gone", &redis.url(), once).await.unwrap();
        redis.kill();
        let (topic, group, own) = (topic_of(["[1]", "[2, 13, 4]", "[5]"]), unique("worker"), Own::new("own"));
        let agent = Agent::new("sending", move |value: u64, sinks: Sinks| async move {
            if value == 13 {
                send(value, sinks).await?;
            }
            Ok::<_, HandlerError>(None::<()>)
        });
        let builder = Worker::builder(&topic, shared_broker(), &group).sink(own.clone()).sink(gone);
        let error = Running::start(builder.agent(agent).build().unwrap()).failed().await;
        assert!(matches!(&error, Error::Handler { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("agent `sending`") && text.contains(expected), "{text}");
        assert_eq!(committed(shared_broker(), &group, &topic, 0), Some(1));
        assert_eq!(own.taken(), [0], "it was closed");
        redis.start_again();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_sink_that_cannot_deliver_at_its_end_says_so() {
    let broker = EmbeddedBroker::start().unwrap();
    let sink = Arc::new(KafkaSink::new("gone", broker.bootstrap_servers()).unwrap());
    drop(broker);
    let sending = Arc::clone(&sink);
    let mut sending = tokio::spawn(async move { sending.send("t", &1).await });
    tokio::time::timeout(Duration::from_millis(500), &mut sending).await.unwrap_err();
    let error = sink.close(Duration::from_millis(200)).await.unwrap_err();
    assert!(error.to_string().contains("sink `gone` did not deliver all at its end"), "{error}");
    sending.abort();
}

/// The worker's end tells of it, and the other sinks are closed all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_does_not_close_is_an_error() {
    let (topic, group) = (topic_of(["[1]"]), unique("worker"));
    let (well, ill) = (Own::new("well"), Own { closes: false, ..Own::new("ill") });
    let builder = Worker::builder(&topic, shared_broker(), &group).sink(ill).sink(well.clone());
    let running = Running::start(builder.agent(Agent::new("a", async |_: u64, _| Ok(Some(1)))).build().unwrap());
    soon("all is committed", || (committed(shared_broker(), &group, &topic, 0) == Some(1)).then_some(()));
    let error = running.stop().await.unwrap_err().to_string();
    assert!(error.contains("sink `ill` panicked: it does not"), "{error}");
    assert_eq!(well.taken(), [0]);
}

/// What comes behind them waits for them, and is not sent again: its first copy would run after what is sent later.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_many_commands_has_their_time_too() {
    let redis = Redis::start();
    let sink = RedisSink::connect_with("cache", &redis.url(), Backoff { attempts: 1, ..QUICK }).await.unwrap();
    let slow = "local since = redis.call('TIME')[1] while redis.call('TIME')[1] - since < 3 do end";
    let mut commands = vec![vec!["EVAL", slow, "0"]];
    commands.resize(5_000, vec!["PING"]);
    let behind = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        sink.put(&["h"], &["behind"], &["v"]).await
    };
    let (many, behind) = tokio::join!(sink.batch_execute(&commands), behind);
    assert_eq!(many.unwrap().len(), 5_000);
    behind.unwrap();
}
