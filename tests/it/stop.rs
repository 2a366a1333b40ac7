//! Every stop returns within its bound: idle, handling, without a broker, with one that is frozen.

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use kafka_envelope::{Batch, Consumer, Error};

use crate::support::{
    Broker, TestTopic, committed, consumer, create_topic, group, produce_numbers, shared_broker, unique,
};
#[cfg(feature = "signal")]
use crate::support::{Worker, emit, eventually};

/// What a run may take to return after `stop`, with the client's own end: 5 s for the last commit, 5 s for the drop,
/// and as much again for a busy machine.
const BOUND: Duration = Duration::from_secs(20);

/// Runs the consumer on a thread until `ready` says so, stops it there, and returns the run's result and how long run
/// and drop took.
fn stopped_when(
    mut consumer: Consumer,
    ready: impl FnOnce(),
    mut handler: impl FnMut(&Batch<u64>) + Send + 'static,
) -> (Result<kafka_envelope::Summary, Error>, Duration) {
    let stopper = consumer.stopper();
    let (sender, ended) = channel();
    thread::spawn(move || {
        let result = consumer.run(|batch: &Batch<u64>| {
            handler(batch);
            Ok(())
        });
        drop(consumer);
        sender.send(result).unwrap();
    });
    ready();
    let start = Instant::now();
    stopper.stop();
    let result = ended.recv_timeout(BOUND).expect("the consumer hangs");
    (result, start.elapsed())
}

#[test]
fn an_idle_consumer_stops_at_once_and_stays_stopped() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..1);
    let mut consumer = Consumer::builder("test", broker, &group()).topics([&*topic]).build().unwrap();
    consumer.process(|_: &Batch<u64>| Ok(())).unwrap().unwrap();
    consumer.stopper().stop();
    assert!(consumer.process(|_: &Batch<u64>| panic!("stopped")).unwrap().is_none());
    assert_eq!(consumer.run(|_: &Batch<u64>| panic!("stopped")).unwrap().batches, 0);
    consumer.close(BOUND).unwrap();

    let waiting = Consumer::builder("test", broker, &group()).topics([&*topic]).build().unwrap();
    let (sender, first) = channel();
    let (result, _) = stopped_when(waiting, || first.recv_timeout(BOUND).unwrap(), move |_| sender.send(()).unwrap());
    assert_eq!(result.unwrap().records, 1);
}

/// The batch in hand is finished and committed, then `run` returns; the next batch is not begun.
#[test]
fn a_stop_while_handling_waits_for_the_handler() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..10);
    let mut consumer = consumer(broker, &group, &topic).batch_size(5).build().unwrap();
    let stopper = consumer.stopper();
    let summary = consumer
        .run(|_: &Batch<u64>| {
            stopper.stop();
            Ok(())
        })
        .unwrap();
    assert_eq!(summary.batches, 1);
    assert_eq!(committed(broker, &group, &topic, 0), Some(summary.records as i64));
}

/// Nobody listens at the address: the consumer waits, and stops when it is told to.
#[test]
fn a_consumer_without_a_broker_stops() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let consumer = Consumer::builder("test", &port.to_string(), &group()).topics(["t"]).build().unwrap();
    let (result, _) = stopped_when(consumer, || {}, |_| panic!("a record from nowhere"));
    assert_eq!(result.unwrap().records, 0);
}

/// The broker dies under a consumer that has handled records: it stops, and says what is not committed.
#[test]
fn a_consumer_whose_broker_died_stops() {
    let mut broker = Broker::start();
    let topic = create_topic(broker.bootstrap(), 1);
    produce_numbers(broker.bootstrap(), &topic, 0, 0..1);
    let consumer = Consumer::builder("test", broker.bootstrap(), &unique("group")).topics([topic]).build().unwrap();
    let (handling, handled) = channel();
    let (go_on, wait) = channel();
    let stop = || {
        handled.recv_timeout(BOUND).unwrap();
        broker.kill();
        go_on.send(()).unwrap();
    };
    let (result, _) = stopped_when(consumer, stop, move |_| {
        handling.send(()).unwrap();
        wait.recv_timeout(BOUND).unwrap();
    });
    assert!(matches!(result, Err(Error::NotCommitted { .. })), "{result:?}");
}

