//! Dead letters back to where they came from, once each.
//!
//! A batch of letters and the commit that says so are one transaction. Whoever reads committed records gets each letter
//! once, however often the run is interrupted; who reads uncommitted ones may get a batch again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use serde_json::json;

use crate::connection::{Connection, Refusals};
use crate::dlt::filter::Filter;
use crate::dlt::letter::{Letter, Origin};
use crate::dlt::passed_over;
use crate::dlt::progress::Progress;
use crate::dlt::refused::{Refused, is_of_letter};
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::reader::{Position, Reader};

/// So many letters are one transaction.
const BATCH: usize = 100;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(60);

const EXAMPLES: &str = "\
A letter goes to the topic and partition that it came from, with its own key, value and headers, and the header \
`kafka_envelope-redrives`, which counts how often it was put back.

A letter that cannot go back stays and is named, and so is one whose topic is gone: none is made anew. The others go.

100 letters and the commit that they are done are one transaction: interrupted and started again, nothing is lost, and \
nothing comes twice for who reads committed records; for others at most 100 letters do. SIGINT ends it between two of \
them. Of two runs at once the later one goes on.

What is done stands in the offsets of the --group, and what was left between in their metadata, which holds 4096 bytes: \
of a partition some 24,000 letters from the first that is not done on, or about 1,000 gaps, however wide. A run that \
would leave more ends there. Brokers forget the offsets of a group that nobody uses (`offsets.retention.minutes`, 7 days \
where nothing else is set): letters that are older than that are put back again then, unless --since leaves them.

Examples:
  kafka-envelope dlt redrive orders-dlt --dry-run
  kafka-envelope dlt redrive orders-dlt --error timeout --since 2026-01-31T10:00:00Z";

/// Puts letters back to the topic that they came from
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The topic of the dead letters
    topic: String,
    #[command(flatten)]
    filter: Filter,
    /// Shows what would be put back, and does nothing
    #[arg(long)]
    dry_run: bool,
    /// No more than so many letters
    #[arg(long, value_name = "LETTERS")]
    limit: Option<usize>,
    /// Leaves letters that were put back so often before
    #[arg(long, value_name = "TIMES", default_value = "3")]
    max_redrives: u32,
    /// The group whose offsets say what is done
    #[arg(long, value_name = "GROUP", default_value = "kafka-envelope-redrive")]
    group: String,
}

pub(crate) fn run(arguments: &Arguments, connection: &Connection, output: &Output) -> Result {
    let Arguments { topic, dry_run, group, .. } = arguments;
    let reader = Reader::new(connection)?;
    let partitions = reader.partitions(topic)?;
    let offsets: BaseConsumer<_> = connection.group_reader(group)?;
    let producer = match dry_run {
        true => None,
        // From here on another run that goes on fails.
        false => Some(connection.transactional(&transactional_id(group, topic), PATIENCE)?),
    };
    let mut redrive = Redrive {
        arguments,
        output,
        progress: progress(&offsets, connection, &reader, topic, &partitions)?,
        seen: HashMap::new(),
        connection,
        reader: &reader,
        destinations: HashMap::new(),
        offsets: &offsets,
        producer,
        batch: Vec::new(),
        redriven: 0,
        left: 0,
        bar: output.progress(None),
    };
    let from = |partition: &i32| Position {
        partition: *partition,
        offset: redrive.progress.get(partition).map_or(0, Progress::next),
    };
    let from: Vec<_> = partitions.iter().map(from).collect();
    // A transaction that is left open holds up whoever reads committed records.
    let interrupt = Interrupt::new()?;
    let go_on = || if interrupt.has_come() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let each = |record: &BorrowedMessage<'_>| match go_on() {
        ControlFlow::Continue(()) => redrive.take(record),
        interrupted => Ok(interrupted),
    };
    reader.read(topic, &from, false, each, || Ok(go_on()))?;
    let is_interrupted = interrupt.has_come();
    if !is_interrupted {
        redrive.send()?;
    }
    redrive.bar.finish_and_clear();
    if !output.json {
        let done = if *dry_run { "would be put back" } else { "put back" };
        let said = output.line(&format!("{} letters {done}", redrive.redriven));
        redrive.though_closed(said)?;
    }
    if is_interrupted {
        return Err(Failure::Incomplete("interrupted: another run goes on from here".to_owned()));
    }
    match redrive.left {
        0 => Ok(()),
        left => Err(Failure::Incomplete(format!("{left} letters were left where they are"))),
    }
}

