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
member       who reads the partition now, where Kafka tells

With --json the last line is an object with the group's totals: group, state, members, partitions, lag, lag_seconds.

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
    end: i64,
    /// The first record that is there and not committed.
    next: i64,
    /// In milliseconds since 1970.
    timestamp: Option<i64>,
}

impl Row {
    fn lag(&self) -> i64 {
        self.end.saturating_sub(self.next).max(0)
    }

    /// None where there is a lag of records without a time, or of none that can be read.
    fn seconds(&self, now: i64) -> Option<f64> {
        if self.lag() == 0 {
            return Some(0.0);
        }
        self.timestamp.map(|timestamp| now.saturating_sub(timestamp).max(0) as f64 / 1_000.0)
    }
}

pub(crate) fn run(arguments: &Arguments, connection: &Connection, output: &Output) -> Result {
    let name = &arguments.group;
    let reader = Reader::of_group(connection, name)?;
    let partitions = partitions(&reader, connection)?;
    let committed = committed(&reader, connection, &partitions)?;
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
    for key in partitions.into_iter().filter(|(topic, _)| topics.contains(topic)) {
        rows.entry(key).or_default();
    }
    if rows.is_empty() {
        return Err(Failure::new(format_args!("group `{name}` has no partitions and no committed offsets there")));
    }
    for ((topic, partition), row) in &mut rows {
        let Ends { low, high } = reader.ends(topic, *partition)?;
        if let Some(committed) = row.committed.filter(|committed| *committed < low) {
            warn(format_args!(
                "{topic}:{partition}: the records from {committed} to before {low} are gone, not committed"
            ));
        }
        row.end = high;
        row.next = row.committed.unwrap_or(low).max(low);
    }
    find_times(&reader, &mut rows)?;
    show(name, &group, &rows, output)
}

/// All that there are.
fn partitions(reader: &Reader<'_>, connection: &Connection) -> Result<Vec<Key>> {
    let metadata = reader.answered(reader.consumer().fetch_metadata(None, connection.timeout()))?;
    let topics = metadata.topics().iter();
    Ok(topics
        .flat_map(|topic| topic.partitions().iter().map(|partition| (topic.name().to_owned(), partition.id())))
        .collect())
}

/// The next offset of each of these that the group has committed.
fn committed(reader: &Reader<'_>, connection: &Connection, partitions: &[Key]) -> Result<BTreeMap<Key, i64>> {
    let mut asked = TopicPartitionList::new();
    for (topic, partition) in partitions {
        asked.add_partition(topic, *partition);
    }
    let found = reader.answered(reader.consumer().committed_offsets(asked, connection.timeout()))?;
    let mut committed = BTreeMap::new();
    for element in found.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            committed.insert((element.topic().to_owned(), element.partition()), offset);
        }
    }
    Ok(committed)
}

/// Reads the first record of each partition that is not committed.
fn find_times(reader: &Reader<'_>, rows: &mut BTreeMap<Key, Row>) -> Result {
    let mut behind: BTreeMap<String, Vec<Position>> = BTreeMap::new();
    for ((topic, partition), row) in rows.iter().filter(|(_, row)| row.lag() > 0) {
        let position = Position { partition: *partition, offset: row.next };
        behind.entry(topic.clone()).or_default().push(position);
    }
    for (topic, positions) in behind {
        for (partition, timestamp) in reader.first_times(&topic, &positions)? {
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
    let lag: i64 = rows.values().map(Row::lag).sum();
    let seconds = rows.values().filter_map(|row| row.seconds(now)).fold(0.0, f64::max);
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
    output.line(&format!(
        "\n{name}: {state}, members {members}, partitions {partitions}, lag {lag} records, {seconds} seconds"
    ))
}
