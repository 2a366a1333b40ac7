//! What the benches have in common.

use std::error::Error;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// Of one partition.
pub(crate) fn create_topic(brokers: &str, topic: &str) -> Outcome<()> {
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    for result in futures_executor::block_on(admin.create_topics([&new], &AdminOptions::new()))? {
        result.map_err(|(topic, code)| format!("{topic}: {code}"))?;
    }
    Ok(())
}
