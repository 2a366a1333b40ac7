use kafka_envelope::export::{Exports, FilterClient};
use serde_json::{Value, json};

use super::{TestTopic, produce_raw, produce_raw_batch, shared_broker};

/// A filter topic of a test's own.
pub(crate) struct FilterTopic(TestTopic);

impl FilterTopic {
    pub(crate) fn new() -> Self {
        Self(TestTopic::new(shared_broker(), 1))
    }

    /// With a filter for each of these topics.
    pub(crate) fn of(sources: &[&str]) -> Self {
        let topic = Self::new();
        sources.iter().for_each(|source| topic.put(source));
        topic
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// A filter whose id and source are the topic, that maps `n` to the data.
    pub(crate) fn put(&self, source: &str) {
        self.send("put", &json!({ "id": source, "source": source, "mappings": { "n:data": "n" } }));
    }

    pub(crate) fn delete(&self, source: &str) {
        self.send("delete", &json!({ "id": source }));
    }

    fn send(&self, method: &str, payload: &Value) {
        let message = json!({ "method": method, "payload": payload, "timestamp": 1_700_000_000 }).to_string();
        produce_raw(shared_broker(), &self.0, 0, None, Some(message.as_bytes()));
    }

    /// A client of it.
    pub(crate) fn client(&self) -> FilterClient {
        FilterClient::builder(&self.0, shared_broker()).start().unwrap()
    }
}

/// Puts messages `{"n": …}` into one partition.
pub(crate) fn produce_json(topic: &str, partition: i32, numbers: std::ops::Range<u64>) {
    let message = |n| (partition, None::<&[u8]>, Some(json!({ "n": n }).to_string()));
    produce_raw_batch(shared_broker(), topic, numbers.map(message));
}

/// The topic, the partition and the number of each result.
pub(crate) fn numbers(exports: &Exports) -> Vec<(String, i32, u64)> {
    let number = |data: &Value| data["n"].as_u64().unwrap();
    let result = |export: &kafka_envelope::export::Export| {
        (export.reference.topic.clone(), export.reference.partition, number(&export.data))
    };
    exports.results.iter().map(result).collect()
}
