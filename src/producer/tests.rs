use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::thread;

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, OwnedMessage};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::Serializer;

use super::sending::{Buffer, KEEP_BYTES};
use super::threads::CLOSE;
use super::*;
use crate::envelope::unpack;
use crate::message::arena::encode_header;
use crate::message::{Cause, Headers, wire_size};
use crate::refusal::RefusalKind;
use crate::testing::{ApiKey, EmbeddedBroker, ErrorCode};

const TOPIC: &str = "numbers";

fn broker(partitions: i32) -> EmbeddedBroker {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic(TOPIC, partitions).unwrap();
    broker
}

fn producer(broker: &EmbeddedBroker, config: &[(&str, &str)]) -> Producer {
    Producer::builder("test", broker.bootstrap_servers()).config(config.iter().copied()).build().unwrap()
}

/// The records of a partition, in order: as many as its high watermark says.
fn records(broker: &EmbeddedBroker, partition: i32) -> Vec<OwnedMessage> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap_servers()).set("group.id", "reader");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
    consumer.assign(&assignment).unwrap();
    let (low, high) = consumer.fetch_watermarks(TOPIC, partition, Duration::from_secs(10)).unwrap();
    let mut found = Vec::new();
    while (found.len() as i64) < high - low {
        let record = consumer.poll(Duration::from_secs(10)).unwrap().unwrap();
        found.push(record.detach());
    }
    found
}

fn payloads(broker: &EmbeddedBroker, partition: i32) -> Vec<u64> {
    let payload = |record: &OwnedMessage| unpack(record.payload().unwrap()).unwrap().payload().unwrap();
    records(broker, partition).iter().map(payload).collect()
}

fn numbers(count: u64) -> Vec<Message<u64>> {
    (0..count).map(|number| Message::new(number).partition(0)).collect()
}

#[test]
fn a_batch_is_delivered_in_its_order() {
    let broker = broker(1);
    let producer = producer(&broker, &[]);
    let report = producer.produce_batch(TOPIC, &numbers(1_000)).unwrap();
    let offsets: Vec<_> = report.deliveries.iter().map(|delivery| delivery.offset).collect();
    assert_eq!(offsets, (0..1_000).collect::<Vec<_>>());
    assert_eq!(producer.produce(TOPIC, &Message::new(1_000)).unwrap(), Delivery { partition: 0, offset: 1_000 });
    assert_eq!(payloads(&broker, 0), (0..=1_000).collect::<Vec<_>>());
    assert_eq!(producer.produce_batch::<u64>(TOPIC, &[]).unwrap(), Report::default());
}

