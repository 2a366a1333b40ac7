//! A producer alone: one message, a batch, and messages without waiting for each.
//!
//! ```text
//! cargo run --release --example producer
//! KAFKA_BOOTSTRAP_SERVERS=localhost:9092 cargo run --release --example producer
//! ```

mod common;

use std::error::Error as StdError;
use std::time::Duration;

use common::Broker;
use kafka_envelope::{Error, Message, Oversize, Producer};
use serde_json::json;

fn main() -> Result<(), Box<dyn StdError>> {
    let broker = Broker::from_env()?;
    let topic = broker.topic("readings", 3)?;
    let producer = Producer::builder("thermometer", broker.bootstrap_servers())
        .config([("linger.ms", "20")]) // any librdkafka property, over the defaults
        .oversize(Oversize::Skip) // rather than to refuse the whole batch
        .build()?;

    // One message: waits until the broker has it. Messages with one id go to one partition.
    let reading = Message::new(json!({"celsius": 21.5})).id("kitchen").header("unit", "celsius");
    let delivery = producer.produce(&topic, &reading)?;
    println!("one:     partition {}, offset {}", delivery.partition, delivery.offset);

    // A batch: all acknowledged, or an error that says which messages were not.
    let mut batch: Vec<_> = (0..100).map(|number| Message::new(json!({"number": number}))).collect();
    batch.push(Message::new(json!("x".repeat(2_000_000))));
    match producer.produce_batch(&topic, &batch) {
        Ok(report) => println!("batch:   {} acknowledged, skipped: {:?}", report.deliveries.len(), report.skipped),
        Err(Error::NotDelivered { total, failed, possibly_persisted, .. }) => {
            println!("batch:   {} of {total} not acknowledged", failed.len());
            for (index, error) in failed {
                let perhaps = if possibly_persisted.contains(&index) { ", but perhaps in the log" } else { "" };
                println!("         message {index}: {error}{perhaps}");
            }
        }
        Err(error) => return Err(error.into()),
    }

    // Without waiting: what became of a message is asked later, or of all together.
    let mut pending = Vec::new();
    for number in 0..1_000 {
        pending.push(producer.send(&topic, &Message::new(json!({"number": number})))?);
    }
    producer.flush(Duration::from_secs(30))?; // every message has its report now, good or bad
    let mut acknowledged = 0;
    for one in pending {
        one.wait()?;
        acknowledged += 1;
    }
    println!("stream:  {acknowledged} acknowledged");

    // Dropping the last clone of a producer waits up to 5 seconds for what is still on its way.
    Ok(())
}
