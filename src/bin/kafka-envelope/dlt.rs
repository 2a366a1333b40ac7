//! Dead letters: how many there are of what, one of them whole, and back to where they came from.

mod filter;
mod letter;
mod progress;
mod redrive;
mod refused;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::dlt::filter::Filter;
use crate::dlt::letter::Letter;
use crate::failure::{Failure, Result, warn};
use crate::output::Output;
use crate::reader::{Position, Reader};

const EXAMPLES: &str = "\
Examples:
  kafka-envelope dlt list orders-dlt
  kafka-envelope dlt show orders-dlt 0:17
  kafka-envelope dlt redrive orders-dlt --error timeout --dry-run";

/// Counts, shows and puts back dead letters
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Counts letters by original topic and error
    List(List),
    /// Shows one letter whole
    Show(Show),
    Redrive(redrive::Arguments),
}

#[derive(Debug, clap::Args)]
struct List {
    /// The topic of the dead letters
    topic: String,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The topic of the dead letters
    topic: String,
    /// The letter: partition:offset
    #[arg(value_parser = place)]
    letter: (i32, i64),
}

fn place(text: &str) -> Result<(i32, i64), String> {
    let (partition, offset) = text.split_once(':').ok_or("is not partition:offset")?;
    let numbers = partition.parse().ok().zip(offset.parse().ok());
    numbers
        .filter(|(partition, offset)| *partition >= 0 && *offset >= 0)
        .ok_or_else(|| "is not partition:offset".into())
}

pub(crate) fn run(arguments: &Arguments, connection: &Connection, output: &Output) -> Result {
    match &arguments.command {
        Command::List(arguments) => list(arguments, connection, output),
        Command::Show(arguments) => show(arguments, connection, output),
        Command::Redrive(arguments) => redrive::run(arguments, connection, output),
    }
}

/// Letters of one topic and error.
#[derive(Default)]
struct Count {
    letters: u64,
    first: Option<DateTime<Utc>>,
    last: Option<DateTime<Utc>>,
}

fn list(List { topic, filter }: &List, connection: &Connection, output: &Output) -> Result {
    let reader = Reader::new(connection)?;
    let partitions = reader.partitions(topic)?;
    let from: Vec<_> = partitions.iter().map(|partition| Position { partition: *partition, offset: 0 }).collect();
    let mut counts: BTreeMap<(String, String, String), Count> = BTreeMap::new();
    let mut others = 0_u64;
    let each = |record: &rdkafka::message::BorrowedMessage<'_>| {
        let letter = Letter::of(record);
        let Some(origin) = &letter.origin else {
            others += 1;
            return Ok(ControlFlow::Continue(()));
        };
        if filter.passes(&letter) {
            let key = (origin.topic.clone(), letter.class().to_owned(), letter.summary().to_owned());
            let count = counts.entry(key).or_default();
            count.letters += 1;
            count.first = count.first.min(letter.at).or(count.first).or(letter.at);
            count.last = count.last.max(letter.at);
        }
        Ok(ControlFlow::Continue(()))
    };
    reader.scan(topic, &from, false, each, || Ok(()))?;
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(count.letters));
    let rows = counts.into_iter().map(|((topic, class, message), Count { letters, first, last })| {
        let time =
            |time: Option<DateTime<Utc>>| json!(time.map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true)));
        vec![json!(letters), json!(topic), json!(class), json!(message), time(first), time(last)]
    });
    output.table(&["letters", "topic", "error", "message", "first", "last"], rows)?;
    if others > 0 {
        return Err(Failure::Incomplete(format!(
            "{others} records of `{topic}` say not where they came from: no dead letters"
        )));
    }
    Ok(())
}

fn show(Show { topic, letter: (partition, offset) }: &Show, connection: &Connection, output: &Output) -> Result {
    let reader = Reader::new(connection)?;
    if !reader.partitions(topic)?.contains(partition) {
        return Err(Failure::new(format_args!("topic `{topic}` has no partition {partition}")));
    }
    let ends = reader.ends(topic, *partition)?;
    let mut found = None;
    if (ends.low..ends.high).contains(offset) {
        let each = |record: &rdkafka::message::BorrowedMessage<'_>| {
            if rdkafka::Message::offset(record) == *offset {
                found = Some(record.detach());
            }
            Ok(ControlFlow::Break(()))
        };
        reader.scan(topic, &[Position { partition: *partition, offset: *offset }], false, each, || Ok(()))?;
    }
    let Some(letter) = found else {
        return Err(Failure::new(format_args!("there is no record at {topic}:{partition}:{offset}"))
            .hint(format_args!("{topic}:{partition} has offsets from {} to before {}", ends.low, ends.high)));
    };
    let letter = Letter::of(&letter);
    if output.json {
        return output.value(&letter);
    }
    for (name, value) in letter.fields() {
        output.line(&format!("{name}: {}", text(&value)))?;
    }
    output.line("headers:")?;
    for (name, value) in letter.own_headers() {
        output.line(&format!("  {name}: {}", text(&value)))?;
    }
    output.line(&format!("value: {}", text(&letter.value_text())))
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A letter that is passed over, by name.
fn passed_over(letter: &Letter<'_>, why: &str) {
    warn(format_args!("{}:{}:{} {why}", letter.topic, letter.partition, letter.offset));
}
