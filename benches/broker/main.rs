//! This crate beside plain rdkafka, as an expert would write it, on a real Apache Kafka.
//!
//! ```text
//! bash scripts/bench.sh                    all contests
//! bash scripts/bench.sh broker base large  these
//! ```
//!
//! It starts a broker where `KAFKA_BOOTSTRAP_SERVERS` names none. A topic is loaded once; then the loops of a contest run one
//! after the other, round after round, each in a process and a consumer group of its own. A ratio between two loops of one
//! contest means something; figures of different runs or machines do not. `ROUNDS`, 3 unless set; `RECORDS`, 2,000,000.
//! All figures stand as JSON in `target/bench.json` besides.
//!
//! Reads `/proc`, so it runs on Linux.

#[path = "../common/mod.rs"]
mod common;
mod consume;
mod data;
mod latency;
mod produce;

use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

use common::turns::Contest;
use common::{Outcome, number};
use consume::{Loop as Consuming, Work};
use data::Size;
use produce::Loop as Producing;
use serde::{Deserialize, Serialize};

/// One turn of one loop, as a process is told.
#[derive(Serialize, Deserialize)]
enum Turn {
    Consume(consume::Turn),
    Produce(produce::Turn),
    Latency(latency::Turn),
}

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
    if let Some(unknown) = words.iter().find(|word| !CONTESTS.contains(&word.as_str())) {
        return Err(format!("no such contest: {unknown}; there are {}", CONTESTS.join(", ")).into());
    }
    let (records, rounds) = (number("RECORDS", 2_000_000)?, number("ROUNDS", 3)?);
    let topics = Topics { brokers: &brokers, records, loaded: Vec::new() };
    let mut bench = Bench { topics, rounds };
    let mut done = Vec::new();
    for name in CONTESTS.iter().filter(|name| words.is_empty() || words.iter().any(|word| word == *name)) {
        let contest = bench.contest(name)?;
        contest.print();
        done.push(contest);
    }
    let json = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench.json");
    fs::write(json, serde_json::to_string_pretty(&done)?)?;
    Ok(())
}

struct Bench<'a> {
    topics: Topics<'a>,
    rounds: u64,
}

impl Bench<'_> {
    fn contest(&mut self, name: &str) -> Outcome<Contest> {
        use Consuming::{Async, Poll, Run, RunRaw, Stream, Sync};
        use Producing::{Base, BasePacked, Batches, FlushedBatches, FutureBatches, Send};
        let (all, fast) = (&[Run, RunRaw, Sync, Async, Poll, Stream][..], &[Run, RunRaw, Async, Poll][..]);
        let handled = &[Run, Sync, Async][..];
        let fifth = self.topics.records / 5;
        let millis = Duration::from_millis;
        match name {
            "base" => self.consume(name, all, Size::Small, 1, 500, Work::Nothing, None),
            "large" => self.consume(name, fast, Size::Large, 1, 500, Work::Nothing, None),
            "partitions" => self.consume(name, fast, Size::Small, 6, 500, Work::Nothing, None),
            "batches-of-100" => self.consume(name, fast, Size::Small, 1, 100, Work::Nothing, None),
            "batches-of-5000" => self.consume(name, fast, Size::Small, 1, 5_000, Work::Nothing, None),
            "spins-1us" => {
                let work = Work::Spins(Duration::from_micros(1));
                self.consume(name, handled, Size::Small, 1, 500, work, Some(fifth))
            }
            "spins-5us" => {
                let work = Work::Spins(Duration::from_micros(5));
                self.consume(name, handled, Size::Small, 1, 500, work, Some(fifth))
            }
            "waits-5ms" => self.consume(name, handled, Size::Small, 1, 500, Work::Waits(millis(5)), Some(fifth)),
            "produce" => self.produce(name, &[Send, Base, BasePacked]),
            "produce-batches" => self.produce(name, &[Batches, FutureBatches, FlushedBatches]),
            "latency-linger-0" => self.latency(name, 0),
            _ => self.latency(name, 5),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn consume(
        &mut self,
        name: &str,
        loops: &[Consuming],
        size: Size,
        partitions: i32,
        batch: usize,
        work: Work,
        records: Option<u64>,
    ) -> Outcome<Contest> {
        let topic = self.topics.get(size, partitions)?;
        let records = records.unwrap_or(self.topics.records);
        let turn = |which| Turn::Consume(consume::Turn { which, topic: topic.clone(), records, batch, work });
        self.turns(name, loops.iter().map(|which| (format!("{which:?}"), turn(*which))))
    }

    fn produce(&self, name: &str, loops: &[Producing]) -> Outcome<Contest> {
        let turn = |which: &Producing| {
            // Each of its batches takes the timeout's slice.
            let records = self.topics.records / if *which == Producing::FlushedBatches { 40 } else { 2 };
            Turn::Produce(produce::Turn { which: *which, records, batch: 1_000 })
        };
        self.turns(name, loops.iter().map(|which| (format!("{which:?}"), turn(which))))
    }

    fn latency(&self, name: &str, linger_ms: u32) -> Outcome<Contest> {
        let records = self.topics.records / 200;
        let turn = |is_ours| Turn::Latency(latency::Turn { is_ours, records, linger_ms });
        self.turns(name, [("Run".to_owned(), turn(true)), ("Poll".to_owned(), turn(false))].into_iter())
    }

    fn turns(&self, name: &str, turns: impl Iterator<Item = (String, Turn)>) -> Outcome<Contest> {
        let turns = turns.map(|(which, turn)| Ok((which, vec![serde_json::to_string(&turn)?])));
        Contest::run(name, &turns.collect::<Outcome<Vec<_>>>()?, self.rounds)
    }
}

/// Topics that are loaded once they are needed.
struct Topics<'a> {
    brokers: &'a str,
    records: u64,
    loaded: Vec<(Size, i32, String)>,
}

impl Topics<'_> {
    fn get(&mut self, size: Size, partitions: i32) -> Outcome<String> {
        let is_it = |(known, of, _): &&(Size, i32, String)| *known == size && *of == partitions;
        if let Some((.., topic)) = self.loaded.iter().find(is_it) {
            return Ok(topic.clone());
        }
        let topic = data::load(self.brokers, size, partitions, self.records)?;
        self.loaded.push((size, partitions, topic.clone()));
        Ok(topic)
    }
}
