//! The program `kafka-envelope` beside plain rdkafka: `consume` beside a poll loop that writes each record's value and a
//! line break, as kcat does. Both read the same envelopes and write to `/dev/null`. Before that, `produce` writes them.
//!
//! `bash scripts/bench.sh cli` starts a broker where `KAFKA_BOOTSTRAP_SERVERS` names none. The two take turns, each in a
//! process of its own: a ratio means something, figures of different runs or machines do not. `RECORDS`, 1,000,000 unless
//! set, of about 380 bytes; `ROUNDS`, 3 unless set.

mod common;

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::turns::spread;
use common::{Outcome, create_topic, number, unique};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kafka-envelope");
/// What an envelope's history takes, and the record beside it.
const PAYLOAD: usize = 280;

fn main() -> Outcome<()> {
    let brokers = env::var("KAFKA_BOOTSTRAP_SERVERS").map_err(|_| "run it by `bash scripts/bench.sh cli`")?;
    let arguments: Vec<_> = env::args().skip(1).filter(|word| word != "--bench").collect();
    match arguments.as_slice() {
        [] => compare(&brokers, number("RECORDS", 1_000_000)?, number("ROUNDS", 3)?),
        [which, topic] if which == "plain" => plain(&brokers, topic),
        other => Err(format!("no such bench: {other:?}").into()),
    }
}

fn compare(brokers: &str, records: u64, rounds: u64) -> Outcome<()> {
    let topic = unique("bench-cli")?;
    create_topic(brokers, &topic)?;
    let took = produce(brokers, &topic, records)?;
    let speed = |took: Duration| records as f64 / took.as_secs_f64();
    println!("{records} records, {rounds} rounds: median (lowest to highest)\n");
    println!("produce  {:>6.2} s, {:.0} lines/s", took.as_secs_f64(), speed(took));

    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        plain.push(time(Command::new(env::current_exe()?).args(["plain", &topic]))?);
        ours.push(time(Command::new(PROGRAM).args(["consume", &topic, "-b", brokers]))?);
    }
    let median = |name: &str, times: Vec<Duration>| {
        let [median, low, high] = spread(times.iter().map(Duration::as_secs_f64));
        println!("{name:<8} {median:>6.2} ({low:.2} to {high:.2}) s, {:.0} records/s", records as f64 / median);
        median
    };
    let (ours, plain) = (median("consume", ours), median("plain", plain));
    println!("\nconsume / plain: {:.2}x the time", ours / plain);
    Ok(())
}

/// How long a run takes whose output nobody reads.
fn time(command: &mut Command) -> Outcome<Duration> {
    let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(nowhere).status()?;
    if !status.success() {
        return Err(format!("{command:?}: {status}").into());
    }
    Ok(start.elapsed())
}

fn produce(brokers: &str, topic: &str, records: u64) -> Outcome<Duration> {
    let start = Instant::now();
    let mut program = Command::new(PROGRAM);
    program.args(["produce", topic, "-b", brokers, "--service", "bench"]);
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut input = BufWriter::with_capacity(1 << 16, child.stdin.take().ok_or("no input")?);
    let note = "in the shade behind the second greenhouse, where the door is open at noon ".repeat(4);
    for number in 0..records {
        let payload = format!(
            "{{\"sensor\":\"sensor-{:04}\",\"celsius\":{}.5,\"note\":\"{note}\"}}",
            number % 1_000,
            number % 40
        );
        writeln!(input, "{{\"id\":\"{}\",\"payload\":{:.*}\"}}}}", number % 1_000, PAYLOAD, payload)?;
    }
    input.flush()?;
    drop(input);
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("produce: {status}").into());
    }
    Ok(start.elapsed())
}

/// What kcat does, in Rust.
fn plain(brokers: &str, topic: &str) -> Outcome<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "plain")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    let mut output = BufWriter::with_capacity(1 << 16, File::create("/dev/stdout")?);
    loop {
        match consumer.poll(Duration::from_secs(1)) {
            None => {}
            Some(Ok(record)) => {
                output.write_all(record.payload().unwrap_or_default())?;
                output.write_all(b"\n")?;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(output.flush()?)
}
