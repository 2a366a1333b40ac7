//! Which records a topic has at the end.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::checker::Place;
use crate::support::{eventually, kafka, unique};

const PATIENCE: Duration = Duration::from_secs(120);
const REQUEST: Duration = Duration::from_secs(10);

/// The place of every record up to the high watermarks; of transactions, those of the committed ones.
pub(super) fn log_of(bootstrap: &str, topic: &str) -> Vec<Place> {
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
    let mut places = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !open.is_empty() {
        assert!(Instant::now() < deadline, "{topic}: no end of partitions {open:?}");
        match consumer.poll(Duration::from_millis(100)) {
            None | Some(Err(KafkaError::Global(_) | KafkaError::MessageConsumption(_))) => {}
            Some(Ok(record)) => places.push((record.partition(), record.offset())),
            Some(Err(KafkaError::PartitionEOF(partition))) => open.retain(|p| *p != partition),
            Some(Err(error)) => panic!("{topic}: {error}"),
        }
    }
    places
}
