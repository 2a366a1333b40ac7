//! Where a message came from, and what was made of it.

mod tree;

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::str::FromStr;

use kafka_envelope::{History, Ref, low_level};
use rdkafka::Message as _;
use serde_json::json;

use crate::connection::Connection;
use crate::failure::{Failure, Result, warn};
use crate::output::Output;
use crate::reader::{Position, Reader};
use crate::trace::tree::Tree;

/// So many messages are looked for in Kafka, where nothing else is said.
const LOOKED_FOR: &str = "1000";

const EXAMPLES: &str = "\
Each line is a message: its place and key, the service that made it and when, how long that was after the latest of its \
sources, and `gone` where Kafka has it no more: what is known of it then stands in the history of what came of it.

Examples:
  kafka-envelope trace invoices:0:42
  kafka-envelope trace orders:3:7 --descendants invoices shipments";

/// Shows from which messages a message was made, and with --descendants what was made of it
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The message: topic:partition:offset
    message: Place,
    /// Looks through these topics for messages that were made of it
    #[arg(long, value_name = "TOPIC", num_args = 1..)]
    descendants: Vec<String>,
    /// Looks for no more than so many ancestors in Kafka
    #[arg(long, value_name = "MESSAGES", default_value = LOOKED_FOR)]
    limit: usize,
}

/// Where a record stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    topic: String,
    partition: i32,
    offset: i64,
}

impl Place {
    fn of(reference: &Ref) -> Self {
        let Ref { topic, partition, offset, .. } = reference;
        Self { topic: topic.clone(), partition: *partition, offset: *offset }
    }
}

impl FromStr for Place {
    type Err = String;

    /// As `topic:partition:offset`; a key behind that is left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "is not topic:partition:offset".to_owned();
        let mut parts = text.splitn(4, ':');
        let (Some(topic), Some(partition), Some(offset)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let partition = partition.parse().map_err(|_| wrong())?;
        let offset = offset.parse().ok().filter(|offset| *offset >= 0).ok_or_else(wrong)?;
        if topic.is_empty() || partition < 0 {
            return Err(wrong());
        }
        Ok(Self { topic: topic.to_owned(), partition, offset })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.topic, self.partition, self.offset)
    }
}

pub(crate) fn run(arguments: &Arguments, connection: &Connection, output: &Output) -> Result {
    let reader = Reader::new(connection)?;
    let Found { reference, millis } = find(&reader, &arguments.message)?;
    let mut ancestors = Ancestors {
        reader: &reader,
        left: arguments.limit,
        is_cut: false,
        known: HashMap::new(),
        shown: HashSet::new(),
    };
    ancestors.known.insert(arguments.message.clone(), Some(reference.history.clone()));
    let tree = ancestors.tree(&reference)?;
    if ancestors.is_cut {
        warn(format_args!("no more than {} messages were looked for: --limit says how many", arguments.limit));
    }
    let descendants = descendants(&reader, arguments, &reference, millis)?;
    if output.json {
        return output
            .value(&json!({"ancestors": tree.to_json(), "descendants": descendants.as_ref().map(Tree::to_json)}));
    }
    tree.print(output)?;
    match descendants {
        Some(descendants) => {
            output.line("")?;
            descendants.print(output)
        }
        None => Ok(()),
    }
}

/// A message that is there.
struct Found {
    reference: Ref,
    /// Its timestamp.
    millis: Option<i64>,
}

fn find(reader: &Reader<'_>, place: &Place) -> Result<Found> {
    let partitions = reader.partitions(&place.topic)?;
    if !partitions.contains(&place.partition) {
        return Err(Failure::new(format_args!("topic `{}` has no partition {}", place.topic, place.partition)));
    }
    let ends = reader.ends(&place.topic, place.partition)?;
    let mut found = None;
    read_one(reader, place, |record| {
        let message = low_level::unpack(record)?;
        let message = message.ok_or_else(|| Failure::new(format_args!("{place} has no value: it came of nothing")))?;
        found = Some(Found { reference: message.reference, millis: record.timestamp().to_millis() });
        Ok(())
    })?;
    found.ok_or_else(|| {
        let crate::reader::Ends { low, high } = ends;
        Failure::new(format_args!("there is no record at {place}"))
            .hint(format_args!("{}:{} has offsets from {low} to before {high}", place.topic, place.partition))
    })
}

/// Reads the record at this place, if there is one.
fn read_one(
    reader: &Reader<'_>,
    place: &Place,
    mut read: impl FnMut(&rdkafka::message::BorrowedMessage<'_>) -> Result,
) -> Result {
    let from = [Position { partition: place.partition, offset: place.offset }];
    let ends = reader.ends(&place.topic, place.partition)?;
    if !(ends.low..ends.high).contains(&place.offset) {
        return Ok(());
    }
    let each = |record: &rdkafka::message::BorrowedMessage<'_>| {
        // Behind it: it was compacted away.
        if record.offset() == place.offset {
            read(record)?;
        }
        Ok(ControlFlow::Break(()))
    };
    reader.scan(&place.topic, &from, false, each, || Ok(()))
}