#[test]
fn waiting_ends_the_linger() {
    let broker = broker(1);
    let producer = producer(&broker, &[("linger.ms", "60000")]);
    let start = Instant::now();
    producer.produce(TOPIC, &Message::new(0)).unwrap();
    producer.produce_batch(TOPIC, &numbers(10)).unwrap();
    producer.send(TOPIC, &Message::new(0)).unwrap().wait().unwrap();
    drop(producer.send(TOPIC, &Message::new(0)).unwrap());
    producer.flush(Duration::from_secs(20)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn what_can_never_be_sent_is_refused_before_anything_is() {
    let broker = broker(1);
    let producer = producer(&broker, &[]);
    let key = |result: Result<Report>| match result.unwrap_err() {
        Error::Setting { key, .. } => key,
        error => panic!("{error}"),
    };
    let with = |bad| [Message::new(1), bad];
    assert_eq!(key(producer.produce_batch("", &numbers(1))), "topic");
    assert_eq!(key(producer.produce_batch(TOPIC, &with(Message::new(2).partition(-1)))), "partition");
    assert_eq!(key(producer.produce_batch(TOPIC, &with(Message::new(2).header("a\0", "b")))), "header");
    let long_ago = chrono::DateTime::from_timestamp_millis(-1).unwrap();
    assert_eq!(key(producer.produce_batch(TOPIC, &with(Message::new(2).timestamp(long_ago)))), "timestamp");
    let not_json = std::collections::HashMap::from([([1], 1)]);
    let error = producer.produce(TOPIC, &Message::new(not_json)).unwrap_err();
    assert!(matches!(error, Error::Encode { .. }), "{error}");
    assert_eq!(payloads(&broker, 0), [0; 0]);

    assert!(Producer::new("", "localhost").is_err());
    assert!(Producer::new("test", "").is_err());
    let unknown = Producer::builder("test", "localhost").config([("no.such.key", "1")]).build().unwrap_err();
    assert!(matches!(unknown, Error::Setting { ref key, .. } if key == "no.such.key"), "{unknown}");
    assert!(Producer::builder("test", "localhost").config([("queue.buffering.max.kbytes", "10")]).build().is_err());
}

/// A text whose envelope has exactly the size at which librdkafka takes or refuses it.
fn text(producer: &Producer, message: &Message<String>, over: usize) -> Message<String> {
    let empty = crate::pack("test", "", &message.refs).unwrap().len();
    let nothing = Injected::default();
    let headers = message.headers(nothing.of(message.carried()));
    let room = producer.inner.writer.limit - wire_size(message.key(), empty, headers);
    let mut message = message.clone();
    message.payload = "x".repeat(room + over);
    message
}

#[test]
fn the_limit_is_exactly_librdkafkas() {
    let broker = broker(1);
    let producer = producer(&broker, &[("message.max.bytes", "2000")]);
    let plain = Message::new(String::new());
    let rich = Message::new(String::new())
        .id("x".repeat(300))
        .header("a", "x".repeat(63))
        .header("b", "x".repeat(64))
        .header("empty", "")
        .caused_by(crate::Ref::new("t", 0, 1));
    let mut headers = Vec::new();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    encode_header(&mut headers, "traceparent", Some(parent.as_bytes()));
    encode_header(&mut headers, "tracestate", Some(b"a=1"));
    let traced = plain.clone().caused_by(Cause::new(crate::Ref::new("t", 0, 1), Headers::from_encoded(&headers)));
    for message in [&plain.clone().id(""), &plain, &rich, &traced] {
        producer.produce(TOPIC, &text(&producer, message, 0)).unwrap();
        let error = producer.produce(TOPIC, &text(&producer, message, 1)).unwrap_err();
        assert!(matches!(error, Error::Oversize { index: 0, bytes: 2001, limit: 2000 }), "{error}");
        // librdkafka itself draws the line at the same byte.
        let over = text(&producer, message, 1);
        let unlimited = Writer { limit: usize::MAX, ..producer.inner.writer.clone() };
        let sending =
            Sending::new(&unlimited, TOPIC, std::slice::from_ref(&over), Oversize::Refuse, &Tracing::default())
                .unwrap();
        let topic = producer.inner.topics.get(TOPIC).unwrap();
        let error = producer.inner.enqueue(&topic, &sending.record(0), sending.entry(0), None).unwrap_err();
        assert_eq!(error.rdkafka_error_code(), Some(ErrorCode::MessageSizeTooLarge));
    }
}

#[test]
fn an_oversize_message_is_refused_with_its_batch_or_skipped() {
    let broker = broker(1);
    let refusing = producer(&broker, &[("message.max.bytes", "2000")]);
    let batch: Vec<_> = ["a".into(), "b".repeat(3_000), "c".into()].map(Message::new).into();
    let error = refusing.produce_batch(TOPIC, &batch).unwrap_err();
    assert!(matches!(error, Error::Oversize { index: 1, limit: 2000, .. }), "{error}");

    let skipping = Producer::builder("test", broker.bootstrap_servers())
        .config([("message.max.bytes", "2000")])
        .oversize(Oversize::Skip)
        .build()
        .unwrap();
    let report = skipping.produce_batch(TOPIC, &batch).unwrap();
    // Offset 0 too: the refused batch left nothing.
    let offsets: Vec<_> = report.deliveries.iter().map(|delivery| delivery.offset).collect();
    assert_eq!((offsets, report.skipped), (vec![0, 1], vec![1]));
    assert!(matches!(skipping.produce(TOPIC, &batch[1]), Err(Error::Oversize { index: 0, .. })));

    // Beside a record that fails, a skipped one is among those that are not in the log.
    let batch: Vec<_> = batch.into_iter().chain([Message::new("d".to_owned()).partition(9)]).collect();
    let error = skipping.produce_batch(TOPIC, &batch).unwrap_err();
    let Error::NotDelivered { total: 4, failed, .. } = &error else { panic!("{error}") };
    let reasons: Vec<_> = failed.iter().map(|(place, error)| (*place, error.rdkafka_error_code().unwrap())).collect();
    assert_eq!(reasons, [(1, ErrorCode::MessageSizeTooLarge), (3, ErrorCode::UnknownPartition)]);
}

#[test]
fn a_full_queue_is_waited_out() {
    let broker = broker(1);
    let producer = producer(&broker, &[("queue.buffering.max.messages", "10"), ("linger.ms", "1000")]);
    producer.produce_batch(TOPIC, &numbers(500)).unwrap();
    for message in numbers(100) {
        drop(producer.send(TOPIC, &message).unwrap());
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    assert_eq!(payloads(&broker, 0), (0..500).chain(0..100).collect::<Vec<_>>());
    assert_eq!(producer.unclaimed_failures(), 0);
}

#[test]
fn a_queue_that_stays_full_is_an_error_in_the_end() {
    let broker = broker(1);
    broker.set_down(1).unwrap();
    let config = [("queue.buffering.max.messages", "5"), ("delivery.timeout.ms", "1000"), ("linger.ms", "0")];
    let producer = producer(&broker, &config);
    let error = producer.produce_batch(TOPIC, &numbers(12)).unwrap_err();
    let Error::NotDelivered { total: 12, failed, possibly_persisted, fatal: false, .. } = &error else {
        panic!("{error}")
    };
    let places: Vec<_> = failed.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, (0..12).collect::<Vec<_>>());
    assert_eq!(*possibly_persisted, [0; 0]);
    assert!(error.is_retriable());
}

#[test]
fn what_the_broker_refuses_is_told_record_by_record() {
    let broker = broker(2);
    let producer = producer(&broker, &[("enable.idempotence", "false"), ("retries", "0")]);
    producer.produce(TOPIC, &Message::new(0).partition(0)).unwrap();
    // They may go in one request or in three: the flush of the call before may still be at work.
    broker.fail_next(ApiKey::Produce, [ErrorCode::PolicyViolation; 3]).unwrap();
    let error = producer.produce_batch(TOPIC, &numbers(3)).unwrap_err();
    let Error::NotDelivered { total: 3, failed, possibly_persisted, .. } = &error else { panic!("{error}") };
    broker.clear_failures(ApiKey::Produce).unwrap();
    assert_eq!(failed.len(), 3);
    assert_eq!(failed[0].1.rdkafka_error_code(), Some(ErrorCode::PolicyViolation));
    assert!(possibly_persisted.is_empty());

    // A partition that does not exist: that record alone.
    let batch = [Message::new(7).partition(1), Message::new(8).partition(9), Message::new(9).partition(1)];
    let error = producer.produce_batch(TOPIC, &batch).unwrap_err();
    let Error::NotDelivered { total: 3, failed, .. } = &error else { panic!("{error}") };
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].0, failed[0].1.rdkafka_error_code()), (1, Some(ErrorCode::UnknownPartition)));
    assert_eq!(payloads(&broker, 1), [7, 9]);
}

