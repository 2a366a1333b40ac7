//! `consume --group … --commit`: a member of the group, which commits what was written.

use std::collections::HashMap;
use std::ops::ControlFlow;

use kafka_envelope::{Error, HandlerError, OnUndecodable, RawBatch};
use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;

use super::line::Place;
use super::place::From;
use super::{Arguments, Lines};
use crate::connection::Connection;
use crate::failure::{Failure, Result, warn};
use crate::interrupt::Interrupt;
use crate::logging;
use crate::reader::{Position, Reader};

pub(super) fn run(group: &str, arguments: &Arguments, connection: &Connection, lines: &mut Lines<'_>) -> Result {
    let Arguments { topic, from, follow, .. } = arguments;
    let reset = match from {
        None => None,
        Some(From::Beginning) => Some("earliest"),
        Some(From::End) => Some("latest"),
        Some(_) => {
            return Err(Failure::new("a member of a group starts where the group is")
                .hint("with `--commit`, `--from` is `beginning` or `end`, and counts where nothing is committed"));
        }
    };
    // Says what is wrong with brokers, topic or rights before a consumer would go on trying.
    let reader = Reader::of_group(connection, group)?;
    let mut ends = ends(&reader, arguments)?;
    if lines.is_full() || !follow && ends.is_empty() {
        return Ok(());
    }
    let mut builder = connection.consumer(group)?.topics([topic]).on_undecodable(OnUndecodable::Skip);
    if let Some(reset) = reset {
        builder = builder.config([("auto.offset.reset", reset)]);
    }
    if !follow {
        builder = builder.idle_timeout(connection.timeout());
    }
    let interrupt = Interrupt::new()?;
    let mut consumer = builder.build()?;
    consumer.stop_on_signals()?;
    let stopper = consumer.stopper();

    let mut failure = None;
    let (mut handed, mut records, mut is_enough, mut was_unsettled) = (0, 0, false, false);
    let done = loop {
        let done = consumer.run_raw(|batch: &RawBatch<'_>| {
            for (index, record) in batch.iter().enumerate() {
                if lines.is_full() {
                    is_enough = true;
                    flush(lines, &mut failure)?;
                    stopper.stop();
                    return Err(HandlerError::at(index, "enough"));
                }
                let place = Place {
                    topic: record.topic(),
                    partition: record.partition(),
                    offset: record.offset(),
                    timestamp: record.timestamp().map(|time| time.timestamp_millis()),
                    key: record.key(),
                };
                lines.count();
                handed += 1;
                let history = if arguments.hist { record.history() } else { None };
                let history = history.as_ref().and_then(|history| serde_json::from_str(history.as_json()).ok());
                if let Err(error) = lines.envelope(&place, record.payload, history, record.headers().iter()) {
                    failure = Some(error);
                    return Err("the output has gone".into());
                }
                if ends.get(&place.partition).is_some_and(|end| place.offset + 1 >= *end) {
                    ends.remove(&place.partition);
                }
            }
            flush(lines, &mut failure)?;
            if lines.is_full() || !follow && ends.is_empty() {
                stopper.stop();
            }
            Ok(())
        });
        match &done {
            Ok(summary) => records += summary.records,
            Err(_) => break done,
        }
        if *follow || lines.is_full() || ends.is_empty() || interrupt.has_come() {
            break done;
        }
        // Nothing came. While the group shares its partitions out anew, nothing can: after a crash that takes until the
        // session of the member that died is over.
        let is_unsettled = reader.is_unsettled(group)?;
        if !is_unsettled && !was_unsettled {
            break done;
        }
        was_unsettled = is_unsettled;
    };
    let closed = consumer.close(connection.timeout());
    if let Some(failure) = failure {
        return Err(failure);
    }
    // The log named them.
    let skipped = logging::skipped();
    lines.unread += skipped;
    lines.seen += skipped;
    match done {
        Ok(_) => {}
        Err(Error::Handler { .. }) if is_enough => return Ok(closed?),
        Err(error) => return Err(error.into()),
    }
    closed?;
    let tombstones = records.saturating_sub(handed + skipped);
    if tombstones > 0 {
        warn(format_args!("{tombstones} tombstones were passed over, and committed"));
    }
    if *follow || lines.is_full() {
        return Ok(());
    }
    if interrupt.has_come() {
        return Err(Failure::new("interrupted before the end"));
    }
    let unread = unread(&reader, topic, &ends)?;
    if unread.is_empty() {
        return Ok(());
    }
    Err(Failure::Incomplete(format!(
        "not read to its end: {}; another member of the group has it, or had it when it died",
        unread.iter().map(|partition| format!("{topic}:{partition}")).collect::<Vec<_>>().join(", ")
    )))
}

/// Those of the partitions of which the group has a record left before these ends. What stands before an end may be no record.
fn unread(reader: &Reader<'_>, topic: &str, ends: &HashMap<i32, i64>) -> Result<Vec<i32>> {
    let partitions: Vec<_> = ends.keys().copied().collect();
    let mut positions = Vec::new();
    for (partition, committed) in partitions.iter().zip(reader.committed(topic, &partitions)?) {
        let low = reader.ends(topic, *partition)?.low;
        positions.push(Position { partition: *partition, offset: committed.unwrap_or(low).max(low) });
    }
    let mut unread = Vec::new();
    for position in positions {
        let Some(end) = ends.get(&position.partition).filter(|end| position.offset < **end) else { continue };
        let mut is_left = false;
        let first = |record: &BorrowedMessage<'_>| {
            is_left = record.offset() < *end;
            Ok(ControlFlow::Break(()))
        };
        reader.scan(topic, &[position], false, first, || Ok(()))?;
        if is_left {
            unread.push(position.partition);
        }
    }
    unread.sort_unstable();
    Ok(unread)
}

/// What was written goes out: only then it may be committed.
fn flush(lines: &Lines<'_>, failure: &mut Option<Failure>) -> Result<(), HandlerError> {
    lines.output.flush().map_err(|error| {
        *failure = Some(error);
        "the output has gone".into()
    })
}

/// Where partitions end now of which the group has something left to read.
fn ends(reader: &Reader<'_>, Arguments { topic, from, .. }: &Arguments) -> Result<HashMap<i32, i64>> {
    let partitions = reader.partitions(topic)?;
    let committed = reader.committed(topic, &partitions)?;
    let mut ends = HashMap::new();
    for (partition, committed) in partitions.into_iter().zip(committed) {
        let end = reader.ends(topic, partition)?;
        let start = match (committed, from) {
            (Some(committed), _) => committed.max(end.low),
            (None, Some(From::End)) => end.high,
            (None, _) => end.low,
        };
        if start < end.high {
            ends.insert(partition, end.high);
        }
    }
    Ok(ends)
}
