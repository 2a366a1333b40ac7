//! Partitions read from a place on, outside of any group.

mod silence;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_envelope::Error;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;
use rdkafka::metadata::Metadata;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use crate::connection::{Connection, Context, SERVICE, hear};
use crate::failure::{Failure, Result};
use silence::Silence;

/// How long nothing comes until what was written goes out.
const QUIET: Duration = Duration::from_millis(100);

/// How often a topic that is followed is asked for new partitions, and how long that may hold up the reading.
const LOOK: Duration = Duration::from_secs(5);
const LOOKING: Duration = Duration::from_secs(1);

/// Reads partitions.
pub(crate) struct Reader<'a> {
    connection: &'a Connection,
    consumer: Arc<BaseConsumer<Context>>,
    is_growing: bool,
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
        Self::of_group(connection, SERVICE)
    }

    /// One that can be asked what this group has committed.
    pub(crate) fn of_group(connection: &'a Connection, group: &str) -> Result<Self> {
        Ok(Self { connection, consumer: Arc::new(connection.reader(group)?), is_growing: false })
    }

    /// Of a topic that is followed it reads partitions, too, that are added meanwhile.
    pub(crate) fn growing(self, is_growing: bool) -> Self {
        Self { is_growing, ..self }
    }

    /// One that goes from place to place. Where a partition ends, brokers are not to wait for more: what is asked next of
    /// them would wait, too.
    pub(crate) fn of_places(connection: &'a Connection) -> Result<Self> {
        let properties = [("fetch.wait.max.ms", "5"), ("fetch.message.max.bytes", "65536")];
        Ok(Self { connection, consumer: Arc::new(connection.reader_with(SERVICE, &properties)?), is_growing: false })
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.connection.timeout()
    }

    /// Why nothing came.
    pub(crate) fn unreachable(&self) -> Failure {
        self.connection.unreachable(self.consumer.context())
    }

    pub(crate) fn consumer(&self) -> &BaseConsumer<Context> {
        &self.consumer
    }

    pub(crate) fn answered<T>(&self, answer: Result<T, KafkaError>) -> Result<T> {
        if answer.is_err() {
            hear(&self.consumer);
        }
        self.connection.answered(answer, self.consumer.context())
    }

    /// What the brokers say of a topic, or of all.
    pub(crate) fn metadata(&self, topic: Option<&str>) -> Result<Metadata> {
        self.answered(self.consumer.fetch_metadata(topic, self.connection.timeout()))
    }

    /// The numbers of a topic's partitions.
    pub(crate) fn partitions(&self, topic: &str) -> Result<Vec<i32>> {
        self.known_partitions(topic)?.ok_or_else(|| {
            Failure::new(format_args!("there is no topic `{topic}`"))
                .hint("`kafka-envelope topics list` shows the topics, `topics create` makes one")
        })
    }

    /// The same; none where there is no such topic.
    pub(crate) fn known_partitions(&self, topic: &str) -> Result<Option<Vec<i32>>> {
        let metadata = self.metadata(Some(topic))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let error = found.and_then(|found| found.error()).map(Code::from);
        match (found, error) {
            (Some(found), None) if !found.partitions().is_empty() => {
                Ok(Some(found.partitions().iter().map(|partition| partition.id()).collect()))
            }
            (_, Some(code)) if code != Code::UnknownTopicOrPartition => {
                let failure = Failure::from(KafkaError::MetadataFetch(code));
                Err(failure.worded(format_args!("topic `{topic}`: {code}")))
            }
            _ => Ok(None),
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
        for element in found.elements() {
            element.error()?;
        }
        let position = |partition: i32| {
            let offset = match found.find_partition(topic, partition).map(|element| element.offset()) {
                Some(Offset::Offset(offset)) => offset,
                _ => self.ends(topic, partition)?.high,
            };
            Ok(Position { partition, offset })
        };
        partitions.iter().map(|partition| position(*partition)).collect()
    }

    /// Of each partition the next offset that the group committed, where it did.
    pub(crate) fn committed(&self, topic: &str, partitions: &[i32]) -> Result<Vec<Option<i64>>> {
        let mut asked = TopicPartitionList::new();
        for partition in partitions {
            asked.add_partition(topic, *partition);
        }
        let found = self.answered(self.consumer.committed_offsets(asked, self.connection.timeout()))?;
        for element in found.elements() {
            element.error()?;
        }
        let committed = |partition: &i32| match found.find_partition(topic, *partition).map(|element| element.offset())
        {
            Some(Offset::Offset(offset)) => Some(offset),
            _ => None,
        };
        Ok(partitions.iter().map(committed).collect())
    }

    /// Whether the group is just sharing out its partitions. Of groups of the newer protocol Kafka does not tell.
    pub(crate) fn is_unsettled(&self, group: &str) -> Result<bool> {
        let groups = self.answered(self.consumer.fetch_group_list(Some(group), self.connection.timeout()))?;
        let mut groups = groups.groups().iter();
        Ok(groups.any(|found| found.name() == group && found.state().ends_with("Rebalance")))
    }

    /// The time of the first record from each of these places on, in milliseconds since 1970; none where it has none, or
    /// where no record comes up to the end.
    pub(crate) fn first_times(&self, topic: &str, from: &[Position]) -> Result<Vec<(i32, Option<i64>)>> {
        let mut times = Vec::new();
        let mut left: HashSet<i32> = from.iter().map(|position| position.partition).collect();
        let mut assignment = TopicPartitionList::new();
        for Position { partition, offset } in from {
            assignment.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        self.consumer.assign(&assignment)?;
        let mut silence = Silence::default();
        while !left.is_empty() {
            match self.consumer.poll(QUIET) {
                Some(Ok(record)) => {
                    silence.ends();
                    let partition = record.partition();
                    if left.remove(&partition) {
                        times.push((partition, record.timestamp().to_millis()));
                        let mut enough = TopicPartitionList::new();
                        enough.add_partition(topic, partition);
                        self.consumer.pause(&enough)?;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(left.remove(&partition)),
                Some(Err(error)) => match Error::from(error) {
                    error if error.is_retriable() => silence.troubles(&error),
                    error => return Err(error.into()),
                },
                None => silence.goes_on(self, topic, || left.iter().copied().collect())?,
            }
        }
        self.consumer.unassign()?;
        Ok(times)
    }

    /// Hands over a topic's records from these places on, in each partition's order, until `each` breaks off. Unless this is
    /// to `follow`, up to where the partitions end now. `quiet` is called whenever nothing comes for a moment.
    pub(crate) fn scan(
        &self,
        topic: &str,
        from: &[Position],
        follow: bool,
        each: impl FnMut(&BorrowedMessage<'_>) -> Result<ControlFlow<()>>,
        mut quiet: impl FnMut() -> Result,
    ) -> Result {
        self.read(topic, from, follow, each, || quiet().map(ControlFlow::Continue))
    }

    /// The same, where `quiet` may break off, too. It is called as soon as nothing is there.
    pub(crate) fn read(
        &self,
        topic: &str,
        from: &[Position],
        follow: bool,
        mut each: impl FnMut(&BorrowedMessage<'_>) -> Result<ControlFlow<()>>,
        mut quiet: impl FnMut() -> Result<ControlFlow<()>>,
    ) -> Result {
        let mut assignment = TopicPartitionList::new();
        let mut open = Open::default();
        for Position { partition, offset } in from {
            let Ends { low, high } = self.ends(topic, *partition)?;
            // What was there before is gone, and would be an error.
            let offset = low.max(*offset);
            if follow || offset < high {
                open.add(*partition, if follow { i64::MAX } else { high });
                assignment.add_partition_offset(topic, *partition, Offset::Offset(offset))?;
            }
        }
        self.consumer.assign(&assignment)?;
        let mut silence = Silence::default();
        let mut looked = Instant::now();
        while open.left > 0 {
            if follow && self.is_growing && looked.elapsed() > LOOK {
                self.grow(topic, &mut open)?;
                looked = Instant::now();
            }
            let polled = match self.consumer.poll(Duration::ZERO) {
                None if quiet()?.is_break() => break,
                None => self.consumer.poll(QUIET),
                some => some,
            };
            let record = match polled {
                None => {
                    if !follow {
                        silence.goes_on(self, topic, || open.partitions())?;
                    }
                    continue;
                }
                Some(Ok(record)) => record,
                // It tells no topic, so there is but one.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if !follow {
                        self.close(topic, partition, &mut open)?;
                    }
                    continue;
                }
                Some(Err(error)) => match Error::from(error) {
                    error if error.is_retriable() => {
                        silence.troubles(&error);
                        continue;
                    }
                    error => return Err(error.into()),
                },
            };
            silence.ends();
            let (partition, offset) = (record.partition(), record.offset());
            let end = open.end(partition);
            // What came since then is left, unless it is followed.
            if offset < end && each(&record)?.is_break() {
                break;
            }
            if offset >= end - 1 {
                self.close(topic, partition, &mut open)?;
            }
        }
        self.consumer.unassign()?;
        Ok(())
    }

    /// Of this partition no more is wanted. What still came of it would hide that nothing comes of the others.
    fn close(&self, topic: &str, partition: i32, open: &mut Open) -> Result {
        if open.has(partition) {
            open.close(partition);
            if open.left > 0 {
                let mut enough = TopicPartitionList::new();
                enough.add_partition(topic, partition);
                self.consumer.incremental_unassign(&enough)?;
            }
        }
        Ok(())
    }

    /// Adds the partitions that a topic has by now, from their first record on.
    fn grow(&self, topic: &str, open: &mut Open) -> Result {
        // Whoever does not answer now is asked again.
        let Ok(metadata) = self.consumer.fetch_metadata(Some(topic), LOOKING) else { return Ok(()) };
        let mut new = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id()) {
            if !open.has(partition) {
                open.add(partition, i64::MAX);
                new.add_partition_offset(topic, partition, Offset::Beginning)?;
            }
        }
        if new.count() > 0 {
            self.consumer.incremental_assign(&new)?;
        }
        Ok(())
    }
}

/// Partitions of which something is still to come, and where they end.
#[derive(Default)]
struct Open {
    /// By partition.
    ends: Vec<i64>,
    left: usize,
}

impl Open {
    /// Nothing of it is wanted.
    const CLOSED: i64 = i64::MIN + 1;

    fn end(&self, partition: i32) -> i64 {
        usize::try_from(partition).ok().and_then(|index| self.ends.get(index)).copied().unwrap_or(Self::CLOSED)
    }

    fn has(&self, partition: i32) -> bool {
        self.end(partition) != Self::CLOSED
    }

    fn partitions(&self) -> Vec<i32> {
        (0..).zip(&self.ends).filter(|(_, end)| **end != Self::CLOSED).map(|(partition, _)| partition).collect()
    }

    fn add(&mut self, partition: i32, end: i64) {
        let Ok(index) = usize::try_from(partition) else { return };
        if self.ends.len() <= index {
            self.ends.resize(index + 1, Self::CLOSED);
        }
        self.left += usize::from(self.ends[index] == Self::CLOSED);
        self.ends[index] = end;
    }

    fn close(&mut self, partition: i32) {
        if self.has(partition) {
            self.left -= 1;
            self.ends[partition as usize] = Self::CLOSED;
        }
    }
}
