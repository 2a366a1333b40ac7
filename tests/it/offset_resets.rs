//! Records that were gone before they were read, and gaps that are no loss.

use std::time::{Duration, Instant};

use kafka_envelope::{Batch, Consumer, OffsetReset};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::support::kafka::delete_records;
use crate::support::{
    Broker, PATIENCE, TestTopic, committed, consume_all, consumer, create_topic_with, envelope, eventually, group,
    keep_logs, logged, produce_numbers, produce_raw, shared_broker, unique,
};

/// Handles so many records, and returns them.
fn take(consumer: &mut Consumer, count: usize) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let done = consumer.process(|batch: &Batch<u64>| {
            seen.extend(batch.iter().map(|record| record.payload));
            Ok(())
        });
        assert!(done.unwrap().is_some(), "only {seen:?}");
    }
    seen
}

#[track_caller]
fn expect_reset(consumer: &Consumer, topic: &str, wanted: i64, reset_to: i64) {
    let resets: Vec<_> = consumer.health().resets();
    let told: Vec<_> = resets
        .iter()
        .map(|OffsetReset { topic, partition, wanted, reset_to, lost, .. }| {
            (&**topic, *partition, *wanted, *reset_to, *lost)
        })
        .collect();
    assert_eq!(told, [(topic, 0, wanted, reset_to, (reset_to - wanted) as u64)]);
    let line = format!("{topic}:0 goes on at offset {reset_to} instead of {wanted}");
    assert_eq!(logged(&["ERROR", &line]).len(), 1);
}

/// The log was cut beyond what the group has committed, before the consumer starts.
#[test]
fn records_that_are_gone_at_the_start_are_reported() {
    keep_logs();
    let broker = shared_broker();
    for (policy, first) in [("earliest", 8), ("latest", 20)] {
        let (topic, group) = (TestTopic::new(broker, 1), group());
        produce_numbers(broker, &topic, 0, 0..3);
        let mut before = consumer(broker, &group, &topic).build().unwrap();
        assert_eq!(take(&mut before, 3), [0, 1, 2]);
        assert!(before.health().resets().is_empty());
        drop(before);
        produce_numbers(broker, &topic, 0, 3..20);
        delete_records(broker, &topic, &[(0, 8)]);

        let config = [("auto.offset.reset", policy)];
        let mut after = consumer(broker, &group, &topic).config(config).idle_timeout(PATIENCE).build().unwrap();
        let health = after.health();
        let producing = std::thread::spawn({
            let topic = topic.to_string();
            move || {
                // With `latest` a record is needed that comes after the reset: one a time until it is seen.
                for number in 20.. {
                    if !health.resets().is_empty() || number > 200 {
                        break;
                    }
                    produce_numbers(broker, &topic, 0, number..number + 1);
                }
            }
        });
        let seen = take(&mut after, 1);
        eventually(PATIENCE, "the reset is told", || (!after.health().resets().is_empty()).then_some(()));
        producing.join().unwrap();
        if policy == "earliest" {
            assert_eq!(seen[0], first);
            expect_reset(&after, &topic, 3, 8);
        } else {
            assert!(seen[0] >= first, "{seen:?}");
            expect_reset(&after, &topic, 3, seen[0] as i64);
        }
    }
}

/// The log is cut beyond the position of a consumer that runs.
#[test]
fn records_that_go_during_a_run_are_reported() {
    keep_logs();
    let broker = shared_broker();
    for policy in ["earliest", "latest"] {
        let (topic, group) = (TestTopic::new(broker, 1), group());
        // One record a batch, and none fetched ahead of what the handler takes but a few.
        (0..40).for_each(|number| produce_numbers(broker, &topic, 0, number..number + 1));
        let mut first = consumer(broker, &group, &topic).batch_size(1).build().unwrap();
        assert!(first.process(|_: &Batch<u64>| Ok(())).unwrap().is_some());
        drop(first);
        let mut running = consumer(broker, &group, &topic)
            .config([
                ("auto.offset.reset", policy),
                ("queued.min.messages", "1"),
                ("fetch.message.max.bytes", "1"),
                ("queued.max.messages.kbytes", "1"),
            ])
            .batch_size(1)
            .idle_timeout(PATIENCE)
            .build()
            .unwrap();
        let (health, stopper) = (running.health(), running.stopper());
        let mut seen: Vec<u64> = Vec::new();
        let mut next = 40;
        std::thread::scope(|scope| {
            let (cut, is_cut) = std::sync::mpsc::channel();
            let topic = &*topic;
            let health = &health;
            scope.spawn(move || {
                is_cut.recv_timeout(PATIENCE).unwrap();
                // Until a record comes after the reset.
                while health.resets().is_empty() && next < 400 {
                    produce_numbers(broker, topic, 0, next..next + 1);
                    next += 1;
                }
                stopper.stop();
            });
            running
                .run(|batch: &Batch<u64>| {
                    seen.push(batch[0].payload);
                    if seen.len() == 1 {
                        delete_records(broker, topic, &[(0, 30)]);
                        cut.send(()).unwrap();
                    }
                    Ok(())
                })
                .unwrap();
        });
        let jump = seen.windows(2).find(|pair| pair[1] != pair[0] + 1).unwrap_or_else(|| panic!("no jump in {seen:?}"));
        assert!(jump[0] < 29, "{seen:?}");
        if policy == "earliest" {
            assert_eq!(jump[1], 30, "{seen:?}");
        } else {
            assert!(jump[1] >= 40, "{seen:?}");
        }
        expect_reset(&running, &topic, jump[0] as i64 + 1, jump[1] as i64);
    }
}

