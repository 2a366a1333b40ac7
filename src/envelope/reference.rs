//! Names of messages: one, and a batch of them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::History;

/// A message by its place in Kafka, with its key and its history: what stands in the `refs` of messages made from it.
///
/// ```
/// use kafka_envelope::Ref;
///
/// let mut order = Ref::new("orders", 3, 42);
/// assert_eq!(order.to_string(), "orders:3:42:");
/// order.key = Some("order-7".into());
/// assert_eq!(order.to_string(), "orders:3:42:order-7");
///
/// let json = r#"{"topic":"orders","partition":3,"offset":42,"key":"order-7","hist":null}"#;
/// assert_eq!(serde_json::to_string(&order)?, json);
/// assert_eq!(serde_json::from_str::<Ref>(json)?, order);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The message's own offset.
    pub offset: i64,
    /// The message's id.
    pub key: Option<String>,
    /// Where the message itself came from; none where its writer said nothing, or where it grew too long.
    #[serde(rename = "hist")]
    pub history: Option<History>,
}

impl Ref {
    /// A ref without key and history.
    pub fn new(topic: impl Into<String>, partition: i32, offset: i64) -> Self {
        Self { topic: topic.into(), partition, offset, key: None, history: None }
    }
}

impl fmt::Display for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.as_deref().unwrap_or("");
        write!(f, "{}:{}:{}:{key}", self.topic, self.partition, self.offset)
    }
}

/// A batch of messages by its place in Kafka: for each partition the first offset and one past the last.
///
/// ```
/// use kafka_envelope::{BatchRef, Ref};
///
/// let batch: BatchRef = [Ref::new("b", 1, 0), Ref::new("a", 0, 5), Ref::new("a", 0, 1)].iter().collect();
/// assert_eq!(batch.to_string(), "a[0=1:6],b[1=0:1]");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchRef {
    /// First and next offset, by topic and partition.
    ranges: BTreeMap<String, BTreeMap<i32, (i64, i64)>>,
}

impl BatchRef {
    /// From (topic, partition, first offset, next offset). Ranges of one partition become one.
    pub(crate) fn from_ranges<'a>(ranges: impl IntoIterator<Item = (&'a str, i32, i64, i64)>) -> Self {
        let mut batch = Self::default();
        for (topic, partition, first, next) in ranges {
            if !batch.ranges.contains_key(topic) {
                batch.ranges.insert(topic.to_owned(), BTreeMap::new());
            }
            if let Some(partitions) = batch.ranges.get_mut(topic) {
                let range = partitions.entry(partition).or_insert((first, next));
                *range = (range.0.min(first), range.1.max(next));
            }
        }
        batch
    }
}

impl<'a> FromIterator<&'a Ref> for BatchRef {
    fn from_iter<I: IntoIterator<Item = &'a Ref>>(refs: I) -> Self {
        Self::from_ranges(refs.into_iter().map(|r| (&*r.topic, r.partition, r.offset, r.offset.saturating_add(1))))
    }
}

impl fmt::Display for BatchRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (topic, partitions)) in self.ranges.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{topic}[")?;
            for (index, (partition, (first, next))) in partitions.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                write!(f, "{comma}{partition}={first}:{next}")?;
            }
            f.write_str("]")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ref_may_lack_key_and_history() {
        let read: Ref = serde_json::from_str(r#"{"topic":"t","partition":0,"offset":1,"more":[]}"#).unwrap();
        assert_eq!(read, Ref::new("t", 0, 1));
        assert!(serde_json::from_str::<Ref>(r#"{"topic":"t","partition":0}"#).is_err());
    }

    #[test]
    fn ranges_of_a_partition_are_joined() {
        let batch = BatchRef::from_ranges([("b", 1, 0, 1), ("a", 2, 7, 8), ("a", 0, 3, 6), ("a", 0, 1, 4)]);
        assert_eq!(batch.to_string(), "a[0=1:6,2=7:8],b[1=0:1]");
        assert_eq!(BatchRef::default().to_string(), "");
        let last = BatchRef::from_iter(&[Ref::new("a", 0, i64::MAX)]);
        assert_eq!(last.to_string(), format!("a[0={}:{}]", i64::MAX, i64::MAX));
    }
}
