//! What goes wrong around a handler: in decoding, in the group, with a partition, in the crate's own thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use kafka_envelope::testing::{ApiKey, EmbeddedBroker, ErrorCode};
use kafka_envelope::{Batch, Consumer, ConsumerBuilder, Error, HandlerError};

use crate::support::{PATIENCE, TestTopic, committed, consumer, eventually, group, produce_numbers, shared_broker};

fn embedded(partitions: i32) -> EmbeddedBroker {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", partitions).unwrap();
    broker
}

/// Sessions short enough for a test in which members come and go.
fn member(broker: &EmbeddedBroker) -> ConsumerBuilder {
    consumer(broker.bootstrap_servers(), "g", "t")
        .config([("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500")])
        .idle_timeout(PATIENCE)
}

fn let_pass(time: Duration) {
    let until = Instant::now() + time;
    eventually(time * 2, "time passes", || (Instant::now() >= until).then_some(()));
}

/// A payload whose decoding panics once.
struct Bomb;
static ARMED: AtomicBool = AtomicBool::new(true);

impl<'de> serde::Deserialize<'de> for Bomb {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        assert!(number != 2 || !ARMED.swap(false, Ordering::SeqCst), "in deserialize");
        Ok(Self)
    }
}

#[test]
fn a_panic_in_decoding_is_a_failure_of_the_batch() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..6);
    let mut consumer = consumer(broker, &group, &topic).batch_size(3).linger(Duration::from_secs(2)).build().unwrap();
    let error = consumer.process(|_: &Batch<Bomb>| Ok(())).unwrap_err();
    assert!(
        matches!(&error, Error::Handler { source, .. } if source.to_string().contains("in deserialize")),
        "{error}"
    );
    for next in [3, 6] {
        let done = consumer.process(|_: &Batch<Bomb>| Ok(())).unwrap().unwrap();
        assert_eq!(done.reference.to_string(), format!("{}[0={}:{next}]", &*topic, next - 3));
        assert_eq!(committed(broker, &group, &topic, 0), Some(next));
    }
}

/// The handler outlasts the drain budget, and its partition goes to another member: its late `Ok` commits nothing there,
/// and `process` says so.
#[test]
fn a_batch_given_up_at_a_revocation_is_not_committed() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 2);
    for partition in 0..2 {
        produce_numbers(broker, &topic, partition, 0..10);
    }
    let build = || consumer(broker, &group, &topic).config([("heartbeat.interval.ms", "500")]).idle_timeout(PATIENCE);
    let mut one =
        build().batch_size(20).linger(Duration::from_secs(2)).drain_budget(Duration::from_millis(500)).build().unwrap();
    let mut taken = None;
    let mut other = None;
    let done = one
        .process(|batch: &Batch<u64>| {
            assert_eq!(batch.len(), 20);
            let mut second = build().build().unwrap();
            let failed = second.process(|batch: &Batch<u64>| {
                taken = Some(batch[0].partition());
                Err("not yet".into())
            });
            assert!(failed.is_err());
            other = Some(second);
            Ok(())
        })
        .unwrap()
        .unwrap();
    assert!(!done.committed, "{done:?}");
    let taken = taken.unwrap();
    assert_eq!(committed(broker, &group, &topic, taken), None);
    assert_eq!(committed(broker, &group, &topic, 1 - taken), Some(10));
    // The other member hands its failed batch over again.
    let again = other.unwrap().process(|batch: &Batch<u64>| {
        assert_eq!(batch[0].payload, 0);
        Ok(())
    });
    assert!(again.unwrap().unwrap().committed);
}

/// The group forgets the member while it handles: nothing is committed, and the batch comes again.
#[test]
fn a_lost_assignment_brings_the_batch_again() {
    let broker = embedded(1);
    produce_numbers(broker.bootstrap_servers(), "t", 0, 0..3);
    let mut consumer = member(&broker).batch_size(3).linger(Duration::from_secs(2)).build().unwrap();
    let done = consumer
        .process(|_: &Batch<u64>| {
            broker.fail_next(ApiKey::Heartbeat, [ErrorCode::UnknownMemberId]).unwrap();
            // Some heartbeats.
            let_pass(Duration::from_secs(4));
            Ok(())
        })
        .unwrap()
        .unwrap();
    assert!(!done.committed, "{done:?}");
    let again = consumer.process(|_: &Batch<u64>| Ok(())).unwrap().unwrap();
    assert_eq!((again.reference.to_string().as_str(), again.committed), ("t[0=0:3]", true));
}

/// A partition that cannot be read on, and a client that is beyond use, are told at every call.
#[test]
fn what_cannot_go_on_says_so_every_time() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..1);
    let mut stopped = consumer(broker, &group, &topic).config([("auto.offset.reset", "error")]).build().unwrap();
    for _ in 0..2 {
        let error = stopped.run(|_: &Batch<u64>| Ok(())).unwrap_err();
        assert!(matches!(&error, Error::Partition { partition: 0, .. }), "{error}");
    }
    drop(stopped);

    let build = || consumer(broker, &group, &topic).config([("group.instance.id", "one")]).build().unwrap();
    let mut fenced = build();
    fenced.process(|_: &Batch<u64>| Ok(())).unwrap().unwrap();
    let _fencing = build();
    for _ in 0..2 {
        let error = fenced.run(|_: &Batch<u64>| Ok(())).unwrap_err();
        assert!(error.is_fatal(), "{error}");
    }
}

