//! Records by their places, many at once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use kafka_envelope::{Error, History, Ref, low_level};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use crate::failure::{Failure, Result, warn};
use crate::reader::{Ends, Reader};
use crate::trace::Place;

/// To a record that is no further ahead the way is read, not jumped.
const NEAR: i64 = 100;
const POLL: Duration = Duration::from_millis(100);

/// What Kafka has at a place.
pub(crate) enum Answer {
    /// The message, and the history that it has itself.
    There(Option<History>),
    Gone,
}

/// Looks for messages, and keeps in mind what it was told of their topics.
pub(crate) struct Lookup<'a> {
    reader: &'a Reader<'a>,
    topics: HashMap<String, Option<Vec<i32>>>,
    ends: HashMap<(String, i32), Ends>,
}

/// Of each partition the messages that are still looked for, by their offsets.
type Wanted<'a> = BTreeMap<i32, VecDeque<&'a Ref>>;
type Answers = HashMap<Place, Answer>;

impl<'a> Lookup<'a> {
    pub(crate) fn new(reader: &'a Reader<'a>) -> Self {
        Self { reader, topics: HashMap::new(), ends: HashMap::new() }
    }

    /// What is there of these. There is no answer for what cannot be looked for; it is named.
    pub(crate) fn look<'r>(&mut self, wanted: impl Iterator<Item = &'r Ref>, bar: &ProgressBar) -> Result<Answers> {
        let mut topics: BTreeMap<&str, Wanted<'_>> = BTreeMap::new();
        for reference in wanted {
            let partitions = topics.entry(&reference.topic).or_default();
            partitions.entry(reference.partition).or_default().push_back(reference);
        }
        let mut answers = Answers::new();
        // One topic at a time: where a partition ends, the client does not tell of which topic.
        for (topic, wanted) in topics {
            self.look_in(topic, wanted, &mut answers, bar)?;
        }
        Ok(answers)
    }

    fn look_in(&mut self, topic: &str, wanted: Wanted<'_>, answers: &mut Answers, bar: &ProgressBar) -> Result {
        let known = match self.partitions(topic) {
            Ok(known) => known,
            Err(failure) => return self.unknown(topic, None, failure),
        };
        let mut open = Wanted::new();
        for (partition, mut wanted) in wanted {
            let is_known = known.as_ref().is_some_and(|known| known.contains(&partition));
            let ends = match is_known.then(|| self.ends(topic, partition)).transpose() {
                Ok(ends) => ends,
                Err(failure) => {
                    self.unknown(topic, Some(partition), failure)?;
                    continue;
                }
            };
            wanted.retain(|reference| {
                let may_be = ends.is_some_and(|Ends { low, high }| (low..high).contains(&reference.offset));
                if !may_be {
                    answers.insert(Place::of(reference), Answer::Gone);
                }
                may_be
            });
            wanted.make_contiguous().sort_by_key(|reference| reference.offset);
            if !wanted.is_empty() {
                open.insert(partition, wanted);
            }
        }
        let Err(failure) = self.read(topic, open.clone(), answers, bar) else { return Ok(()) };
        self.reader.metadata(Some(topic))?;
        log::warn!("{topic}: {failure:?}");
        // Which partition it was is not told.
        for (partition, wanted) in open {
            if let Err(failure) = self.read(topic, Wanted::from([(partition, wanted)]), answers, bar) {
                self.unknown(topic, Some(partition), failure)?;
            }
        }
        Ok(())
    }

    fn partitions(&mut self, topic: &str) -> Result<Option<Vec<i32>>> {
        if let Some(known) = self.topics.get(topic) {
            return Ok(known.clone());
        }
        let found = self.reader.known_partitions(topic)?;
        self.topics.insert(topic.to_owned(), found.clone());
        Ok(found)
    }

    fn ends(&mut self, topic: &str, partition: i32) -> Result<Ends> {
        let key = (topic.to_owned(), partition);
        if let Some(ends) = self.ends.get(&key) {
            return Ok(*ends);
        }
        let ends = self.reader.ends(topic, partition)?;
        self.ends.insert(key, ends);
        Ok(ends)
    }

    /// Without brokers nothing is known to be gone; else the others may be found.
    fn unknown(&self, topic: &str, partition: Option<i32>, failure: Failure) -> Result {
        let Failure::Error { what, .. } = failure else { return Err(failure) };
        self.reader.metadata(Some(topic))?;
        let partition = partition.map(|partition| format!(":{partition}")).unwrap_or_default();
        warn(format_args!("messages of {topic}{partition} cannot be looked for: {what}"));
        Ok(())
    }

    fn read(&self, topic: &str, open: Wanted<'_>, answers: &mut Answers, bar: &ProgressBar) -> Result {
        let consumer = self.reader.consumer();
        let mut paused = TopicPartitionList::new();
        let read = self.read_open(topic, open, &mut paused, answers, bar);
        // In another assignment they would still be paused.
        consumer.resume(&paused)?;
        consumer.unassign()?;
        read
    }

    fn read_open(
        &self,
        topic: &str,
        mut open: Wanted<'_>,
        paused: &mut TopicPartitionList,
        answers: &mut Answers,
        bar: &ProgressBar,
    ) -> Result {
        let consumer = self.reader.consumer();
        let mut assignment = TopicPartitionList::new();
        for (partition, wanted) in &open {
            let Some(first) = wanted.front() else { continue };
            assignment.add_partition_offset(topic, *partition, Offset::Offset(first.offset))?;
        }
        consumer.assign(&assignment)?;
        let mut answered = Instant::now();
        while !open.is_empty() {
            let record = match consumer.poll(POLL) {
                Some(Ok(record)) => record,
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    let gone = open.remove(&partition).into_iter().flatten();
                    answers.extend(gone.map(|reference| (Place::of(reference), Answer::Gone)));
                    continue;
                }
                Some(Err(error)) => match Error::from(error) {
                    error if error.is_retriable() => {
                        log::warn!("{error}");
                        continue;
                    }
                    error => return Err(error.into()),
                },
                None if answered.elapsed() > self.reader.timeout() => return Err(self.reader.unreachable()),
                None => continue,
            };
            answered = Instant::now();
            let (partition, offset) = (record.partition(), record.offset());
            let Some(wanted) = open.get_mut(&partition) else { continue };
            while wanted.front().is_some_and(|next| next.offset <= offset) {
                let Some(next) = wanted.pop_front() else { break };
                // Before it: compacted away.
                let answer = if next.offset == offset { answer(&record, next) } else { Answer::Gone };
                answers.insert(Place::of(next), answer);
                bar.inc(1);
            }
            match wanted.front().map(|next| next.offset) {
                None => {
                    open.remove(&partition);
                    if !open.is_empty() {
                        let mut enough = TopicPartitionList::new();
                        enough.add_partition(topic, partition);
                        consumer.pause(&enough)?;
                        paused.add_partition(topic, partition);
                    }
                }
                Some(next) if next - offset > NEAR => {
                    self.reader.answered(consumer.seek(
                        topic,
                        partition,
                        Offset::Offset(next),
                        self.reader.timeout(),
                    ))?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

fn answer(record: &BorrowedMessage<'_>, wanted: &Ref) -> Answer {
    let message = low_level::unpack(record).ok().flatten().map(|message| message.reference);
    match message {
        // Of a topic that was made anew another message may stand there.
        Some(message) if !is_same(&message, wanted) => Answer::Gone,
        message => Answer::There(message.and_then(|message| message.history)),
    }
}

/// Whether these can be one message, as far as both tell who made it, and when.
fn is_same(one: &Ref, other: &Ref) -> bool {
    let made = |message: &Ref| {
        let stage = message.history.as_ref().and_then(|history| history.stage().ok())?;
        Some((stage.service, stage.at))
    };
    let differ = one.key.as_ref().zip(other.key.as_ref()).is_some_and(|(one, other)| one != other);
    !differ && made(one).zip(made(other)).is_none_or(|(one, other)| one == other)
}
