//! `kafka-envelope lag`: how far a group is behind.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use kafka_envelope::{Batch, Consumer, Message, Producer};
use serde_json::{Value, json};

use super::support::cli::cli;
use super::support::{TestTopic, committed, consumer, eventually, group, produce_numbers, shared_broker, unique};

fn topic(partitions: i32) -> TestTopic {
    TestTopic::new(shared_broker(), partitions)
}

/// The partitions and the totals.
fn lag(group: &str) -> (Vec<Value>, Value) {
    let mut rows = cli(&["lag", group, "--json"]).good().json();
    let totals = rows.pop().unwrap();
    (rows, totals)
}

fn commit(topic: &str, group: &str, records: usize) {
    let mut consumer = consumer(shared_broker(), group, topic).batch_size(records).build().unwrap();
    consumer.process(|_: &Batch<Value>| Ok(())).unwrap().unwrap();
}

#[test]
fn lag_is_told_in_records_and_in_time() {
    let (topic, group) = (topic(2), group());
    let producer = Producer::new("shop", shared_broker()).unwrap();
    let now = Utc::now();
    for hours in [5, 4, 3] {
        let message = Message::new(hours).partition(0).timestamp(now - TimeDelta::hours(hours));
        producer.produce(&topic, &message).unwrap();
    }
    commit(&topic, &group, 1);
    producer.produce(&topic, &Message::new(0).partition(1).timestamp(now - TimeDelta::hours(7))).unwrap();
    let (rows, totals) = lag(&group);
    assert_eq!(rows.len(), 2);
    let numbers = |row: &Value| ["partition", "committed", "end", "lag"].map(|name| row[name].clone());
    assert_eq!(numbers(&rows[0]), [json!(0), json!(1), json!(3), json!(2)]);
    // Nothing is committed there: all of it is to come.
    assert_eq!(numbers(&rows[1]), [json!(1), Value::Null, json!(1), json!(1)]);
    assert_eq!((&rows[0]["topic"], &rows[0]["member"]), (&json!(&*topic), &Value::Null));
    let hours = |value: &Value| (value["lag_seconds"].as_f64().unwrap() / 3_600.0).floor();
    assert_eq!((hours(&rows[0]), hours(&rows[1]), hours(&totals)), (4.0, 7.0, 7.0));
    assert_eq!((&totals["group"], &totals["state"]), (&json!(group), &json!("Empty")));
    let counts = ["members", "partitions", "lag"].map(|name| totals[name].clone());
    assert_eq!(counts, [json!(0), json!(2), json!(3)]);

    let text = cli(&["lag", &group]).good().stdout;
    assert!(text.starts_with("TOPIC") && text.contains("LAG SECONDS"), "{text}");
    assert!(text.contains(&format!("{group}: Empty, members 0, partitions 2, lag 3 records, ")), "{text}");
}

#[test]
fn the_owner_of_a_partition_is_told() {
    let (topic, group) = (topic(1), group());
    produce_numbers(shared_broker(), &topic, 0, 0..3);
    let mut consumer = Consumer::builder("billing", shared_broker(), &group).topics([&*topic]).build().unwrap();
    let running = std::thread::spawn({
        let stopper = consumer.stopper();
        let (group, topic) = (group.clone(), topic.to_owned());
        move || {
            eventually(Duration::from_secs(30), "all is committed", || {
                (committed(shared_broker(), &group, &topic, 0) == Some(3)).then_some(())
            });
            let lag = lag(&group);
            stopper.stop();
            lag
        }
    });
    consumer.run(|_: &Batch<Value>| Ok(())).unwrap();
    let (rows, totals) = running.join().unwrap();
    assert_eq!((&rows[0]["lag"], &rows[0]["lag_seconds"]), (&json!(0), &json!(0.0)));
    assert_eq!((&rows[0]["client"], &rows[0]["host"]), (&json!("billing"), &json!("127.0.0.1")));
    assert!(rows[0]["member"].as_str().unwrap().starts_with("billing-"), "{rows:?}");
    assert_eq!((&totals["state"], &totals["members"]), (&json!("Stable"), &json!(1)));
}

#[test]
fn a_topic_may_be_picked() {
    let (one, other, group) = (topic(1), topic(1), group());
    for topic in [&one, &other] {
        produce_numbers(shared_broker(), topic, 0, 0..2);
        commit(topic, &group, 1);
    }
    assert_eq!(lag(&group).0.len(), 2);
    let rows = cli(&["lag", &group, "--topic", &other, "--json"]).good().json();
    assert_eq!((rows.len(), &rows[0]["topic"]), (2, &json!(&*other)));
    cli(&["lag", &group, "--topic", &unique("topic")]).bad(1, &["no partitions and no committed offsets there"]);
}

#[test]
fn a_group_that_kafka_does_not_know_is_an_error() {
    let missing = group();
    cli(&["lag", &missing]).bad(1, &[&missing, "has no members and no committed offsets", "hint: "]);
    let ran = cli(&["lag", "g", "-b", "127.0.0.1:1", "--connect-timeout", "2"]);
    ran.bad(1, &["no broker of `127.0.0.1:1` answers", "hint: is the address right"]);
    cli(&["lag"]).bad(2, &["<GROUP>"]);
    assert!(cli(&["lag", "--help"]).good().stdout.contains("Examples:"));
}
