//! Plain rdkafka clients for what a scenario prepares or checks, none of them this crate's own.

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message, OwnedMessage};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{BaseProducer, BaseRecord, ProducerContext};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::{PATIENCE, eventually, unique};

/// What else runs on a machine may hold a broker up for long.
const REQUEST: Duration = Duration::from_secs(60);

/// What every plain client here starts from.
pub(crate) fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("enable.auto.commit", "false")
        // Brokers come and go in these tests.
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "200")
        // A client that loses its broker is no news.
        .set("log.connection.close", "false");
    config
}

fn producer_client(bootstrap: &str) -> ClientConfig {
    let mut config = client(bootstrap);
    config
        .remove("enable.auto.commit")
        // Its producer id takes half a second to get, and each call makes a producer. One request at a time keeps the order, and
        // none is sent again for being late: only a connection that breaks in the middle can leave a record twice.
        .set("enable.idempotence", "false")
        .set("max.in.flight", "1")
        .set("delivery.timeout.ms", "60000")
        .set("request.timeout.ms", "60000")
        .set("message.max.bytes", "10485760")
        .set("linger.ms", "1");
    config
}

pub(crate) fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    client(bootstrap).remove("enable.auto.commit").create().unwrap()
}

pub(crate) fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
}

/// A topic with a name of its own that is deleted at the end of the test. Reads as its name.
pub(crate) struct TestTopic {
    bootstrap: String,
    name: String,
}

impl TestTopic {
    pub(crate) fn new(bootstrap: &str, partitions: i32) -> TestTopic {
        TestTopic { bootstrap: bootstrap.to_owned(), name: create_topic(bootstrap, partitions) }
    }
}

impl Deref for TestTopic {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

impl Drop for TestTopic {
    fn drop(&mut self) {
        // It may be gone, and so may the broker.
        let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(2)));
        let _ = block_on(admin(&self.bootstrap).delete_topics(&[&self.name], &options));
    }
}

/// Creates a topic with a name of its own, and returns the name once every partition can be used.
pub(crate) fn create_topic(bootstrap: &str, partitions: i32) -> String {
    let name = unique("topic");
    create_topic_with(bootstrap, &name, partitions, &[]);
    name
}

/// Creates so many topics of one partition at once.
pub(crate) fn create_topics(bootstrap: &str, count: usize) -> Vec<String> {
    let names: Vec<_> = (0..count).map(|_| unique("topic")).collect();
    let topics: Vec<_> = names.iter().map(|name| NewTopic::new(name, 1, TopicReplication::Fixed(1))).collect();
    let admin = admin(bootstrap);
    for created in block_on(admin.create_topics(&topics, &admin_options())).unwrap() {
        created.unwrap();
    }
    eventually(PATIENCE, "every topic has a leader", || {
        let metadata = admin.inner().fetch_metadata(None, REQUEST).ok()?;
        let is_led = |topic: &&MetadataTopic| topic.partitions().first().is_some_and(|first| first.leader() >= 0);
        let led: HashSet<_> = metadata.topics().iter().filter(is_led).map(MetadataTopic::name).collect();
        names.iter().all(|name| led.contains(&**name)).then_some(())
    });
    names
}

/// The same as [`create_topic`] for a name and settings that are given, such as `("cleanup.policy", "compact")`.
pub(crate) fn create_topic_with(bootstrap: &str, name: &str, partitions: i32, settings: &[(&str, &str)]) {
    // As many replicas as the brokers' `default.replication.factor` says.
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
    for (key, value) in settings {
        topic = topic.set(key, value);
    }
    let admin = admin(bootstrap);
    for created in block_on(admin.create_topics([&topic], &admin_options())).unwrap() {
        created.unwrap();
    }
    eventually(PATIENCE, "every partition has a leader", || {
        let metadata = admin.inner().fetch_metadata(Some(name), REQUEST).ok()?;
        let partitions_now = metadata.topics().first()?.partitions();
        let led = partitions_now.iter().filter(|p| p.leader() >= 0).count();
        (led == usize::try_from(partitions).unwrap()).then_some(())
    });
}

/// Deletes a topic, and returns once the broker does not know it any more.
pub(crate) fn delete_topic(bootstrap: &str, name: &str) {
    let admin = admin(bootstrap);
    for deleted in block_on(admin.delete_topics(&[name], &admin_options())).unwrap() {
        deleted.unwrap();
    }
    eventually(PATIENCE, "the topic is gone", || {
        // All topics are asked for: a name alone would create it where the broker allows that.
        let metadata = admin.inner().fetch_metadata(None, REQUEST).ok()?;
        (!metadata.topics().iter().any(|topic| topic.name() == name)).then_some(())
    });
}

/// The log of each of these partitions starts at this offset from now on.
pub(crate) fn delete_records(bootstrap: &str, topic: &str, before: &[(i32, i64)]) {
    let mut offsets = TopicPartitionList::new();
    for (partition, before) in before {
        offsets.add_partition_offset(topic, *partition, Offset::Offset(*before)).unwrap();
    }
    let deleted = block_on(admin(bootstrap).delete_records(&offsets, &admin_options())).unwrap();
    deleted.elements().iter().for_each(|element| element.error().unwrap());
}

