//! A consumer finds its group again wherever that is.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use kafka_envelope::Batch;

use crate::support::proxy::Proxy;
use crate::support::{Broker, committed, consumer, create_topic, keep_logs, logged, produce_numbers, unique};

const PATIENCE: Duration = Duration::from_secs(90);

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
