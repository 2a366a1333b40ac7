//! Readings from Kafka into SQLite as filters from Kafka say, exactly once: rows and the next offset of each partition
//! are written in one SQLite transaction, and what comes again after a crash is known by its offset and left out.
//!
//! ```text
//! cargo run --release --features export --example export_to_sqlite
//! KAFKA_BOOTSTRAP_SERVERS=localhost:9092 cargo run --release --features export --example export_to_sqlite
//! ```
//!
//! Both crash once in the middle. On your own topics it runs until it is killed, and may be killed at any time, with
//! the database file, the filter topic and the group as arguments:
//!
//! ```text
//! KAFKA_BOOTSTRAP_SERVERS=localhost:9092 cargo run --release --features export --example export_to_sqlite -- \
//!     exports.db filters exports-group
//! ```
//!
//! After a kill the group waits for the end of the session, 45 seconds with the default `session.timeout.ms`.
//! A source that is deleted and made anew begins at offset 0 again: delete its lines in the table `progress` first.

mod common;

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Broker, heading};
use kafka_envelope::export::{DataClient, Exports, FilterClient};
use kafka_envelope::low_level::{Oversize, create_producer, produce_batch};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde_json::json;
use uuid::Uuid;

const READINGS: i64 = 3_000;
const PARTITIONS: i32 = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [] => demonstrate(),
        [database, filter_topic, group] => {
            let brokers = env::var("KAFKA_BOOTSTRAP_SERVERS")?;
            let mut sink = Sink::open(Path::new(database))?;
            export(&brokers, filter_topic, group, &mut sink, |_| After::GoOn)
        }
        _ => Err("no arguments, or: DATABASE FILTER_TOPIC GROUP".into()),
    }
}

/// What to do after a batch was written, or nothing came for a second.
enum After {
    GoOn,
    /// Ends as a crash would right now: Kafka does not learn that the batch was written.
    Crash,
    Stop,
}

/// Writes exports until `after` says to end.
fn export(
    brokers: &str,
    filter_topic: &str,
    group: &str,
    sink: &mut Sink,
    mut after: impl FnMut(&Written) -> After,
) -> Result<(), Box<dyn Error>> {
    let filters = FilterClient::builder(filter_topic, brokers).start()?;
    // Offsets are done when this says so, and not when the next batch is asked for.
    let mut data = DataClient::builder(group, brokers, &filters).handle_offsets(true).start()?;
    loop {
        let written = match data.get_exports_batch(Duration::from_secs(1), 500)? {
            Some(exports) => sink.write(&exports)?,
            None => Written::default(),
        };
        match after(&written) {
            After::GoOn => data.store_offsets()?,
            After::Crash => return Ok(()),
            After::Stop => {
                data.store_offsets()?;
                return Ok(data.close(Duration::from_secs(5))?);
            }
        }
    }
}

/// What became of a batch.
#[derive(Default)]
struct Written {
    records: i64,
    rows: i64,
    /// Records that had been written before.
    repeated: i64,
}

struct Sink {
    database: Connection,
}

impl Sink {
    fn open(path: &Path) -> rusqlite::Result<Self> {
        let database = Connection::open(path)?;
        database.busy_timeout(Duration::from_secs(30))?;
        // No unique key on the rows: nothing here would hide that something was written twice.
        database.execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE IF NOT EXISTS exports (filter TEXT, topic TEXT, partition INTEGER, offset INTEGER, data TEXT);
             CREATE TABLE IF NOT EXISTS progress (
                 topic TEXT, partition INTEGER, next_offset INTEGER NOT NULL, PRIMARY KEY (topic, partition)
             );",
        )?;
        Ok(Self { database })
    }

    /// Writes the rows and how far each partition was read, all or nothing.
    fn write(&mut self, exports: &Exports) -> Result<Written, Box<dyn Error>> {
        // Takes the write lock first: another process that still writes must not change offsets after they were read.
        let transaction = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut written = Written::default();
        // For each partition where it stood, and where it stands after this batch.
        let mut progress: BTreeMap<(&str, i32), (i64, i64)> = BTreeMap::new();
        for record in &exports.records {
            let partition = (&*record.topic, record.partition);
            let (stood, next) = match progress.get(&partition) {
                Some(known) => *known,
                None => {
                    let stood = next_offset(&transaction, &record.topic, record.partition)?;
                    (stood, stood)
                }
            };
            written.records += 1;
            written.repeated += i64::from(record.offset < stood);
            progress.insert(partition, (stood, next.max(record.offset + 1)));
        }
        {
            let mut insert = transaction.prepare("INSERT INTO exports VALUES (?1, ?2, ?3, ?4, ?5)")?;
            for export in &exports.results {
                let record = &export.reference;
                let (stood, _) = progress[&(&*record.topic, record.partition)];
                if record.offset < stood {
                    continue;
                }
                if let Some(error) = &export.error {
                    eprintln!("filters {:?}: {error}", export.filter_ids);
                    continue;
                }
                for filter in &export.filter_ids {
                    let data = export.data.to_string();
                    insert.execute(params![filter, record.topic, record.partition, record.offset, data])?;
                    written.rows += 1;
                }
            }
            let mut note = transaction.prepare("INSERT OR REPLACE INTO progress VALUES (?1, ?2, ?3)")?;
            for ((topic, partition), (_, next_offset)) in &progress {
                note.execute(params![topic, partition, next_offset])?;
            }
        }
        transaction.commit()?;
        for error in &exports.errors {
            eprintln!("left out: {error}");
        }
        Ok(written)
    }
}

