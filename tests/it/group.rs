//! Members of one group: what they share, and what a join in the middle of a batch does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use kafka_envelope::{Batch, Consumer, Stopper};

use crate::support::{PATIENCE, TestTopic, committed, consumer, eventually, group, produce_numbers, shared_broker};

/// A group that starts after its records were written gets them all: `auto.offset.reset` is `earliest`.
#[test]
fn records_older_than_the_group_are_read() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..3);
    let mut seen = Vec::new();
    let mut earliest = consumer(broker, &group(), &topic).build().unwrap();
    while seen.len() < 3 {
        earliest
            .process(|batch: &Batch<u64>| {
                seen.extend(batch.iter().map(|record| record.payload));
                Ok(())
            })
            .unwrap()
            .unwrap();
    }
    assert_eq!(seen, [0, 1, 2]);

    let latest = consumer(broker, &group(), &topic).config([("auto.offset.reset", "latest")]);
    let mut latest = latest.idle_timeout(Duration::from_secs(3)).build().unwrap();
    assert!(latest.process(|_: &Batch<u64>| panic!("an old record")).unwrap().is_none());
}

/// Runs a member until it is stopped, and reports (partition, offset) of all that it handled.
fn member(
    mut consumer: Consumer,
    handled: std::sync::mpsc::Sender<(usize, i32, i64)>,
    number: usize,
    pause: &'static (impl Fn() + Sync),
) -> (Stopper, thread::JoinHandle<()>) {
    let stopper = consumer.stopper();
    let work = move || {
        consumer
            .run(|batch: &Batch<u64>| {
                pause();
                for record in batch {
                    handled.send((number, record.partition(), record.offset())).unwrap();
                }
                Ok(())
            })
            .unwrap();
    };
    (stopper, thread::spawn(work))
}

/// A second member joins while the first has a batch in hand. The first finishes and commits it; nothing is lost,
/// skipped or handled twice, and both work. So it is with either way to rebalance, and with the protocol of KIP-848.
#[test]
fn a_join_in_mid_batch_loses_and_repeats_nothing() {
    static HANDLING: AtomicBool = AtomicBool::new(false);
    static SLOW: AtomicUsize = AtomicUsize::new(0);
    static PAUSE: fn() = || {
        HANDLING.store(true, Ordering::SeqCst);
        let until = Instant::now() + Duration::from_millis(SLOW.load(Ordering::SeqCst) as u64);
        while Instant::now() < until {
            thread::yield_now();
        }
    };
    let broker = shared_broker();
    for (key, value) in [
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("partition.assignment.strategy", "range,roundrobin"),
        ("group.protocol", "consumer"),
    ] {
        let (topic, group) = (TestTopic::new(broker, 4), group());
        for partition in 0..4 {
            produce_numbers(broker, &topic, partition, 0..400);
        }
        HANDLING.store(false, Ordering::SeqCst);
        SLOW.store(300, Ordering::SeqCst);
        let build = || {
            let builder = consumer(broker, &group, &topic).batch_size(20).config([(key, value)]);
            builder.idle_timeout(PATIENCE).build().unwrap()
        };
        let (sender, handled) = channel();
        let (stop_one, one) = member(build(), sender.clone(), 1, &PAUSE);
        eventually(PATIENCE, "the first handles", || HANDLING.load(Ordering::SeqCst).then_some(()));
        let (stop_two, two) = member(build(), sender, 2, &PAUSE);

        let mut next: BTreeMap<i32, i64> = (0..4).map(|partition| (partition, 0)).collect();
        let mut by_member = [0, 0];
        while next.values().any(|next| *next < 400) {
            let (number, partition, offset) = handled.recv_timeout(PATIENCE).expect("records stopped coming");
            let expected = next.get_mut(&partition).unwrap();
            assert_eq!(offset, *expected, "partition {partition} by member {number} with {value}");
            *expected += 1;
            by_member[number - 1] += 1;
            if number == 2 {
                SLOW.store(0, Ordering::SeqCst);
            }
        }
        stop_one.stop();
        stop_two.stop();
        one.join().unwrap();
        two.join().unwrap();
        assert!(by_member.iter().all(|count| *count > 0), "one did all the work with {value}: {by_member:?}");
        for partition in 0..4 {
            assert_eq!(committed(broker, &group, &topic, partition), Some(400), "with {value}");
        }
        assert!(handled.try_recv().is_err(), "something came twice with {value}");
    }
}

/// A handler that takes three times `max.poll.interval.ms` keeps its membership, and its batch is committed.
#[test]
fn a_slow_handler_keeps_its_membership() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..4);
    let interval = Duration::from_secs(6);
    let mut consumer = consumer(broker, &group, &topic)
        .config([("max.poll.interval.ms", "6000"), ("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "1000")])
        .drain_budget(Duration::from_secs(5))
        .batch_size(2)
        .linger(Duration::from_secs(2))
        .build()
        .unwrap();
    for slow in [interval * 3, Duration::ZERO] {
        let done = consumer
            .process(|batch: &Batch<u64>| {
                assert_eq!(batch.len(), 2);
                let until = Instant::now() + slow;
                eventually(slow * 2, "the handler is done", || (Instant::now() >= until).then_some(()));
                Ok(())
            })
            .unwrap()
            .unwrap();
        assert!(done.committed, "{done:?}");
    }
    assert_eq!(committed(broker, &group, &topic, 0), Some(4));
}

/// What only another configuration can mend ends the run, instead of being tried for ever.
#[test]
fn a_configuration_that_the_group_refuses_ends_the_run() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let too_long = [("session.timeout.ms", "3000000"), ("max.poll.interval.ms", "3000000")];
    let mut consumer = consumer(broker, &group(), &topic).config(too_long).idle_timeout(PATIENCE).build().unwrap();
    let error = consumer.run(|_: &Batch<u64>| Ok(())).unwrap_err();
    assert!(error.to_string().contains("InvalidSessionTimeout"), "{error}");
}