/// Watches that the consumer is healthy all the time.
fn stays_healthy(consumer: &mut Consumer, time: Duration) {
    let health = consumer.health();
    let until = Instant::now() + time;
    eventually(time * 2, "time passes", || {
        assert!(health.is_healthy(), "{health:?}");
        (Instant::now() >= until).then_some(())
    });
    assert!(health.resets().is_empty(), "{health:?}");
}

/// Nothing to read, or nothing but marks of transactions, records of one that was aborted or of one that is not decided:
/// no stall, no loss.
#[test]
fn an_idle_consumer_and_one_behind_marks_of_transactions_are_healthy() {
    keep_logs();
    for isolation in ["read_committed", "read_uncommitted"] {
        stays_healthy_with(isolation);
    }
}

fn stays_healthy_with(isolation: &str) {
    let (broker, group) = (shared_broker(), group());
    let (topic, empty) = (TestTopic::new(broker, 1), TestTopic::new(broker, 2));
    let id = unique("transactions");
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", broker).set("transactional.id", &id).create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    let send = |numbers: std::ops::Range<u64>| {
        producer.begin_transaction().unwrap();
        for number in numbers {
            let value = envelope(&number);
            producer.send(BaseRecord::<(), _>::to(&topic).partition(0).payload(&value)).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    };
    let commit = || producer.commit_transaction(PATIENCE).unwrap();
    let abort = || producer.abort_transaction(PATIENCE).unwrap();
    let build = || {
        Consumer::builder("test", broker, &group)
            .topics([&*topic, &*empty])
            .config([("isolation.level", isolation)])
            .idle_timeout(PATIENCE)
            .stall_timeout(Duration::from_millis(700))
            .build()
            .unwrap()
    };
    let sees_aborted = isolation == "read_uncommitted";
    send(0..3);
    commit();
    send(100..103);
    abort();
    send(3..6);
    commit();
    let mut first = build();
    take(&mut first, if sees_aborted { 9 } else { 6 });
    stays_healthy(&mut first, Duration::from_secs(3));
    send(200..203);
    abort();
    if sees_aborted {
        take(&mut first, 3);
    }
    stays_healthy(&mut first, Duration::from_secs(3));
    drop(first);

    // One that starts behind nothing but marks.
    let mut second = build();
    stays_healthy(&mut second, Duration::from_secs(4));
    send(300..301);
    if sees_aborted {
        take(&mut second, 1);
    }
    stays_healthy(&mut second, Duration::from_secs(3));
    abort();
    stays_healthy(&mut second, Duration::from_secs(3));
    assert_eq!(committed(broker, &group, &empty, 0), None);
    assert!(logged(&["is stalled", &topic]).is_empty() && logged(&["is stalled", &empty]).is_empty());
}

/// A log in which compaction left gaps: no stall, no loss.
#[test]
fn gaps_of_compaction_are_no_loss() {
    let broker = Broker::start_with(&[("log.cleaner.backoff.ms", "200")]);
    let (servers, topic) = (broker.bootstrap(), unique("compacted"));
    let settings = [("cleanup.policy", "compact"), ("segment.ms", "100"), ("min.cleanable.dirty.ratio", "0.01")];
    create_topic_with(servers, &topic, 1, &settings);
    for number in 0..60u64 {
        let key = format!("key-{}", number % 7);
        produce_raw(servers, &topic, 0, Some(key.as_bytes()), Some(&envelope(&number)));
    }
    let last = eventually(PATIENCE, "the log is compacted", || {
        // Each time a segment that can be compacted.
        let last = produce_raw(servers, &topic, 0, Some(b"other"), Some(&envelope(&60u64)));
        (consume_all(servers, &topic).len() as i64 + 20 < last).then_some(last)
    });
    let builder = consumer(servers, &group(), &topic).stall_timeout(Duration::from_millis(700));
    let mut consumer = builder.idle_timeout(PATIENCE).build().unwrap();
    let mut next = 0;
    while next <= last {
        let done = consumer.process(|batch: &Batch<u64>| {
            next = batch.iter().map(|record| record.offset() + 1).max().unwrap_or(next);
            Ok(())
        });
        assert!(done.unwrap().is_some(), "the last record is never read, only up to {next}");
    }
    stays_healthy(&mut consumer, Duration::from_secs(5));
}
