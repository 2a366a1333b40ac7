//! Topics that are loaded once they are needed.

use std::time::Duration;

use kafka_envelope::{Producer, pack};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::common::{Outcome, create_topic_of, unique};
use crate::orders::{Size, messages};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Topics {
    pub(crate) brokers: String,
    /// So many in each.
    pub(crate) records: u64,
    pub(crate) loaded: Vec<(Size, i32, String)>,
}

impl Topics {
    pub(crate) fn get(&mut self, size: Size, partitions: i32) -> Outcome<String> {
        let is_it = |(known, of, _): &&(Size, i32, String)| *known == size && *of == partitions;
        if let Some((.., topic)) = self.loaded.iter().find(is_it) {
            return Ok(topic.clone());
        }
        let topic = unique("bench")?;
        create_topic_of(&self.brokers, &topic, partitions)?;
        let producer = Producer::new("bench", &self.brokers)?;
        let mut bytes = 0;
        for message in messages(size)?.take(self.records as usize) {
            if bytes == 0 {
                bytes = pack("bench", &message.payload, &message.refs)?.len();
            }
            drop(producer.send(&topic, &message)?);
        }
        producer.flush(PATIENCE)?;
        holds(&self.brokers, &topic, partitions, self.records)?;
        eprintln!("{} envelopes of {bytes} bytes are in {partitions} partitions of {topic}", self.records);
        self.loaded.push((size, partitions, topic.clone()));
        Ok(topic)
    }
}

/// Refuses a topic that has more or fewer records.
pub(crate) fn holds(brokers: &str, topic: &str, partitions: i32, records: u64) -> Outcome<()> {
    let reader: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let mut found = 0;
    for partition in 0..partitions {
        let (low, high) = reader.fetch_watermarks(topic, partition, PATIENCE)?;
        found += u64::try_from(high - low)?;
    }
    if found == records { Ok(()) } else { Err(format!("{topic} has {found} records instead of {records}").into()) }
}
