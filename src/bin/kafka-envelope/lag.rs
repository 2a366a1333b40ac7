//! `lag`: how far a group is behind.

mod members;

use std::collections::{BTreeMap, BTreeSet};

use chrono::Utc;
use rdkafka::consumer::Consumer as _;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::failure::{Failure, Result, warn};
use crate::output::Output;
use crate::reader::{Ends, Position, Reader};
use members::{Group, Member};

const TITLES: [&str; 9] = ["topic", "partition", "committed", "end", "lag", "lag_seconds", "member", "client", "host"];

const HELP: &str = "\
lag          records from the committed offset to the partition's end; where nothing is committed, all that are there
lag_seconds  how old the first of them is, by its timestamp
end          where the committed records end: those of a transaction that is still open come after it
member       who reads the partition now, where Kafka tells

With --json the last line is an object with the group's totals: group, state, members, partitions, lag, lag_seconds. What is \
not known is null.

A partition that cannot be asked for, as it has no leader or its topic is gone, is named on standard error; the totals are \
those of the others, and the exit code is 3.

Examples:
  kafka-envelope lag billing
  kafka-envelope lag billing --json | jq 'select(.lag > 1000)'";

/// Shows how far a group is behind, in records and in time
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Arguments {
    /// Whose lag it is
    group: String,
    /// Shows this topic alone, as often as needed
    #[arg(long)]
    topic: Vec<String>,
}

/// A partition.
type Key = (String, i32);

/// What is known of one.
#[derive(Debug, Default)]
struct Row {
    committed: Option<i64>,
    /// None where it could not be asked for.
    end: Option<i64>,
    /// The first record that is there and not committed.
    next: i64,
    /// In milliseconds since 1970.
    timestamp: Option<i64>,
}

impl Row {
    fn lag(&self) -> Option<i64> {
        self.end.map(|end| end.saturating_sub(self.next).max(0))
    }

    fn is_behind(&self) -> bool {
        self.lag().is_some_and(|lag| lag > 0)
    }

    /// None where there is a lag of records without a time, or of none that can be read.
    fn seconds(&self, now: i64) -> Option<f64> {
        if self.lag()? == 0 {
            return Some(0.0);
        }
        self.timestamp.map(|timestamp| now.saturating_sub(timestamp).max(0) as f64 / 1_000.0)
    }
}

pub(crate) fn run(arguments: &Arguments, connection: &Connection, output: &Output) -> Result {
    let name = &arguments.group;
    let reader = Reader::of_group(connection, name)?;
    let partitions = partitions(&reader, connection)?;
    let mut unknown = Unknown::default();
    let committed = committed(&reader, connection, &partitions, &mut unknown)?;
    let group = members::ask(&reader, connection, name)?;
    if group.members.is_empty() && committed.is_empty() {
        return Err(Failure::new(format_args!("group `{name}` has no members and no committed offsets"))
            .hint("is the name right? Offsets go some time after the last member, see `offsets.retention.minutes`"));
    }
    let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
    for key in group.owners.keys() {
        rows.entry(key.clone()).or_default();
    }
    for (key, offset) in committed {
        rows.entry(key).or_default().committed = Some(offset);
    }
    if !arguments.topic.is_empty() {
        rows.retain(|(topic, _), _| arguments.topic.contains(topic));
    }
    // Those of the same topics, of which the group has nothing committed yet.
    let topics: BTreeSet<String> = rows.keys().map(|(topic, _)| topic.clone()).collect();
    for key in partitions.keys().filter(|(topic, _)| topics.contains(topic)) {
        rows.entry(key.clone()).or_default();
    }
    if rows.is_empty() {
        return Err(Failure::new(format_args!("group `{name}` has no partitions and no committed offsets there")));
    }
    find_ends(&reader, &partitions, &mut rows, &mut unknown)?;
    find_times(&reader, &mut rows, &mut unknown)?;
    show(name, &group, &rows, output)?;
    unknown.verdict(rows.len())
}

/// Partitions of which something could not be asked for.
#[derive(Default)]
struct Unknown(BTreeSet<Key>);

impl Unknown {
    fn name(&mut self, topic: &str, partition: i32, what: &str) {
        if self.0.insert((topic.to_owned(), partition)) {
            warn(format_args!("{topic}:{partition}: {what}"));
        }
    }

