//! Loops that produce.

use std::time::Duration;

use futures_executor::block_on;
use kafka_envelope::{Message, Producer, settings};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DefaultProducerContext, FutureProducer, FutureRecord, Producer as _,
};
use rdkafka::{ClientConfig, client::DefaultClientContext};
use serde::{Deserialize, Serialize};

use crate::common::turns::{Clock, Figures};
use crate::common::{Outcome, create_topic_of, unique};
use crate::consume::Tokio;
use crate::orders::{Order, Written, cart, id};
use crate::topics::holds;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Loop {
    /// This crate: `send` for each message, then `flush`.
    Send,
    /// Plain rdkafka: `BaseProducer`, serialized into one reused buffer.
    Base,
    /// The same with values that were serialized before.
    BasePacked,
    /// This crate: `produce_batch`, each acknowledged before the next.
    Batches,
    /// Plain rdkafka: `FutureProducer`, each batch's futures joined before the next.
    FutureBatches,
    /// The same with a `linger.ms` of 0, for what joins them sends nothing that could end a linger.
    FutureBatchesAtOnce,
    /// Plain rdkafka: `BaseProducer`, flushed after each batch.
    FlushedBatches,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    pub(crate) which: Loop,
    /// Whole batches.
    pub(crate) records: u64,
    pub(crate) batch: u64,
}

impl Turn {
    /// Sends so many, and looks whether they all came. The clock runs from the first on, to the last acknowledgement.
    pub(crate) fn measure(&self, brokers: &str) -> Outcome<Figures> {
        let topic = unique("bench")?;
        create_topic_of(brokers, &topic, 1)?;
        // Orders are there before the clock runs, few enough to stay in no one's way.
        let orders: Vec<_> = (0..1_000).map(Order::new).collect();
        let mut config = ClientConfig::new();
        config.extend(settings::producer_defaults());
        config.set("bootstrap.servers", brokers);
        let figures = match self.which {
            Loop::Send => self.send(brokers, &topic, &orders),
            Loop::Base => self.base(&config, &topic, &orders),
            Loop::BasePacked => self.base_packed(&config, &topic, &orders),
            Loop::Batches => self.batches(brokers, &topic, &orders),
            Loop::FutureBatches => self.future_batches(&config, &topic, &orders),
            Loop::FutureBatchesAtOnce => self.future_batches(config.set("linger.ms", "0"), &topic, &orders),
            Loop::FlushedBatches => self.flushed_batches(&config, &topic, &orders),
        }?;
        holds(brokers, &topic, 1, self.records)?;
        Ok(figures)
    }

    fn firsts(&self) -> impl Iterator<Item = u64> {
        (0..self.records).step_by(self.batch as usize)
    }

    fn send(&self, brokers: &str, topic: &str, orders: &[Order]) -> Outcome<Figures> {
        let producer = Producer::new("bench", brokers)?;
        let start = Clock::start();
        for number in 0..self.records {
            drop(producer.send(topic, &message(orders, number))?);
        }
        producer.flush(PATIENCE)?;
        if producer.unclaimed_failures() > 0 {
            return Err("some were not delivered".into());
        }
        Figures::of(self.records, start.stop()?)
    }

    fn base(&self, config: &ClientConfig, topic: &str, orders: &[Order]) -> Outcome<Figures> {
        let producer: BaseProducer = config.create()?;
        let mut buffer = Vec::new();
        let start = Clock::start();
        for number in 0..self.records {
            write(&mut buffer, orders, number)?;
            send(&producer, topic, number, &buffer)?;
        }
        drain(&producer);
        Figures::of(self.records, start.stop()?)
    }

    fn base_packed(&self, config: &ClientConfig, topic: &str, orders: &[Order]) -> Outcome<Figures> {
        let producer: BaseProducer = config.create()?;
        let packed = (0..).zip(orders).map(|(number, order)| serde_json::to_vec(&Written::new(order, number)));
        let packed = packed.collect::<Result<Vec<_>, _>>()?;
        let start = Clock::start();
        for number in 0..self.records {
            send(&producer, topic, number, &packed[number as usize % packed.len()])?;
        }
        drain(&producer);
        Figures::of(self.records, start.stop()?)
    }

    fn batches(&self, brokers: &str, topic: &str, orders: &[Order]) -> Outcome<Figures> {
        let producer = Producer::new("bench", brokers)?;
        let start = Clock::start();
        for first in self.firsts() {
            let messages: Vec<_> = (first..first + self.batch).map(|number| message(orders, number)).collect();
            producer.produce_batch(topic, &messages)?;
        }
        Figures::of(self.records, start.stop()?)
    }

    fn future_batches(&self, config: &ClientConfig, topic: &str, orders: &[Order]) -> Outcome<Figures> {
        let producer: FutureProducer<DefaultClientContext, Tokio> =
            FutureProducer::from_config_and_context(config, DefaultClientContext)?;
        let (mut buffer, mut sent) = (Vec::new(), Vec::with_capacity(self.batch as usize));
        let start = Clock::start();
        for first in self.firsts() {
            for number in first..first + self.batch {
                write(&mut buffer, orders, number)?;
                let (key, record) = (id(number), FutureRecord::to(topic).payload(&buffer));
                sent.push(producer.send_result(record.key(&key)).map_err(|(error, _)| error)?);
            }
            for delivery in sent.drain(..) {
                block_on(delivery)?.map_err(|(error, _)| error)?;
            }
        }
        Figures::of(self.records, start.stop()?)
    }

    fn flushed_batches(&self, config: &ClientConfig, topic: &str, orders: &[Order]) -> Outcome<Figures> {
        let producer: BaseProducer = config.create()?;
        let mut buffer = Vec::new();
        let start = Clock::start();
        for first in self.firsts() {
            for number in first..first + self.batch {
                write(&mut buffer, orders, number)?;
                send(&producer, topic, number, &buffer)?;
            }
            producer.flush(PATIENCE)?;
        }
        Figures::of(self.records, start.stop()?)
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

fn order(orders: &[Order], number: u64) -> &Order {
    &orders[number as usize % orders.len()]
}

fn message(orders: &[Order], number: u64) -> Message<&Order> {
    Message::new(order(orders, number)).id(id(number)).caused_by(cart(number))
}

fn write(buffer: &mut Vec<u8>, orders: &[Order], number: u64) -> serde_json::Result<()> {
    buffer.clear();
    serde_json::to_writer(buffer, &Written::new(order(orders, number), number))
}

/// Takes reports now and then, and where the queue is full waits for some.
fn send(producer: &BaseProducer<DefaultProducerContext>, topic: &str, number: u64, value: &[u8]) -> Outcome<()> {
    let key = id(number);
    let mut record = BaseRecord::to(topic).key(&key).payload(value);
    while let Err((error, back)) = producer.send(record) {
        if !matches!(error, KafkaError::MessageProduction(Code::QueueFull)) {
            return Err(error.into());
        }
        record = back;
        producer.poll(Duration::from_millis(1));
    }
    if number % 100 == 0 {
        producer.poll(Duration::ZERO);
    }
    Ok(())
}

/// Waits for all reports in slices shorter than those of `flush`, the last of which it would sleep out.
fn drain(producer: &BaseProducer<DefaultProducerContext>) {
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
    }
}
