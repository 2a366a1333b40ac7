//! The producer on Apache Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use kafka_envelope::producer::FLUSH_ON_DROP;
use kafka_envelope::settings::producer_defaults;
use kafka_envelope::{Delivery, Error, Message, Oversize, Producer, Ref, unpack};
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Headers as _, OwnedMessage};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::support::{Broker, TestTopic, consume_all, create_topic, eventually, shared_broker};

#[derive(Deserialize)]
struct Vectors {
    produce: Vec<Case>,
    produce_batch: BatchCase,
    partition_of_key: PartitionOfKey,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    input: Input,
    record: Record,
}

#[derive(Deserialize)]
struct BatchCase {
    input: Vec<Input>,
    records: Vec<Record>,
}

#[derive(Deserialize)]
struct Input {
    id: Option<String>,
    /// Absent where JSON cannot say what Python was given.
    #[serde(default, deserialize_with = "present")]
    payload: Option<Box<RawValue>>,
    /// A list, one, an empty map, or null.
    #[serde(rename = "ref")]
    refs: Value,
}

/// A payload that is null is there, too.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct Record {
    key: Option<Text>,
    value: Text,
}

#[derive(Deserialize)]
struct Text {
    text: String,
}

#[derive(Deserialize)]
struct PartitionOfKey {
    partitions: i32,
    keys: BTreeMap<String, i32>,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../data/phq/records.json")).unwrap()
}

impl Input {
    fn message(self) -> Option<Message<Box<RawValue>>> {
        let refs: Vec<Ref> = match self.refs {
            Value::Null => Vec::new(),
            Value::Object(one) if one.is_empty() => Vec::new(),
            one @ Value::Object(_) => vec![serde_json::from_value(one).unwrap()],
            many => serde_json::from_value(many).unwrap(),
        };
        Some(Message::new(self.payload?).id(self.id.unwrap_or_default()).caused_by_all(refs))
    }
}

/// An envelope without the time at which it was made.
fn timeless(value: &[u8]) -> Value {
    let mut envelope: Value = serde_json::from_slice(value).unwrap();
    envelope["hist"]["dt"].take();
    envelope
}

fn assert_same(name: &str, record: &OwnedMessage, expected: &Record) {
    let key = expected.key.as_ref().map(|key| key.text.as_bytes());
    assert_eq!(record.key(), key, "{name}");
    assert_eq!(timeless(record.payload().unwrap()), timeless(expected.value.text.as_bytes()), "{name}");
    assert!(record.headers().is_none(), "{name}");
}

/// What the Python library wrote, this one writes: keys, items, histories; an empty id as a null key.
#[test]
fn records_are_those_of_the_python_library() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let producer = Producer::new("billing", broker).unwrap();
    let mut expected = Vec::new();
    for Case { name, input, record } in vectors().produce {
        let Some(message) = input.message() else { continue };
        let delivery = producer.produce(&topic, &message).unwrap();
        assert_eq!((delivery.partition, delivery.offset), (0, expected.len() as i64));
        expected.push((name, record));
    }
    let BatchCase { input, records } = vectors().produce_batch;
    let batch: Vec<_> = input.into_iter().filter_map(Input::message).collect();
    producer.produce_batch(&topic, &batch).unwrap();
    expected.extend(records.into_iter().map(|record| ("produce_batch".to_owned(), record)));

    let found = consume_all(broker, &topic);
    assert_eq!((found.len(), expected.len()), (17, 17), "all but the two that only Python can write");
    for (record, (name, expected)) in found.iter().zip(&expected) {
        assert_same(name, record, expected);
    }
    assert!(expected.iter().filter(|(_, record)| record.key.is_none()).count() >= 2, "ids null and empty");
}

/// An id goes to the partition to which the Python library's records of that key go.
#[test]
fn keys_go_to_the_partitions_of_the_python_library() {
    let broker = shared_broker();
    let PartitionOfKey { partitions, keys } = vectors().partition_of_key;
    let topic = TestTopic::new(broker, partitions);
    let producer = Producer::new("billing", broker).unwrap();
    for (key, partition) in keys {
        let delivery = producer.produce(&topic, &Message::new(0).id(&key)).unwrap();
        assert_eq!(delivery.partition, partition, "{key}");
    }
}

