//! Records per second, CPU and memory of this crate's `run` beside two plain rdkafka loops with the same work.
//!
//! `bash scripts/bench.sh` starts a broker where `KAFKA_BOOTSTRAP_SERVERS` names none. The topic is loaded once; then the
//! loops run one after the other, round after round, each in a process and a consumer group of its own. A ratio between
//! two loops of one run means something; figures of different runs or machines do not.
//!
//! Reads `/proc`, so it runs on Linux.

mod common;

use std::collections::BTreeMap;
use std::env;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Outcome, cpu, create_topic, memory_mib, number, unique};
use kafka_envelope::{Batch, Consumer, Message, Producer, settings};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const BATCH: usize = 500;
const LOOPS: [(&str, &str); 3] = [
    ("run", "this crate: run, typed payload, batches of 500, defaults"),
    ("sync", "plain rdkafka: poll, decode, synchronous commit, librdkafka's defaults"),
    ("async", "plain rdkafka: poll, decode, asynchronous commit, this crate's fetch settings"),
];

#[derive(Serialize, Deserialize)]
struct Order {
    sku: String,
    customer: String,
    quantity: u32,
    unit_price: f64,
    currency: String,
    note: String,
}

/// What an expert without this crate would decode into: history as text, not looked at.
#[derive(Deserialize)]
struct Plain<'a> {
    item: Order,
    #[serde(borrow)]
    hist: Option<&'a RawValue>,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
struct Figures {
    records_per_second: f64,
    cpu_seconds_per_million: f64,
    peak_rss_mib: f64,
}

fn main() -> Outcome<()> {
    let brokers = env::var("KAFKA_BOOTSTRAP_SERVERS").map_err(|_| "run it by `bash scripts/bench.sh`")?;
    let records = number("RECORDS", 2_000_000)?;
    match env::args().skip(1).filter(|word| word != "--bench").collect::<Vec<_>>().as_slice() {
        [] => compare(&brokers, records, number("ROUNDS", 3)?),
        [which, topic] => {
            let figures = measure(which, &brokers, topic, records)?;
            println!("{}", serde_json::to_string(&figures)?);
            Ok(())
        }
        other => Err(format!("no such bench: {other:?}").into()),
    }
}

fn compare(brokers: &str, records: u64, rounds: u64) -> Outcome<()> {
    let topic = unique("bench")?;
    load(brokers, &topic, records)?;
    let mut all: BTreeMap<&str, Vec<Figures>> = BTreeMap::new();
    for round in 1..=rounds {
        for (which, _) in LOOPS {
            let output = Command::new(env::current_exe()?).args([which, &topic]).output()?;
            if !output.status.success() {
                return Err(format!("{which}: {}", String::from_utf8_lossy(&output.stderr)).into());
            }
            let figures: Figures = serde_json::from_slice(&output.stdout)?;
            eprintln!("round {round} {which}: {:.0} records/s", figures.records_per_second);
            all.entry(which).or_default().push(figures);
        }
    }
    println!("\n{records} records, {rounds} rounds: median (lowest to highest)\n");
    println!("{:<6} {:>32} {:>26} {:>22}", "", "records/s", "CPU s per million", "peak RSS MiB");
    let columns: [(fn(&Figures) -> f64, usize, usize); 3] = [
        (|figures| figures.records_per_second, 32, 0),
        (|figures| figures.cpu_seconds_per_million, 26, 2),
        (|figures| figures.peak_rss_mib, 22, 1),
    ];
    let mut medians: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (which, _) in LOOPS {
        print!("{which:<6}");
        for (figure, width, digits) in columns {
            let mut values: Vec<f64> = all[which].iter().map(figure).collect();
            values.sort_by(f64::total_cmp);
            let (median, low, high) = (values[values.len() / 2], values[0], values[values.len() - 1]);
            medians.entry(which).or_default().push(median);
            print!(" {:>width$}", format!("{median:.digits$} ({low:.digits$} to {high:.digits$})"));
        }
        println!();
    }
    println!();
    for (which, what) in LOOPS {
        println!("{which:<6} {what}");
    }
    let ratio = |other: &str, column: usize| medians["run"][column] / medians[other][column];
    println!("\nrun / sync:  {:.2}x records/s, {:.2}x CPU", ratio("sync", 0), ratio("sync", 1));
    println!("run / async: {:.2}x records/s, {:.2}x CPU", ratio("async", 0), ratio("async", 1));
    println!("{}", serde_json::to_string(&all)?);
    Ok(())
}