#[test]
fn a_broken_guarantee_is_fatal_from_then_on() {
    let broker = broker(1);
    let producer = producer(&broker, &[("enable.gapless.guarantee", "true")]);
    producer.produce_batch(TOPIC, &numbers(5)).unwrap();
    broker.fail_next(ApiKey::Produce, [ErrorCode::MessageSizeTooLarge]).unwrap();
    let first = producer.produce_batch(TOPIC, &numbers(5)).unwrap_err();
    assert!(first.is_fatal() && !first.is_retriable(), "{first:?}");
    assert!(matches!(first, Error::NotDelivered { total: 5, .. }), "{first:?}");
    let second = producer.produce(TOPIC, &Message::new(1)).unwrap_err();
    assert!(second.is_fatal() && matches!(second, Error::Kafka(_)), "{second:?}");
    // A new one works.
    drop(producer);
    self::producer(&broker, &[]).produce(TOPIC, &Message::new(1)).unwrap();
}

#[test]
fn a_pending_message_is_a_future() {
    let broker = broker(1);
    let producer = producer(&broker, &[("linger.ms", "0")]);
    let mut pending = pin!(producer.send(TOPIC, &Message::new(1)).unwrap());
    let task = &mut std::task::Context::from_waker(Waker::noop());
    let deadline = Instant::now() + Duration::from_secs(10);
    let delivery = loop {
        match pending.as_mut().poll(task) {
            std::task::Poll::Ready(delivery) => break delivery.unwrap(),
            std::task::Poll::Pending => assert!(Instant::now() < deadline),
        }
        thread::yield_now();
    };
    assert_eq!(delivery, Delivery { partition: 0, offset: 0 });
    // Asked again it answers, and it does not panic.
    assert!(matches!(pending.as_mut().poll(task), std::task::Poll::Ready(Err(_))));
}

