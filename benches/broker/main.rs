//! This crate beside plain rdkafka, as an expert would write it, on a real Apache Kafka.
//!
//! ```text
//! bash scripts/bench.sh             all contests
//! bash scripts/bench.sh base large  these
//! ```
//!
//! It starts a broker where `KAFKA_BOOTSTRAP_SERVERS` names none. A topic is loaded once; then the loops of a contest run one
//! after the other, round after round, each in a process and a consumer group of its own. A ratio between two loops of one
//! contest means something; figures of different runs or machines do not. `ROUNDS`, 3 unless set. `RECORDS` in a topic,
//! 2,000,000 unless set: what is produced, handled or timed one by one is a share of it, and with 100,000 all is seen
//! quickly, but too short to be measured. All figures stand as JSON in `target/bench.json` besides.
//!
//! `bash scripts/bench.sh features` builds it twice, without features and with `metrics` and `otel`, whose cost the contest
//! of that name shows.
//!
//! Reads `/proc`, so it runs on Linux.

#[path = "../common/mod.rs"]
mod common;
mod consume;
mod latency;
#[path = "../common/orders.rs"]
mod orders;
mod produce;
mod topics;

use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

use common::turns::{Contest, Entrant};
use common::{Outcome, number};
use consume::{Loop as Consuming, Work};
use orders::Size;
use produce::Loop as Producing;
use rdkafka::util::get_rdkafka_version;
use serde::{Deserialize, Serialize};
use topics::Topics;

/// One turn of one loop, as a process is told.
#[derive(Serialize, Deserialize)]
enum Turn {
    Consume(consume::Turn),
    Produce(produce::Turn),
    Latency(latency::Turn),
}

/// Names this program without the features that it has.
const PLAIN: &str = "BENCH_WITHOUT_FEATURES";

/// What they cost that a service does not use.
const FEATURES: &str = "features";

const CONTESTS: [&str; 12] = [
    "base",
    "large",
    "partitions",
    "batches-of-100",
    "batches-of-5000",
    "spins-1us",
    "spins-5us",
    "waits-5ms",
    "produce",
    "produce-batches",
    "latency-linger-0",
    "latency-linger-5",
];

fn main() -> Outcome<()> {
    let brokers = env::var("KAFKA_BOOTSTRAP_SERVERS").map_err(|_| "run it by `bash scripts/bench.sh`")?;
    let words: Vec<_> = env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [turn] = words.as_slice() {
        if turn.starts_with('{') {
            let figures = match serde_json::from_str(turn)? {
                Turn::Consume(turn) => turn.measure(&brokers)?,
                Turn::Produce(turn) => turn.measure(&brokers)?,
                Turn::Latency(turn) => turn.measure(&brokers)?,
            };
            println!("{}", serde_json::to_string(&figures)?);
            return Ok(());
        }
    }
    let contests = if env::var_os(PLAIN).is_some() { &[FEATURES] } else { &CONTESTS[..] };
    if let Some(unknown) = words.iter().find(|word| !contests.contains(&word.as_str())) {
        return Err(format!("no such contest: {unknown}; there are {}", contests.join(", ")).into());
    }
    let (records, rounds) = (number("RECORDS", 2_000_000)?, number("ROUNDS", 3)?);
    let topics = Topics { brokers, records, loaded: Vec::new() };
    let mut bench = Bench { topics, rounds };
    println!("{}", machine()?);
    let mut done = Vec::new();
    for name in contests.iter().filter(|name| words.is_empty() || words.iter().any(|word| word == *name)) {
        let contest = bench.contest(name)?;
        contest.print();
        done.push(contest);
        // After each, so that what is done is kept if one fails.
        write_json(&machine()?, records, &done)?;
    }
    Ok(())
}

fn machine() -> Outcome<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or(env::consts::ARCH);
    let (cores, (_, librdkafka)) = (std::thread::available_parallelism()?, get_rdkafka_version());
    let version = env!("CARGO_PKG_VERSION");
    Ok(format!("kafka-envelope {version}, librdkafka {librdkafka}, {cores} cores of {model}"))
}

fn write_json(machine: &str, records: u64, contests: &[Contest]) -> Outcome<()> {
    let contests: Vec<_> = contests.iter().map(Contest::json).collect();
    let json = serde_json::json!({ "machine": machine, "records": records, "contests": contests });
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("no target directory")?;
    Ok(fs::write(target.join("bench.json"), serde_json::to_string_pretty(&json)?)?)
}

struct Bench {
    topics: Topics,
    rounds: u64,
}

