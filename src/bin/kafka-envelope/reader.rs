//! Partitions read from a place on, outside of any group.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;

use kafka_envelope::Error;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use crate::connection::{Connection, Context};
use crate::failure::{Failure, Result};

/// How long nothing comes until what was written goes out.
const QUIET: Duration = Duration::from_millis(100);

/// Reads partitions.
pub(crate) struct Reader<'a> {
    connection: &'a Connection,
    consumer: BaseConsumer<Context>,
}

/// A partition's first offset that is still there, and the one after its last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) low: i64,
    pub(crate) high: i64,
}

/// Where a partition is read from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(connection: &'a Connection) -> Result<Self> {
        Ok(Self { connection, consumer: connection.reader()? })
    }

    fn answered<T>(&self, answer: Result<T, KafkaError>) -> Result<T> {
        self.connection.answered(answer, self.consumer.context())
    }

    /// The numbers of a topic's partitions.
    pub(crate) fn partitions(&self, topic: &str) -> Result<Vec<i32>> {
        let metadata = self.answered(self.consumer.fetch_metadata(Some(topic), self.connection.timeout()))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let error = found.and_then(|found| found.error()).map(Code::from);
        match (found, error) {
            (Some(found), None) if !found.partitions().is_empty() => {
                Ok(found.partitions().iter().map(|partition| partition.id()).collect())
            }
            (_, Some(code)) if code != Code::UnknownTopicOrPartition => {
                Err(Failure::new(format_args!("topic `{topic}`: {code}")))
            }
            _ => Err(Failure::new(format_args!("there is no topic `{topic}`"))
                .hint("`kafka-envelope topics list` shows the topics, `topics create` makes one")),
        }
    }

    pub(crate) fn ends(&self, topic: &str, partition: i32) -> Result<Ends> {
        let ends = self.consumer.fetch_watermarks(topic, partition, self.connection.timeout());
        let (low, high) = self.answered(ends)?;
        Ok(Ends { low, high })
    }

    /// Of each partition the first offset whose record is of that time or later, in milliseconds since 1970; its end, where
    /// there is none.
    pub(crate) fn offsets_at(&self, topic: &str, partitions: &[i32], millis: i64) -> Result<Vec<Position>> {
        let mut asked = TopicPartitionList::new();
        for partition in partitions {
            asked.add_partition_offset(topic, *partition, Offset::Offset(millis))?;
        }
        let found = self.answered(self.consumer.offsets_for_times(asked, self.connection.timeout()))?;
        let position = |partition: i32| {
            let offset = match found.find_partition(topic, partition).map(|element| element.offset()) {
                Some(Offset::Offset(offset)) => offset,
                _ => self.ends(topic, partition)?.high,
            };
            Ok(Position { partition, offset })
        };
        partitions.iter().map(|partition| position(*partition)).collect()
    }

    /// Hands over a topic's records from these places on, in each partition's order, until `each` breaks off. Unless this is
    /// to `follow`, up to where the partitions end now. `quiet` is called whenever nothing comes for a moment.
    pub(crate) fn scan(
        &self,
        topic: &str,
        from: &[Position],
        follow: bool,
        mut each: impl FnMut(&BorrowedMessage<'_>) -> Result<ControlFlow<()>>,
        mut quiet: impl FnMut() -> Result,
    ) -> Result {
        let mut assignment = TopicPartitionList::new();
        // Partitions of which something is still to come, and where they end.
        let mut open: HashMap<i32, i64> = HashMap::new();
        for Position { partition, offset } in from {
            let Ends { low, high } = self.ends(topic, *partition)?;
            if follow || *offset.max(&low) < high {
                open.insert(*partition, high);
                assignment.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
            }
        }
        self.consumer.assign(&assignment)?;
        while !open.is_empty() {
            let record = match self.consumer.poll(QUIET) {
                None => {
                    quiet()?;
                    continue;
                }
                Some(Ok(record)) => record,
                // It tells no topic, so there is but one.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if !follow {
                        open.remove(&partition);
                    }
                    continue;
                }
                Some(Err(error)) => match Error::from(error) {
                    error if error.is_retriable() => {
                        log::warn!("{error}");
                        continue;
                    }
                    error => return Err(error.into()),
                },
            };
            let (partition, offset) = (record.partition(), record.offset());
            // What came since then is left, unless it is followed.
            let is_in = follow || open.get(&partition).is_some_and(|high| offset < *high);
            if is_in && each(&record)?.is_break() {
                break;
            }
            if !follow && open.get(&partition).is_some_and(|high| offset + 1 >= *high) {
                open.remove(&partition);
            }
        }
        self.consumer.unassign()?;
        Ok(())
    }
}
