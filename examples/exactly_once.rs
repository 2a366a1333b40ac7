//! Orders in, invoices out, by a handler that fails in the middle of a batch: first at least once, where some orders get
//! two invoices, then exactly once, where each gets one.
//!
//! ```text
//! KAFKA_BOOTSTRAP_SERVERS=localhost:9092 cargo run --release --example exactly_once
//! cargo run --release --example exactly_once
//! ```
//!
//! The second runs on a broker inside the process, which only simulates transactions: see what it prints.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as StdError;
use std::time::{Duration, Instant};

use common::{Broker, heading};
use kafka_envelope::low_level::unpack;
use kafka_envelope::rdkafka::ClientConfig;
use kafka_envelope::rdkafka::consumer::{BaseConsumer, Consumer as _};
use kafka_envelope::rdkafka::error::KafkaError;
use kafka_envelope::rdkafka::{Offset, TopicPartitionList};
use kafka_envelope::{
    Batch, Consumer, Error, HandlerError, Message, Outbox, Producer, Received, TransactionalProducer,
};
use serde::{Deserialize, Serialize};

const ORDERS: usize = 1_000;
/// The handler fails once, at this order: in the middle of the third batch.
const FAILS_AT: &str = "order-600";

#[derive(Serialize, Deserialize)]
struct Order {
    quantity: u32,
}

#[derive(Serialize, Deserialize)]
struct Invoice {
    order: String,
    total: f64,
}

fn main() -> Result<(), Box<dyn StdError>> {
    let broker = Broker::from_env()?;
    let orders = broker.topic("orders", 1)?;
    println!("{broker}");
    let new_order = |number| Message::new(Order { quantity: 2 }).id(format!("order-{number}"));
    let new_orders: Vec<_> = (1..=ORDERS).map(new_order).collect();
    Producer::new("shop", broker.bootstrap_servers())?.produce_batch(&orders, &new_orders)?;

    heading("At least once: invoices leave one by one, with a Producer");
    let invoices = broker.topic("invoices", 1)?;
    at_least_once(&broker, &orders, &invoices)?;
    let twice = count(&broker, &invoices)?;

    heading("Exactly once: invoices and offsets in one transaction, with a TransactionalProducer");
    let invoices = broker.topic("invoices-exactly-once", 1)?;
    let group = broker.name("exactly-once-group");
    exactly_once(&broker, &group, &orders, &invoices)?;
    let committed = broker.committed(&group, &orders, 1)?;
    println!("committed: {committed}");
    let not_once = count(&broker, &invoices)?;

    let is_simulated = matches!(broker, Broker::Embedded(_));
    if is_simulated {
        println!();
        println!("This broker only simulates transactions. It keeps none of the offsets that they commit, and readers");
        println!("see what was aborted. So this shows no more than that the outbox held back the invoices of the");
        println!(
            "attempt that failed. That invoices and offsets are committed together, or neither, only Kafka shows:"
        );
        println!("KAFKA_BOOTSTRAP_SERVERS=host:port before the command runs it there.");
    }
    let is_committed = is_simulated || committed == format!("{orders}[0={ORDERS}]");
    if twice == 0 || not_once != 0 || !is_committed {
        return Err("that is not what was promised".into());
    }
    Ok(())
}

/// A failed attempt has sent some invoices; when its batch comes again they are sent again.
fn at_least_once(broker: &Broker, orders: &str, invoices: &str) -> Result<(), Box<dyn StdError>> {
    let producer = Producer::new("billing", broker.bootstrap_servers())?;
    let mut consumer = consumer(broker, &broker.name("at-least-once-group"), orders)?;
    let stopper = consumer.stopper();
    let mut work = Work::default();
    let mut handler = |batch: &Batch<Order>| -> Result<(), HandlerError> {
        let mut sent = Vec::new();
        for order in batch {
            sent.push(producer.send(invoices, &work.invoice(order)?)?);
        }
        for invoice in sent {
            invoice.wait()?;
        }
        if work.is_done() {
            stopper.stop();
        }
        Ok(())
    };
    let Err(error) = consumer.run(&mut handler) else { return Err("it did not fail".into()) };
    println!("stopped: {error}");
    let summary = consumer.run(&mut handler)?; // the same batch first
    println!("then {} orders in {} batches, the one that failed first", summary.records, summary.batches);
    consumer.close(Duration::from_secs(5))?;
    Ok(())
}

