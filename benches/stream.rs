//! A stream worker with a chain of three agents beside `Consumer::run` that does the same work in one function.
//!
//! `bash scripts/bench.sh stream` starts a broker where `KAFKA_BOOTSTRAP_SERVERS` names none. The two take turns, each in
//! a process of its own: a ratio means something, figures of different runs or machines do not. Reads `/proc`, so it runs
//! on Linux.
//!
//! `cargo bench --bench stream --all-features -- flat` says what the worker has in memory after each fifth of `RECORDS`,
//! 5,000,000 unless set; `-- slow` does so for a worker whose last agent takes a millisecond a window, for 20 seconds.

mod common;

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::turns::{Clock, Contest, Entrant, Figures, Measured};
use common::{Outcome, create_topic, memory_mib, number, unique};
use kafka_envelope::stream::{Agent, Sinks, Whole, Worker};
use kafka_envelope::{Batch, Consumer, HandlerError, Message, Producer};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

const WHICH: [&str; 2] = ["worker", "run"];
const WINDOW: usize = 100;

#[derive(Serialize, Deserialize)]
struct Reading {
    sensor: String,
    celsius: f64,
    note: String,
}

fn main() -> Outcome<()> {
    let brokers = env::var("KAFKA_BOOTSTRAP_SERVERS").map_err(|_| "run it by `bash scripts/bench.sh stream`")?;
    let records = number("RECORDS", 2_000_000)?;
    match env::args().skip(1).filter(|word| word != "--bench").collect::<Vec<_>>().as_slice() {
        [] => compare(&brokers, records, number("ROUNDS", 3)?),
        [which] if which == "flat" => {
            let (topic, records) = (unique("bench-stream")?, number("RECORDS", 5_000_000)?);
            load(&brokers, &topic, records)?;
            let measured = worker(&brokers, &topic, records, records / 5, None)?;
            println!(
                "{records} records in {:.1} s, {:.1} MiB at the most",
                measured.took.as_secs_f64(),
                memory_mib("VmHWM")?
            );
            Ok(())
        }
        [which] if which == "slow" => {
            let topic = unique("bench-stream")?;
            load(&brokers, &topic, records)?;
            worker(&brokers, &topic, records, 100_000, Some(Duration::from_secs(20)))?;
            println!("a slow sink: {:.1} MiB at the most", memory_mib("VmHWM")?);
            Ok(())
        }
        [which, topic] => {
            let measured = match which.as_str() {
                "worker" => worker(&brokers, topic, records, u64::MAX, None)?,
                _ => run(&brokers, topic, records)?,
            };
            let figures = Figures::of(records, measured)?;
            println!("{}", serde_json::to_string(&figures)?);
            Ok(())
        }
        other => Err(format!("no such bench: {other:?}").into()),
    }
}

fn compare(brokers: &str, records: u64, rounds: u64) -> Outcome<()> {
    let topic = unique("bench-stream")?;
    load(brokers, &topic, records)?;
    let [worker, run] = WHICH.map(|which| Entrant::new(which, vec![which.to_owned(), topic.clone()]));
    Contest::run("stream", 1, &[worker?, run?], rounds)?.print();
    Ok(())
}

fn load(brokers: &str, topic: &str, records: u64) -> Outcome<()> {
    create_topic(brokers, topic)?;
    let producer = Producer::new("bench", brokers)?;
    for number in 0..records {
        let reading = Reading {
            sensor: format!("sensor-{:04}", number % 1_000),
            celsius: 20.0 + (number % 97) as f64 / 10.0,
            note: "in the shade behind the second greenhouse, where the door is open at noon".into(),
        };
        drop(producer.send(topic, &Message::new(reading).id(format!("{}", number % 1_000)))?);
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(())
}

/// Three agents: one looks at each reading, one gathers windows, one takes their sums. Says what it has in memory after
/// `each` so many. It is `slow` for so long, and then ends.
fn worker(brokers: &str, topic: &str, records: u64, each: u64, slow: Option<Duration>) -> Outcome<Measured> {
    let (seen, over) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let start = Arc::new(std::sync::OnceLock::new());
    let clock = Arc::clone(&start);
    let look = move |reading: Whole<Reading>, _: Sinks| {
        clock.get_or_init(Clock::start);
        std::future::ready(Ok::<_, HandlerError>(Some(reading.value.celsius * 1.8 + 32.0)))
    };
    let window = |degrees: Vec<f64>, _: Sinks| {
        std::future::ready(Ok::<_, HandlerError>(Some((degrees.len(), degrees.iter().sum::<f64>()))))
    };
    let ended = Arc::clone(&over);
    let take = move |(count, sum): (usize, f64), _: Sinks| {
        std::hint::black_box(sum);
        let before = seen.fetch_add(count as u64, Ordering::Relaxed);
        let now = before + count as u64;
        if now / each > before / each {
            println!("{now:>9} records: {:.1} MiB", memory_mib("VmRSS").unwrap_or_default());
        }
        if now == records {
            ended.notify_one();
        }
        async move {
            if slow.is_some() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok::<Option<()>, HandlerError>(None)
        }
    };
    let worker = Worker::builder::<Reading>(topic, brokers, &unique("bench")?)
        .whole_envelopes()
        .agent(Agent::new("look", look))
        .agent(Agent::batched("window", WINDOW, window).max_age(Duration::from_secs(1)))
        .agent(Agent::new("take", take))
        .build()?;
    let mut measured = None;
    Runtime::new()?.block_on(worker.run_until(async {
        let _ = tokio::time::timeout(slow.unwrap_or(Duration::MAX), over.notified()).await;
        measured = start.get().and_then(|clock| clock.stop().ok());
    }))?;
    measured.ok_or_else(|| "nothing came".into())
}

/// The same work in one function.
fn run(brokers: &str, topic: &str, records: u64) -> Outcome<Measured> {
    let mut consumer = Consumer::builder("bench", brokers, &unique("bench")?).topics([topic]).build()?;
    let stopper = consumer.stopper();
    let (mut start, mut seen) = (None, 0);
    let mut window = Vec::with_capacity(WINDOW);
    consumer.run(|batch: &Batch<Reading>| {
        start.get_or_insert_with(Clock::start);
        for reading in batch {
            window.push(reading.payload.celsius * 1.8 + 32.0);
            if window.len() == WINDOW {
                std::hint::black_box(window.drain(..).sum::<f64>());
            }
        }
        seen += batch.len() as u64;
        if seen >= records {
            stopper.stop();
        }
        Ok(())
    })?;
    start.ok_or("nothing came")?.stop()
}
