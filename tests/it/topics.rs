//! Topics that come late, and topics that are made anew.

use std::collections::BTreeSet;
use std::sync::mpsc::channel;
use std::thread;

use kafka_envelope::{Batch, Consumer};

use crate::support::{
    PATIENCE, TestTopic, committed, consumer, create_topic_with, delete_topic, eventually, group, produce_numbers,
    shared_broker, unique,
};

/// A consumer of a topic that does not exist waits for it.
#[test]
fn a_topic_that_does_not_exist_yet_is_waited_for() {
    let (broker, topic) = (shared_broker(), unique("late"));
    let mut consumer = consumer(broker, &group(), &topic).idle_timeout(PATIENCE).build().unwrap();
    let creating = thread::spawn({
        let topic = topic.clone();
        move || {
            create_topic_with(broker, &topic, 1, &[]);
            produce_numbers(broker, &topic, 0, 0..1);
        }
    });
    let done = consumer.process(|_: &Batch<u64>| Ok(())).unwrap();
    assert_eq!(done.expect("the topic was never noticed").records, 1);
    creating.join().unwrap();
    delete_topic(broker, &topic);
}

/// A topic is deleted and made anew while it is read, with fewer records than before, so that the old position is out
/// of range, or with more; then another member joins. The new records come from 0, each of them, to one of the two, and
/// the commits stand where they belong.
#[test]
fn a_topic_made_anew_is_read_from_its_start() {
    made_anew_with(20);
    made_anew_with(200);
}

fn made_anew_with(records: u64) {
    let (broker, topic, group) = (shared_broker(), unique("anew"), group());
    create_topic_with(broker, &topic, 2, &[]);
    for partition in 0..2 {
        produce_numbers(broker, &topic, partition, 0..50);
    }
    let (sender, seen) = channel();
    let member = |sender: std::sync::mpsc::Sender<(i32, u64)>| {
        let mut consumer: Consumer = consumer(broker, &group, &topic).idle_timeout(PATIENCE).build().unwrap();
        let stopper = consumer.stopper();
        let work = move || {
            consumer
                .run(|batch: &Batch<u64>| {
                    for record in batch {
                        sender.send((record.partition(), record.payload)).unwrap();
                    }
                    Ok(())
                })
                .unwrap();
        };
        (stopper, thread::spawn(work))
    };
    let (stop_one, one) = member(sender.clone());
    // Waits for all of these. A topic made anew may be read from its start more than once, so others may come between.
    let await_all = |mut missing: BTreeSet<(i32, u64)>, what: &str| {
        while !missing.is_empty() {
            let record = seen.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what}: no {missing:?}"));
            missing.remove(&record);
        }
    };
    let expected = |numbers: std::ops::Range<u64>| -> BTreeSet<(i32, u64)> {
        (0..2).flat_map(|partition| numbers.clone().map(move |number| (partition, number))).collect()
    };
    await_all(expected(0..50), "the first topic");
    for partition in 0..2 {
        eventually(PATIENCE, "the first topic is committed", || {
            (committed(broker, &group, &topic, partition) == Some(50)).then_some(())
        });
    }

    delete_topic(broker, &topic);
    create_topic_with(broker, &topic, 2, &[]);
    for partition in 0..2 {
        produce_numbers(broker, &topic, partition, 1_000..1_000 + records);
    }
    await_all(expected(1_000..1_000 + records), "the topic made anew");
    for partition in 0..2 {
        eventually(PATIENCE, "the commit went back", || {
            (committed(broker, &group, &topic, partition) == Some(records as i64)).then_some(())
        });
    }

    let (stop_two, two) = member(sender.clone());
    for partition in 0..2 {
        produce_numbers(broker, &topic, partition, 2_000..2_180);
    }
    await_all(expected(2_000..2_180), "after the join");
    stop_one.stop();
    stop_two.stop();
    one.join().unwrap();
    two.join().unwrap();
    for partition in 0..2 {
        assert_eq!(committed(broker, &group, &topic, partition), Some(records as i64 + 180));
    }
    delete_topic(broker, &topic);
}

/// A name that starts with `^` is a pattern.
#[test]
fn a_pattern_finds_its_topics() {
    let (broker, prefix) = (shared_broker(), unique("pattern"));
    let topics: Vec<String> = ["a", "b"].iter().map(|end| format!("{prefix}.{end}")).collect();
    for topic in &topics {
        create_topic_with(broker, topic, 1, &[]);
        produce_numbers(broker, topic, 0, 0..1);
    }
    let other = TestTopic::new(broker, 1);
    produce_numbers(broker, &other, 0, 0..1);
    let pattern = format!("^{prefix}\\..*");
    let mut consumer = consumer(broker, &group(), &pattern).idle_timeout(PATIENCE).build().unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let handled = consumer.process(|batch: &Batch<u64>| {
            seen.extend(batch.iter().map(|record| record.topic().to_owned()));
            Ok(())
        });
        assert!(handled.unwrap().is_some(), "only {seen:?}");
    }
    seen.sort();
    assert_eq!(seen, topics);
    for topic in &topics {
        delete_topic(broker, topic);
    }
}
