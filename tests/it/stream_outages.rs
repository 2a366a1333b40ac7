//! Kafka sinks in faults: their broker goes away for a while or for good, or refuses a message. Nothing is lost.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kafka_envelope::stream::{Agent, KafkaSink, Sinks, Worker};
use kafka_envelope::{Error, HandlerError};
use rdkafka::Message as _;
use serde_json::{Value, json};

use super::support::stream::{Running, add, committed, rss_mib, soon, topic_of, worker};
use super::support::{Broker, consume_all, create_topic, create_topic_with, shared_broker, unique};

/// Sends each element to a topic, and counts them.
fn sending(topic: &str) -> (Agent<Value, ()>, Arc<AtomicUsize>) {
    let (topic, sent): (String, Arc<AtomicUsize>) = (topic.to_owned(), Arc::default());
    let counted = Arc::clone(&sent);
    let agent = Agent::new("sending", move |value: Value, sinks: Sinks| {
        let (topic, counted) = (topic.clone(), Arc::clone(&counted));
        async move {
            sinks.kafka("out").send(&topic, &value).await?;
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, HandlerError>(None)
        }
    });
    (agent, sent)
}

fn numbers(broker: &str, topic: &str) -> Vec<u64> {
    let all = consume_all(broker, topic);
    all.iter().map(|record| serde_json::from_slice(record.payload().unwrap()).unwrap()).collect()
}

/// Frozen, then going on; killed, then started again: meanwhile the worker waits, and reads no more than it has room for.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_outlives_an_outage_of_its_sink() {
    const ALL: u64 = 20_000;
    let mut elsewhere = Broker::start();
    let out = create_topic(elsewhere.bootstrap(), 1);
    let topic = topic_of((0..ALL).map(|n| format!("[{n}]")));
    let (group, builder) = worker(&topic);
    let (agent, sent) = sending(&out);
    let sink = KafkaSink::with_config("out", elsewhere.bootstrap(), [("linger.ms", "0")]).unwrap();
    let running = Running::start(builder.sink(sink).agent(agent).build().unwrap());
    let sent = || sent.load(Ordering::Relaxed);
    soon("some are sent", || (sent() > 100).then_some(()));

    elsewhere.freeze();
    let (mut before, mut since) = (sent(), Instant::now());
    let rss = rss_mib(std::process::id());
    soon("nothing is sent for three seconds", || {
        if sent() != before {
            (before, since) = (sent(), Instant::now());
        }
        (since.elapsed() > Duration::from_secs(3)).then_some(())
    });
    assert!(committed(&group, &topic).unwrap_or(0) <= before as i64);
    assert!(rss_mib(std::process::id()) < rss + 150.0);
    elsewhere.thaw();
    soon("it goes on", || (sent() > before + 100).then_some(()));

    elsewhere.kill();
    let before = sent();
    elsewhere.restart();
    soon("it goes on", || (sent() > before + 100).then_some(()));
    soon("all is committed", || (committed(&group, &topic) == Some(ALL as i64)).then_some(()));
    running.stop().await.unwrap();
    let numbers = numbers(elsewhere.bootstrap(), &out);
    let once: HashSet<_> = numbers.iter().collect();
    assert_eq!(once.len(), ALL as usize);
    assert!(numbers.is_sorted(), "out of order");
}

