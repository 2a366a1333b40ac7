//! What becomes of a batch that fails, of records that never work, and of one that cannot be read: a batch is handled
//! again, records that keep failing become dead letters, and nothing is lost.
//!
//! ```text
//! cargo run --release --example retry_and_dead_letter
//! KAFKA_BOOTSTRAP_SERVERS=localhost:9092 cargo run --release --example retry_and_dead_letter
//! ```
//!
//! Without `KAFKA_BOOTSTRAP_SERVERS` it runs on a broker inside the process. `RUST_LOG=info` shows the log.

mod common;

use std::collections::BTreeSet;
use std::error::Error;
use std::time::{Duration, Instant};

use common::{Broker, heading};
use kafka_envelope::low_level::{Oversize, create_consumer, create_producer, pack, produce_batch};
use kafka_envelope::rdkafka::Message as _;
use kafka_envelope::rdkafka::consumer::Consumer as _;
use kafka_envelope::rdkafka::message::{BorrowedMessage, Headers as _};
use kafka_envelope::{Backoff, Batch, Consumer, GiveUp, HandlerError, OnError, OnUndecodable};
use serde::{Deserialize, Serialize};

const BATCH: usize = 20;
const BATCHES: usize = 3;

#[derive(Serialize, Deserialize)]
struct Order {
    sku: String,
    quantity: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::from_env()?;
    let brokers = broker.bootstrap_servers();
    let orders = broker.topic("orders", 1)?;
    let letters = broker.dead_letter_topic(&orders)?;
    println!("{broker}");

    heading(&format!("shop: orders into the topic {orders}"));
    let sent = send_orders(brokers, &orders)?;
    println!("{} records: order-26 and order-33 are of a sku that nobody knows, order-48 is no JSON", sent.len());

    heading(&format!("billing: {orders} in; 3 attempts, then the dead-letter topic {letters}"));
    let group = broker.name("billing-group");
    let backoff = Backoff { first: Duration::from_millis(200), attempts: 3, ..Backoff::default() };
    let mut consumer = Consumer::builder("billing", brokers, &group)
        .topics([&orders])
        .batch_size(BATCH)
        .linger(Duration::from_secs(5)) // so that the batches of this account are full ones
        .idle_timeout(Duration::from_secs(30))
        .on_error(OnError::retry(backoff).then(GiveUp::DeadLetter).bisect(true))
        .on_undecodable(OnUndecodable::DeadLetter) // without `dead_letter_topic`, to the topic's name with -dlt
        .build()?;

    let mut tax_office = TaxOffice { refusals: 2 };
    let mut handled = BTreeSet::new();
    let (mut records, mut dead_lettered) = (0, 0);
    let start = Instant::now();
    for number in 1..=BATCHES {
        let done = consumer.process(|batch: &Batch<Order>| {
            let outcome = tax_office.declare(batch);
            let (at, place) = (start.elapsed().as_millis(), batch.reference().to_string());
            let (attempt, size) = (batch.attempt(), batch.len());
            let answer = outcome.as_ref().map_or_else(|error| format!("FAILS: {error}"), |()| "ok".to_owned());
            println!("{at:>5} ms  batch {number}  attempt {attempt:<2}  {size:>2} records  {place:<16}  {answer}");
            if outcome.is_ok() {
                handled.extend(batch.iter().filter_map(|order| order.id()).map(str::to_owned));
            }
            outcome
        })?;
        let done = done.ok_or("the orders did not come")?;
        println!(
            "          {} done: {} records, {} of them dead letters",
            done.reference, done.records, done.dead_lettered
        );
        println!("          committed: {}", broker.committed(&group, &orders, 1)?);
        records += done.records;
        dead_lettered += done.dead_lettered;
    }
    consumer.close(Duration::from_secs(5))?;

    heading(&format!("The topic {letters}, read with plain rdkafka"));
    let found = read_letters(brokers, &broker.name("onlooker"), &letters, dead_lettered)?;

    heading("Nothing is lost");
    println!("{records} records = {} handled + {} dead letters", handled.len(), found.len());
    let committed = broker.committed(&group, &orders, 1)?;
    println!("committed: {committed}");
    let accounted: BTreeSet<_> = handled.union(&found).cloned().collect();
    if accounted != sent || handled.len() + found.len() != records {
        return Err("some are missing".into());
    }
    if committed != format!("{orders}[0={records}]") {
        return Err("not all are committed".into());
    }
    Ok(())
}

/// All orders but one in envelopes, and their ids.
fn send_orders(brokers: &str, topic: &str) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let mut records = Vec::new();
    for number in 0..BATCH * BATCHES {
        let sku = if matches!(number, 26 | 33) { "unicorns" } else { "apples" };
        let value = match number {
            48 => b"two apples, please".to_vec(),
            _ => pack("shop", &Order { sku: sku.to_owned(), quantity: 2 }, &[])?,
        };
        records.push((Some(format!("order-{number}")), value));
    }
    let producer = create_producer(brokers, [("client.id", "shop")])?;
    produce_batch(&producer, topic, &records, Oversize::Refuse)?;
    Ok(records.into_iter().filter_map(|(id, _)| id).collect())
}

/// Something else that a handler depends on. It takes a batch as a whole or not at all, and does not say which order it
/// did not like: so the handler has no index to report, and a bad one is found by halving.
struct TaxOffice {
    /// So often it does not answer at first.
    refusals: u32,
}

impl TaxOffice {
    fn declare(&mut self, batch: &Batch<Order>) -> Result<(), HandlerError> {
        if self.refusals > 0 {
            self.refusals -= 1;
            return Err("the tax office does not answer".into());
        }
        if batch.iter().any(|order| order.payload.sku == "unicorns") {
            return Err("no such sku".into());
        }
        Ok(())
    }
}

/// Prints so many dead letters, and returns their keys.
fn read_letters(brokers: &str, group: &str, topic: &str, count: usize) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let consumer = create_consumer(brokers, group, [("auto.offset.reset", "earliest")])?;
    consumer.subscribe(&[topic])?;
    let mut keys = BTreeSet::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while keys.len() < count && Instant::now() < deadline {
        let Some(letter) = consumer.poll(Duration::from_secs(1)) else { continue };
        let letter = letter?;
        show(&letter);
        keys.insert(String::from_utf8_lossy(letter.key().unwrap_or_default()).into_owned());
    }
    Ok(keys)
}

/// Key and value are as they came.
fn show(letter: &BorrowedMessage<'_>) {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    println!("{}  {}", text(letter.key()), text(letter.payload()));
    for header in letter.headers().into_iter().flat_map(|headers| headers.iter()) {
        // Numbers are big-endian, as Spring Kafka writes them.
        let value = match (header.key, header.value) {
            ("kafka_dlt-original-partition" | "kafka_dlt-attempts", Some(&[a, b, c, d])) => {
                i32::from_be_bytes([a, b, c, d]).to_string()
            }
            ("kafka_dlt-original-offset" | "kafka_dlt-original-timestamp", Some(&[a, b, c, d, e, f, g, h])) => {
                i64::from_be_bytes([a, b, c, d, e, f, g, h]).to_string()
            }
            (_, value) => text(value),
        };
        println!("    {:<34} {value}", header.key);
    }
}
