//! `consume --group … --commit`: a member of the group, which commits what was written.

use std::collections::HashMap;

use kafka_envelope::{Error, HandlerError, OnUndecodable, RawBatch, Summary};

use super::line::Place;
use super::place::From;
use super::{Arguments, Lines};
use crate::connection::Connection;
use crate::failure::{Failure, Result, warn};
use crate::logging;
use crate::reader::Reader;

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
    let mut ends = ends(group, arguments, connection)?;
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
    let mut consumer = builder.build()?;
    consumer.stop_on_signals()?;
    let stopper = consumer.stopper();

    let mut failure = None;
    let (mut handed, mut is_enough) = (0, false);
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
    let closed = consumer.close(connection.timeout());
    if let Some(failure) = failure {
        return Err(failure);
    }
    // The log named them.
    let skipped = logging::skipped();
    lines.unread += skipped;
    lines.seen += skipped;
    let Summary { records, .. } = match done {
        Ok(summary) => summary,
        Err(Error::Handler { .. }) if is_enough => return Ok(closed?),
        Err(error) => return Err(error.into()),
    };
    closed?;
    let tombstones = records.saturating_sub(handed + skipped);
    if tombstones > 0 {
        warn(format_args!("{tombstones} tombstones were passed over, and committed"));
    }
    Ok(())
}

/// What was written goes out: only then it may be committed.
fn flush(lines: &Lines<'_>, failure: &mut Option<Failure>) -> Result<(), HandlerError> {
    lines.output.flush().map_err(|error| {
        *failure = Some(error);
        "the output has gone".into()
    })
}

/// Where partitions end now of which the group has something left to read.
fn ends(group: &str, Arguments { topic, from, .. }: &Arguments, connection: &Connection) -> Result<HashMap<i32, i64>> {
    let reader = Reader::of_group(connection, group)?;
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