/// The topic has so many partitions from now on. Returns once the broker tells of all of them.
pub(crate) fn create_partitions(bootstrap: &str, topic: &str, partitions: i32) {
    let admin = admin(bootstrap);
    let wanted = NewPartitions::new(topic, partitions as usize);
    for created in block_on(admin.create_partitions([&wanted], &admin_options())).unwrap() {
        created.unwrap();
    }
    eventually(PATIENCE, "every partition has a leader", || {
        let metadata = admin.inner().fetch_metadata(Some(topic), REQUEST).ok()?;
        let led = metadata.topics().first()?.partitions().iter().filter(|p| p.leader() >= 0).count();
        (led == partitions as usize).then_some(())
    });
}

/// Deletes a group without members, and all that it committed. Returns once the broker has done so.
pub(crate) fn delete_group(bootstrap: &str, group: &str) {
    let admin = admin(bootstrap);
    // Its last member may not be gone yet.
    eventually(PATIENCE, "the group is deleted", || {
        block_on(admin.delete_groups(&[group], &admin_options()))
            .ok()?
            .into_iter()
            .all(|group| group.is_ok())
            .then_some(())
    });
}

/// The next offset that a group committed, without joining it.
pub(crate) fn committed(bootstrap: &str, group: &str, topic: &str, partition: i32) -> Option<i64> {
    let consumer: BaseConsumer = client(bootstrap).set("group.id", group).create().unwrap();
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition(topic, partition);
    // Fails for a moment while the group's coordinator is found or loads.
    let answer = eventually(PATIENCE, "the group's offsets are told", || {
        consumer.committed_offsets(wanted.clone(), REQUEST).ok()
    });
    match answer.find_partition(topic, partition).unwrap().offset() {
        Offset::Offset(offset) => Some(offset),
        Offset::Invalid => None,
        other => panic!("committed: {other:?}"),
    }
}

/// Produces one record as it is, and returns its offset.
pub(crate) fn produce_raw(
    bootstrap: &str,
    topic: &str,
    partition: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> i64 {
    produce_raw_batch(bootstrap, topic, [(partition, key, value)])[0]
}

/// Produces records of `(partition, key, value)` in this order, and returns their offsets. Each is acknowledged, and is there once
/// unless the broker is killed meanwhile.
pub(crate) fn produce_raw_batch<K, V>(
    bootstrap: &str,
    topic: &str,
    records: impl IntoIterator<Item = (i32, Option<K>, Option<V>)>,
) -> Vec<i64>
where
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let (reports, delivered) = channel();
    let producer: BaseProducer<Reports> = producer_client(bootstrap).create_with_context(Reports(reports)).unwrap();
    let mut offsets = Vec::new();
    for (index, (partition, key, value)) in records.into_iter().enumerate() {
        offsets.push(-1);
        let mut record: BaseRecord<'_, [u8], [u8], Box<usize>> =
            BaseRecord::with_opaque_to(topic, Box::new(index)).partition(partition);
        record.key = key.as_ref().map(AsRef::as_ref);
        record.payload = value.as_ref().map(AsRef::as_ref);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) => {
                    record = back;
                    producer.poll(Duration::from_millis(5));
                }
                Err((error, _)) => panic!("produce to {topic}: {error}"),
            }
        }
    }
    let deadline = Instant::now() + PATIENCE;
    let mut missing = offsets.len();
    while missing > 0 {
        // This poll sleeps out its time (`flush` too, in slices of 100 ms), whatever comes.
        producer.poll(Duration::from_millis(2));
        missing -= collect(&delivered, &mut offsets, topic);
        assert!(Instant::now() < deadline, "{missing} records of {topic} without report");
    }
    offsets
}

type Report = (usize, Result<i64, KafkaError>);

fn collect(delivered: &Receiver<Report>, offsets: &mut [i64], topic: &str) -> usize {
    let mut count = 0;
    for (index, result) in delivered.try_iter() {
        offsets[index] = result.unwrap_or_else(|error| panic!("produce to {topic}: {error}"));
        count += 1;
    }
    count
}

struct Reports(Sender<Report>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, index: Box<usize>) {
        let result = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.clone()),
        };
        // The receiver is gone if the test panicked.
        let _ = self.0.send((*index, result));
    }
}

/// Every record up to the high watermarks, by partition and offset; of transactions, the committed ones.
pub(crate) fn consume_all(bootstrap: &str, topic: &str) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = client(bootstrap)
        .set("group.id", unique("reader"))
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("fetch.queue.backoff.ms", "1")
        // The end is told by an answer without records, which the broker holds back for so long.
        .set("fetch.wait.max.ms", "10")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST).unwrap();
    let mut assignment = TopicPartitionList::new();
    let mut open: Vec<i32> = Vec::new();
    for partition in metadata.topics()[0].partitions() {
        assignment.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
        open.push(partition.id());
    }
    assert!(!open.is_empty(), "there is no topic {topic}");
    consumer.assign(&assignment).unwrap();

    let mut records = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !open.is_empty() {
        assert!(Instant::now() < deadline, "{topic}: no end of partitions {open:?}");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(record)) => records.push(BorrowedMessage::detach(&record)),
            Some(Err(KafkaError::PartitionEOF(partition))) => open.retain(|p| *p != partition),
            Some(Err(error)) => {
                let code = error.rdkafka_error_code();
                let transient = [Code::BrokerTransportFailure, Code::AllBrokersDown];
                assert!(code.is_some_and(|code| transient.contains(&code)), "{topic}: {error}");
            }
        }
    }
    records.sort_by_key(|record| (record.partition(), record.offset()));
    records
}
