//! Loops that consume a topic that is full.

use std::collections::BTreeMap;
use std::future::Future;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use kafka_envelope::{Batch, Consumer, RawBatch, settings};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, DefaultConsumerContext, StreamConsumer};
use rdkafka::message::BorrowedMessage;
use rdkafka::util::AsyncRuntime;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::common::turns::{Clock, Figures};
use crate::common::{Outcome, unique};
use crate::orders::{Borrowed, Order, Plain, total};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Loop {
    /// This crate: `run`, a payload that owns its texts, defaults.
    Run,
    /// As `Run`, with a recorder of metrics installed. Needs the feature `metrics`.
    RunRecorded,
    /// This crate: `run_raw`, a payload that borrows them, defaults.
    RunRaw,
    /// Plain rdkafka: poll, decode as `Run`, synchronous commit, librdkafka's defaults.
    Sync,
    /// Plain rdkafka: poll, decode as `Run`, asynchronous commit, this crate's settings.
    Async,
    /// The same, decoding as `RunRaw`.
    AsyncBorrowed,
    /// The same without decoding and commits.
    Poll,
    /// As `Async`, by rdkafka's `StreamConsumer`.
    Stream,
}

/// What a handler does besides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Work {
    Nothing,
    /// So much CPU for each record.
    Spins(Duration),
    /// It waits so long for each batch.
    Waits(Duration),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    pub(crate) which: Loop,
    pub(crate) topic: String,
    pub(crate) records: u64,
    pub(crate) batch: usize,
    pub(crate) work: Work,
}

impl Turn {
    /// Consumes so many. The clock runs from the first record on, since joining the group is not the loop's work, and
    /// ends before the client is closed. Asynchronous commits are not confirmed by then; `run` waits for its last one.
    pub(crate) fn measure(&self, brokers: &str) -> Outcome<Figures> {
        let group = unique("bench")?;
        let mut config = ClientConfig::new();
        config.set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
        if self.which != Loop::Sync {
            config.extend(settings::consumer_defaults());
        }
        config.set("bootstrap.servers", brokers).set("group.id", &group);
        let mut seen = Seen::new(self);
        let figures = match self.which {
            Loop::Run => self.run(brokers, &group, &mut seen)?,
            Loop::RunRecorded => {
                record_metrics()?;
                self.run(brokers, &group, &mut seen)?
            }
            Loop::RunRaw => self.run_raw(brokers, &group, &mut seen)?,
            Loop::Sync => self.plain(&config, CommitMode::Sync, owned, &mut seen)?,
            Loop::Async => self.plain(&config, CommitMode::Async, owned, &mut seen)?,
            Loop::AsyncBorrowed => self.plain(&config, CommitMode::Async, borrowed, &mut seen)?,
            Loop::Poll => return self.poll(&config, &mut seen),
            Loop::Stream => self.stream(&config, &mut seen)?,
        };
        // Each once: their sum says so, up to how floats add up in another order.
        let wanted = total(seen.records);
        if (seen.sum - wanted).abs() > wanted * 1e-9 {
            return Err(format!(
                "{} orders cost {}, not {wanted}: some were not read, or twice",
                seen.records, seen.sum
            )
            .into());
        }
        Ok(figures)
    }

    fn consumer(&self, brokers: &str, group: &str) -> Outcome<Consumer> {
        Ok(Consumer::builder("bench", brokers, group).topics([&self.topic]).batch_size(self.batch).build()?)
    }

    fn run(&self, brokers: &str, group: &str, seen: &mut Seen) -> Outcome<Figures> {
        let mut consumer = self.consumer(brokers, group)?;
        let stopper = consumer.stopper();
        consumer.run(|batch: &Batch<Order>| {
            for order in batch {
                seen.record(order.payload.total());
            }
            if seen.batch(batch.len()) {
                stopper.stop();
            }
            Ok(())
        })?;
        seen.figures()
    }

    fn run_raw(&self, brokers: &str, group: &str, seen: &mut Seen) -> Outcome<Figures> {
        let mut consumer = self.consumer(brokers, group)?;
        let stopper = consumer.stopper();
        consumer.run_raw(|batch: &RawBatch| {
            for record in batch {
                let order: Borrowed = record.decode()?;
                seen.record(order.total());
            }
            if seen.batch(batch.len()) {
                stopper.stop();
            }
            Ok(())
        })?;
        seen.figures()
    }

    fn plain(&self, config: &ClientConfig, mode: CommitMode, decode: Decode, seen: &mut Seen) -> Outcome<Figures> {
        let consumer: BaseConsumer = config.create()?;
        consumer.subscribe(&[&self.topic])?;
        let mut next = BTreeMap::new();
        while seen.records < self.records {
            let Some(record) = consumer.poll(Duration::from_secs(1)) else { continue };
            if let Some(next) = self.plain_record(&record?, decode, seen, &mut next)? {
                consumer.commit(&next, mode)?;
            }
        }
        let figures = seen.figures();
        forget(consumer);
        figures
    }

