//! The producer's futures on Apache Kafka.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use kafka_envelope::{Error, Message, Oversize, Producer, Report, unpack};
use rdkafka::Message as _;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use crate::support::{Broker, TestTopic, consume_all, eventually, shared_broker};

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn producer(brokers: &str, config: &[(&str, &str)]) -> Producer {
    Producer::builder("billing", brokers).config(config.iter().copied()).build().unwrap()
}

fn numbers(count: u64) -> Vec<Message<u64>> {
    (0..count).map(|number| Message::new(number).partition(0)).collect()
}

fn payloads(brokers: &str, topic: &str) -> Vec<u64> {
    let payload = |record: &rdkafka::message::OwnedMessage| unpack(record.payload()?).ok()?.payload().ok();
    consume_all(brokers, topic).iter().map(|record| payload(record).unwrap()).collect()
}

/// A future can be spawned, waits for the acknowledgement and not for the linger.
#[test]
fn a_spawned_task_produces() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let producer = producer(broker, &[("linger.ms", "60000")]);
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|number| {
            let (producer, topic) = (producer.clone(), topic.to_string());
            runtime.spawn(async move { producer.produce_async(&topic, &Message::new(number)).await })
        })
        .collect();
    let mut offsets: Vec<_> = tasks
        .into_iter()
        .map(|task| runtime.block_on(async { timeout(Duration::from_secs(30), task).await }).unwrap().unwrap().unwrap())
        .map(|delivery| delivery.offset)
        .collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (0..20).collect::<Vec<_>>());
    let report = runtime.block_on(producer.produce_batch_async(&topic, &numbers(3))).unwrap();
    assert_eq!(report.deliveries.iter().map(|delivery| delivery.offset).collect::<Vec<_>>(), [20, 21, 22]);
    assert_eq!(runtime.block_on(producer.produce_batch_async::<u64>(&topic, &[])).unwrap(), Report::default());
}

/// A batch 20 times as large as the queue goes through in its order, while the same thread serves another task.
#[test]
fn a_full_queue_does_not_block_the_thread() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let producer = producer(broker, &[("queue.buffering.max.messages", "1000"), ("linger.ms", "1000")]);
    let runtime = one_thread();
    let ticks = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let messages = numbers(20_000);
    let (report, longest) = runtime.block_on(async {
        let ticker = tokio::spawn({
            let (ticks, done) = (Arc::clone(&ticks), Arc::clone(&done));
            async move {
                let mut longest = Duration::ZERO;
                while !done.load(Ordering::Relaxed) {
                    let before = Instant::now();
                    sleep(Duration::from_millis(1)).await;
                    longest = longest.max(before.elapsed());
                    ticks.fetch_add(1, Ordering::Relaxed);
                }
                longest
            }
        });
        let report = producer.produce_batch_async(&topic, &messages).await.unwrap();
        done.store(true, Ordering::Relaxed);
        (report, ticker.await.unwrap())
    });
    assert_eq!(report.deliveries.len(), 20_000);
    assert!(report.deliveries.iter().map(|delivery| delivery.offset).eq(0..20_000));
    // Writing 20,000 messages is one piece of work; nothing else may hold the thread up.
    let ticks = ticks.load(Ordering::Relaxed);
    assert!(ticks >= 10 && longest < Duration::from_secs(2), "{ticks} ticks, the longest took {longest:?}");
    assert_eq!(payloads(broker, &topic), (0..20_000).collect::<Vec<_>>());
}

/// The errors are those of the blocking calls.
#[test]
fn errors_are_those_of_the_blocking_calls() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let producer = Producer::builder("billing", broker)
        .config([("message.max.bytes", "2000")])
        .oversize(Oversize::Skip)
        .build()
        .unwrap();
    let runtime = one_thread();
    let large = Message::new("x".repeat(3_000));
    let elsewhere = Message::new("y".to_owned()).partition(9);
    let bad = Message::new("z".to_owned()).partition(-1);
    for message in [&large, &elsewhere, &bad] {
        let (blocking, future) =
            (producer.produce(&topic, message), runtime.block_on(producer.produce_async(&topic, message)));
        assert_eq!(format!("{:?}", future.unwrap_err()), format!("{:?}", blocking.unwrap_err()));
    }
    let batch = [Message::new("a".to_owned()), large, elsewhere];
    let error = runtime.block_on(producer.produce_batch_async(&topic, &batch)).unwrap_err();
    let same = producer.produce_batch(&topic, &batch).unwrap_err();
    assert_eq!(format!("{error:?}"), format!("{same:?}"));
    let Error::NotDelivered { total: 3, failed, .. } = error else { panic!("{error}") };
    assert_eq!(failed.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [1, 2]);
    assert!(matches!(runtime.block_on(producer.produce_async("a/b", &batch[0])), Err(Error::Setting { .. })));
}

/// What the client has is sent though its future is dropped, and what fails then is counted.
#[test]
fn a_dropped_future_takes_nothing_back() {
    let broker = Broker::start();
    let brokers = broker.bootstrap();
    let topic = TestTopic::new(brokers, 1);
    let producer = producer(brokers, &[("delivery.timeout.ms", "3000"), ("linger.ms", "0")]);
    let runtime = one_thread();
    let task = &mut Context::from_waker(Waker::noop());
    let messages = numbers(10);
    runtime.block_on(async {
        assert!(pin!(producer.produce_batch_async(&topic, &messages)).poll(task).is_pending());
    });
    producer.flush(Duration::from_secs(30)).unwrap();
    assert_eq!((payloads(brokers, &topic), producer.unclaimed_failures()), ((0..10).collect::<Vec<_>>(), 0));

    broker.freeze();
    runtime.block_on(async {
        assert!(pin!(producer.produce_batch_async(&topic, &messages)).poll(task).is_pending());
        assert!(pin!(producer.produce_async(&topic, &messages[0])).poll(task).is_pending());
    });
    eventually(Duration::from_secs(60), "each of them fails", || (producer.unclaimed_failures() == 11).then_some(()));
    broker.thaw();
}

/// A queue that stays full is an error after the delivery timeout, and a broker that does not answer blocks no thread.
#[test]
fn waiting_for_room_is_bounded() {
    let broker = Broker::start();
    let brokers = broker.bootstrap();
    let topic = TestTopic::new(brokers, 1);
    let config = [("queue.buffering.max.messages", "5"), ("delivery.timeout.ms", "2000"), ("linger.ms", "0")];
    let producer = producer(brokers, &config);
    producer.produce(&topic, &Message::new(0)).unwrap();
    broker.freeze();
    let messages = numbers(20);
    let error = one_thread().block_on(async {
        let sent = timeout(Duration::from_secs(60), producer.produce_batch_async(&topic, &messages));
        sent.await.expect("bounded").unwrap_err()
    });
    let Error::NotDelivered { total: 20, failed, fatal: false, .. } = &error else { panic!("{error}") };
    assert_eq!(failed.len(), 20);
    assert!(error.is_retriable(), "{error}");
    broker.thaw();
}