/// What a failed attempt has put into its outbox is forgotten; nothing of it was sent.
fn exactly_once(broker: &Broker, group: &str, orders: &str, invoices: &str) -> Result<(), Box<dyn StdError>> {
    // One for each process of a service, and the same when it starts again: so the new producer fences the old one.
    let transactional_id = broker.name("billing-1");
    let mut work = Work::default();
    let mut handler = |batch: &Batch<Order>, outbox: &mut Outbox<'_>| -> Result<bool, HandlerError> {
        for order in batch {
            outbox.send(invoices, &work.invoice(order)?)?;
        }
        Ok(work.is_done())
    };

    let mut producer = TransactionalProducer::new("billing", broker.bootstrap_servers(), &transactional_id)?;
    let mut consumer = self::consumer(broker, group, orders)?;
    let stopper = consumer.stopper();
    let failure = consumer.run_exactly_once(&mut producer, |batch: &Batch<Order>, outbox: &mut Outbox<'_>| {
        handler(batch, outbox).map(|_| ())
    });
    let Err(error) = failure else { return Err("it did not fail".into()) };
    println!("stopped: {error}");
    println!("committed: {}", broker.committed(group, orders, 1)?);

    // On Kafka the service starts anew, from what its transactions have committed. The simulation has kept nothing of
    // that, so there the same consumer goes on.
    let (mut consumer, stopper) = match broker {
        Broker::Embedded(_) => (consumer, stopper),
        Broker::Yours { .. } => {
            consumer.close(Duration::from_secs(5))?;
            producer = TransactionalProducer::new("billing", broker.bootstrap_servers(), &transactional_id)?;
            let consumer = self::consumer(broker, group, orders)?;
            let stopper = consumer.stopper();
            println!("started anew");
            (consumer, stopper)
        }
    };
    let summary = consumer.run_exactly_once(&mut producer, |batch: &Batch<Order>, outbox: &mut Outbox<'_>| {
        if handler(batch, outbox)? {
            stopper.stop();
        }
        Ok(())
    })?;
    println!("then {} orders in {} batches, the one that failed first", summary.records, summary.batches);
    consumer.close(Duration::from_secs(5))?;
    Ok(())
}

/// Its isolation level is `read_committed`, librdkafka's default: an exactly-once run takes no other.
fn consumer(broker: &Broker, group: &str, orders: &str) -> Result<Consumer, Error> {
    Consumer::builder("billing", broker.bootstrap_servers(), group)
        .topics([orders])
        .batch_size(250)
        .linger(Duration::from_secs(5)) // so that the batches of this account are full ones
        .idle_timeout(Duration::from_secs(30))
        .build()
}

/// What both handlers do with an order.
#[derive(Default)]
struct Work {
    has_failed: bool,
    seen: BTreeSet<String>,
}

impl Work {
    fn invoice(&mut self, order: &Received<'_, Order>) -> Result<Message<Invoice>, HandlerError> {
        let id = order.id().ok_or("an order without id")?;
        if id == FAILS_AT && !self.has_failed {
            self.has_failed = true;
            return Err(format!("no more paper at {id}").into());
        }
        self.seen.insert(id.to_owned());
        let total = f64::from(order.payload.quantity) * 1.25;
        Ok(Message::new(Invoice { order: id.to_owned(), total }).caused_by(order))
    }

    fn is_done(&self) -> bool {
        self.seen.len() == ORDERS
    }
}

/// Reads all committed invoices, and returns for how many orders there is not exactly one.
fn count(broker: &Broker, topic: &str) -> Result<usize, Box<dyn StdError>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap_servers())
        .set("group.id", broker.name("reader"))
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&partitions)?;
    let mut invoices: BTreeMap<String, usize> = (1..=ORDERS).map(|number| (format!("order-{number}"), 0)).collect();
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_secs(1)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => {
                let sum: usize = invoices.values().sum();
                let with = |count: fn(usize) -> bool| invoices.values().filter(|invoices| count(**invoices)).count();
                let (none, one, more) = (with(|n| n == 0), with(|n| n == 1), with(|n| n > 1));
                println!(
                    "{sum} invoices of {ORDERS} orders: {none} orders have none, {one} have one, {more} have more"
                );
                return Ok(none + more);
            }
            Some(record) => {
                let record = record?;
                if let Some(message) = unpack(&record)? {
                    *invoices.entry(message.payload::<Invoice>()?.order).or_default() += 1;
                }
            }
        }
    }
    Err("the invoices have no end".into())
}
