//! Orders in, invoices out, and what happens to a batch that fails.
//!
//! ```text
//! cargo run --release --example quickstart
//! KAFKA_BOOTSTRAP_SERVERS=localhost:9092 cargo run --release --example quickstart
//! ```
//!
//! Without `KAFKA_BOOTSTRAP_SERVERS` it runs on a broker inside the process. `RUST_LOG=info` shows the log.

mod common;

use std::error::Error;
use std::thread;
use std::time::Duration;

use chrono::Utc;
use common::{Broker, heading};
use kafka_envelope::{Batch, Consumer, HandlerError, Message, Producer, Ref, stage_latencies};
use serde::{Deserialize, Serialize};

const ORDERS: usize = 1_000;
const PARTITIONS: i32 = 3;

#[derive(Serialize, Deserialize)]
struct Order {
    sku: String,
    quantity: u32,
    unit_price: f64,
}

#[derive(Serialize, Deserialize)]
struct Invoice {
    sku: String,
    total: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::from_env()?;
    let brokers = broker.bootstrap_servers();
    let orders = broker.topic("orders", PARTITIONS)?;
    let invoices = broker.topic("invoices", PARTITIONS)?;
    println!("{broker}");

    heading(&format!("shop: orders into the topic {orders}"));
    let shop = Producer::new("shop", brokers)?;
    let report = shop.produce_batch(&orders, &new_orders())?;
    println!("{} orders sent, every one acknowledged", report.deliveries.len());

    heading(&format!("billing: {orders} in, {invoices} out"));
    let billing = Producer::new("billing", brokers)?;
    let group = broker.name("billing-group");
    let mut consumer = Consumer::builder("billing", brokers, &group)
        .topics([&orders])
        .batch_size(250)
        .linger(Duration::from_millis(200)) // so that the batches of this account are full ones
        .idle_timeout(Duration::from_secs(30))
        .build()?;

    // One batch. Its offsets are committed when `process` returns.
    let done = consumer.process(|batch: &Batch<Order>| bill(batch, &billing, &invoices))?.ok_or("no orders came")?;
    println!("batch 1    ok      {:>4} records  {}", done.records, done.reference);

    // The next batch fails before an invoice is sent.
    let before = broker.committed(&group, &orders, PARTITIONS)?;
    println!("           committed: {before}");
    let mut failed = String::new();
    let failure = consumer.process(|batch: &Batch<Order>| {
        failed = batch.reference().to_string();
        println!("batch 2    FAILS   {:>4} records  {failed}", batch.len());
        Err("the tax office does not answer".into())
    });
    let Err(error) = failure else { return Err("the second batch did not fail".into()) };
    let after = broker.committed(&group, &orders, PARTITIONS)?;
    println!("           error:     {error}");
    println!("           committed: {after}");
    if before != after {
        return Err("something of the failed batch was committed".into());
    }
    println!("           so nothing of the failed batch is committed; it comes again");
    thread::sleep(Duration::from_millis(1_200)); // as a service waits for what it depends on

    // From here on all batches, the failed one first.
    let (mut batches, mut billed) = (1, done.records);
    let mut of_failed_batch = None;
    let stopper = consumer.stopper();
    consumer.run(|batch: &Batch<Order>| {
        bill(batch, &billing, &invoices)?;
        batches += 1;
        billed += batch.len();
        let again = batch.reference().to_string() == failed;
        if again {
            of_failed_batch = batch.first().map(|order| order.reference().to_string());
        }
        let note = if again { "  (again)" } else { "" };
        println!("batch {batches}    ok      {:>4} records  {}{note}", batch.len(), batch.reference());
        if billed == ORDERS {
            stopper.stop();
        }
        Ok(())
    })?;
    println!("           committed: {}", broker.committed(&group, &orders, PARTITIONS)?);
    let of_failed_batch = of_failed_batch.ok_or("the failed batch did not come again")?;
    println!("{billed} orders in, {billed} invoices out, in {batches} batches");
    consumer.close(Duration::from_secs(5))?;

    heading(&format!("ledger: {invoices} in"));
    let mut ledger = Consumer::builder("ledger", brokers, &broker.name("ledger-group"))
        .topics([&invoices])
        .idle_timeout(Duration::from_secs(30))
        .build()?;
    let stopper = ledger.stopper();
    let (mut count, mut sum) = (0, 0.0);
    let mut example: Option<Ref> = None;
    let summary = ledger.run(|batch: &Batch<Invoice>| {
        for invoice in batch {
            count += 1;
            sum += invoice.payload.total;
            // One whose order was in the failed batch.
            let stage = invoice.history().ok_or("an invoice without history")?.stage()?;
            if stage.refs.iter().any(|order| order.to_string() == of_failed_batch) {
                example = Some(invoice.reference());
            }
        }
        if count == ORDERS {
            stopper.stop();
        }
        Ok(())
    })?;
    println!("{} invoices read in {} batches, {sum:.2} in all", summary.records, summary.batches);
    ledger.close(Duration::from_secs(5))?;

    heading("Where one invoice of the batch that failed came from");
    show_lineage(&example.ok_or("the invoice did not come")?)
}

fn new_orders() -> Vec<Message<Order>> {
    let order = |number: usize| {
        let sku = ["apples", "pears", "plums"][number % 3].to_owned();
        let order = Order { sku, quantity: number as u32 % 5 + 1, unit_price: 1.25 };
        Message::new(order).id(format!("order-{number}"))
    };
    (1..=ORDERS).map(order).collect()
}

/// An invoice for each order. `caused_by` is the lineage: it names the order, and carries the order's own history.
fn bill(batch: &Batch<Order>, producer: &Producer, invoices: &str) -> Result<(), HandlerError> {
    let invoice = |Order { sku, quantity, unit_price }: &Order| Invoice {
        sku: sku.clone(),
        total: f64::from(*quantity) * unit_price,
    };
    let messages: Vec<_> = batch.iter().map(|order| Message::new(invoice(&order.payload)).caused_by(order)).collect();
    producer.produce_batch(invoices, &messages)?;
    Ok(())
}

/// From the message back to the one that was made from nothing, then how long each stage took.
fn show_lineage(invoice: &Ref) -> Result<(), Box<dyn Error>> {
    let mut next = Some(invoice.clone());
    let mut arrow = "";
    while let Some(message) = next {
        let stage = message.history.as_ref().ok_or("no history")?.stage()?;
        println!("{arrow}{message}  made by {} at {}", stage.service, stage.at.format("%H:%M:%S"));
        next = stage.refs.into_iter().next();
        arrow = "  from ";
    }
    let latencies = stage_latencies("ledger", invoice, None, Utc::now())?;
    for (service, took) in &latencies.stages {
        println!("{service:<8} {:.1} s", took.as_seconds_f64());
    }
    println!(
        "total    {:.1} s since the order was made (envelopes tell whole seconds)",
        latencies.total.as_seconds_f64()
    );
    Ok(())
}