/// What Kafka still has of a message's ancestors.
struct Ancestors<'a> {
    reader: &'a Reader<'a>,
    /// So many more may be looked for.
    left: usize,
    /// More were there to be looked for.
    is_cut: bool,
    /// What was looked for: none where Kafka has it no more, and the history of what it has.
    known: HashMap<Place, Option<Option<History>>>,
    /// What stands in the tree already.
    shown: HashSet<Place>,
}

impl Ancestors<'_> {
    fn tree(&mut self, reference: &Ref) -> Result<Tree> {
        let place = Place::of(reference);
        let is_there = match self.known.get(&place) {
            Some(known) => Some(known.is_some()),
            None if self.left == 0 => {
                self.is_cut = true;
                None
            }
            None => {
                self.left -= 1;
                match self.look(reference) {
                    Ok(known) => {
                        let is_there = known.is_some();
                        self.known.insert(place.clone(), known);
                        Some(is_there)
                    }
                    Err(Failure::Error { what, .. }) => {
                        // Without brokers nothing is known to be gone.
                        self.reader.metadata(Some(&place.topic))?;
                        warn(format_args!("{place} cannot be looked for: {what}"));
                        None
                    }
                    Err(other) => return Err(other),
                }
            }
        };
        // The record's own history may go on where that of its descendants was cut.
        let own = self.known.get(&place).cloned().flatten().flatten();
        let history = own.or_else(|| reference.history.clone());
        let mut tree = Tree::new(place.clone(), reference.key.clone(), history.as_ref(), is_there);
        if !self.shown.insert(place) {
            return Ok(tree.again());
        }
        for source in tree.sources() {
            let source = self.tree(&source)?;
            tree.push(source);
        }
        Ok(tree)
    }

    fn look(&self, reference: &Ref) -> Result<Option<Option<History>>> {
        let place = Place::of(reference);
        // Its topic may be gone as well.
        if self.reader.known_partitions(&place.topic)?.is_none_or(|all| !all.contains(&place.partition)) {
            return Ok(None);
        }
        let mut found = None;
        read_one(self.reader, &place, |record| {
            let message = low_level::unpack(record).ok().flatten().map(|message| message.reference);
            // Of a topic that was made anew another message may stand there.
            let is_it = message.as_ref().is_none_or(|message| is_same(message, reference));
            found = is_it.then(|| message.and_then(|message| message.history));
            Ok(())
        })?;
        Ok(found)
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

/// What was made of a message, as far as it stands in these topics.
fn descendants(reader: &Reader<'_>, arguments: &Arguments, of: &Ref, millis: Option<i64>) -> Result<Option<Tree>> {
    if arguments.descendants.is_empty() {
        return Ok(None);
    }
    let origin = Place::of(of);
    let mut made: HashMap<Place, Vec<Ref>> = HashMap::new();
    let mut edges: HashSet<(Place, Place)> = HashSet::new();
    let mut others = 0_u64;
    for topic in &arguments.descendants {
        let partitions = reader.partitions(topic)?;
        let from = match millis {
            // Clocks differ: from a minute before.
            Some(millis) => reader.offsets_at(topic, &partitions, millis.saturating_sub(60_000).max(0))?,
            None => partitions.iter().map(|partition| Position { partition: *partition, offset: 0 }).collect(),
        };
        let each = |record: &rdkafka::message::BorrowedMessage<'_>| {
            match low_level::unpack(record) {
                Ok(Some(message)) => {
                    trace_back(&message.reference, &origin, &mut made, &mut edges);
                }
                Ok(None) => {}
                Err(_) => others += 1,
            }
            Ok(ControlFlow::Continue(()))
        };
        reader.scan(topic, &from, false, each, || Ok(()))?;
    }
    if others > 0 {
        warn(format_args!("{others} records are no envelopes, and tell no source"));
    }
    Ok(Some(Tree::of_descendants(of, &made)))
}

/// Notes on which ways a message came from `origin`. False: on none.
fn trace_back(
    message: &Ref,
    origin: &Place,
    made: &mut HashMap<Place, Vec<Ref>>,
    edges: &mut HashSet<(Place, Place)>,
) -> bool {
    let place = Place::of(message);
    if place == *origin {
        return true;
    }
    let Some(stage) = message.history.as_ref().and_then(|history| history.stage().ok()) else { return false };
    let mut is_on_way = false;
    for source in &stage.refs {
        if trace_back(source, origin, made, edges) {
            is_on_way = true;
            let source = Place::of(source);
            if edges.insert((source.clone(), place.clone())) {
                made.entry(source).or_default().push(message.clone());
            }
        }
    }
    is_on_way
}