/// An error in the place of a partition's first record, then a member that joins and leaves: the partition is read.
#[test]
fn an_error_before_the_first_record_loses_nothing() {
    let broker = embedded(2);
    broker.fail_next(ApiKey::ListOffsets, [ErrorCode::TopicAuthorizationFailed; 2]).unwrap();
    let (sender, seen) = channel();
    let start = || {
        let (mut consumer, sender) = (member(&broker).build().unwrap(), sender.clone());
        let stopper = consumer.stopper();
        let work = move || {
            consumer
                .run(|batch: &Batch<u64>| {
                    batch.iter().for_each(|record| sender.send((record.partition(), record.payload)).unwrap());
                    Ok(())
                })
                .unwrap();
        };
        (stopper, thread::spawn(work))
    };
    let await_numbers = |numbers: std::ops::Range<u64>, what: &str| {
        let mut missing: std::collections::BTreeSet<_> =
            (0..2).flat_map(|partition| numbers.clone().map(move |number| (partition, number))).collect();
        while !missing.is_empty() {
            let record = seen.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what}: no {missing:?}"));
            assert!(missing.remove(&record), "{record:?} came twice");
        }
    };
    // Neither the error nor the end of the join shows outside: where these times are too short, less is tested.
    let one = start();
    let_pass(Duration::from_secs(3));
    let two = start();
    let_pass(Duration::from_secs(8));
    for partition in 0..2 {
        produce_numbers(broker.bootstrap_servers(), "t", partition, 0..3);
    }
    await_numbers(0..3, "after the join");
    two.0.stop();
    two.1.join().unwrap();
    for partition in 0..2 {
        produce_numbers(broker.bootstrap_servers(), "t", partition, 3..6);
    }
    await_numbers(3..6, "after the second member left");
    one.0.stop();
    one.1.join().unwrap();
}

/// `process` waits for the commit of the part that is done.
#[test]
fn the_part_that_is_done_is_committed_before_process_returns() {
    let broker = embedded(1);
    produce_numbers(broker.bootstrap_servers(), "t", 0, 0..3);
    let mut consumer = member(&broker).batch_size(3).linger(Duration::from_secs(2)).build().unwrap();
    let delay = Duration::from_millis(700);
    let mut handled = None;
    let failed = consumer.process(|_: &Batch<u64>| {
        broker.delay(delay).unwrap();
        handled = Some(Instant::now());
        Err(HandlerError::at(2, "the third"))
    });
    assert!(failed.is_err());
    assert!(handled.unwrap().elapsed() >= delay, "it did not wait for the broker");
    broker.delay(Duration::ZERO).unwrap();
    assert_eq!(committed(broker.bootstrap_servers(), "g", "t", 0), Some(2));
}

/// After many failed commits a close still makes an attempt of its own.
#[test]
fn a_close_tries_to_commit_whatever_failed_before() {
    let broker = embedded(1);
    produce_numbers(broker.bootstrap_servers(), "t", 0, 0..3);
    let mut consumer = member(&broker).batch_size(3).linger(Duration::from_secs(2)).build().unwrap();
    broker.fail_next(ApiKey::OffsetCommit, [ErrorCode::InvalidCommitOffsetSize; 1_000]).unwrap();
    let failed = consumer.process(|_: &Batch<u64>| Ok(())).unwrap_err();
    assert!(failed.to_string().contains("t[0=0:3]"), "{failed}");
    broker.clear_failures(ApiKey::OffsetCommit).unwrap();
    consumer.close(Duration::from_secs(10)).unwrap();
    assert_eq!(committed(broker.bootstrap_servers(), "g", "t", 0), Some(3));
}

/// Durations that mean for ever are no more than that.
#[test]
fn for_ever_is_a_duration() {
    let broker = embedded(1);
    produce_numbers(broker.bootstrap_servers(), "t", 0, 0..3);
    let build = || member(&broker).idle_timeout(Duration::MAX).batch_size(3).linger(Duration::MAX).build().unwrap();
    let mut consumer: Consumer = build();
    assert_eq!(consumer.process(|_: &Batch<u64>| Ok(())).unwrap().unwrap().records, 3);
    consumer.close(Duration::MAX).unwrap();
}

/// A logger that panics when it is told to, on the crate's own thread.
struct Logger;
static BREAK: AtomicBool = AtomicBool::new(false);

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let by_fetch = record.target().starts_with("kafka_envelope::consumer::fetch");
        assert!(!by_fetch || !BREAK.swap(false, Ordering::SeqCst), "a logger that cannot write");
    }

    fn flush(&self) {}
}

/// A panic on the fetch thread ends the run with an error, and the member leaves its group.
#[test]
fn a_panic_of_the_logger_ends_the_run() {
    let Some(()) = crate::support::Worker::arguments("failures::a_panic_of_the_logger_ends_the_run") else {
        // In a process of its own: a logger is for a whole process.
        let mut worker = crate::support::Worker::spawn("failures::a_panic_of_the_logger_ends_the_run", &());
        assert_eq!(worker.next::<String>(PATIENCE), "left");
        assert!(worker.wait(PATIENCE).success());
        return;
    };
    log::set_logger(&Logger).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let broker = embedded(1);
    produce_numbers(broker.bootstrap_servers(), "t", 0, 0..3);
    let mut broken = member(&broker).build().unwrap();
    broker.fail_next(ApiKey::OffsetCommit, [ErrorCode::InvalidCommitOffsetSize]).unwrap();
    BREAK.store(true, Ordering::SeqCst);
    let error = broken.run(|_: &Batch<u64>| Ok(())).unwrap_err();
    assert!(matches!(error, Error::Closed(_)), "{error}");
    assert!(matches!(broken.run(|_: &Batch<u64>| Ok(())), Err(Error::Closed(_))));
    assert!(matches!(broken.close(PATIENCE), Err(Error::Closed(_))));
    let mut next = member(&broker).build().unwrap();
    assert!(next.process(|_: &Batch<u64>| Ok(())).unwrap().is_some());
    crate::support::emit(&"left");
}
