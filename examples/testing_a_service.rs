//! A service, and its tests: the handler alone, then the whole service on a broker inside the process.
//!
//! ```text
//! cargo run --release --example testing_a_service     # the service, once
//! cargo test --release --example testing_a_service    # its tests
//! ```

mod common;

use std::time::Duration;

use common::Broker;
use kafka_envelope::{Batch, Consumer, Error, HandlerError, Message, Producer, Stopper, Summary};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    sku: String,
    quantity: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Shortage {
    sku: String,
}

/// Which orders ask for more than there is. Knows nothing of Kafka, so that it is tested without.
fn shortages(batch: &Batch<Order>) -> Result<Vec<Message<Shortage>>, HandlerError> {
    let mut found = Vec::new();
    for (index, order) in batch.iter().enumerate() {
        if order.payload.sku.is_empty() {
            return Err(HandlerError::at(index, "an order without sku"));
        }
        if order.payload.quantity > 100 {
            found.push(Message::new(Shortage { sku: order.payload.sku.clone() }).caused_by(order));
        }
    }
    Ok(found)
}

/// The service. Whoever starts it gets a way to stop it.
fn watch(brokers: &str, orders: &str, to: &str, group: &str, started: impl FnOnce(Stopper)) -> Result<Summary, Error> {
    let producer = Producer::new("stock", brokers)?;
    let mut consumer =
        Consumer::builder("stock", brokers, group).topics([orders]).idle_timeout(Duration::from_secs(10)).build()?;
    started(consumer.stopper());
    consumer.run(|batch: &Batch<Order>| {
        producer.produce_batch(to, &shortages(batch)?)?;
        Ok(())
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::from_env()?;
    let (orders, to) = (broker.topic("orders", 1)?, broker.topic("shortages", 1)?);
    let shop = Producer::new("shop", broker.bootstrap_servers())?;
    for quantity in [3, 500] {
        shop.produce(&orders, &Message::new(Order { sku: "apples".into(), quantity }))?;
    }
    let group = broker.name("stock-group");
    std::thread::scope(|scope| {
        let (sender, stopper) = std::sync::mpsc::channel();
        let started = move |stopper| _ = sender.send(stopper);
        let (brokers, orders) = (broker.bootstrap_servers(), &orders);
        let service = scope.spawn(|| watch(brokers, orders, &to, &group, started));
        let mut reader = Consumer::builder("reader", brokers, &broker.name("reader-group"))
            .topics([&to])
            .idle_timeout(Duration::from_secs(30))
            .build()?;
        reader.process(|batch: &Batch<Shortage>| {
            batch.each(|shortage| {
                println!("too few {}", shortage.payload.sku);
                Ok(())
            })
        })?;
        stopper.recv()?.stop();
        let summary = service.join().map_err(|_| "the service panicked")??;
        println!("{} orders looked at", summary.records);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use kafka_envelope::testing::{ApiKey, EmbeddedBroker, ErrorCode, Records};

    use super::*;

    fn order(sku: &str, quantity: u32) -> Order {
        Order { sku: sku.to_owned(), quantity }
    }

    /// No broker: `Records` makes the batch that a consumer would hand over.
    #[test]
    fn only_large_orders_are_short() -> Result<(), HandlerError> {
        let records = Records::new("orders")
            .push("order-1", &order("apples", 3))
            .push("order-2", &order("pears", 500))
            .tombstone("order-1");
        let found = shortages(&records.batch()?)?;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].payload, Shortage { sku: "pears".into() });
        assert_eq!(found[0].refs[0].to_string(), "orders:0:1:order-2");
        Ok(())
    }

    #[test]
    fn an_order_without_sku_is_named() -> Result<(), Error> {
        let records = Records::new("orders").push("order-1", &order("apples", 3)).push("order-2", &order("", 1));
        let index = shortages(&records.batch()?).err().and_then(|error| error.index());
        assert_eq!(index, Some(1), "what stands before it is done");
        Ok(())
    }

    /// What is not an order at all is met before the handler.
    #[test]
    fn what_is_no_order_does_not_decode() {
        let records = Records::new("orders").raw(Some(b"order-1"), Some(b"{\"item\":7}"));
        let error = records.batch::<Order>().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with("cannot decode orders:0:0:order-1: "), "{error}");
    }

    /// The whole service, with a broker that is slow and refuses two commits.
    #[test]
    fn the_service_reports_a_shortage() -> Result<(), Error> {
        let broker = EmbeddedBroker::start()?;
        broker.create_topic("orders", 6)?;
        broker.create_topic("shortages", 1)?;
        broker.delay(Duration::from_millis(20))?;
        broker.fail_next(ApiKey::OffsetCommit, [ErrorCode::RebalanceInProgress, ErrorCode::NotCoordinator])?;
        let brokers = broker.bootstrap_servers();
        let shop = Producer::new("shop", brokers)?;
        let orders: Vec<_> = (0..200).map(|quantity| Message::new(order("plums", quantity))).collect();
        shop.produce_batch("orders", &orders)?;

        let mut reader = Consumer::builder("test", brokers, "test").topics(["shortages"]).build()?;
        std::thread::scope(|scope| {
            let (sender, stopper) = std::sync::mpsc::channel();
            let started = move |stopper| _ = sender.send(stopper);
            let service = scope.spawn(|| watch(brokers, "orders", "shortages", "stock-group", started));
            let (mut found, deadline) = (0, Instant::now() + Duration::from_secs(30));
            while found < 99 && Instant::now() < deadline {
                reader.process(|batch: &Batch<Shortage>| {
                    found += batch.len();
                    Ok(())
                })?;
            }
            if let Ok(stopper) = stopper.recv() {
                stopper.stop();
            }
            assert_eq!(found, 99);
            assert!(matches!(service.join(), Ok(Ok(Summary { records: 200, .. }))));
            Ok(())
        })
    }
}
