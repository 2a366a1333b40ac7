//! Loops that produce.

use std::time::{Duration, Instant};

use futures_executor::block_on;
use kafka_envelope::{Message, Producer, settings};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, FutureProducer, FutureRecord, Producer as _};
use rdkafka::{ClientConfig, client::DefaultClientContext};
use serde::{Deserialize, Serialize};

use crate::common::turns::Figures;
use crate::common::{Outcome, create_topic_of, unique};
use crate::consume::Tokio;
use crate::data::{Order, Written, cart, id};

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
    /// Plain rdkafka: `BaseProducer`, flushed after each batch.
    FlushedBatches,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    pub(crate) which: Loop,
    pub(crate) records: u64,
    pub(crate) batch: u64,
}

impl Turn {
    pub(crate) fn measure(&self, brokers: &str) -> Outcome<Figures> {
        let topic = unique("bench")?;
        create_topic_of(brokers, &topic, 1)?;
        // Orders are there before the clock runs, few enough to stay in no one's way.
        let orders: Vec<_> = (0..1_000).map(Order::new).collect();
        let order = |number: u64| &orders[number as usize % orders.len()];
        let mut config = ClientConfig::new();
        config.extend(settings::producer_defaults());
        config.set("bootstrap.servers", brokers);
        let start;
        match self.which {
            Loop::Send => {
                let producer = Producer::new("bench", brokers)?;
                start = Instant::now();
                for number in 0..self.records {
                    let message = Message::new(order(number)).id(id(number)).caused_by(cart(number));
                    drop(producer.send(&topic, &message)?);
                }
                producer.flush(PATIENCE)?;
                if producer.unclaimed_failures() > 0 {
                    return Err("some were not delivered".into());
                }
            }
            Loop::Base => {
                let producer: BaseProducer = config.create()?;
                start = Instant::now();
                let mut buffer = Vec::new();
                for number in 0..self.records {
                    buffer.clear();
                    serde_json::to_writer(&mut buffer, &Written::new(order(number), number))?;
                    send(&producer, &topic, &id(number), &buffer)?;
                }
                producer.flush(PATIENCE)?;
            }
            Loop::BasePacked => {
                let producer: BaseProducer = config.create()?;
                let packed = (0..1_000).map(|number| serde_json::to_vec(&Written::new(order(number), number)));
                let packed = packed.collect::<Result<Vec<_>, _>>()?;
                start = Instant::now();
                for number in 0..self.records {
                    send(&producer, &topic, &id(number), &packed[number as usize % packed.len()])?;
                }
                producer.flush(PATIENCE)?;
            }
            Loop::Batches => {
                let producer = Producer::new("bench", brokers)?;
                start = Instant::now();
                for first in (0..self.records).step_by(self.batch as usize) {
                    let message = |number| Message::new(order(number)).id(id(number)).caused_by(cart(number));
                    let messages: Vec<_> = (first..first + self.batch).map(message).collect();
                    producer.produce_batch(&topic, &messages)?;
                }
            }
            Loop::FutureBatches => {
                let producer: FutureProducer<DefaultClientContext, Tokio> =
                    FutureProducer::from_config_and_context(&config, DefaultClientContext)?;
                start = Instant::now();
                for first in (0..self.records).step_by(self.batch as usize) {
                    let mut sent = Vec::with_capacity(self.batch as usize);
                    for number in first..first + self.batch {
                        let value = serde_json::to_vec(&Written::new(order(number), number))?;
                        let (key, record) = (id(number), FutureRecord::to(&topic).payload(&value));
                        sent.push(producer.send_result(record.key(&key)).map_err(|(error, _)| error)?);
                    }
                    for delivery in sent {
                        block_on(delivery)?.map_err(|(error, _)| error)?;
                    }
                }
            }
            Loop::FlushedBatches => {
                let producer: BaseProducer = config.create()?;
                start = Instant::now();
                let mut buffer = Vec::new();
                for first in (0..self.records).step_by(self.batch as usize) {
                    for number in first..first + self.batch {
                        buffer.clear();
                        serde_json::to_writer(&mut buffer, &Written::new(order(number), number))?;
                        send(&producer, &topic, &id(number), &buffer)?;
                    }
                    producer.flush(PATIENCE)?;
                }
            }
        }
        Figures::of(self.records, start.elapsed())
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Polls for reports now and then, and where the queue is full waits for some.
fn send(producer: &BaseProducer<DefaultProducerContext>, topic: &str, key: &str, value: &[u8]) -> Outcome<()> {
    let mut record = BaseRecord::to(topic).key(key).payload(value);
    loop {
        match producer.send(record) {
            Ok(()) => break,
            Err((KafkaError::MessageProduction(Code::QueueFull), back)) => {
                record = back;
                producer.poll(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
    producer.poll(Duration::ZERO);
    Ok(())
}
