//! `kafka-envelope consume` where offsets have gaps: transactions that were aborted, compaction.

use rdkafka::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};

use super::cli_consume::payloads;
use super::support::cli::cli;
use super::support::{
    PATIENCE, TestTopic, consume_all, create_topic_with, delete_topic, envelope, eventually, group, kafka,
    produce_numbers, produce_raw, shared_broker, unique,
};

/// Of a transaction that was aborted nothing is shown, and its markers are no end that is waited for.
#[test]
fn aborted_transactions_are_passed_over() {
    let topic = TestTopic::new(shared_broker(), 1);
    let transactional = || -> BaseProducer {
        let mut config = kafka::client(shared_broker());
        config.remove("enable.auto.commit").set("transactional.id", unique("transactional"));
        let producer: BaseProducer = config.create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        producer
    };
    let send = |producer: &BaseProducer, number: i32| {
        let value = envelope(&number);
        producer.send(BaseRecord::<(), _>::to(&topic).payload(&value)).map_err(|(error, _)| error).unwrap();
        producer.flush(PATIENCE).unwrap();
    };
    let producer = transactional();
    for number in 0..4 {
        producer.begin_transaction().unwrap();
        send(&producer, number);
        if number % 2 == 0 {
            producer.commit_transaction(PATIENCE).unwrap();
        } else {
            producer.abort_transaction(PATIENCE).unwrap();
        }
    }
    assert_eq!(payloads(&[&topic]), [0, 2].map(Value::from));
    assert_eq!(cli(&["consume", &topic, "--raw"]).good().stdout.lines().count(), 2);
    // From the record that was aborted on there is nothing but markers.
    assert_eq!(payloads(&[&topic, "--from", "6"]), [0; 0].map(Value::from));
    let group = group();
    assert_eq!(payloads(&[&topic, "--group", &group, "--commit", "--connect-timeout", "3"]), [0, 2].map(Value::from));
    // One that is open is not there yet.
    let open = transactional();
    open.begin_transaction().unwrap();
    send(&open, 9);
    produce_numbers(shared_broker(), &topic, 0, 10..11);
    assert_eq!(payloads(&[&topic]), [0, 2].map(Value::from));
    open.abort_transaction(PATIENCE).unwrap();
    assert_eq!(payloads(&[&topic]), [0, 2, 10].map(Value::from));
}

/// What compaction left has gaps, and may end before the end.
#[test]
fn a_compacted_topic_is_read_to_its_end() {
    let topic = unique("topic");
    let settings = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.0"),
        ("delete.retention.ms", "0"),
        ("min.compaction.lag.ms", "0"),
        ("segment.ms", "100"),
    ];
    create_topic_with(shared_broker(), &topic, 1, &settings);
    let broker = shared_broker();
    for number in 0..40 {
        let key = format!("{}", number % 2);
        produce_raw(broker, &topic, 0, Some(key.as_bytes()), Some(&envelope(&number)));
    }
    // Only then does compaction take nothing more of them while it is read.
    let left = eventually(PATIENCE, "of each key the last record is left", || {
        // A segment ends only when something comes after it.
        produce_raw(broker, &topic, 0, Some(b"last"), None);
        let left: Vec<_> = consume_all(broker, &topic).iter().map(|record| record.offset()).collect();
        left.iter().filter(|offset| **offset < 40).eq(&[38, 39]).then_some(left)
    });
    let read = cli(&["consume", &topic]).good().json();
    let offsets: Vec<_> = read.iter().map(|line| line["offset"].as_i64().unwrap()).collect();
    // The tombstones may be fewer by now.
    assert!(offsets.len() <= left.len() && offsets.iter().all(|offset| left.contains(offset)), "{offsets:?}, {left:?}");
    let of_keys: Vec<_> = read.iter().filter(|line| line["id"] != "last").map(|line| &line["payload"]).collect();
    assert_eq!(of_keys, [&json!(38), &json!(39)]);
    // From a place on that is gone.
    assert_eq!(payloads(&[&topic, "--from", "1", "--limit", "1"]), [json!(38)]);
    delete_topic(broker, &topic);
}