    /// Decodes a record, and says what to commit at the end of a batch.
    fn plain_record(
        &self,
        record: &BorrowedMessage<'_>,
        decode: Decode,
        seen: &mut Seen,
        next: &mut BTreeMap<i32, i64>,
    ) -> Outcome<Option<TopicPartitionList>> {
        seen.record(decode(record.payload().unwrap_or_default())?);
        next.insert(record.partition(), record.offset() + 1);
        let in_batch = seen.in_batch + 1;
        if in_batch < self.batch && seen.records + (in_batch as u64) < self.records {
            seen.in_batch = in_batch;
            return Ok(None);
        }
        seen.batch(in_batch);
        let mut list = TopicPartitionList::new();
        for (partition, offset) in std::mem::take(next) {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        }
        Ok(Some(list))
    }

    fn poll(&self, config: &ClientConfig, seen: &mut Seen) -> Outcome<Figures> {
        let consumer: BaseConsumer = config.create()?;
        consumer.subscribe(&[&self.topic])?;
        while seen.records < self.records {
            let Some(record) = consumer.poll(Duration::from_secs(1)) else { continue };
            black_box(record?.payload());
            seen.record(0.0);
            seen.batch(1);
        }
        seen.figures()
    }

    fn stream(&self, config: &ClientConfig, seen: &mut Seen) -> Outcome<Figures> {
        Runtime::new()?.block_on(async {
            let consumer: StreamConsumer<_, Tokio> =
                StreamConsumer::from_config_and_context(config, DefaultConsumerContext)?;
            consumer.subscribe(&[&self.topic])?;
            let mut next = BTreeMap::new();
            while seen.records < self.records {
                let record = consumer.recv().await?;
                if let Some(next) = self.plain_record(&record, owned, seen, &mut next)? {
                    consumer.commit(&next, CommitMode::Async)?;
                }
            }
            let figures = seen.figures();
            forget(consumer);
            figures
        })
    }
}

#[cfg(feature = "metrics")]
fn record_metrics() -> Outcome<()> {
    metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder()?;
    Ok(())
}

#[cfg(not(feature = "metrics"))]
fn record_metrics() -> Outcome<()> {
    Err("it has not the feature `metrics`".into())
}

/// Its end would wait for the answers to thousands of commits, which is no part of what is measured.
fn forget<C>(consumer: C) {
    std::mem::forget(consumer);
}

/// From a record's value to what the order costs.
type Decode = fn(&[u8]) -> serde_json::Result<f64>;

fn owned(value: &[u8]) -> serde_json::Result<f64> {
    let order: Plain<'_, Order> = serde_json::from_slice(value)?;
    black_box(order.hist);
    Ok(order.item.total())
}

fn borrowed(value: &[u8]) -> serde_json::Result<f64> {
    let order: Plain<'_, Borrowed<'_>> = serde_json::from_slice(value)?;
    black_box(order.hist);
    Ok(order.item.total())
}

/// How far a loop is, and what its handler does.
struct Seen {
    work: Work,
    of: u64,
    start: Option<Clock>,
    records: u64,
    /// Records of a batch that is not yet full.
    in_batch: usize,
    sum: f64,
}

impl Seen {
    fn new(turn: &Turn) -> Seen {
        Seen { work: turn.work, of: turn.records, start: None, records: 0, in_batch: 0, sum: 0.0 }
    }

    fn record(&mut self, cost: f64) {
        if self.start.is_none() {
            self.start = Some(Clock::start());
        }
        self.sum += cost;
        if let Work::Spins(time) = self.work {
            let now = Instant::now();
            while now.elapsed() < time {
                std::hint::spin_loop();
            }
        }
    }

    /// A batch is done. Whether it was the last.
    fn batch(&mut self, records: usize) -> bool {
        if let Work::Waits(time) = self.work {
            thread::sleep(time);
        }
        self.in_batch = 0;
        self.records += records as u64;
        self.records >= self.of
    }

    fn figures(&self) -> Outcome<Figures> {
        Figures::of(self.records, self.start.ok_or("nothing came")?.stop()?)
    }
}

/// rdkafka's own needs features that this crate does not.
pub(crate) struct Tokio;

impl AsyncRuntime for Tokio {
    type Delay = tokio::time::Sleep;

    fn spawn<T: Future<Output = ()> + Send + 'static>(task: T) {
        tokio::spawn(task);
    }

    fn delay_for(duration: Duration) -> Self::Delay {
        tokio::time::sleep(duration)
    }
}
