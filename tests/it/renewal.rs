//! A consumer finds its group again wherever that is.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use kafka_envelope::Batch;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::support::proxy::Proxy;
use crate::support::{
    Broker, PATIENCE, committed, consumer, create_topic, eventually, kafka, keep_logs, logged, produce_numbers, unique,
};

/// The coordinator dies with no commit under way, and comes back at another address, which librdkafka does not tell the part
/// of it that speaks with the group. A new client does, and goes on where the group stands, once and no more.
#[test]
fn a_coordinator_at_another_address_is_found() {
    keep_logs();
    for strategy in ["cooperative-sticky", "range,roundrobin"] {
        let mut broker = Broker::start();
        let first = Proxy::before(broker.bootstrap());
        let (topic, group) = (create_topic(broker.bootstrap(), 1), unique("group"));
        produce_numbers(broker.bootstrap(), &topic, 0, 0..5);
        let mut consumer = consumer(first.address(), &group, &topic)
            .config([
                ("session.timeout.ms", "3000"),
                ("heartbeat.interval.ms", "300"),
                ("max.poll.interval.ms", "5000"),
                ("partition.assignment.strategy", strategy),
            ])
            .drain_budget(Duration::from_secs(1))
            .idle_timeout(PATIENCE)
            .build()
            .unwrap();
        let stopper = consumer.stopper();
        let (sender, seen) = channel();
        let running = thread::spawn(move || {
            consumer
                .run(|batch: &Batch<u64>| {
                    batch.iter().for_each(|record| sender.send(record.payload).unwrap());
                    Ok(())
                })
                .unwrap();
        });
        let expect = |numbers: std::ops::Range<u64>| {
            for number in numbers {
                assert_eq!(seen.recv_timeout(PATIENCE), Ok(number), "{strategy}");
            }
        };
        expect(0..5);
        while committed(broker.bootstrap(), &group, &topic, 0) != Some(5) {}
        for numbers in [5..10, 10..15] {
            broker.kill();
            broker.move_away();
            broker.restart();
            first.lead_to(broker.bootstrap());
            produce_numbers(broker.bootstrap(), &topic, 0, numbers.clone());
            expect(numbers.clone());
            while committed(broker.bootstrap(), &group, &topic, 0) != Some(numbers.end as i64) {}
        }
        stopper.stop();
        running.join().unwrap();
        assert!(seen.try_recv().is_err(), "something came twice");
        assert_eq!(logged(&["WARN", &group, "a new client joins it"]).len(), 2, "{strategy}");
    }
}

fn until_two_are_members(bootstrap: &str, group: &str) {
    let client: BaseConsumer = kafka::client(bootstrap).create().unwrap();
    eventually(PATIENCE, "both are members", || {
        let groups = client.fetch_group_list(Some(group), Duration::from_secs(10)).ok()?;
        let group = groups.groups().first()?;
        (group.state() == "Stable" && group.members().len() == 2).then_some(())
    });
}

/// One that has no partitions is told of no loss. It finds its group all the same.
#[test]
fn a_member_without_partitions_finds_its_coordinator_too() {
    let mut broker = Broker::start();
    let first = Proxy::before(broker.bootstrap());
    let (topic, group) = (create_topic(broker.bootstrap(), 1), unique("group"));
    produce_numbers(broker.bootstrap(), &topic, 0, 0..5);
    let (sender, seen) = channel();
    let start = || {
        let builder = consumer(first.address(), &group, &topic).config([
            ("session.timeout.ms", "3000"),
            ("heartbeat.interval.ms", "300"),
            ("max.poll.interval.ms", "5000"),
            ("partition.assignment.strategy", "cooperative-sticky"),
        ]);
        let mut consumer = builder.drain_budget(Duration::from_secs(1)).idle_timeout(PATIENCE * 2).build().unwrap();
        let (stopper, sender) = (consumer.stopper(), sender.clone());
        let running = thread::spawn(move || {
            let run = consumer.run(|batch: &Batch<u64>| {
                batch.iter().for_each(|record| sender.send(record.payload).unwrap());
                Ok(())
            });
            run.unwrap().records
        });
        (stopper, running)
    };
    let expect = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            assert_eq!(seen.recv_timeout(PATIENCE), Ok(number));
        }
    };
    let services = [start(), start()];
    expect(0..5);
    // A commit that is under way would find the coordinator.
    while committed(broker.bootstrap(), &group, &topic, 0) != Some(5) {}
    until_two_are_members(broker.bootstrap(), &group);
    broker.kill();
    broker.move_away();
    broker.restart();
    first.lead_to(broker.bootstrap());
    produce_numbers(broker.bootstrap(), &topic, 0, 5..10);
    expect(5..10);
    until_two_are_members(broker.bootstrap(), &group);
    let handled = services.map(|(stopper, running)| {
        stopper.stop();
        running.join().unwrap()
    });
    assert_eq!(handled.iter().sum::<u64>(), 10, "{handled:?}");
}
