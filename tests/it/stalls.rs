//! Partitions that stand still are seen and mended, and so is a handler that does not return.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use kafka_envelope::testing::{ApiKey, EmbeddedBroker, ErrorCode};
use kafka_envelope::{Batch, Consumer, Health, StallCause, Stopper};

use crate::support::{
    Broker, PATIENCE, TestTopic, committed, consumer, create_topic, eventually, group, keep_logs, logged,
    produce_numbers, shared_broker, unique,
};

/// A consumer that runs on a thread of its own.
struct Running {
    /// (partition, payload) of all that it handles.
    seen: Receiver<(i32, u64)>,
    health: Health,
    stopper: Stopper,
    thread: thread::JoinHandle<()>,
}

impl Running {
    fn new(mut consumer: Consumer, mut handle: impl FnMut(&Batch<u64>) + Send + 'static) -> Self {
        let (sender, seen) = channel();
        let (health, stopper) = (consumer.health(), consumer.stopper());
        let work = move || {
            let handler = |batch: &Batch<u64>| {
                handle(batch);
                batch.iter().for_each(|record| sender.send((record.partition(), record.payload)).unwrap());
                Ok(())
            };
            consumer.run(handler).unwrap();
        };
        Self { seen, health, stopper, thread: thread::spawn(work) }
    }

    /// Each partition brings exactly these numbers, in order.
    #[track_caller]
    fn expect(&self, partitions: i32, numbers: std::ops::Range<u64>, what: &str) {
        let mut next: Vec<u64> = (0..partitions).map(|_| numbers.start).collect();
        while next.iter().any(|next| *next < numbers.end) {
            let (partition, number) = self.seen.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what}: {next:?}"));
            assert_eq!(number, next[partition as usize], "{what}: partition {partition}");
            next[partition as usize] += 1;
        }
    }

    fn stop(self) {
        self.stopper.stop();
        self.thread.join().unwrap();
        assert_eq!(self.seen.try_iter().count(), 0, "something came twice");
    }
}

fn embedded(topic: &str, partitions: i32) -> EmbeddedBroker {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic(topic, partitions).unwrap();
    broker
}

fn let_pass(time: Duration) {
    let until = Instant::now() + time;
    eventually(time * 2, "time passes", || (Instant::now() >= until).then_some(()));
}

/// The question for the committed offsets fails, several times: the partitions are read all the same, from where the
/// group stands.
#[test]
fn a_failed_offset_fetch_is_asked_again() {
    for strategy in ["cooperative-sticky", "range,roundrobin"] {
        for code in [ErrorCode::TopicAuthorizationFailed, ErrorCode::Unknown, ErrorCode::CoordinatorLoadInProgress] {
            let what = format!("{code:?} with {strategy}");
            let broker = embedded("t", 2);
            let brokers = broker.bootstrap_servers();
            let build = || {
                consumer(brokers, "g", "t")
                    .config([
                        ("partition.assignment.strategy", strategy),
                        ("session.timeout.ms", "6000"),
                        ("heartbeat.interval.ms", "500"),
                    ])
                    .idle_timeout(PATIENCE)
                    .build()
                    .unwrap()
            };
            (0..2).for_each(|partition| produce_numbers(brokers, "t", partition, 0..10));
            let first = Running::new(build(), |_| ());
            first.expect(2, 0..10, &what);
            first.stop();

            (0..2).for_each(|partition| produce_numbers(brokers, "t", partition, 10..20));
            // One of them meets the consumer's own question.
            broker.fail_next(ApiKey::OffsetFetch, [code; 4]).unwrap();
            let second = Running::new(build(), |_| ());
            second.expect(2, 10..20, &what);
            (0..2).for_each(|partition| produce_numbers(brokers, "t", partition, 20..30));
            second.expect(2, 20..30, &what);
            second.stop();
            for partition in 0..2 {
                assert_eq!(committed(brokers, "g", "t", partition), Some(30), "{what}");
            }
        }
    }
}

