use std::ops::Range;
use std::time::Duration;

use kafka_envelope::{Consumer, ConsumerBuilder, pack};
use serde::Serialize;

use super::{produce_raw_batch, unique};

/// An envelope that was made from nothing.
pub(crate) fn envelope<T: Serialize>(item: &T) -> Vec<u8> {
    pack("test", item, &[]).unwrap()
}

/// Puts these numbers into one partition, one envelope each, with the number as the id too.
pub(crate) fn produce_numbers(bootstrap: &str, topic: &str, partition: i32, numbers: Range<u64>) {
    produce_raw_batch(bootstrap, topic, numbers.map(|n| (partition, Some(n.to_string()), Some(envelope(&n)))));
}

/// A consumer of one topic that gives up where nothing comes for ten seconds.
pub(crate) fn consumer(bootstrap: &str, group: &str, topic: &str) -> ConsumerBuilder {
    Consumer::builder("test", bootstrap, group).topics([topic]).idle_timeout(Duration::from_secs(10))
}

/// A group that nobody else uses.
pub(crate) fn group() -> String {
    unique("group")
}