/// Why the message did not arrive, and where to: nothing of its record is committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_stays_away_stops_the_worker() {
    let mut elsewhere = Broker::start();
    let out = create_topic(elsewhere.bootstrap(), 1);
    let topic = topic_of(["[1]"]);
    let (group, builder) = worker(&topic);
    let (agent, _) = sending(&out);
    let quick = [("linger.ms", "0"), ("delivery.timeout.ms", "3000"), ("request.timeout.ms", "1000")];
    let sink = KafkaSink::with_config("out", elsewhere.bootstrap(), quick).unwrap();
    let running = Running::start(builder.sink(sink).agent(agent).build().unwrap());
    soon("the first is committed", || (committed(&group, &topic) == Some(1)).then_some(()));
    elsewhere.kill();
    add(&topic, ["[2]", "[3]"]);
    let since = Instant::now();
    let error = running.failed().await;
    assert!(matches!(&error, Error::Handler { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&format!("{topic}[0=1:2]: agent `sending`"))
            && text.contains(&format!("sink `out` did not deliver to `{out}`")),
        "{text}"
    );
    assert!(text.contains("timed out"), "{text}");
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    assert_eq!(committed(&group, &topic), Some(1));

    // Another worker goes on where it stopped.
    elsewhere.restart();
    let (agent, _) = sending(&out);
    let sink = KafkaSink::new("out", elsewhere.bootstrap()).unwrap();
    let again = Worker::builder::<Value>(&topic, shared_broker(), &group).sink(sink).agent(agent).build().unwrap();
    let running = Running::start(again);
    soon("all is committed", || (committed(&group, &topic) == Some(3)).then_some(()));
    running.stop().await.unwrap();
    assert_eq!(numbers(elsewhere.bootstrap(), &out).into_iter().collect::<HashSet<_>>(), HashSet::from([1, 2, 3]));
}

/// By the client's limit, and by the topic's.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_stops_the_worker() {
    let small = unique("small");
    create_topic_with(shared_broker(), &small, 1, &[("max.message.bytes", "2000")]);
    let large = create_topic(shared_broker(), 1);
    for (out, limit) in [(&small, "1000000"), (&large, "2000")] {
        let topic = topic_of(["[1]".to_owned(), format!("[2, \"{}\", 3]", "x".repeat(5_000)), "[4]".to_owned()]);
        let (group, builder) = worker(&topic);
        let (agent, sent) = sending(out);
        let sink = KafkaSink::with_config("out", shared_broker(), [("message.max.bytes", limit)]).unwrap();
        let error = Running::start(builder.sink(sink).agent(agent).build().unwrap()).failed().await;
        let text = error.to_string();
        assert!(matches!(&error, Error::Handler { .. }), "{text}");
        assert!(
            text.contains(&format!("{topic}[0=1:2]: agent `sending`: sink `out` did not deliver to `{out}`")),
            "{text}"
        );
        assert!(!text.contains("xxx"), "no payload: {text}");
        assert_eq!((sent.load(Ordering::Relaxed), committed(&group, &topic)), (2, Some(1)), "{text}");
    }
}

/// There an agent ends silently, and records go on being read and committed. Here the worker ends with the error.
#[tokio::test(flavor = "multi_thread")]
async fn sinks_that_fail_as_in_the_vectors_stop_the_worker() {
    let vectors: Value = serde_json::from_str(include_str!("../data/stream_wire.json")).unwrap();
    let cases = vectors["sink_failures"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let topic = topic_of(["[1]", "[2]"]);
        let out = create_topic(shared_broker(), 1);
        let (group, builder) = worker(&topic);
        let (id, message, expected) = match name {
            "unknown-sink" => ("nobody", json!(1), "there is none of the id `nobody`"),
            // A sink of ours connects when it is made: the worker works.
            "not-connected" => ("out", json!(1), ""),
            // What JSON cannot say, see below.
            "serializer-error" => ("out", Value::Null, "key must be a string"),
            other => panic!("{other} is not known"),
        };
        let to = out.clone();
        let agent = Agent::new("sending", move |_: Value, sinks: Sinks| {
            let (to, message) = (to.clone(), message.clone());
            async move {
                if message.is_null() {
                    sinks.kafka(id).send(&to, &std::collections::HashMap::from([((1, 2), 3)])).await?;
                }
                sinks.kafka(id).send(&to, &message).await?;
                Ok::<_, HandlerError>(None::<()>)
            }
        });
        let sink = KafkaSink::new("out", shared_broker()).unwrap();
        let running = Running::start(builder.sink(sink).agent(agent).build().unwrap());
        if expected.is_empty() {
            soon(name, || (committed(&group, &topic) == Some(2)).then_some(()));
            running.stop().await.unwrap();
            assert_eq!(numbers(shared_broker(), &out), [1, 1]);
            continue;
        }
        let error = running.failed().await.to_string();
        assert!(error.contains(&format!("{topic}[0=0:1]: agent `sending`")) && error.contains(expected), "{error}");
        assert_eq!(committed(&group, &topic), None, "{name}");
        assert!(consume_all(shared_broker(), &out).is_empty());
    }
}
