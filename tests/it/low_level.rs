//! The helpers for a loop of one's own, on Apache Kafka.

use std::time::{Duration, Instant};

use kafka_envelope::Error;
use kafka_envelope::low_level::{
    Oversize, create_consumer, create_producer, format_batch_ref, format_ref, pack, produce, produce_batch, unpack,
};
use kafka_envelope::rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::Message as _;
use serde_json::{Value, json};

use crate::support::{TestTopic, committed, consume_all, produce_raw, shared_broker, unique};

/// Poll, unpack, produce with the reference, commit: in the end everything is passed on once and committed.
#[test]
fn a_loop_of_ones_own() {
    let broker = shared_broker();
    let (orders, invoices, group) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1), unique("group"));
    let producer = create_producer(broker, [("acks", "all")]).unwrap();
    let batch: Vec<_> =
        (0..50).map(|n| (Some(format!("order-{n}")), pack("shop", &json!({"n": n}), &[]).unwrap())).collect();
    produce_batch(&producer, &orders, &batch, Oversize::Refuse).unwrap();
    produce_raw(broker, &orders, 0, Some(b"order-0"), None);
    produce_raw(broker, &orders, 0, Some(b"order-0"), Some(b""));

    let consumer = create_consumer(broker, &group, [("auto.offset.reset", "earliest")]).unwrap();
    consumer.subscribe(&[&orders]).unwrap();
    let (mut refs, mut next_offset) = (Vec::new(), 0);
    let start = Instant::now();
    while next_offset < 52 {
        assert!(start.elapsed() < Duration::from_secs(60));
        // None comes early, too, after a rebalance.
        let Some(record) = consumer.poll(Duration::from_secs(1)) else { continue };
        let record = record.unwrap();
        if let Some(message) = unpack(&record).unwrap() {
            let order: Value = message.payload().unwrap();
            refs.push(message.reference.clone());
            let value = pack("billing", &order["n"], &[message.reference]).unwrap();
            produce(&producer, &invoices, None, Some(b"key"), &value).unwrap();
        }
        next_offset = record.offset() + 1;
        consumer.commit_message(&record, CommitMode::Sync).unwrap();
    }
    assert_eq!(format_ref(&refs[7]), format!("{}:0:7:order-7", &*orders));
    assert_eq!(format_batch_ref(&refs), format!("{}[0=0:50]", &*orders));
    assert_eq!(committed(broker, &group, &orders, 0), Some(52));

    let found = consume_all(broker, &invoices);
    assert_eq!(found.len(), 50);
    for (n, record) in found.iter().enumerate() {
        assert_eq!(record.key(), Some(&b"key"[..]));
        let message = unpack(record).unwrap().unwrap();
        assert_eq!(message.payload::<usize>().unwrap(), n);
        let stage = message.reference.history.unwrap().stage().unwrap();
        assert_eq!((stage.service.as_str(), stage.refs[0].offset), ("billing", n as i64));
        assert_eq!(stage.refs[0].history.as_ref().unwrap().stage().unwrap().service, "shop");
    }
}

/// Offsets are committed by the loop alone: one that ends without a commit has committed nothing.
#[test]
fn nothing_is_committed_by_itself() {
    let broker = shared_broker();
    let (orders, group) = (TestTopic::new(broker, 1), unique("group"));
    produce_raw(broker, &orders, 0, None, Some(b"{\"item\":1}"));
    let consumer = create_consumer(broker, &group, [("auto.commit.interval.ms", "1")]).unwrap();
    consumer.subscribe(&[&orders]).unwrap();
    let start = Instant::now();
    while consumer.poll(Duration::from_secs(1)).is_none() {
        assert!(start.elapsed() < Duration::from_secs(60));
    }
    drop(consumer);
    assert_eq!(committed(broker, &group, &orders, 0), None);
}

/// An oversize record is refused before anything is sent, or left out; a topic that does not exist is the reason of the error.
#[test]
fn failures_have_their_reason() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let producer = create_producer(broker, [("topic.metadata.propagation.max.ms", "500")]).unwrap();
    let none: Option<&str> = None;
    let batch = [(none, vec![b'1'; 10]), (none, vec![b'1'; 1_000_000]), (none, vec![b'1'; 10])];
    let error = produce_batch(&producer, &topic, &batch, Oversize::Refuse).unwrap_err();
    assert!(matches!(error, Error::Oversize { index: 1, limit: 1_000_000, .. }), "{error}");
    assert!(consume_all(broker, &topic).is_empty());
    produce_batch(&producer, &topic, &batch, Oversize::Skip).unwrap();
    assert_eq!(consume_all(broker, &topic).len(), 2);

    let error = produce(&producer, &unique("no-topic"), None, None, b"1").unwrap_err();
    let Error::NotDelivered { total: 1, failed, possibly_persisted, .. } = &error else { panic!("{error}") };
    assert!(failed[0].1.to_string().contains("Unknown topic") && possibly_persisted.is_empty(), "{error:?}");
}
