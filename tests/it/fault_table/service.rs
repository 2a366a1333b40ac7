//! A service as its author would write it, in a process of its own, that writes down what it does.

use std::path::PathBuf;
use std::process;
use std::thread;
use std::time::Duration;

use kafka_envelope::{
    Backoff, Batch, Commit, Consumer, HandlerError, Message, OnError, OnUndecodable, Outbox, Received,
    TransactionalProducer,
};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::{Deserialize, Serialize};

use super::history::{History, Offsets, What, ranges};
use super::load::{GENERATION, Payload};
use crate::support::Worker;

const TEST: &str = "fault_table::service::a_service";

/// By so much the partitions of one generation of records are written higher than those of the one before.
pub(super) const PARTITIONS: i32 = 1_000;

/// What a service is built with.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Service {
    pub(super) bootstrap: String,
    pub(super) topic: String,
    pub(super) group: String,
    /// Where it writes down what it does.
    pub(super) history: PathBuf,
    pub(super) batch: usize,
    pub(super) commits: Commits,
    pub(super) work: Work,
    pub(super) config: Vec<(String, String)>,
    pub(super) drain_budget: Option<Duration>,
    pub(super) stall_timeout: Option<Duration>,
    pub(super) handler_timeout: Option<Duration>,
    /// What cannot be read becomes a dead letter; else it ends the run.
    pub(super) buries: bool,
    /// Copies the numbers of its records in transactions.
    pub(super) copies: Option<Copies>,
    /// Variables of its process.
    pub(super) environment: Vec<(String, String)>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Copies {
    pub(super) to: String,
    pub(super) transactional_id: String,
    /// Of a hundred batches so many fail when all is in the outbox.
    pub(super) fails: usize,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum Commits {
    EachBatch,
    Overlapped(usize),
}

/// What a service logs that has learned the id of its topic, by which it will notice another of the same name.
pub(super) const KNOWS_ITS_TOPIC: &str = "has the id";

/// What the handler does with a batch.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum Work {
    /// So long for each batch.
    Takes(Duration),
    /// Of the batches every so many-th fails at its first attempt, in turn by an error and by a panic.
    Fails { every: usize },
    /// The so many-th batch hangs for ever.
    HangsAt(usize),
}

impl Service {
    /// Batches of a hundred, as fast as they come.
    pub(super) fn new(bootstrap: &str, topic: &str, group: &str) -> Service {
        Service {
            bootstrap: bootstrap.into(),
            topic: topic.into(),
            group: group.into(),
            history: PathBuf::new(),
            batch: 100,
            commits: Commits::Overlapped(16),
            work: Work::Takes(Duration::ZERO),
            // A killed member's place is soon free.
            config: [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            drain_budget: None,
            stall_timeout: None,
            handler_timeout: None,
            buries: false,
            copies: None,
            environment: Vec::new(),
        }
    }

    pub(super) fn set(&mut self, key: &str, value: &str) {
        self.config.retain(|(known, _)| known != key);
        self.config.push((key.to_owned(), value.to_owned()));
    }

    /// So many records may be handled and not committed when it is killed.
    pub(super) fn records_at_risk(&self) -> u64 {
        let batches = match self.commits {
            Commits::EachBatch => 1,
            Commits::Overlapped(most) => most + 1,
        };
        (batches * self.batch) as u64
    }

    pub(super) fn spawn(&self) -> Worker {
        Worker::spawn_in(TEST, self, &self.environment)
    }

    fn run(self) {
        let history: &'static History = Box::leak(Box::new(History::create(&self.history)));
        log::set_logger(Box::leak(Box::new(Lines(history)))).unwrap();
        log::set_max_level(LevelFilter::Debug);
        if let Work::Fails { .. } = self.work {
            // They are many, and meant.
            std::panic::set_hook(Box::new(|_| {}));
        }

        let commit = match self.commits {
            Commits::EachBatch => Commit::EachBatch,
            Commits::Overlapped(max_batches) => Commit::Overlapped { max_batches },
        };
        let mut builder = Consumer::builder("service", &self.bootstrap, &self.group)
            .topics([&self.topic])
            .batch_size(self.batch)
            .commit(commit)
            .config(self.config.clone())
            .on_error(OnError::retry(Backoff { first: Duration::from_millis(10), ..Backoff::default() }));
        if let Some(budget) = self.drain_budget {
            builder = builder.drain_budget(budget);
        }
        if let Some(timeout) = self.stall_timeout {
            builder = builder.stall_timeout(timeout);
        }
        if let Some(timeout) = self.handler_timeout {
            builder = builder.handler_timeout(timeout);
        }
        if self.buries {
            builder = builder.on_undecodable(OnUndecodable::DeadLetter);
        }
        let mut consumer = builder.build().unwrap();
        consumer.stop_on_signals().unwrap();
        let mut batches = 0;
        let ended = match &self.copies {
            Some(copies) => {
                let id = &copies.transactional_id;
                let mut producer = TransactionalProducer::new("service", &self.bootstrap, id).unwrap();
                consumer.run_exactly_once(&mut producer, |batch: &Batch<Payload>, outbox: &mut Outbox| {
                    batches += 1;
                    copy(batch, outbox, copies, batches, history)
                })
            }
            None => consumer.run(|batch: &Batch<Payload>| {
                batches += 1;
                handle(batch, self.work, batches, history)
            }),
        };
        let closed = consumer.close(Duration::from_secs(5));
        let error = ended.err().or(closed.err());
        history.write(What::Ended { error: error.as_ref().map(ToString::to_string) });
        // Nothing else of this process is to be waited for.
        process::exit(i32::from(error.is_some()));
    }
}

/// The records of a batch, as they are written down.
fn records(batch: &Batch<Payload>) -> Vec<(i32, Offsets)> {
    let place = |record: &Received<'_, Payload>| {
        let generation = record.payload.number / GENERATION;
        (record.partition() + generation as i32 * PARTITIONS, record.offset())
    };
    ranges(batch.iter().map(place))
}

