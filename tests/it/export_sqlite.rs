//! The example that exports into SQLite: whenever it is killed, each row is there once.

use std::cell::Cell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use crate::examples::{program, run};
use crate::support::leash::Leashed;
use crate::support::{PATIENCE, TestTopic, committed, eventually, group, produce_raw_batch, shared_broker, unique};

const KILLS: i64 = 10;
const PARTITIONS: i32 = 3;
/// Records that are ahead of it at least when it goes on.
const ROUND: i64 = 20_000;

#[test]
fn the_example_does_on_apache_kafka_what_it_promises() {
    let printed = run("export_to_sqlite", Some(shared_broker()));
    assert!(printed.contains("\n3300 rows of 3300, 0 of them twice\n"), "{printed}");
}

/// What the example writes, as another program sees it.
struct Database {
    path: PathBuf,
}

impl Database {
    fn new() -> Database {
        Database { path: Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("exports") + ".db") }
    }

    /// None: there is no such table yet.
    fn number(&self, query: &str) -> Option<i64> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(&self.path, flags).ok()?;
        database.query_row(query, [], |row| row.get(0)).ok()
    }

    fn rows(&self) -> i64 {
        self.number("SELECT count(*) FROM exports").unwrap_or(0)
    }

    /// The next offsets of all partitions, added up.
    fn progress(&self) -> i64 {
        self.number("SELECT coalesce(sum(next_offset), 0) FROM progress").unwrap_or(0)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let mut path = self.path.clone().into_os_string();
            path.push(suffix);
            let _ = fs::remove_file(path);
        }
    }
}

/// It is killed ten times with `kill -9`, while it writes, and started again; every other time after SQLite's commit and
/// before Kafka's, so that records come again. Each record has the rows that the filters say, and none twice.
#[test]
fn killed_ten_times_it_writes_each_row_once() {
    let broker = shared_broker();
    let (filters, data, group) = (TestTopic::new(broker, 1), TestTopic::new(broker, PARTITIONS), group());
    let put = |id: &str, identifiers| {
        let filter = json!({
            "id": id, "source": &*data, "identifiers": identifiers, "mappings": {"number:data": "value.number"},
        });
        let message = json!({"method": "put", "payload": filter, "timestamp": 1_700_000_000});
        (0, Some(id.to_owned()), Some(message.to_string()))
    };
    // Two filters share a record, which has two rows then; a record with the key `odd` has one.
    produce_raw_batch(
        broker,
        &filters,
        [put("a", json!(null)), put("b", json!(null)), put("odd", json!([{"key": "odd"}]))],
    );
    let fed = Cell::new(0);
    // So that there is always something to do.
    let feed = |written: i64| {
        if fed.get() - written >= ROUND {
            return;
        }
        let record = |number: i64| {
            let mut value = json!({"value": {"number": number}});
            if number % 2 == 1 {
                value["odd"] = json!(true);
            }
            ((number % i64::from(PARTITIONS)) as i32, None::<String>, Some(value.to_string()))
        };
        produce_raw_batch(broker, &data, (fed.get()..fed.get() + ROUND).map(record));
        fed.set(fed.get() + ROUND);
    };
    let database = Database::new();
    let log = database.path.with_extension("log");
    let start = || {
        let mut command = Command::new(program("export_to_sqlite"));
        command
            .arg(&database.path)
            .args([&filters[..], &group[..]])
            .env("KAFKA_BOOTSTRAP_SERVERS", broker)
            // Small fetches, so that a round takes many batches; and a short session, for which the group waits after a kill.
            .env("KAFKA_ENVELOPE_CONSUMER_MAX_PARTITION_FETCH_BYTES", "16384")
            .env("KAFKA_ENVELOPE_CONSUMER_SESSION_TIMEOUT_MS", "1500")
            .env("KAFKA_ENVELOPE_CONSUMER_HEARTBEAT_INTERVAL_MS", "300");
        let log = File::options().create(true).append(true).open(&log).unwrap();
        Leashed::spawn(&command, Some(log), None)
    };
    let said = || fs::read_to_string(&log).unwrap_or_default();

    let mut repeated_after = 0;
    for round in 0..KILLS {
        let before = database.progress();
        feed(before);
        // From the first rows on, and later and later.
        let enough = before + 1 + round * ROUND / KILLS / 4;
        let mut process = start();
        eventually(PATIENCE, "it writes", || {
            assert!(process.ended().is_none(), "it ended by itself:\n{}", said());
            (database.progress() >= enough).then_some(())
        });
        // How much Kafka was told of.
        let told =
            || -> i64 { (0..PARTITIONS).filter_map(|partition| committed(broker, &group, &data, partition)).sum() };
        if round % 2 == 1 {
            eventually(PATIENCE, "it stands between the two commits", || {
                process.signal("STOP");
                let done = database.progress();
                let is_between = told() < done;
                if !is_between {
                    feed(done);
                    process.signal("CONT");
                }
                is_between.then_some(())
            });
        }
        process.kill9();
        let (told, done) = (told(), database.progress());
        assert!(told <= done && done < fed.get(), "Kafka was told of {told} records, {done} are written");
        repeated_after += usize::from(told < done);
    }
    let records = fed.get();
    let mut process = start();
    eventually(PATIENCE, "all is written", || (database.progress() >= records).then_some(()));
    process.kill9();

    let number = |query: &str| database.number(query).unwrap();
    assert_eq!(database.rows(), records / 2 * 2 + records / 2, "{}", said());
    for (filter, rows) in [("a", records / 2), ("b", records / 2), ("odd", records / 2)] {
        let of = format!("FROM exports WHERE filter = '{filter}'");
        assert_eq!(number(&format!("SELECT count(*) {of}")), rows);
        assert_eq!(number(&format!("SELECT count(DISTINCT data) {of}")), rows);
    }
    assert_eq!(number("SELECT count(DISTINCT data) FROM exports"), records);
    // One that was on its way may have arrived after the kill.
    assert!(repeated_after > 0, "no kill came between the two commits: this shows nothing");
    let _ = fs::remove_file(&log);
}