/// The broker freezes with a commit on its way: `run` and `drop` return within their bounds all the same, and a new
/// consumer on the thawed broker gets what was not committed.
#[test]
fn a_consumer_whose_broker_is_frozen_stops() {
    let broker = Broker::start();
    let (topic, group) = (create_topic(broker.bootstrap(), 1), unique("group"));
    produce_numbers(broker.bootstrap(), &topic, 0, 0..1);
    let frozen = Consumer::builder("test", broker.bootstrap(), &group).topics([&topic]).build().unwrap();
    let (handling, handled) = channel();
    let (go_on, wait) = channel();
    let stop = || {
        handled.recv_timeout(BOUND).unwrap();
        broker.freeze();
        go_on.send(()).unwrap();
    };
    let (result, took) = stopped_when(frozen, stop, move |_| {
        handling.send(()).unwrap();
        wait.recv_timeout(BOUND).unwrap();
    });
    assert!(matches!(&result, Err(Error::NotCommitted { partitions, .. }) if *partitions == format!("{topic}[0=0:1]")));
    assert!(took >= Duration::from_secs(5), "the commit had its time, {took:?}");

    broker.thaw();
    let mut next = consumer(broker.bootstrap(), &group, &topic).idle_timeout(Duration::from_secs(90)).build().unwrap();
    // The commit may have been carried out after the thaw: then there is nothing to come, and that is as good.
    produce_numbers(broker.bootstrap(), &topic, 0, 1..2);
    let mut seen = Vec::new();
    while seen.last() != Some(&1) {
        let handled = next.process(|batch: &Batch<u64>| {
            seen.extend(batch.iter().map(|record| record.payload));
            Ok(())
        });
        assert!(handled.unwrap().is_some(), "saw {seen:?}");
    }
}

/// Handles its one batch until it is told to go on, on a file's appearance, then returns from `run`.
#[cfg(feature = "signal")]
#[test]
fn a_signalled_worker() {
    let Some((broker, topic, group, gate)) = Worker::arguments::<(String, String, String, String)>(WORKER) else {
        return;
    };
    let mut consumer = Consumer::builder("test", &broker, &group).topics([topic]).build().unwrap();
    consumer.stop_on_signals().unwrap();
    let summary = consumer
        .run(|_: &Batch<u64>| {
            emit(&"handling");
            eventually(BOUND, "the gate opens", || std::path::Path::new(&gate).exists().then_some(()));
            Ok(())
        })
        .unwrap();
    emit(&summary.records);
}

#[cfg(feature = "signal")]
const WORKER: &str = "stop::a_signalled_worker";

/// SIGTERM lets the batch in hand be finished and committed; a second one ends the process at once, uncommitted.
#[cfg(feature = "signal")]
#[test]
fn a_signal_drains_and_a_second_one_exits() {
    let broker = shared_broker();
    for patient in [true, false] {
        let (topic, group) = (TestTopic::new(broker, 1), group());
        produce_numbers(broker, &topic, 0, 0..1);
        let gate = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("gate"));
        let mut worker = Worker::spawn(WORKER, &(broker, &*topic, &group, &gate));
        assert_eq!(worker.next::<String>(BOUND), "handling");
        worker.sigterm();
        if patient {
            std::fs::write(&gate, "").unwrap();
            assert_eq!(worker.next::<u64>(BOUND), 1);
            assert!(worker.wait(BOUND).success());
            std::fs::remove_file(&gate).unwrap();
        } else {
            let status = eventually(BOUND, "the second signal ends it", || {
                worker.sigterm();
                worker.ended()
            });
            assert_eq!(status.code(), Some(128 + 15));
        }
        assert_eq!(committed(broker, &group, &topic, 0), patient.then_some(1));
    }
}