/// `number` counts the calls.
fn handle(batch: &Batch<Payload>, work: Work, number: usize, history: &History) -> Result<(), HandlerError> {
    let began = history.clock.now();
    let records = records(batch);
    let failed = || history.write(What::Failed { records: records.clone() });
    match work {
        Work::Takes(time) => thread::sleep(time),
        Work::Fails { every } if number % every == 0 && batch.attempt() == 1 => {
            failed();
            if number / every % 2 == 0 {
                return Err(HandlerError::from("every so many-th"));
            }
            panic!("every so many-th");
        }
        Work::HangsAt(hanging) if hanging == number => {
            failed();
            loop {
                thread::park();
            }
        }
        Work::Fails { .. } | Work::HangsAt(_) => {}
    }
    history.write(What::Handled { began, records });
    Ok(())
}

fn copy(
    batch: &Batch<Payload>,
    outbox: &mut Outbox,
    copies: &Copies,
    number: usize,
    history: &History,
) -> Result<(), HandlerError> {
    let began = history.clock.now();
    for record in batch {
        let copy =
            Message::new(record.payload.number).id(record.payload.number.to_string()).partition(record.partition());
        outbox.send(&copies.to, &copy.caused_by(record))?;
    }
    // Spread over the hundred.
    if number * 37 % 100 < copies.fails {
        history.write(What::Failed { records: records(batch) });
        return Err(HandlerError::from("so many of a hundred"));
    }
    history.write(What::Handled { began, records: records(batch) });
    Ok(())
}

/// Not a test by itself.
#[test]
fn a_service() {
    if let Some(service) = Worker::arguments::<Service>(TEST) {
        service.run();
    }
}

/// Keeps of the library's log, and of librdkafka's, what tells of partitions, and what is told.
struct Lines(&'static History);

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_own = metadata.target().starts_with("kafka_envelope");
        is_own || metadata.target() == "librdkafka" && metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = record.args().to_string();
        let partitions = || partitions(&line);
        if line.starts_with("assigned ") {
            self.0.write(What::Assigned { partitions: partitions() });
        } else if line.starts_with("revoked ") {
            self.0.write(What::Revoked { partitions: partitions() });
        } else if line.starts_with("lost ") {
            self.0.write(What::Lost { partitions: partitions() });
        } else if record.level() <= Level::Info || line.contains(KNOWS_ITS_TOPIC) {
            self.0.write(What::Logged { line });
        }
    }

    fn flush(&self) {}
}

/// Of a list as rdkafka's `Debug` writes it.
fn partitions(line: &str) -> Vec<i32> {
    let numbers = line.split("partition: ").skip(1);
    numbers.filter_map(|rest| rest.split_once(',')?.0.parse().ok()).collect()
}
