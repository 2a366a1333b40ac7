//! `kafka-envelope lag`: how far a group is behind.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use kafka_envelope::{Batch, Consumer, Message, Producer};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use super::support::cli::cli;
use super::support::{
    PATIENCE, TestTopic, committed, consumer, delete_topic, eventually, group, kafka, produce_numbers, shared_broker,
    unique,
};

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

/// Commits offsets of whatever partitions, outside of the group.
fn commit_at(broker: &str, group: &str, offsets: &[(&str, i32, i64)]) {
    let consumer: BaseConsumer = kafka::client(broker).set("group.id", group).create().unwrap();
    let mut list = TopicPartitionList::new();
    for (topic, partition, offset) in offsets {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).unwrap();
    }
    eventually(PATIENCE, "the offsets are committed", || consumer.commit(&list, CommitMode::Sync).ok());
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

#[test]
fn offsets_and_ends_are_those_that_kafka_tells() {
    let (topics, group) = ([topic(3), topic(1)], group());
    let asker: BaseConsumer = kafka::client(shared_broker()).create().unwrap();
    for (topic, partition, count) in [(&topics[0], 0, 5), (&topics[0], 2, 7), (&topics[1], 0, 3)] {
        produce_numbers(shared_broker(), topic, partition, 0..count);
    }
    commit_at(shared_broker(), &group, &[(&topics[0], 0, 2), (&topics[0], 1, 0), (&topics[1], 0, 3)]);
    let (rows, totals) = lag(&group);
    assert_eq!(rows.len(), 4);
    let mut sum = 0;
    for row in &rows {
        let (topic, partition) = (row["topic"].as_str().unwrap(), row["partition"].as_i64().unwrap() as i32);
        let next = committed(shared_broker(), &group, topic, partition);
        let (low, high) = asker.fetch_watermarks(topic, partition, PATIENCE).unwrap();
        let behind = high - next.unwrap_or(low);
        assert_eq!(
            (&row["committed"], &row["end"], &row["lag"]),
            (&json!(next), &json!(high), &json!(behind)),
            "{row}"
        );
        sum += behind;
    }
    assert_eq!((sum, &totals["lag"]), (10, &json!(10)));
}

/// What is behind may be of transactions that were aborted: then there is no record that could tell a time.
#[test]
fn a_lag_without_a_time_is_not_0_seconds() {
    let (topic, group) = (topic(2), group());
    let mut config = kafka::client(shared_broker());
    config.remove("enable.auto.commit").set("transactional.id", unique("transactional"));
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::<(), _>::to(&topic).partition(0).payload("x")).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();
    // It is open, so it is not counted.
    commit_at(shared_broker(), &group, &[(&topic, 0, 0), (&topic, 1, 0)]);
    assert_eq!(lag(&group).1["lag"], 0);
    producer.abort_transaction(PATIENCE).unwrap();
    let (rows, totals) = eventually(PATIENCE, "the marker is there", || {
        Some(lag(&group)).filter(|(_, totals)| totals["lag"].as_i64() > Some(0))
    });
    assert_eq!((&rows[0]["lag_seconds"], &rows[1]["lag_seconds"]), (&Value::Null, &json!(0.0)));
    assert_eq!((&totals["lag"], &totals["lag_seconds"]), (&json!(2), &Value::Null));
    assert!(cli(&["lag", &group]).good().stdout.contains("lag 2 records, time unknown"));
}

#[test]
fn what_is_committed_beyond_the_end_is_named() {
    let (topic, group) = (topic(1), group());
    produce_numbers(shared_broker(), &topic, 0, 0..3);
    commit_at(shared_broker(), &group, &[(&topic, 0, 100)]);
    let ran = cli(&["lag", &group, "--json"]);
    let rows = ran.json();
    assert_eq!((&rows[0]["committed"], &rows[0]["end"], &rows[0]["lag"]), (&json!(100), &json!(3), &json!(0)));
    ran.bad(0, &[&format!("warning: {}:0: 100 is committed, beyond the end 3", &*topic)]);
}

#[test]
fn a_partition_without_a_leader_does_not_hide_the_others() {
    let cluster = MockCluster::new(1).unwrap();
    let (topic, group, broker) = (unique("topic"), group(), cluster.bootstrap_servers());
    cluster.create_topic(&topic, 2, 1).unwrap();
    produce_numbers(&broker, &topic, 1, 0..3);
    commit_at(&broker, &group, &[(&topic, 0, 0), (&topic, 1, 1)]);
    cluster.partition_leader(&topic, 0, None).unwrap();
    let ran = cli(&["lag", &group, "--json", "-b", &broker, "--connect-timeout", "3"]);
    let rows = ran.json();
    let numbers = |row: &Value| ["partition", "committed", "end", "lag"].map(|name| row[name].clone());
    assert_eq!(numbers(&rows[0]), [json!(0), json!(0), Value::Null, Value::Null]);
    assert_eq!(numbers(&rows[1]), [json!(1), json!(1), json!(3), json!(2)]);
    assert_eq!(rows[2]["lag"], 2);
    ran.bad(3, &[&format!("{topic}:0: it has no leader"), "of 1 of 2 partitions the lag or its time is not known"]);
}

#[test]
fn a_topic_that_was_deleted_does_not_hide_the_others() {
    let (gone, kept, group) = (topic(1), topic(1), group());
    produce_numbers(shared_broker(), &kept, 0, 0..3);
    // Its member does not hear of it.
    let mut config = kafka::client(shared_broker());
    config.set("group.id", &group).set("topic.metadata.refresh.interval.ms", "-1");
    let member: BaseConsumer = config.create().unwrap();
    member.subscribe(&[&gone, &kept]).unwrap();
    eventually(PATIENCE, "the member has its partitions", || {
        assert!(!matches!(member.poll(Duration::from_millis(10)), Some(Err(_))));
        (member.assignment().unwrap().count() == 2).then_some(())
    });
    delete_topic(shared_broker(), &gone);
    let ran = cli(&["lag", &group, "--json"]);
    let of = |topic: &str| ran.json().into_iter().find(|row| row["topic"] == topic).unwrap();
    assert_eq!((&of(&gone)["end"], &of(&gone)["lag"]), (&Value::Null, &Value::Null));
    assert_eq!((&of(&kept)["end"], &of(&kept)["lag"]), (&json!(3), &json!(3)));
    ran.bad(
        3,
        &[&format!("{}:0: it is there no more", &*gone), "of 1 of 2 partitions the lag or its time is not known"],
    );
}