/// Partition, headers and timestamp arrive as they were set, and a ref in the history.
#[test]
fn what_a_message_carries_arrives() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 3);
    let producer = Producer::new("billing", broker).unwrap();
    let at: DateTime<Utc> = "2026-01-02T03:04:05.678Z".parse().unwrap();
    let message = Message::new("é")
        .id("zoë")
        .caused_by(Ref::new("orders", 1, 2))
        .header("trace", "a")
        .header("trace", [0xff, 0])
        .header("empty", "")
        .partition(2)
        .timestamp(at);
    let before = Utc::now().timestamp_millis();
    assert_eq!(producer.produce(&topic, &message).unwrap().partition, 2);
    producer.produce(&topic, &Message::new("now").partition(0)).unwrap();

    let records = consume_all(broker, &topic);
    assert!(records[0].timestamp().to_millis().unwrap() >= before);
    assert_eq!(
        uuid::Uuid::parse_str(std::str::from_utf8(records[0].key().unwrap()).unwrap()).unwrap().get_version_num(),
        4
    );
    let record = &records[1];
    assert_eq!(record.timestamp().to_millis(), Some(at.timestamp_millis()));
    assert_eq!(record.key(), Some("zoë".as_bytes()));
    let headers: Vec<_> = record.headers().unwrap().iter().map(|header| (header.key, header.value)).collect();
    assert_eq!(headers, [("trace", Some(&b"a"[..])), ("trace", Some(&[0xff, 0])), ("empty", Some(b""))]);
    let envelope = unpack(record.payload().unwrap()).unwrap();
    assert_eq!(envelope.payload::<String>().unwrap(), "é");
    let history: Value = serde_json::from_str(envelope.history().unwrap().get()).unwrap();
    assert_eq!(history["svc"], "billing");
    assert_eq!(history["refs"], json!([{"topic": "orders", "partition": 1, "offset": 2, "key": null, "hist": null}]));
}

/// A text that makes an envelope of so many bytes, which no compression makes much smaller.
fn text(bytes: usize) -> String {
    let empty = kafka_envelope::pack("billing", "", &[]).unwrap().len();
    let mut state = 1u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + (state >> 58) as u8 % 75).to_ascii_lowercase()
    };
    (0..bytes - empty).map(|_| letter()).map(|c| if c == '\\' { '/' } else { c }).collect()
}

/// Which waits for half a second before it asks for its producer id.
#[test]
fn the_first_message_is_sooner_there_than_that_of_a_plain_producer_which_began_before() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let was_first = || {
        let mut config = ClientConfig::new();
        config.extend(producer_defaults());
        config.set("bootstrap.servers", broker);
        let plain: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
        plain.send(BaseRecord::<(), str>::to(&topic).payload("{}")).map_err(|(error, _)| error).unwrap();
        Producer::new("first", broker).unwrap().produce(&topic, &Message::new(1)).unwrap();
        plain.in_flight_count() > 0
    };
    // Most often: the machine may be busy.
    let firsts = (0..5).filter(|_| was_first()).count();
    assert!(firsts >= 3, "{firsts} of 5");
}

/// `message.max.bytes` is 1,000,000 by default: what just fits arrives, one byte more is refused or skipped before anything is sent.
#[test]
fn a_message_of_a_megabyte() {
    const LIMIT: usize = 1_000_000;
    const OVERHEAD: usize = 36;
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let producer = Producer::new("billing", broker).unwrap();
    let largest = text(LIMIT - OVERHEAD);
    producer.produce(&topic, &Message::new(&largest).id("")).unwrap();

    let over = text(LIMIT - OVERHEAD + 1);
    let batch = ["first", &over, "last"].map(|payload| Message::new(payload).id(""));
    let error = producer.produce_batch(&topic, &batch).unwrap_err();
    assert!(matches!(error, Error::Oversize { index: 1, bytes: 1_000_001, limit: LIMIT }), "{error}");
    assert!(matches!(producer.send(&topic, &batch[1]), Err(Error::Oversize { index: 0, .. })));

    let skipping = Producer::builder("billing", broker).oversize(Oversize::Skip).build().unwrap();
    let report = skipping.produce_batch(&topic, &batch).unwrap();
    assert_eq!(report.skipped, [1]);
    let found: Vec<String> = consume_all(broker, &topic)
        .iter()
        .map(|record| unpack(record.payload().unwrap()).unwrap().payload().unwrap())
        .collect();
    assert_eq!(found, [largest, "first".into(), "last".into()]);
}

