//! Topics that come late, and topics that are made anew.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use kafka_envelope::{Batch, Consumer};

use crate::support::{
    TestTopic, committed, consumer, create_topic_with, delete_topic, eventually, group, produce_numbers, shared_broker,
    unique,
};

const PATIENCE: Duration = Duration::from_secs(90);

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

/// A topic is deleted and made anew while it is read; then another member joins. Its records come from 0, each of
/// them, to one of the two, and the commits stand where they belong.
#[test]
fn a_topic_made_anew_is_read_from_its_start() {
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
    let take = |count: usize, what: &str| -> Vec<(i32, u64)> {
        let mut taken: Vec<_> = (0..count).map(|_| seen.recv_timeout(PATIENCE).expect(what)).collect();
        taken.sort_unstable();
        taken
    };
    let expected = |numbers: std::ops::Range<u64>| -> Vec<(i32, u64)> {
        (0..2).flat_map(|partition| numbers.clone().map(move |number| (partition, number))).collect()
    };
    assert_eq!(take(100, "the first topic"), expected(0..50));
    for partition in 0..2 {
        eventually(PATIENCE, "the first topic is committed", || {
            (committed(broker, &group, &topic, partition) == Some(50)).then_some(())
        });
    }

    delete_topic(broker, &topic);
    create_topic_with(broker, &topic, 2, &[]);
    // Fewer than before, so that the old position is out of range, then more.
    for partition in 0..2 {
        produce_numbers(broker, &topic, partition, 1_000..1_020);
    }
    assert_eq!(take(40, "the topic made anew"), expected(1_000..1_020));
    for partition in 0..2 {
        eventually(PATIENCE, "the commit went back", || {
            (committed(broker, &group, &topic, partition) == Some(20)).then_some(())
        });
    }

    let (stop_two, two) = member(sender.clone());
    for partition in 0..2 {
        produce_numbers(broker, &topic, partition, 1_020..1_200);
    }
    assert_eq!(take(360, "after the join"), expected(1_020..1_200));
    stop_one.stop();
    stop_two.stop();
    one.join().unwrap();
    two.join().unwrap();
    for partition in 0..2 {
        assert_eq!(committed(broker, &group, &topic, partition), Some(200));
    }
    assert!(seen.try_recv().is_err(), "something came twice");
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
