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

use crate::common::turns::Figures;
use crate::common::{Outcome, create_topic_of, unique};

const PACE: Duration = Duration::from_millis(1);
/// Records before these count: until all is connected.
const WARM_UP: u64 = 2_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    /// This crate, or plain rdkafka with its settings: `ThreadedProducer`, and a poll loop that decodes and commits
    /// asynchronously as often as this crate does at the most, every 500 records.
    pub(crate) is_ours: bool,
    pub(crate) records: u64,
    pub(crate) linger_ms: u32,
}

#[derive(Deserialize)]
struct Plain {
    item: u64,
}

impl Turn {
    pub(crate) fn measure(&self, brokers: &str) -> Outcome<Figures> {
        let topic = unique("bench")?;
        create_topic_of(brokers, &topic, 1)?;
        let (start, is_ready) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let mut taken = Vec::with_capacity((self.records + WARM_UP) as usize);
        let took = thread::scope(|scope| -> Outcome<Duration> {
            let (topic, ready) = (&topic, Arc::clone(&is_ready));
            let sender = scope.spawn(move || {
                while !ready.load(Ordering::Relaxed) {
                    thread::sleep(PACE);
                }
                self.send(brokers, topic, start).map_err(|error| error.to_string())
            });
            let since = match self.is_ours {
                true => self.run(brokers, topic, start, &is_ready, &mut taken)?,
                false => self.poll(brokers, topic, start, &is_ready, &mut taken)?,
            };
            sender.join().map_err(|_| "the producer panicked")??;
            Ok(since)
        })?;
        let mut late: Vec<f64> = taken.drain(WARM_UP as usize..).map(|nanos: u64| nanos as f64 / 1e6).collect();
        late.sort_by(f64::total_cmp);
        let at = |share: f64| late[((late.len() as f64 * share) as usize).min(late.len() - 1)];
        Ok(Figures { latency_ms: Some([at(0.5), at(0.99), at(0.999)]), ..Figures::of(self.records + WARM_UP, took)? })
    }

    /// Each record holds when it was sent, in nanoseconds since the start.
    fn send(&self, brokers: &str, topic: &str, start: Instant) -> Outcome<()> {
        let linger = self.linger_ms.to_string();
        let begin = Instant::now();
        let pace = |number: u64| {
            let due = begin + PACE * number as u32;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            start.elapsed().as_nanos() as u64
        };
        if self.is_ours {
            let producer = Producer::builder("bench", brokers).config([("linger.ms", &*linger)]).build()?;
            for number in 0..self.records + WARM_UP {
                drop(producer.send(topic, &Message::new(pace(number)))?);
            }
            producer.flush(Duration::from_secs(60))?;
        } else {
            let mut config = ClientConfig::new();
            config.extend(settings::producer_defaults());
            config.set("bootstrap.servers", brokers).set("linger.ms", &linger);
            let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
            for number in 0..self.records + WARM_UP {
                let value = format!("{{\"item\":{}}}", pace(number));
                let key = number.to_string();
                producer.send(BaseRecord::to(topic).key(&key).payload(&value)).map_err(|(error, _)| error)?;
            }
            producer.flush(Duration::from_secs(60))?;
        }
        Ok(())
    }

    fn run(
        &self,
        brokers: &str,
        topic: &str,
        start: Instant,
        is_ready: &AtomicBool,
        taken: &mut Vec<u64>,
    ) -> Outcome<Duration> {
        let mut consumer = Consumer::builder("bench", brokers, &unique("bench")?).topics([topic]).build()?;
        let stopper = consumer.stopper();
        is_ready.store(true, Ordering::Relaxed);
        consumer.run(|batch: &Batch<u64>| {
            for sent in batch {
                taken.push(start.elapsed().as_nanos() as u64 - sent.payload);
            }
            if taken.len() as u64 == self.records + WARM_UP {
                stopper.stop();
            }
            Ok(())
        })?;
        Ok(start.elapsed())
    }

    fn poll(
        &self,
        brokers: &str,
        topic: &str,
        start: Instant,
        is_ready: &AtomicBool,
        taken: &mut Vec<u64>,
    ) -> Outcome<Duration> {
        let mut config = ClientConfig::new();
        config.extend(settings::consumer_defaults());
        config.set("bootstrap.servers", brokers).set("group.id", unique("bench")?).set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create()?;
        consumer.subscribe(&[topic])?;
        is_ready.store(true, Ordering::Relaxed);
        while (taken.len() as u64) < self.records + WARM_UP {
            let Some(record) = consumer.poll(Duration::from_millis(100)) else { continue };
            let record = record?;
            let sent: Plain = serde_json::from_slice(record.payload().unwrap_or_default())?;
            taken.push(start.elapsed().as_nanos() as u64 - sent.item);
            if taken.len() % 500 == 0 {
                consumer.commit_message(&record, CommitMode::Async)?;
            }
        }
        Ok(start.elapsed())
    }
}