#[test]
fn a_pending_message_wakes_its_task() {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let broker = broker(1);
    broker.delay(Duration::from_millis(100)).unwrap();
    let producer = producer(&broker, &[]);
    let mut pending = pin!(producer.send(TOPIC, &Message::new(1)).unwrap());
    let waker = Arc::new(Unpark(thread::current())).into();
    let task = &mut std::task::Context::from_waker(&waker);
    while pending.as_mut().poll(task).is_pending() {
        let start = Instant::now();
        thread::park_timeout(Duration::from_secs(10));
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn failures_nobody_waits_for_are_counted() {
    let broker = broker(1);
    let producer = producer(&broker, &[("enable.idempotence", "false"), ("retries", "0")]);
    producer.produce(TOPIC, &Message::new(0)).unwrap();
    let refuse = || broker.fail_next(ApiKey::Produce, [ErrorCode::PolicyViolation]).unwrap();
    refuse();
    drop(producer.send(TOPIC, &Message::new(1)).unwrap());
    producer.flush(Duration::from_secs(10)).unwrap();
    assert_eq!(producer.unclaimed_failures(), 1);
    // The same where it failed first and was dropped then.
    refuse();
    let pending = producer.send(TOPIC, &Message::new(1)).unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();
    assert_eq!(producer.unclaimed_failures(), 1);
    drop(pending);
    assert_eq!(producer.unclaimed_failures(), 2);
    // One that is waited for is not counted.
    refuse();
    assert!(producer.send(TOPIC, &Message::new(1)).unwrap().wait().is_err());
    assert_eq!(producer.unclaimed_failures(), 2);
}

#[test]
fn the_end_of_the_last_clone_flushes() {
    let broker = broker(1);
    let producer = producer(&broker, &[("linger.ms", "60000")]);
    let clone = producer.clone();
    let pending: Vec<_> = numbers(100).iter().map(|message| producer.send(TOPIC, message).unwrap()).collect();
    drop(producer);
    drop(clone);
    assert_eq!(payloads(&broker, 0).len(), 100);
    // What became of each can still be asked.
    assert!(pending.into_iter().all(|pending| pending.wait().is_ok()));
}

#[test]
fn the_end_is_bounded_without_a_broker() {
    let broker = broker(1);
    let producer = producer(&broker, &[]);
    producer.produce(TOPIC, &Message::new(0)).unwrap();
    broker.set_down(1).unwrap();
    let pending = producer.send(TOPIC, &Message::new(1)).unwrap();
    assert!(matches!(producer.flush(Duration::from_millis(10)), Err(Error::Kafka(KafkaError::Flush(_)))));
    let start = Instant::now();
    drop(producer);
    assert!(start.elapsed() < FLUSH_ON_DROP + CLOSE, "{:?}", start.elapsed());
    assert!(matches!(pending.wait(), Err(Error::NotDelivered { .. })));
}

#[test]
fn a_payload_may_use_the_producer_while_it_is_written() {
    struct Chatty(Producer);
    impl Serialize for Chatty {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.produce(TOPIC, &Message::new(1).partition(0)).unwrap();
            serializer.serialize_u64(2)
        }
    }
    let broker = broker(1);
    let producer = producer(&broker, &[]);
    producer
        .produce_batch(TOPIC, &[Message::new(Chatty(producer.clone())), Message::new(Chatty(producer.clone()))])
        .unwrap();
    assert_eq!(payloads(&broker, 0), [1, 1, 2, 2]);
}

#[test]
fn a_huge_batch_does_not_stay_in_memory() {
    Buffer::take().resize(64 << 20, 0);
    let buffer = Buffer::take();
    assert!(buffer.is_empty() && (1..=KEEP_BYTES).contains(&buffer.capacity()));
}

#[test]
fn threads_do_not_wait_for_each_others_records() {
    fn shared<T: Clone + Send + Sync>(_: &T) {}
    fn future<T: Future<Output = Result<Delivery>> + Send + Sync>(_: &T) {}
    let broker = broker(2);
    let producer = producer(&broker, &[("linger.ms", "1000")]);
    shared(&producer);
    future(&producer.send(TOPIC, &Message::new(0)).unwrap());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                drop(producer.send(TOPIC, &Message::new(1).partition(1)).unwrap());
            }
        });
        for number in 0..50 {
            producer.produce(TOPIC, &Message::new(number).partition(0)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_raw_record_comes_through_as_it_is() {
    type Parts<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, &'a [(&'a str, Option<&'a [u8]>)], i64);
    let broker = broker(2);
    // The limit is the broker's matter, as far as librdkafka lets it come.
    let producer = producer(&broker, &[("message.max.bytes", "1000000000"), ("queue.buffering.max.kbytes", "1000000")]);
    let large = vec![b'x'; 2_000_000];
    let sent: [Parts<'_>; 4] = [
        (
            Some(b"k"),
            Some(b"not json"),
            &[("a", Some(b"1")), ("b", None), ("a", Some(b"")), ("\u{e9}", Some(b"\xff"))],
            7,
        ),
        (None, None, &[("n", None)], 8),
        (Some(b""), Some(b""), &[], 9),
        (None, Some(&large), &[], 10),
    ];
    for (offset, (key, value, headers, timestamp)) in sent.into_iter().enumerate() {
        let (partition, timestamp) = (Some(1), Some(timestamp));
        let headers = headers.iter().copied();
        let record = RawRecord { topic: TOPIC, partition, key, value, headers, trace: None, timestamp };
        let delivery = producer.send_raw(record).unwrap().wait().unwrap();
        assert_eq!(delivery, Delivery { partition: 1, offset: offset as i64 });
    }
    for (record, (key, value, headers, timestamp)) in records(&broker, 1).iter().zip(sent) {
        assert_eq!((record.key(), record.payload()), (key, value));
        assert_eq!(record.timestamp().to_millis(), Some(timestamp));
        let found: Vec<_> = record.headers().into_iter().flat_map(|all| all.iter().map(|h| (h.key, h.value))).collect();
        assert_eq!(found, headers);
    }

    let record = |topic, partition| {
        let headers = std::iter::empty();
        RawRecord { topic, partition, key: None, value: None, headers, trace: None, timestamp: None }
    };
    assert!(matches!(producer.send_raw(record("a/b", None)), Err(Error::Setting { .. })));
    let error = producer.send_raw(record(TOPIC, Some(9))).unwrap().wait().unwrap_err();
    assert!(matches!(error, Error::NotDelivered { total: 1, .. }), "{error}");
}

#[test]
fn a_refused_topic_is_not_why_other_messages_are_late() {
    let refusals = crate::refusal::Standing::default();
    refusals.met(Refusal::of_right(Code::TopicAuthorizationFailed, "other").unwrap());
    let why = |code| {
        let failure = Failure::not_sent(KafkaError::MessageProduction(code));
        let Error::NotDelivered { refusal, .. } = not_delivered(1, vec![(0, failure)], false, &refusals) else {
            panic!("not that error")
        };
        refusal.map(|refusal| refusal.kind)
    };
    assert_eq!(why(Code::MessageTimedOut), None);
    assert_eq!(why(Code::TopicAuthorizationFailed), Some(RefusalKind::Topic));
    refusals.met(Refusal::of(&KafkaError::Global(Code::Authentication), "a:1/1: no").unwrap());
    assert_eq!(why(Code::MessageTimedOut), Some(RefusalKind::Authentication));
}

/// What glibc frees without a lock where another thread does it, as that which takes reports may be.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
fn what_is_kept_of_a_message_on_its_way_is_small() {
    let counts = 2 * size_of::<usize>();
    assert!(counts + size_of::<Tracker>() <= 120, "{}", counts + size_of::<Tracker>());
}