/// Waits for all reports. rdkafka's own `flush` sleeps out slices of 100 ms, for each letter where they go one by one.
fn flush(producer: &BaseProducer<Refusals>) -> Result<(), KafkaError> {
    let start = Instant::now();
    while producer.in_flight_count() > 0 {
        if start.elapsed() > PATIENCE {
            return Err(KafkaError::Flush(Code::OperationTimedOut));
        }
        producer.poll(Duration::from_millis(1));
    }
    Ok(())
}

fn transactional_id(group: &str, topic: &str) -> String {
    format!("{group}-{topic}")
}

/// What earlier runs have done.
fn progress<C: rdkafka::consumer::ConsumerContext>(
    offsets: &BaseConsumer<C>,
    connection: &Connection,
    reader: &Reader<'_>,
    topic: &str,
    partitions: &[i32],
) -> Result<HashMap<i32, Progress>> {
    let mut asked = TopicPartitionList::new();
    partitions.iter().for_each(|partition| {
        asked.add_partition(topic, *partition);
    });
    let committed = offsets.committed_offsets(asked, connection.timeout())?;
    let mut all = HashMap::new();
    for element in committed.elements() {
        element.error()?;
        let mut progress = match element.offset() {
            Offset::Offset(offset) => Progress::of(offset, element.metadata()).map_err(|why| {
                Failure::new(format_args!("the offset of {topic}:{} {why}", element.partition()))
                    .hint("another program commits under this group: `--group` names one of its own")
            })?,
            _ => Progress::default(),
        };
        progress.forget_before(reader.ends(topic, element.partition())?.low);
        all.insert(element.partition(), progress);
    }
    Ok(all)
}

struct Redrive<'a, C: rdkafka::consumer::ConsumerContext> {
    arguments: &'a Arguments,
    output: &'a Output,
    progress: HashMap<i32, Progress>,
    /// Of each partition the offset behind the last record that was read.
    seen: HashMap<i32, i64>,
    connection: &'a Connection,
    reader: &'a Reader<'a>,
    /// The partitions of topics that letters came from; none where there is no such topic.
    destinations: HashMap<String, Option<Vec<i32>>>,
    offsets: &'a BaseConsumer<C>,
    /// None: a dry run.
    producer: Option<BaseProducer<Refusals>>,
    /// With the offset behind the record before: from there on there is no other.
    batch: Vec<(i64, OwnedMessage)>,
    redriven: usize,
    /// Those that could not be put back.
    left: usize,
    bar: ProgressBar,
}