/// 100,000 messages through a queue of 1,000: no error, nothing lost, the order kept.
#[test]
fn a_large_batch_through_a_small_queue() {
    const MESSAGES: u64 = 100_000;
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 3);
    let config = [("queue.buffering.max.messages", "1000")];
    let producer = Producer::builder("billing", broker).config(config).build().unwrap();
    let batch: Vec<_> = (0..MESSAGES).map(|n| Message::new(n).id((n % 100).to_string())).collect();
    let report = producer.produce_batch(&topic, &batch).unwrap();
    assert_eq!(report.deliveries.len() as u64, MESSAGES);

    let mut places = BTreeSet::new();
    let mut last = BTreeMap::new();
    for record in consume_all(broker, &topic) {
        let number: u64 = unpack(record.payload().unwrap()).unwrap().payload().unwrap();
        // The report tells for each message where it stands.
        let Delivery { partition, offset, .. } = report.deliveries[usize::try_from(number).unwrap()];
        assert_eq!((record.partition(), record.offset()), (partition, offset));
        assert!(places.insert((partition, offset)));
        assert!(last.insert(partition, number) < Some(number), "order in {partition}");
    }
    assert_eq!(places.len() as u64, MESSAGES);
}

/// With a broker that is frozen in the middle, what was on its way may be in the log, and what never left this side is not.
#[test]
fn a_frozen_broker_leaves_doubt_about_what_was_on_its_way_only() {
    let broker = Broker::start();
    let topic = create_topic(broker.bootstrap(), 1);
    let config = [("delivery.timeout.ms", "2000"), ("max.in.flight", "1"), ("batch.num.messages", "1")];
    let producer = Producer::builder("billing", broker.bootstrap()).config(config).build().unwrap();
    producer.produce(&topic, &Message::new(0)).unwrap();

    broker.freeze();
    let start = Instant::now();
    let batch: Vec<_> = (1..=4).map(Message::new).collect();
    let error = producer.produce_batch(&topic, &batch).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let Error::NotDelivered { total: 4, failed, possibly_persisted, fatal: false, .. } = &error else {
        panic!("{error:?}")
    };
    let places: Vec<_> = failed.iter().map(|(place, _)| *place).collect();
    assert_eq!((&places[..], &possibly_persisted[..]), (&[0, 1, 2, 3][..], &[0][..]), "{error:?}");
    assert!(error.is_retriable());

    // It goes on by itself when the broker does.
    broker.thaw();
    eventually(Duration::from_secs(60), "the producer delivers again", || {
        producer.produce(&topic, &Message::new(5)).ok()
    });
    let found: Vec<i32> = consume_all(broker.bootstrap(), &topic)
        .iter()
        .map(|record| unpack(record.payload().unwrap()).unwrap().payload().unwrap())
        .collect();
    let unknown: Vec<_> = found.iter().filter(|number| ![0, 5].contains(*number)).collect();
    assert!(unknown.is_empty() || unknown == [&1], "{found:?}");
}

/// The end of a producer whose broker is frozen comes in time, and what was on its way is told as unknown.
#[test]
fn the_end_is_bounded_with_a_frozen_broker() {
    let broker = Broker::start();
    let topic = create_topic(broker.bootstrap(), 1);
    let producer = Producer::new("billing", broker.bootstrap()).unwrap();
    producer.produce(&topic, &Message::new(0)).unwrap();
    broker.freeze();
    let pending = producer.send(&topic, &Message::new(1)).unwrap();
    let start = Instant::now();
    drop(producer);
    assert!(start.elapsed() < FLUSH_ON_DROP + Duration::from_secs(4), "{:?}", start.elapsed());
    let error = pending.wait().unwrap_err();
    let Error::NotDelivered { possibly_persisted, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*possibly_persisted, [0], "{error:?}");
    broker.thaw();
}

/// A broker that is killed in the middle and comes back: every message is in the log once, in order.
#[test]
fn a_killed_broker_costs_nothing_but_time() {
    const MESSAGES: u64 = 20_000;
    let mut broker = Broker::start();
    let topic = create_topic(broker.bootstrap(), 1);
    let config = [("queue.buffering.max.messages", "500"), ("reconnect.backoff.max.ms", "500")];
    let producer = Producer::builder("billing", broker.bootstrap()).config(config).build().unwrap();
    producer.produce(&topic, &Message::new(0)).unwrap();
    let batch: Vec<_> = (1..MESSAGES).map(Message::new).collect();
    let sending = thread::spawn({
        let topic = topic.clone();
        move || producer.produce_batch(&topic, &batch)
    });
    broker.kill();
    broker.restart();
    let report = sending.join().unwrap().unwrap();
    assert_eq!(report.deliveries.len() as u64, MESSAGES - 1);
    let found: Vec<u64> = consume_all(broker.bootstrap(), &topic)
        .iter()
        .map(|record| unpack(record.payload().unwrap()).unwrap().payload().unwrap())
        .collect();
    assert!(found.iter().copied().eq(0..MESSAGES), "{} records", found.len());
}