/// The broker refuses every fetch while there is more to read: the partition is stalled, which is logged once, and
/// once again when it is over.
#[test]
fn a_partition_that_cannot_be_read_is_seen() {
    keep_logs();
    for strategy in ["cooperative-sticky", "range,roundrobin"] {
        let topic = unique("stalled");
        let broker = embedded(&topic, 1);
        let brokers = broker.bootstrap_servers();
        produce_numbers(brokers, &topic, 0, 0..5);
        let builder = consumer(brokers, "g", &topic).config([("partition.assignment.strategy", strategy)]);
        let running = builder.idle_timeout(PATIENCE).stall_timeout(Duration::from_secs(2)).build().unwrap();
        let running = Running::new(running, |_| ());
        running.expect(1, 0..5, "before");
        assert!(running.health.is_healthy());

        broker.fail_next(ApiKey::Fetch, [ErrorCode::TopicAuthorizationFailed; 10_000]).unwrap();
        // The fetch that is under way is still answered.
        let_pass(Duration::from_secs(1));
        produce_numbers(brokers, &topic, 0, 5..10);
        let stall = eventually(PATIENCE, "the stall is seen", || running.health.stalls().pop());
        assert_eq!((&*stall.topic, stall.partition, stall.next_offset, stall.backlog), (&*topic, 0, Some(5), 5));
        assert_eq!(stall.cause, StallCause::Broker);
        assert!(stall.since >= Duration::from_secs(2), "{stall:?}");
        assert!(!running.health.is_healthy());
        let_pass(Duration::from_secs(5));
        assert_eq!(running.health.stalls().len(), 1);
        assert_eq!(logged(&["WARN", &topic, "is stalled at offset 5"]).len(), 1);
        assert!(logged(&["INFO", &topic, "no longer stalled"]).is_empty());

        broker.clear_failures(ApiKey::Fetch).unwrap();
        running.expect(1, 5..10, "after");
        eventually(PATIENCE, "it is healthy again", || running.health.is_healthy().then_some(()));
        produce_numbers(brokers, &topic, 0, 10..15);
        running.expect(1, 10..15, "later");
        running.stop();
        assert_eq!(logged(&["WARN", &topic, "is stalled"]).len(), 1);
        assert_eq!(logged(&["INFO", &topic, "no longer stalled"]).len(), 1);
    }
}

/// The broker freezes in the middle of a topic: the consumer says which partition waits for it, and goes on where it
/// was when the broker answers again.
#[test]
fn a_frozen_broker_is_seen() {
    keep_logs();
    let broker = Broker::start();
    let topic = create_topic(broker.bootstrap(), 1);
    for from in 0..40 {
        produce_numbers(broker.bootstrap(), &topic, 0, from * 5..from * 5 + 5);
    }
    // Nothing is fetched ahead, so that there is a backlog.
    let running = consumer(broker.bootstrap(), &group(), &topic)
        .config([("queued.min.messages", "1"), ("fetch.message.max.bytes", "1"), ("socket.timeout.ms", "10000")])
        .idle_timeout(PATIENCE)
        .batch_size(5)
        .stall_timeout(Duration::from_secs(3))
        .build()
        .unwrap();
    let (go_on, gate) = channel();
    let running = Running::new(running, move |_| gate.recv_timeout(PATIENCE).unwrap_or_default());
    (0..3).for_each(|_| go_on.send(()).unwrap());
    running.expect(1, 0..15, "before");
    broker.freeze();
    (0..200).for_each(|_| go_on.send(()).unwrap());
    let stall = eventually(PATIENCE, "the stall is seen", || {
        running.health.stalls().into_iter().find(|stall| stall.cause == StallCause::Broker)
    });
    let at = stall.next_offset.unwrap() as u64;
    assert_eq!((&*stall.topic, stall.partition, stall.backlog), (&*topic, 0, 200 - at));
    assert!((15..150).contains(&at), "{stall:?}");
    running.expect(1, 15..at, "fetched before");
    broker.thaw();
    running.expect(1, at..200, "after");
    eventually(PATIENCE, "it is healthy again", || running.health.is_healthy().then_some(()));
    running.stop();
    assert_eq!(logged(&["WARN", &topic, "is stalled"]).len(), 1);
    assert_eq!(logged(&["INFO", &topic, "no longer stalled"]).len(), 1);
}

