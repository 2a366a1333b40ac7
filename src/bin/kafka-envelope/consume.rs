//! `consume`: envelopes as lines of JSON.

mod filter;
mod line;
mod member;
mod place;

use std::ops::ControlFlow;

use indicatif::ProgressBar;
use kafka_envelope::unpack;
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Headers as _};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::connection::Connection;
use crate::failure::{Failure, Result, warn};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::reader::{Position, Reader};
use filter::Filter;
use line::{Place, Shown, Writer};
use place::From;

/// How often the bar moves, in records. A power of two.
const STEP: u64 = 1_024;

const HELP: &str = r#"Each envelope is a line, in each partition's order:
  {"id": …, "payload": …, "ref": "topic:partition:offset:key", "topic": …, "partition": …, "offset": …, "timestamp": …, "headers": {…}}
A tombstone has "payload": null and "tombstone": true. A header that comes more than once has a list; what is no text is {"base64": "…"}.
Records that are no envelopes are named on standard error; with them the exit code is 3. With --raw each record is a line, with "value" in the place of "payload".
With --follow and without --partition, partitions that are added later are read from their beginning.

Filters: /pointer takes envelopes whose payload has something there, /pointer=value those where it is this, /pointer!=value those where it is not, or nothing is there. A value is JSON or a text. Of several filters all have to take it.

With --group and --commit it reads as a member of the group. What was written and flushed is committed; a crash repeats at most what was not. Without --follow it ends where the partitions end when it starts, or when nothing came for the --connect-timeout and the group has shared its partitions out: with exit code 3 where other members have what is left. Tombstones are passed over.

Examples:
  kafka-envelope consume orders --from -10
  kafka-envelope consume orders --follow --filter /customer/country=NZ | jq .payload.total
  kafka-envelope consume orders --group audit --commit >> orders.jsonl"#;

/// Writes a topic's envelopes as JSON lines
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Arguments {
    /// What is read
    topic: String,
    /// Where to start: beginning, end, an offset, -N for the last N of each partition, or a time as 2026-01-31T09:00:00Z [default: beginning]
    #[arg(long, value_name = "PLACE", allow_negative_numbers = true)]
    from: Option<From>,
    /// Reads this partition alone, as often as needed
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
    /// Goes on at the end, until it is interrupted
    #[arg(short, long)]
    follow: bool,
    /// Ends after so many lines
    #[arg(short, long, value_name = "COUNT")]
    limit: Option<u64>,
    /// Writes only envelopes whose payload is so, as often as needed
    #[arg(long, value_name = "/POINTER[=VALUE]")]
    filter: Vec<Filter>,
    /// Writes each record's value as it is, be it an envelope or not
    #[arg(long, conflicts_with_all = ["filter", "hist", "commit"])]
    raw: bool,
    /// Adds each envelope's history, as `hist`
    #[arg(long)]
    hist: bool,
    /// Starts where this group is; --from counts where it has committed nothing
    #[arg(short, long)]
    group: Option<String>,
    /// Reads as a member of the group, and commits what was written
    #[arg(long, requires = "group", conflicts_with = "partition")]
    commit: bool,
}

pub(crate) fn run(arguments: &Arguments, connection: &Connection, output: &Output) -> Result {
    let mut lines = Lines::new(arguments, output);
    match &arguments.group {
        Some(group) if arguments.commit => member::run(group, arguments, connection, &mut lines)?,
        _ => read(arguments, connection, &mut lines)?,
    }
    lines.verdict()
}