impl Bench {
    fn contest(&mut self, name: &str) -> Outcome<Contest> {
        use Consuming::{Async, AsyncBorrowed, Poll, Run, RunRaw, Stream, Sync};
        use Producing::{Base, BasePacked, Batches, FlushedBatches, FutureBatches, FutureBatchesAtOnce, Send};
        const ALL: &[Consuming] = &[Run, RunRaw, Sync, Async, AsyncBorrowed, Poll, Stream];
        const FAST: &[Consuming] = &[Run, RunRaw, Async, AsyncBorrowed, Poll];
        const HANDLED: &[Consuming] = &[Run, Sync, Async];
        let all = self.topics.records;
        let base = Consume { size: Size::Small, partitions: 1, batch: 500, work: Work::Nothing, records: all };
        // A handler that takes its time shows it with fewer records, too.
        let handled = |work| Consume { work, records: all / 5, ..base };
        match name {
            "base" => self.consume(name, ALL, &base),
            "large" => self.consume(name, FAST, &Consume { size: Size::Large, ..base }),
            "partitions" => self.consume(name, FAST, &Consume { partitions: 6, ..base }),
            // A broker takes minutes to answer the commits that `Async` sends in the second it needs for all of them.
            "batches-of-100" => self.consume(name, FAST, &Consume { batch: 100, records: all / 10, ..base }),
            "batches-of-5000" => self.consume(name, FAST, &Consume { batch: 5_000, ..base }),
            "spins-1us" => self.consume(name, HANDLED, &handled(Work::Spins(Duration::from_micros(1)))),
            "spins-5us" => self.consume(name, HANDLED, &handled(Work::Spins(Duration::from_micros(5)))),
            "waits-5ms" => self.consume(name, HANDLED, &handled(Work::Waits(Duration::from_millis(5)))),
            "produce" => self.produce(name, &[Send, Base, BasePacked]),
            "produce-batches" => self.produce(name, &[Batches, FutureBatches, FutureBatchesAtOnce, FlushedBatches]),
            "latency-linger-0" => self.latency(name, 0),
            "latency-linger-5" => self.latency(name, 5),
            _ => self.features(name, &base),
        }
    }

    fn consume(&mut self, name: &str, loops: &[Consuming], how: &Consume) -> Outcome<Contest> {
        let entrants = self.consumers(loops, how)?;
        // `Run`, and `RunRaw` where it takes part.
        let ours = loops.iter().filter(|which| matches!(which, Consuming::Run | Consuming::RunRaw)).count();
        Contest::run(name, ours, &entrants, self.rounds)
    }

    /// `Run` with the features on, then with a recorder that nobody asks, then without the features.
    fn features(&mut self, name: &str, how: &Consume) -> Outcome<Contest> {
        let mut entrants = self.consumers(&[Consuming::Run, Consuming::RunRecorded, Consuming::Run], how)?;
        if let Some(plain) = entrants.last_mut() {
            (plain.name, plain.program) = ("RunWithout".into(), env::var_os(PLAIN).ok_or(PLAIN)?.into());
        }
        Contest::run(name, 2, &entrants, self.rounds)
    }

    fn consumers(&mut self, loops: &[Consuming], how: &Consume) -> Outcome<Vec<Entrant>> {
        let topic = self.topics.get(how.size, how.partitions)?;
        let Consume { records, batch, work, .. } = *how;
        let turn = |which| Turn::Consume(consume::Turn { which, topic: topic.clone(), records, batch, work });
        loops.iter().map(|which| entrant(&format!("{which:?}"), &turn(*which))).collect()
    }

    fn produce(&self, name: &str, loops: &[Producing]) -> Outcome<Contest> {
        let batch = 1_000;
        let turn = |which: Producing| {
            // Each of its batches takes 100 ms.
            let share = if which == Producing::FlushedBatches { 40 } else { 2 };
            let records = (self.topics.records / share).next_multiple_of(batch);
            Turn::Produce(produce::Turn { which, records, batch })
        };
        let entrants: Vec<_> =
            loops.iter().map(|which| entrant(&format!("{which:?}"), &turn(*which))).collect::<Outcome<_>>()?;
        Contest::run(name, 1, &entrants, self.rounds)
    }

    fn latency(&self, name: &str, linger_ms: u32) -> Outcome<Contest> {
        let records = self.topics.records / 100;
        let turn = |is_ours| Turn::Latency(latency::Turn { is_ours, records, linger_ms });
        Contest::run(name, 1, &[entrant("Run", &turn(true))?, entrant("Poll", &turn(false))?], self.rounds)
    }
}

fn entrant(name: &str, turn: &Turn) -> Outcome<Entrant> {
    Entrant::new(name, vec![serde_json::to_string(turn)?])
}

/// What the loops of a contest consume, and how.
#[derive(Clone, Copy)]
struct Consume {
    size: Size,
    partitions: i32,
    batch: usize,
    work: Work,
    records: u64,
}