/// Where a partition stands, 0 where nothing of it was written.
fn next_offset(transaction: &Transaction<'_>, topic: &str, partition: i32) -> rusqlite::Result<i64> {
    let mut query = transaction.prepare("SELECT next_offset FROM progress WHERE topic = ?1 AND partition = ?2")?;
    Ok(query.query_row(params![topic, partition], |row| row.get(0)).optional()?.unwrap_or(0))
}

fn demonstrate() -> Result<(), Box<dyn Error>> {
    let broker = Broker::from_env()?;
    println!("{broker}");
    let (filters, readings) = (broker.topic("filters", 1)?, broker.topic("readings", PARTITIONS)?);
    let producer = create_producer(broker.bootstrap_servers(), [("acks", "all")])?;
    let filter = |id: &str, identifiers| {
        let mappings = json!({"device:data": "device", "level:data": "tank.level"});
        let filter = json!({"id": id, "source": readings, "identifiers": identifiers, "mappings": mappings});
        (Some(id.to_owned()), json!({"method": "put", "payload": filter, "timestamp": 1_700_000_000}).to_string())
    };
    let puts =
        [filter("all", json!([{"key": "device"}])), filter("pump 3", json!([{"key": "device", "value": "pump-3"}]))];
    produce_batch(&producer, &filters, &puts, Oversize::Refuse)?;
    let reading = |number: i64| {
        let device = format!("pump-{}", number % 10);
        let reading = json!({"device": device, "tank": {"level": number, "unit": "mm"}}).to_string();
        (Some(device), reading)
    };
    let values: Vec<_> = (0..READINGS).map(reading).collect();
    produce_batch(&producer, &readings, &values, Oversize::Refuse)?;
    let expected = READINGS + READINGS / 10;

    let file = Temporary(env::temp_dir().join(format!("export_to_sqlite-{}.db", Uuid::new_v4().simple())));
    let deadline = Instant::now() + Duration::from_secs(40);
    let (mut rows, mut repeated) = (0, 0);
    for crashes in [true, false] {
        heading(if crashes { "A run that crashes" } else { "The next run" });
        let mut sink = Sink::open(&file.0)?;
        let group = match (&broker, crashes) {
            // The simulated broker would let the next member wait for the session's end. A new group begins at 0.
            (Broker::Embedded(_), false) => "another-group".to_owned(),
            _ => broker.name("export-group"),
        };
        export(broker.bootstrap_servers(), &filters, &group, &mut sink, |written| {
            rows += written.rows;
            repeated += written.repeated;
            match crashes {
                _ if Instant::now() > deadline => After::Stop,
                true if rows >= expected / 2 => After::Crash,
                false if rows >= expected && written.records == 0 => After::Stop,
                _ => After::GoOn,
            }
        })?;
        println!("{rows} rows are written; so far {repeated} records came again and were left out");
    }

    heading("In the database");
    let database = Connection::open(&file.0)?;
    let count = |query: &str| database.query_row(query, [], |row| row.get::<_, i64>(0));
    let rows = count("SELECT count(*) FROM exports")?;
    let distinct = count("SELECT count(*) FROM (SELECT DISTINCT filter, data FROM exports)")?;
    println!("{rows} rows of {expected}, {} of them twice", rows - distinct);
    if (rows, distinct) != (expected, expected) || repeated == 0 {
        return Err("that is not what was promised".into());
    }
    Ok(())
}

/// A database that is deleted at the end.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let mut path = self.0.clone().into_os_string();
            path.push(suffix);
            // SQLite itself deletes the last two where it is closed in order.
            let _ = std::fs::remove_file(path);
        }
    }
}