    /// The answer; none, where this topic is at fault and not the brokers.
    fn unless_known<T>(
        &mut self,
        reader: &Reader<'_>,
        (topic, partition): &Key,
        answer: Result<T>,
    ) -> Result<Option<T>> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(Failure::Error { what, .. }) => {
                reader.metadata(Some(topic))?;
                self.name(topic, *partition, &what);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    fn verdict(&self, of: usize) -> Result {
        match self.0.len() {
            0 => Ok(()),
            unknown => Err(Failure::Incomplete(format!(
                "of {unknown} of {of} partitions the lag or its time is not known, see above"
            ))),
        }
    }
}

/// All that there are, and whether they have a leader.
fn partitions(reader: &Reader<'_>, connection: &Connection) -> Result<BTreeMap<Key, bool>> {
    let metadata = reader.answered(reader.consumer().fetch_metadata(None, connection.timeout()))?;
    let all = metadata.topics().iter().flat_map(|topic| {
        let partitions = topic.partitions().iter();
        partitions.map(|partition| ((topic.name().to_owned(), partition.id()), partition.leader() >= 0))
    });
    Ok(all.collect())
}

/// The next offset of each of these that the group has committed.
fn committed(
    reader: &Reader<'_>,
    connection: &Connection,
    partitions: &BTreeMap<Key, bool>,
    unknown: &mut Unknown,
) -> Result<BTreeMap<Key, i64>> {
    let mut asked = TopicPartitionList::new();
    for (topic, partition) in partitions.keys() {
        asked.add_partition(topic, *partition);
    }
    let found = reader.answered(reader.consumer().committed_offsets(asked, connection.timeout()))?;
    let mut committed = BTreeMap::new();
    for element in found.elements() {
        match (element.error(), element.offset()) {
            // Rights may be missing.
            (Err(error), _) => {
                unknown.name(element.topic(), element.partition(), &format!("what is committed is not told: {error}"));
            }
            (Ok(()), Offset::Offset(offset)) => {
                committed.insert((element.topic().to_owned(), element.partition()), offset);
            }
            (Ok(()), _) => {}
        }
    }
    Ok(committed)
}

/// Asks where the partitions end, and so what is not committed.
fn find_ends(
    reader: &Reader<'_>,
    partitions: &BTreeMap<Key, bool>,
    rows: &mut BTreeMap<Key, Row>,
    unknown: &mut Unknown,
) -> Result {
    for (key, row) in rows {
        let (topic, partition) = key;
        match partitions.get(key) {
            Some(true) => {}
            Some(false) => {
                unknown.name(topic, *partition, "it has no leader that could be asked");
                continue;
            }
            None => {
                unknown.name(topic, *partition, "it is there no more");
                continue;
            }
        }
        let ends = reader.ends(topic, *partition);
        let Some(Ends { low, high }) = unknown.unless_known(reader, key, ends)? else { continue };
        match row.committed {
            Some(committed) if committed < low => warn(format_args!(
                "{topic}:{partition}: the records from {committed} to before {low} are gone, not committed"
            )),
            Some(committed) if committed > high => warn(format_args!(
                "{topic}:{partition}: {committed} is committed, beyond the end {high}: was the topic made anew?"
            )),
            _ => {}
        }
        row.end = Some(high);
        row.next = row.committed.unwrap_or(low).max(low);
    }
    Ok(())
}

/// Reads the first record of each partition that is not committed.
fn find_times(reader: &Reader<'_>, rows: &mut BTreeMap<Key, Row>, unknown: &mut Unknown) -> Result {
    let mut behind: BTreeMap<String, Vec<Position>> = BTreeMap::new();
    for ((topic, partition), row) in rows.iter().filter(|(_, row)| row.is_behind()) {
        let position = Position { partition: *partition, offset: row.next };
        behind.entry(topic.clone()).or_default().push(position);
    }
    for (topic, positions) in behind {
        let times = reader.first_times(&topic, &positions);
        let key = (topic, positions.first().map_or(0, |position| position.partition));
        let times = unknown.unless_known(reader, &key, times)?;
        let (topic, _) = key;
        for (partition, timestamp) in times.into_iter().flatten() {
            if let Some(row) = rows.get_mut(&(topic.clone(), partition)) {
                row.timestamp = timestamp;
            }
        }
    }
    Ok(())
}

fn show(name: &str, group: &Group, rows: &BTreeMap<Key, Row>, output: &Output) -> Result {
    let now = Utc::now().timestamp_millis();
    let unknown = Member::default();
    let lines = rows.iter().map(|(key, row)| {
        let member = group.owners.get(key).and_then(|index| group.members.get(*index)).unwrap_or(&unknown);
        let text = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
        vec![
            json!(key.0),
            json!(key.1),
            json!(row.committed),
            json!(row.end),
            json!(row.lag()),
            json!(row.seconds(now)),
            text(&member.id),
            text(&member.client),
            text(&member.host),
        ]
    });
    output.table(&TITLES, lines)?;
    let lag = rows.values().filter_map(Row::lag).reduce(i64::saturating_add);
    // Without a lag it is none; what is behind may be without a time.
    let is_behind = rows.values().any(Row::is_behind);
    let ages = rows.values().filter(|row| row.is_behind() || !is_behind).filter_map(|row| row.seconds(now));
    let seconds = ages.reduce(f64::max);
    let (members, partitions) = (group.members.len(), rows.len());
    if output.json {
        return output.value(&json!({
            "group": name,
            "state": group.state,
            "members": members,
            "partitions": partitions,
            "lag": lag,
            "lag_seconds": seconds,
        }));
    }
    let state = group.state.as_deref().unwrap_or("state unknown");
    let lag = lag.map_or("unknown".to_owned(), |lag| format!("{lag} records"));
    let seconds = seconds.map_or("time unknown".to_owned(), |seconds| format!("{seconds} seconds"));
    output.line(&format!("\n{name}: {state}, members {members}, partitions {partitions}, lag {lag}, {seconds}"))
}
