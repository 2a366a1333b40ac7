//! Which records a topic has at the end, and what a group has committed by the topic that Kafka keeps that in.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::checker::Place;
use crate::support::{PATIENCE, eventually, kafka, unique};

const REQUEST: Duration = Duration::from_secs(10);

/// Where Kafka writes what groups commit.
const COMMITS: &str = "__consumer_offsets";

/// The place of every record up to the high watermarks; of transactions, those of the committed ones.
pub(super) fn log_of(bootstrap: &str, topic: &str) -> Vec<Place> {
    let mut places = Vec::new();
    read(bootstrap, topic, |record| places.push((record.partition(), record.offset())));
    places
}

/// What the coordinator took of a group for a topic: each partition and offset, in the order of the commits.
pub(super) fn commits_of(bootstrap: &str, group: &str, topic: &str) -> Vec<Place> {
    let mut commits = Vec::new();
    read(bootstrap, COMMITS, |record| {
        if let (Some(key), Some(value)) = (record.key(), record.payload()) {
            let partition = committed_partition(key, group, topic);
            commits.extend(partition.zip(committed_offset(value)));
        }
    });
    commits
}

/// `OffsetCommitKey` of Kafka's group coordinator, versions 0 and 1; 2 and later are the keys of other records.
fn committed_partition(key: &[u8], group: &str, topic: &str) -> Option<i32> {
    let (version, rest) = key.split_first_chunk()?;
    let rest = matches!(u16::from_be_bytes(*version), 0 | 1).then_some(rest)?;
    let rest = rest.strip_prefix(&string(group)[..])?.strip_prefix(&string(topic)[..])?;
    Some(i32::from_be_bytes(rest.try_into().ok()?))
}

/// `OffsetCommitValue`: every version begins with itself and the offset.
fn committed_offset(value: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(*value.get(2..)?.first_chunk()?))
}

fn string(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

/// Reads a topic from its start up to the high watermarks.
fn read(bootstrap: &str, topic: &str, mut each: impl FnMut(&BorrowedMessage<'_>)) {
    let consumer: BaseConsumer = kafka::client(bootstrap)
        .set("group.id", unique("reader"))
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "1")
        .create()
        .unwrap();
    let metadata = eventually(PATIENCE, "the topic is known", || consumer.fetch_metadata(Some(topic), REQUEST).ok());
    let mut assignment = TopicPartitionList::new();
    let mut open: Vec<i32> = metadata.topics()[0].partitions().iter().map(|partition| partition.id()).collect();
    for partition in &open {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
    }
    assert!(!open.is_empty(), "there is no topic {topic}");
    consumer.assign(&assignment).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !open.is_empty() {
        assert!(Instant::now() < deadline, "{topic}: no end of partitions {open:?}");
        match consumer.poll(Duration::from_millis(100)) {
            None | Some(Err(KafkaError::Global(_) | KafkaError::MessageConsumption(_))) => {}
            Some(Ok(record)) => each(&record),
            Some(Err(KafkaError::PartitionEOF(partition))) => open.retain(|p| *p != partition),
            Some(Err(error)) => panic!("{topic}: {error}"),
        }
    }
}
