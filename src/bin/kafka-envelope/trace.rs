//! Where a message came from, and what was made of it.

mod descendants;
mod graph;
mod lookup;

use std::ops::ControlFlow;
use std::str::FromStr;

use indicatif::ProgressBar;
use kafka_envelope::{Ref, low_level};
use rdkafka::Message as _;
use serde_json::json;

use crate::connection::Connection;
use crate::failure::{Failure, Result, warn};
use crate::output::Output;
use crate::reader::{Position, Reader};
use crate::trace::graph::Graph;
use crate::trace::lookup::{Answer, Lookup};

/// So many messages are looked for in Kafka, where nothing else is said.
const LOOKED_FOR: &str = "1000";

const EXAMPLES: &str = "\
Each line is a message: its place and key, the service that made it and when, how long that was after the latest of its \
sources, and `gone` where Kafka has it no more: what is known of it then stands in the history of what came of it.
--json writes lists of messages, each once and with the places of its `sources`; the first is the message itself.

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
    let reader = Reader::of_places(connection)?;
    let Found { reference, millis } = find(&reader, &arguments.message)?;
    let bar = output.bar(None);
    let ancestors = ancestors(&reader, arguments, &reference, &bar)?;
    let descendants = match &*arguments.descendants {
        [] => None,
        topics => Some(descendants::scan(&Reader::new(connection)?, topics, &reference, millis, &bar)?),
    };
    bar.finish_and_clear();
    if output.json {
        let descendants = descendants.as_ref().map(Graph::to_json);
        return output.value(&json!({"ancestors": ancestors.to_json(), "descendants": descendants}));
    }
    ancestors.print_sources(output)?;
    let Some(descendants) = descendants else { return Ok(()) };
    output.line("")?;
    descendants.print_made(output)
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

/// What a message was made of, and what Kafka still has of that.
fn ancestors(reader: &Reader<'_>, arguments: &Arguments, of: &Ref, bar: &ProgressBar) -> Result<Graph> {
    let mut graph = Graph::default();
    let mut lookup = Lookup::new(reader);
    let mut left = arguments.limit;
    let mut is_cut = false;
    let first = graph.node(of);
    graph.nodes[first].is_there = Some(true);
    let mut wanted = of.history.as_ref().map(|history| graph.learn(first, history, true)).unwrap_or_default();
    // All that a history tells of is looked for at once, then what the histories of those tell of, and so on.
    while !wanted.is_empty() {
        is_cut |= wanted.len() > left;
        wanted.truncate(left);
        left -= wanted.len();
        let mut answers = lookup.look(wanted.iter(), bar)?;
        for reference in std::mem::take(&mut wanted) {
            let index = graph.node(&reference);
            match answers.remove(&Place::of(&reference)) {
                Some(Answer::There(history)) => {
                    graph.nodes[index].is_there = Some(true);
                    // It may go on where that of its descendants was cut.
                    if let Some(history) = history {
                        wanted.extend(graph.learn(index, &history, true));
                    }
                }
                Some(Answer::Gone) => graph.nodes[index].is_there = Some(false),
                None => {}
            }
        }
    }
    if is_cut {
        warn(format_args!("no more than {} messages were looked for: --limit says how many", arguments.limit));
    }
    Ok(graph)
}
