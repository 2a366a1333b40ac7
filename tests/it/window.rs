//! `max_window`: a partition is paused while too much of it is taken beyond a record that is not done.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use kafka_envelope::{Batch, Consumer, Stopper};

use crate::support::{
    PATIENCE, TestTopic, committed, consumer, eventually, group, keep_logs, logged, produce_numbers, shared_broker,
};

/// One batch is in hand and one is ready, which is more than the window: the partition is paused, and resumed when the
/// first is done. Nothing is skipped or repeated by that.
#[test]
fn a_full_window_pauses_the_partition_and_half_of_it_resumes_it() {
    keep_logs();
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 2);
    (0..2).for_each(|partition| produce_numbers(broker, &topic, partition, 0..200));
    let mut consumer = consumer(broker, &group, &topic)
        .batch_size(10)
        .max_window(10)
        .linger(Duration::from_millis(300))
        .idle_timeout(PATIENCE)
        .build()
        .unwrap();
    let stopper = consumer.stopper();
    let mut next = [0, 0];
    let mut handled = 0;
    consumer
        .run(|batch: &Batch<u64>| {
            handled += 1;
            if handled == 1 {
                let paused = || (!logged(&["paused", &topic]).is_empty()).then_some(());
                eventually(PATIENCE, "a partition is paused", paused);
                assert!(logged(&["resumed", &topic]).is_empty());
            }
            for record in batch {
                let next = &mut next[record.partition() as usize];
                assert_eq!(record.payload, *next, "partition {}", record.partition());
                *next += 1;
            }
            if next == [200, 200] {
                stopper.stop();
            }
            Ok(())
        })
        .unwrap();
    assert!(!logged(&["resumed", &topic]).is_empty());
    for partition in 0..2 {
        assert_eq!(committed(broker, &group, &topic, partition), Some(200));
    }
}

/// One batch is in hand and one is ready, which is all of the window: a pause would throw away what was fetched.
#[test]
fn a_window_of_two_batches_is_never_full_while_the_handler_keeps_up() {
    keep_logs();
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..200);
    let builder = consumer(broker, &group, &topic).batch_size(10).max_window(20);
    let mut consumer = builder.idle_timeout(PATIENCE).build().unwrap();
    let (stopper, mut next) = (consumer.stopper(), 0);
    consumer
        .run(|batch: &Batch<u64>| {
            for record in batch {
                assert_eq!(record.payload, next);
                next += 1;
            }
            if next == 200 {
                stopper.stop();
            }
            Ok(())
        })
        .unwrap();
    assert!(logged(&["paused", &topic]).is_empty());
}

/// Handles on a thread of its own; a batch is held until `gate` gives way, which it does for good once it is closed.
fn member(mut consumer: Consumer, sender: Sender<(i32, u64)>, gate: Receiver<()>) -> (Stopper, thread::JoinHandle<()>) {
    let stopper = consumer.stopper();
    let work = move || {
        consumer
            .run(|batch: &Batch<u64>| {
                for record in batch {
                    sender.send((record.partition(), record.payload)).unwrap();
                }
                let _ = gate.recv_timeout(PATIENCE);
                Ok(())
            })
            .unwrap();
    };
    (stopper, thread::spawn(work))
}

/// A partition that is paused goes to another member, and comes back: it is read, although librdkafka keeps the pause.
#[test]
fn a_partition_that_was_paused_flows_after_a_reassignment() {
    keep_logs();
    for strategy in ["cooperative-sticky", "range,roundrobin"] {
        let (broker, group) = (shared_broker(), group());
        let topic = TestTopic::new(broker, 2);
        (0..2).for_each(|partition| produce_numbers(broker, &topic, partition, 0..40));
        let build = || {
            consumer(broker, &group, &topic)
                .config([("partition.assignment.strategy", strategy), ("heartbeat.interval.ms", "500")])
                .batch_size(10)
                .max_window(10)
                .drain_budget(Duration::from_millis(500))
                .linger(Duration::from_millis(300))
                .idle_timeout(PATIENCE)
                .build()
                .unwrap()
        };
        let (sender, seen) = channel();
        let (gate_one, held_one) = channel();
        let one = member(build(), sender.clone(), held_one);
        // Of both partitions: the batch in hand and the one that is ready are of one each, or of both.
        let paused = |partition: i32| {
            let named = format!("partition: {partition}");
            (!logged(&["paused", &topic, &named]).is_empty()).then_some(())
        };
        eventually(PATIENCE, "a partition is paused", || paused(0).or_else(|| paused(1)));
        seen.try_iter().count();

        // It gives up its batch after the drain budget.
        let (gate_two, held_two) = channel::<()>();
        drop(gate_two);
        let two = member(build(), sender, held_two);
        let await_numbers = |numbers: std::ops::Range<u64>, partitions: &[i32], what: &str| {
            let all = partitions.iter().flat_map(|partition| numbers.clone().map(|number| (*partition, number)));
            let mut missing: BTreeSet<(i32, u64)> = all.collect();
            while !missing.is_empty() {
                let record =
                    seen.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} with {strategy}: {missing:?}"));
                missing.remove(&record);
            }
        };
        let first = seen.recv_timeout(PATIENCE).expect("the second member gets nothing");
        drop(gate_one);
        await_numbers(first.1 + 1..40, &[first.0], "by the second member");
        (0..2).for_each(|partition| produce_numbers(broker, &topic, partition, 40..80));
        await_numbers(40..80, &[0, 1], "by both");
        two.0.stop();
        two.1.join().unwrap();
        (0..2).for_each(|partition| produce_numbers(broker, &topic, partition, 80..120));
        await_numbers(80..120, &[0, 1], "after the second left");
        one.0.stop();
        one.1.join().unwrap();
        for partition in 0..2 {
            assert_eq!(committed(broker, &group, &topic, partition), Some(120), "with {strategy}");
        }
    }
}
