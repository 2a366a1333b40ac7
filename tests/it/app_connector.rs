//! A producer and a listener without an app.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kafka_envelope::app::connector::{self, Listener, ListenerConfig, ProducerConfig};
use kafka_envelope::app::{Event, Record};
use kafka_envelope::{Error, HandlerError};
use rdkafka::Message as _;
use serde_json::{Value, json};
use tokio::sync::Barrier;
use tokio::task::JoinHandle;

use crate::support::app::{Calls, records, soon, vectors};
use crate::support::{TestTopic, committed, group, produce_raw, produce_raw_batch, shared_broker};

type Listening = JoinHandle<kafka_envelope::Result<()>>;

/// Listens until so many records are done, then stops.
async fn listen(listener: Listener, records: u64) {
    let (counts, stopper) = (listener.counts(), listener.stopper());
    let listening: Listening = tokio::spawn(listener.listen());
    soon("all are done", || (counts.handled() >= records).then_some(()));
    stopper.stop();
    listening.await.unwrap().unwrap();
}

/// A callback that is not async gets the records of a partition in order, whatever their keys, one at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sync_callback_is_called_in_order() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 2);
    let numbers = (0..200).map(|n: i32| (n % 2, Some(format!("k{}", n % 7)), Some(n.to_string())));
    produce_raw_batch(broker, &topic, numbers);
    let (calls, busy) = (Calls::default(), AtomicBool::new(false));
    let callback = {
        let calls = calls.clone();
        move |record: Record| -> Result<(), HandlerError> {
            assert!(!busy.swap(true, Ordering::SeqCst));
            calls.push((record.partition(), record.offset()));
            std::thread::yield_now();
            busy.store(false, Ordering::SeqCst);
            Ok(())
        }
    };
    listen(connector::listener(ListenerConfig::new(broker, &group, [&*topic], callback)).unwrap(), 200).await;
    for partition in [0, 1] {
        let offsets: Vec<_> = calls.get().into_iter().filter(|call| call.0 == partition).map(|call| call.1).collect();
        assert_eq!(offsets, (0..100).collect::<Vec<_>>());
        assert_eq!(committed(broker, &group, &topic, partition), Some(100));
    }
}

/// An async callback is called for several records at a time, but for one after the other of the same key.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_async_callback_is_called_concurrently() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    let records = (0..30).map(|n: i32| (0, Some(format!("k{}", n % 3)), Some(n.to_string())));
    produce_raw_batch(broker, &topic, records);
    let (calls, all) = (Calls::default(), Arc::new(Barrier::new(3)));
    let callback = {
        let calls = calls.clone();
        move |record: Record| {
            let (calls, all) = (calls.clone(), Arc::clone(&all));
            async move {
                // Nobody gets past this but three at a time.
                all.wait().await;
                calls.push((record.key().unwrap().to_vec(), record.offset()));
                Ok::<(), HandlerError>(())
            }
        }
    };
    listen(connector::listener(ListenerConfig::new(broker, &group, [&*topic], callback)).unwrap(), 30).await;
    for key in ["k0", "k1", "k2"] {
        let calls = calls.get().into_iter().filter(|call| call.0 == key.as_bytes());
        let offsets: Vec<_> = calls.map(|call| call.1).collect();
        assert!(offsets.len() == 10 && offsets.is_sorted(), "{offsets:?}");
    }
    assert_eq!(committed(broker, &group, &topic, 0), Some(30));
}

/// Records are handed over as they are, and one that its callback fails on is not committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_listener_hands_over_whatever_comes() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    for value in [None, Some(&b""[..]), Some(b"{oops"), Some(b"\xff"), Some(b"last"), Some(b"not seen")] {
        produce_raw(broker, &topic, 0, None, value);
    }
    let calls = Calls::default();
    let callback = {
        let calls = calls.clone();
        move |record: Record| -> Result<(), HandlerError> {
            calls.push(record.value().map(<[u8]>::to_vec));
            if record.value() == Some(b"last") { Err("enough".into()) } else { Ok(()) }
        }
    };
    let listener = connector::listener(ListenerConfig::new(broker, &group, [&*topic], callback)).unwrap();
    let error = tokio::time::timeout(Duration::from_secs(30), listener.listen()).await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Handler { .. }) && error.to_string().contains("enough"), "{error}");
    let expected = [None, Some(&b""[..]), Some(b"{oops"), Some(b"\xff"), Some(b"last")];
    assert_eq!(calls.get(), expected.map(|value| value.map(<[u8]>::to_vec)));
    assert_eq!(committed(broker, &group, &topic, 0), Some(4));
}

/// A producer writes what the Python app's writes, and a key goes where that one's goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_producer_sends_plain_events() {
    let broker = shared_broker();
    let partitions = &vectors()["partition_of_key"];
    let topic = TestTopic::new(broker, i32::try_from(partitions["partitions"].as_i64().unwrap()).unwrap());
    let producer = connector::producer(ProducerConfig::new(broker).name("shop")).unwrap();
    let keys = partitions["keys"].as_object().unwrap();
    for key in keys.keys() {
        let event = Event::new("order_placed", json!({"name": "Zoë"}));
        producer.emit(&topic, event.key(key)).await.unwrap();
    }
    let records = records(broker, &topic, keys.len());
    let mut found: Vec<_> =
        records.iter().map(|r| (String::from_utf8(r.key().unwrap().to_vec()).unwrap(), r.partition())).collect();
    found.sort();
    let expected: Vec<_> = keys.iter().map(|(key, partition)| (key.clone(), partition.as_i64().unwrap())).collect();
    assert_eq!(found.iter().map(|(key, partition)| (key.clone(), i64::from(*partition))).collect::<Vec<_>>(), {
        let mut expected = expected;
        expected.sort();
        expected
    });
    for record in records {
        let text = std::str::from_utf8(record.payload().unwrap()).unwrap();
        assert_eq!(text, r#"{"event": "order_placed", "name": "Zo\u00eb"}"#);
    }
    let question =
        producer.emit_with_response::<Value, _>(&topic, Event::new("ask", json!({})), Duration::from_secs(1));
    let error = question.await.unwrap_err();
    assert!(matches!(&error, Error::Setting { key, .. } if key == "answers"), "{error}");
}

/// What cannot work is an error before anything connects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_connector_refuses() {
    fn callback(_: Record) -> Result<(), HandlerError> {
        Ok(())
    }
    let config =
        |group: &str, topics: &[&str]| ListenerConfig::new("localhost:1", group, topics.iter().copied(), callback);
    let key = |config: ListenerConfig| match connector::listener(config) {
        Err(Error::Setting { key, .. }) => key,
        other => panic!("{other:?}"),
    };
    assert_eq!(key(config("", &["a"])), "group.id");
    assert_eq!(key(config("g", &[])), "topics");
    assert_eq!(key(config("g", &[""])), "topic");
    assert_eq!(key(config("g", &["a"]).max_concurrent(0)), "max_concurrent");
    assert_eq!(key(config("g", &["a"]).config([("no.such", "1")])), "no.such");
    // A pattern is as good as a name here.
    let _ = connector::listener(config("g", &["^a"])).unwrap();
    let error = connector::producer(ProducerConfig::new("")).unwrap_err();
    assert!(matches!(&error, Error::Setting { key, .. } if key == "bootstrap.servers"), "{error}");
    let secret = ProducerConfig::new("localhost:1").config([("sasl.password", "hunter2")]);
    assert!(!format!("{secret:?}").contains("hunter2"));
}
