//! A loop of one's own on plain rdkafka clients: poll, unpack, pack, produce, commit.
//!
//! ```text
//! cargo run --release --example low_level
//! KAFKA_BOOTSTRAP_SERVERS=localhost:9092 cargo run --release --example low_level
//! ```

mod common;

use std::error::Error;
use std::time::Duration;

use common::Broker;
use kafka_envelope::low_level::{
    Oversize, create_consumer, create_producer, format_ref, pack, produce, produce_batch, unpack,
};
use kafka_envelope::rdkafka::Message as _;
use kafka_envelope::rdkafka::consumer::{CommitMode, Consumer as _};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order {
    sku: String,
    quantity: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::from_env()?;
    let brokers = broker.bootstrap_servers();
    let (orders, invoices) = (broker.topic("orders", 1)?, broker.topic("invoices", 1)?);

    // rdkafka's own clients, with this crate's defaults under the overrides.
    let producer = create_producer(brokers, [("acks", "all")])?;
    let consumer = create_consumer(brokers, &broker.name("billing-group"), [("auto.offset.reset", "earliest")])?;

    let mut batch = Vec::new();
    for (id, quantity) in [("order-1", 2), ("order-2", 5), ("order-3", 1)] {
        batch.push((Some(id), pack("shop", &Order { sku: "apples".into(), quantity }, &[])?));
    }
    produce_batch(&producer, &orders, &batch, Oversize::Refuse)?;

    consumer.subscribe(&[&orders])?;
    let mut patience = 20;
    let mut billed = 0;
    while billed < batch.len() && patience > 0 {
        // None: nothing came in time, or the group has just given this consumer its partitions.
        let Some(record) = consumer.poll(Duration::from_secs(1)) else {
            patience -= 1;
            continue;
        };
        let record = record?;
        // None: a tombstone, or an empty value.
        if let Some(message) = unpack(&record)? {
            let order: Order = message.payload()?;
            println!("{}: {} of {}", format_ref(&message.reference), order.quantity, order.sku);
            let invoice = pack("billing", &(f64::from(order.quantity) * 1.25), &[message.reference])?;
            produce(&producer, &invoices, None, record.key(), &invoice)?; // acknowledged when it returns
            billed += 1;
        }
        // Only now, and never before: at least once.
        consumer.commit_message(&record, CommitMode::Sync)?;
    }
    println!("{billed} orders billed");
    if billed == batch.len() { Ok(()) } else { Err("not all orders came".into()) }
}
