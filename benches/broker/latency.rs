//! How long a record takes from the producer to the handler, at a thousand a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kafka_envelope::{Batch, Consumer, Message, Producer, settings};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::{ClientConfig, Message as _};
use serde::{Deserialize, Serialize};

use crate::common::turns::{Clock, Figures, Measured};
use crate::common::{Outcome, create_topic_of, unique};
use crate::orders::{Plain, Written, cart};

const PATIENCE: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(1);
/// So many come before those that count, until all is connected.
const WARM_UP: u64 = 1_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    /// This crate, or plain rdkafka with its settings: `ThreadedProducer`, and a poll loop that decodes and commits
    /// asynchronously every 500 records.
    pub(crate) is_ours: bool,
    pub(crate) records: u64,
    pub(crate) linger_ms: u32,
}

impl Turn {
    pub(crate) fn measure(&self, brokers: &str) -> Outcome<Figures> {
        let topic = unique("bench")?;
        create_topic_of(brokers, &topic, 1)?;
        let (clock, is_read) = (Clock::start(), Arc::new(AtomicBool::new(false)));
        let start = clock.began;
        let mut taken = Vec::with_capacity((self.records + WARM_UP) as usize);
        let measured = thread::scope(|scope| -> Outcome<Measured> {
            let (topic, is_reading) = (&topic, Arc::clone(&is_read));
            let sender =
                scope.spawn(move || self.send(brokers, topic, start, &is_reading).map_err(|error| error.to_string()));
            match self.is_ours {
                true => self.run(brokers, topic, start, &is_read, &mut taken)?,
                false => self.poll(brokers, topic, start, &is_read, &mut taken)?,
            }
            let measured = clock.stop();
            sender.join().map_err(|_| "the producer panicked")??;
            measured
        })?;
        let mut late: Vec<f64> = taken.drain(WARM_UP as usize..).map(|nanos: u64| nanos as f64 / 1e6).collect();
        late.sort_by(f64::total_cmp);
        let at = |share: f64| late[((late.len() as f64 * share) as usize).min(late.len() - 1)];
        Ok(Figures {
            latency_ms: Some([at(0.5), at(0.99), at(0.999)]),
            ..Figures::of(self.records + WARM_UP, measured)?
        })
    }

    /// Each record holds when it was sent, in nanoseconds since the start. The second goes out when the first was read:
    /// joining a group takes its time.
    fn send(&self, brokers: &str, topic: &str, start: Instant, is_read: &AtomicBool) -> Outcome<()> {
        let linger = self.linger_ms.to_string();
        let mut begin = Instant::now();
        let mut pace = |number: u64| {
            if number == 1 {
                while !is_read.load(Ordering::Relaxed) {
                    thread::sleep(PACE);
                }
                begin = Instant::now();
            }
            let due = begin + PACE * number as u32;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            start.elapsed().as_nanos() as u64
        };
        if self.is_ours {
            let producer = Producer::builder("bench", brokers).config([("linger.ms", &*linger)]).build()?;
            for number in 0..self.records + WARM_UP {
                drop(producer.send(topic, &Message::new(pace(number)).id(number.to_string()).caused_by(cart(number)))?);
            }
            producer.flush(PATIENCE)?;
        } else {
            let mut config = ClientConfig::new();
            config.extend(settings::producer_defaults());
            config.set("bootstrap.servers", brokers).set("linger.ms", &linger);
            let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
            let mut buffer = Vec::new();
            for number in 0..self.records + WARM_UP {
                buffer.clear();
                serde_json::to_writer(&mut buffer, &Written::new(&pace(number), number))?;
                let key = number.to_string();
                producer.send(BaseRecord::to(topic).key(&key).payload(&buffer)).map_err(|(error, _)| error)?;
            }
            producer.flush(PATIENCE)?;
        }
        Ok(())
    }

    fn run(
        &self,
        brokers: &str,
        topic: &str,
        start: Instant,
        is_read: &AtomicBool,
        taken: &mut Vec<u64>,
    ) -> Outcome<()> {
        let mut consumer = Consumer::builder("bench", brokers, &unique("bench")?).topics([topic]).build()?;
        let stopper = consumer.stopper();
        consumer.run(|batch: &Batch<u64>| {
            is_read.store(true, Ordering::Relaxed);
            for sent in batch {
                taken.push(start.elapsed().as_nanos() as u64 - sent.payload);
            }
            if taken.len() as u64 == self.records + WARM_UP {
                stopper.stop();
            }
            Ok(())
        })?;
        Ok(())
    }

    fn poll(
        &self,
        brokers: &str,
        topic: &str,
        start: Instant,
        is_read: &AtomicBool,
        taken: &mut Vec<u64>,
    ) -> Outcome<()> {
        let mut config = ClientConfig::new();
        config.extend(settings::consumer_defaults());
        config.set("bootstrap.servers", brokers).set("group.id", unique("bench")?).set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create()?;
        consumer.subscribe(&[topic])?;
        while (taken.len() as u64) < self.records + WARM_UP {
            let Some(record) = consumer.poll(Duration::from_millis(100)) else { continue };
            let record = record?;
            let sent: Plain<'_, u64> = serde_json::from_slice(record.payload().unwrap_or_default())?;
            is_read.store(true, Ordering::Relaxed);
            taken.push(start.elapsed().as_nanos() as u64 - sent.item);
            if taken.len() % 500 == 0 {
                consumer.commit_message(&record, CommitMode::Async)?;
            }
        }
        Ok(())
    }
}