/// Reads outside of any group.
fn read(arguments: &Arguments, connection: &Connection, lines: &mut Lines<'_>) -> Result {
    let Arguments { topic, from, partition, follow, .. } = arguments;
    let reader = match &arguments.group {
        Some(group) => Reader::of_group(connection, group)?,
        None => Reader::new(connection)?,
    };
    let reader = reader.growing(partition.is_empty());
    let partitions = partitions(&reader, arguments)?;
    let mut positions = from.unwrap_or(From::Beginning).positions(&reader, topic, &partitions)?;
    if arguments.group.is_some() {
        for (position, committed) in positions.iter_mut().zip(reader.committed(topic, &partitions)?) {
            position.offset = committed.unwrap_or(position.offset);
        }
    }
    if lines.is_full() {
        return Ok(());
    }
    let mut total = 0;
    for Position { partition, offset } in &mut positions {
        let ends = reader.ends(topic, *partition)?;
        if *offset < ends.low {
            warn(format_args!("{topic}:{partition}: the records from {offset} to before {} are gone", ends.low));
        }
        *offset = (*offset).max(ends.low).min(ends.high);
        total += ends.high.saturating_sub(*offset).unsigned_abs();
    }
    let interrupt = Interrupt::new()?;
    let output = lines.output;
    lines.bar = output.progress((!follow).then_some(total));
    let take = |record: &BorrowedMessage<'_>| {
        lines.record(record)?;
        Ok(if lines.is_full() || interrupt.has_come() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    let quiet = || {
        output.flush()?;
        Ok(if interrupt.has_come() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    let done = reader.read(topic, &positions, *follow, take, quiet);
    lines.bar.finish_and_clear();
    done?;
    output.flush()?;
    if interrupt.has_come() && !follow {
        return Err(Failure::new("interrupted before the end"));
    }
    Ok(())
}

/// Those that are asked for, or all.
fn partitions(reader: &Reader<'_>, Arguments { topic, partition: asked, .. }: &Arguments) -> Result<Vec<i32>> {
    let all = reader.partitions(topic)?;
    if let Some(missing) = asked.iter().find(|partition| !all.contains(partition)) {
        return Err(Failure::new(format_args!("topic `{topic}` has no partition {missing}"))
            .hint(format_args!("it has {}, from 0 on", all.len())));
    }
    Ok(if asked.is_empty() { all } else { all.into_iter().filter(|partition| asked.contains(partition)).collect() })
}

/// Writes lines, and counts what it sees.
struct Lines<'a> {
    arguments: &'a Arguments,
    output: &'a Output,
    bar: ProgressBar,
    writer: Writer,
    seen: u64,
    written: u64,
    /// Records that were named on standard error.
    unread: u64,
}

impl<'a> Lines<'a> {
    fn new(arguments: &'a Arguments, output: &'a Output) -> Self {
        let bar = ProgressBar::hidden();
        Self { arguments, output, bar, writer: Writer::default(), seen: 0, written: 0, unread: 0 }
    }

    fn is_full(&self) -> bool {
        self.arguments.limit.is_some_and(|limit| self.written >= limit)
    }

    fn count(&mut self) {
        self.seen += 1;
        if self.seen % STEP == 0 {
            self.bar.set_position(self.seen);
        }
    }

    fn record(&mut self, record: &BorrowedMessage<'_>) -> Result {
        self.count();
        let place = Place {
            topic: record.topic(),
            partition: record.partition(),
            offset: record.offset(),
            timestamp: record.timestamp().to_millis(),
            key: record.key(),
        };
        let headers = || {
            let headers = record.headers().into_iter();
            headers.flat_map(|headers| headers.iter()).map(|header| (header.key, header.value))
        };
        let value = record.payload();
        if self.arguments.raw {
            return self.write(&place, &Shown::Raw(value), headers());
        }
        if place.key.is_some_and(|key| std::str::from_utf8(key).is_err()) {
            self.unreadable(&place, "the key, which is the message's id, is not UTF-8");
            return Ok(());
        }
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            // It has no payload that a filter could look into.
            return if self.arguments.filter.is_empty() {
                self.write(&place, &Shown::Tombstone, headers())
            } else {
                Ok(())
            };
        };
        match unpack(value) {
            Ok(envelope) => self.envelope(&place, envelope.item(), envelope.history(), headers()),
            Err(error) => {
                self.unreadable(&place, error);
                Ok(())
            }
        }
    }

    fn envelope<'h>(
        &mut self,
        place: &Place<'_>,
        item: &RawValue,
        history: Option<&RawValue>,
        headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) -> Result {
        let Arguments { filter, hist, .. } = self.arguments;
        if !filter.is_empty() {
            match serde_json::from_str::<Value>(item.get()) {
                Ok(payload) if filter.iter().all(|filter| filter.takes(&payload)) => {}
                Ok(_) => return Ok(()),
                Err(error) => {
                    self.unreadable(place, format_args!("no filter can look into it: {error}"));
                    return Ok(());
                }
            }
        }
        self.write(place, &Shown::Envelope { item, history: hist.then_some(history) }, headers)
    }

    fn write<'h>(
        &mut self,
        place: &Place<'_>,
        shown: &Shown<'_>,
        headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) -> Result {
        self.written += 1;
        self.output.bytes(self.writer.line(place, shown, headers))
    }

    fn unreadable(&mut self, Place { topic, partition, offset, .. }: &Place<'_>, reason: impl std::fmt::Display) {
        self.unread += 1;
        self.bar.suspend(|| warn(format_args!("{topic}:{partition}:{offset}: {reason}")));
    }

    fn verdict(&self) -> Result {
        match self.unread {
            0 => Ok(()),
            unread => Err(Failure::Incomplete(format!(
                "{unread} of {} records could not be read, see above; `--raw` shows what they are",
                self.seen
            ))),
        }
    }
}