/// Envelopes of about 380 bytes, each with one reference, into one partition.
fn load(brokers: &str, topic: &str, records: u64) -> Outcome<()> {
    let producer = Producer::new("bench", brokers)?;
    create_topic(brokers, topic)?;
    let mut bytes = 0;
    for number in 0..records {
        let order = Order {
            sku: format!("sku-{:06}", number % 100_000),
            customer: format!("customer-{:08}", number * 7_919 % 10_000_000),
            quantity: (number % 17) as u32 + 1,
            unit_price: (number % 9_973) as f64 / 100.0,
            currency: "EUR".into(),
            note: "leave it with the neighbours if nobody is at home, or behind the second gate on the left; \
                   the dog is friendly, the bell is not, ring twice"
                .into(),
        };
        let from = kafka_envelope::Ref::new("carts", (number % 6) as i32, number as i64);
        let message = Message::new(order).id(format!("order-{number:09}")).caused_by(from);
        if number == 0 {
            bytes = kafka_envelope::pack("bench", &message.payload, &message.refs)?.len();
        }
        drop(producer.send(topic, &message)?);
    }
    producer.flush(Duration::from_secs(60))?;
    eprintln!("{records} envelopes of {bytes} bytes are in {topic}");
    Ok(())
}

/// Consumes everything. The clock runs from the first record on: joining the group is not the loop's work.
fn measure(which: &str, brokers: &str, topic: &str, records: u64) -> Outcome<Figures> {
    let group = unique(which)?;
    let seconds = match which {
        "run" => ours(brokers, topic, &group, records)?,
        "sync" => plain(
            ClientConfig::new().set("auto.offset.reset", "earliest").set("enable.auto.commit", "false"),
            (brokers, topic, &group),
            records,
            CommitMode::Sync,
        )?,
        "async" => {
            let mut config = ClientConfig::new();
            config.extend(settings::consumer_defaults());
            plain(&mut config, (brokers, topic, &group), records, CommitMode::Async)?
        }
        other => return Err(format!("no such loop: {other}").into()),
    };
    Ok(Figures {
        records_per_second: records as f64 / seconds.as_secs_f64(),
        cpu_seconds_per_million: cpu()?.as_secs_f64() * 1e6 / records as f64,
        peak_rss_mib: memory_mib("VmHWM")?,
    })
}

fn ours(brokers: &str, topic: &str, group: &str, records: u64) -> Outcome<Duration> {
    let mut consumer = Consumer::builder("bench", brokers, group).topics([topic]).batch_size(BATCH).build()?;
    let stopper = consumer.stopper();
    let (mut start, mut seen, mut sum) = (None, 0, 0.0);
    consumer.run(|batch: &Batch<Order>| {
        start.get_or_insert_with(Instant::now);
        for order in batch {
            sum += f64::from(order.payload.quantity) * order.payload.unit_price;
        }
        seen += batch.len() as u64;
        if seen >= records {
            stopper.stop();
        }
        Ok(())
    })?;
    // `run` has confirmed its last commit by now.
    finish(start, sum)
}

fn plain(
    config: &mut ClientConfig,
    (brokers, topic, group): (&str, &str, &str),
    records: u64,
    mode: CommitMode,
) -> Outcome<Duration> {
    let consumer: BaseConsumer = config.set("bootstrap.servers", brokers).set("group.id", group).create()?;
    consumer.subscribe(&[topic])?;
    let (mut start, mut seen, mut sum) = (None, 0, 0.0);
    while seen < records {
        let Some(record) = consumer.poll(Duration::from_secs(1)) else { continue };
        let record = record?;
        start.get_or_insert_with(Instant::now);
        let order: Plain = serde_json::from_slice(record.payload().unwrap_or_default())?;
        sum += f64::from(order.item.quantity) * order.item.unit_price;
        if order.hist.is_none() {
            return Err("no history".into());
        }
        seen += 1;
        if seen % BATCH as u64 == 0 || seen == records {
            let mut next = TopicPartitionList::new();
            next.add_partition_offset(topic, record.partition(), Offset::Offset(record.offset() + 1))?;
            consumer.commit(&next, mode)?;
        }
    }
    // The clock stops here. Asynchronous commits are not confirmed yet, and waiting for those of 4,000 batches, which
    // the broker answers one by one, would be held against this loop.
    finish(start, sum)
}

fn finish(start: Option<Instant>, sum: f64) -> Outcome<Duration> {
    let elapsed = start.ok_or("nothing came")?.elapsed();
    if sum > 0.0 { Ok(elapsed) } else { Err("nothing was decoded".into()) }
}