/// Records that wait for a handler are its stall, not the broker's.
#[test]
fn a_handler_that_stands_still_is_seen() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..20);
    let running = consumer(broker, &group, &topic).batch_size(5).linger(Duration::from_secs(2));
    let running = running.stall_timeout(Duration::from_secs(1)).build().unwrap();
    let (go_on, gate) = channel::<()>();
    let running = Running::new(running, move |_| gate.recv_timeout(PATIENCE).unwrap_or_default());
    let stall = eventually(PATIENCE, "the stall is seen", || running.health.stalls().pop());
    assert_eq!((stall.next_offset, stall.backlog, stall.cause), (Some(0), 20, StallCause::Handler));
    drop(go_on);
    running.expect(1, 0..20, "after");
    eventually(PATIENCE, "it is healthy again", || running.health.is_healthy().then_some(()));
    running.stop();
}

/// The handler hangs: that is reported, the group goes on without it, and its late `Ok` commits nothing. Then it is a
/// member like any other.
#[test]
fn a_handler_that_hangs_is_reported_and_left_behind() {
    keep_logs();
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..10);
    let build = || {
        consumer(broker, &group, &topic)
            .config([
                ("max.poll.interval.ms", "6000"),
                ("session.timeout.ms", "6000"),
                ("heartbeat.interval.ms", "500"),
            ])
            .drain_budget(Duration::from_secs(5))
            .idle_timeout(PATIENCE)
    };
    let hanging = build().batch_size(10).linger(Duration::from_secs(2)).handler_timeout(Duration::from_secs(1));
    let mut hanging = hanging.build().unwrap();
    let health = hanging.health();
    let mut second = None;
    let done = hanging
        .process(|batch: &Batch<u64>| {
            assert_eq!(batch.len(), 10);
            let overdue = eventually(PATIENCE, "it is overdue", || health.handler_overdue());
            assert!(overdue >= Duration::from_secs(1) && !health.is_healthy());
            let running = Running::new(build().batch_size(4).build().unwrap(), |_| ());
            running.expect(1, 0..10, "by the second member");
            eventually(PATIENCE, "it is committed", || {
                (committed(broker, &group, &topic, 0) == Some(10)).then_some(())
            });
            produce_numbers(broker, &topic, 0, 10..13);
            running.expect(1, 10..13, "by the second member");
            second = Some(running);
            Ok(())
        })
        .unwrap()
        .unwrap();
    assert!(!done.committed, "{done:?}");
    eventually(PATIENCE, "it is healthy again", || health.is_healthy().then_some(()));
    let named = format!("{}:0", &*topic);
    assert_eq!(logged(&["ERROR", "the handler has not returned within 1s", &named]).len(), 1);
    second.unwrap().stop();
    assert_eq!(committed(broker, &group, &topic, 0), Some(13));

    produce_numbers(broker, &topic, 0, 13..15);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let handled = hanging.process(|batch: &Batch<u64>| {
            seen.extend(batch.iter().map(|record| record.payload));
            Ok(())
        });
        assert!(handled.unwrap().is_some(), "it is no member any more, {seen:?}");
    }
    assert_eq!(seen, [13, 14]);
    assert_eq!(committed(broker, &group, &topic, 0), Some(15));
}

/// Options that cannot work are refused before anything connects.
#[test]
fn timeouts_of_zero_and_windows_below_a_batch_are_refused() {
    let builder = || Consumer::builder("test", "127.0.0.1:1", "g").topics(["t"]);
    for (builder, key) in [
        (builder().stall_timeout(Duration::ZERO), "stall_timeout"),
        (builder().handler_timeout(Duration::ZERO), "handler_timeout"),
        (builder().batch_size(10).max_window(9), "max_window"),
    ] {
        let error = builder.build().unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
}