impl<C: rdkafka::consumer::ConsumerContext> Redrive<'_, C> {
    fn take(&mut self, record: &rdkafka::message::BorrowedMessage<'_>) -> Result<ControlFlow<()>> {
        let Arguments { filter, limit, max_redrives, .. } = self.arguments;
        let progress = self.progress.entry(record.partition()).or_default();
        let since = self.seen.insert(record.partition(), record.offset() + 1).unwrap_or_else(|| progress.next());
        if progress.is_done(record.offset()) {
            progress.done(since, record.offset());
            return Ok(ControlFlow::Continue(()));
        }
        if limit.is_some_and(|limit| self.redriven + self.batch.len() >= limit) {
            return Ok(ControlFlow::Break(()));
        }
        let letter = Letter::of(record);
        if letter.origin.is_none() {
            passed_over(&letter, "does not say where it came from, and stays");
            self.left += 1;
            return Ok(ControlFlow::Continue(()));
        }
        if !filter.passes(&letter) {
            return Ok(ControlFlow::Continue(()));
        }
        if letter.redrives() >= *max_redrives {
            passed_over(
                &letter,
                &format!("was put back {} times before, and stays: see --max-redrives", letter.redrives()),
            );
            self.left += 1;
            return Ok(ControlFlow::Continue(()));
        }
        if let Some(missing) = letter.origin.as_ref().map(|origin| self.missing(origin)).transpose()?.flatten() {
            passed_over(&letter, &format!("cannot be put back, and stays: {missing}"));
            self.left += 1;
            return Ok(ControlFlow::Continue(()));
        }
        self.batch.push((since, record.detach()));
        if self.batch.len() >= BATCH {
            self.send()?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Why a letter cannot go back to where it came from, as far as the brokers' metadata tells.
    fn missing(&mut self, origin: &Origin) -> Result<Option<String>> {
        let Origin { topic, partition, .. } = origin;
        let known = match self.destinations.entry(topic.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(self.reader.known_partitions(topic)?),
        };
        Ok(match (known, partition) {
            (None, _) => Some(format!("there is no topic `{topic}`")),
            (Some(known), Some(partition)) if !known.contains(partition) => {
                Some(format!("topic `{topic}` has no partition {partition}"))
            }
            _ => None,
        })
    }

    /// Puts the batch back, and commits that. Letters that are refused are left, and the others go without them.
    fn send(&mut self) -> Result {
        let mut batch = std::mem::take(&mut self.batch);
        let mut one_by_one = false;
        while !batch.is_empty() {
            let Some(producer) = &self.producer else {
                self.report(&batch)?;
                break;
            };
            producer.begin_transaction()?;
            match self.send_by(producer, &batch, one_by_one) {
                Ok(progress) => {
                    self.progress = progress;
                    self.report(&batch)?;
                    break;
                }
                Err(refused) => {
                    let is_fenced = producer.client().fatal_error().is_some_and(|(code, _)| code == Code::Fenced);
                    // Aborting waits for reports, which come while it is polled.
                    producer.purge(PurgeConfig::default().queue().inflight());
                    let _ = flush(producer);
                    let aborted = producer.abort_transaction(PATIENCE);
                    producer.context().take();
                    let refused = match refused {
                        // Of it the reports only tell that what was not sent yet is given up.
                        Refused::All(_) if is_fenced => return Err(self.fenced()),
                        Refused::All(failure) => return Err(failure),
                        Refused::One(index, error) => Some((index, error)),
                        Refused::Some => None,
                    };
                    aborted?;
                    one_by_one |= refused.is_none();
                    if let Some((index, error)) = refused {
                        let (_, record) = batch.remove(index);
                        passed_over(&Letter::of(&record), &format!("cannot be put back, and stays: {error}"));
                        self.left += 1;
                    }
                    self.begin_anew()?;
                    let is_open = |record: &OwnedMessage| {
                        self.progress.get(&record.partition()).is_none_or(|done| !done.is_done(record.offset()))
                    };
                    batch.retain(|(_, record)| is_open(record));
                }
            }
        }
        self.though_closed(self.output.flush())
    }

    /// That nobody reads of it does not make it done: the others go back all the same.
    fn though_closed(&self, said: Result) -> Result {
        match said {
            Err(Failure::ClosedPipe) if self.producer.is_some() => Ok(()),
            other => other,
        }
    }

    /// After a refusal the producer's sequence has a gap, which brokers do not take. Another run may have come between.
    fn begin_anew(&mut self) -> Result {
        let Arguments { topic, group, .. } = self.arguments;
        self.producer = None;
        self.producer = Some(self.connection.transactional(&transactional_id(group, topic), PATIENCE)?);
        let partitions: Vec<i32> = self.progress.keys().copied().collect();
        self.progress = progress(self.offsets, self.connection, self.reader, topic, &partitions)?;
        Ok(())
    }

    fn report(&mut self, batch: &[(i64, OwnedMessage)]) -> Result {
        for (_, record) in batch {
            let letter = Letter::of(record);
            let Some(origin) = &letter.origin else { continue };
            let to = origin.topic.as_str();
            let from = format!("{}:{}:{}", letter.topic, letter.partition, letter.offset);
            self.though_closed(match self.output.json {
                true => self.output.value(&json!({"letter": from, "to": to, "partition": origin.partition})),
                false => self.output.line(&format!("{from} -> {to}")),
            })?;
            self.redriven += 1;
            self.bar.inc(1);
        }
        Ok(())
    }

    /// Within a transaction, which is committed then. The answer is what is done by then.
    fn send_by(
        &self,
        producer: &BaseProducer<Refusals>,
        batch: &[(i64, OwnedMessage)],
        one_by_one: bool,
    ) -> Result<HashMap<i32, Progress>, Refused> {
        let mut touched: Vec<i32> = Vec::new();
        let mut progress = self.progress.clone();
        for (index, (since, record)) in batch.iter().enumerate() {
            let letter = Letter::of(record);
            let Some(origin) = &letter.origin else { continue };
            let headers = letter.redriven_headers();
            let mut back = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&origin.topic, index).headers(headers);
            back.key = letter.key;
            back.payload = letter.value;
            back.partition = origin.partition;
            let mut sending = producer.send(back);
            while let Err((KafkaError::MessageProduction(Code::QueueFull), back)) = sending {
                producer.poll(Duration::from_millis(10));
                sending = producer.send(back);
            }
            match sending {
                Ok(()) => {}
                Err((error, _)) if is_of_letter(&error) => return Err(Refused::One(index, error)),
                Err((error, _)) => return Err(self.not_sent(batch, index, &error).into()),
            }
            if one_by_one {
                let flushed = flush(producer);
                match producer.context().take() {
                    Some((_, error)) if is_of_letter(&error) => return Err(Refused::One(index, error)),
                    Some((_, error)) => return Err(self.not_sent(batch, index, &error).into()),
                    None => flushed.map_err(Failure::from)?,
                }
            }
            progress.entry(letter.partition).or_default().done(*since, letter.offset);
            touched.push(letter.partition);
        }
        touched.dedup();
        let mut offsets = TopicPartitionList::new();
        for (partition, progress) in progress.iter().filter(|(partition, _)| touched.contains(partition)) {
            let too_much = || {
                Failure::new(format_args!("too many letters of partition {partition} are left between those put back"))
                    .hint("what was done before stays so: choose fewer gaps, or no filter at all")
            };
            let metadata = progress.metadata().ok_or_else(too_much)?;
            let next = Offset::Offset(progress.next());
            offsets.add_partition_offset(&self.arguments.topic, *partition, next).map_err(Failure::from)?;
            if let Some(mut element) = offsets.find_partition(&self.arguments.topic, *partition) {
                element.set_metadata(metadata);
            }
        }
        let group = self.offsets.group_metadata().ok_or_else(|| Failure::new("the group has no metadata"))?;
        let flushed = flush(producer);
        match producer.context().take() {
            // Others in the same request are refused with it.
            Some((_, error)) if is_of_letter(&error) => return Err(Refused::Some),
            Some((index, error)) => return Err(self.not_sent(batch, index, &error).into()),
            None => flushed.map_err(Failure::from)?,
        }
        let committed = producer.send_offsets_to_transaction(&offsets, &group, PATIENCE);
        committed.and_then(|()| producer.commit_transaction(PATIENCE)).map_err(Failure::from)?;
        Ok(progress)
    }

    fn fenced(&self) -> Failure {
        let Arguments { topic, group, .. } = self.arguments;
        Failure::new(format_args!(
            "a later run puts letters of `{topic}` back for group `{group}`, and goes on in its place"
        ))
    }

    fn not_sent(&self, batch: &[(i64, OwnedMessage)], index: usize, error: &KafkaError) -> Failure {
        let Some((_, record)) = batch.get(index) else { return Failure::new(error) };
        let letter = Letter::of(record);
        let Letter { topic, partition, offset, .. } = letter;
        let to = letter.origin.map(|Origin { topic, partition, .. }| {
            partition.map_or(topic.clone(), |partition| format!("{topic}:{partition}"))
        });
        let to = to.unwrap_or_default();
        Failure::new(format_args!("{topic}:{partition}:{offset} cannot be put back to {to}: {error}"))
            .hint("nothing of its batch was put back; what was before it is")
    }
}
