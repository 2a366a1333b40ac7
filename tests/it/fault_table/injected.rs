//! Row 23: every error that a broker can answer, to every request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kafka_envelope::testing::{ApiKey, EmbeddedBroker, ErrorCode};
use kafka_envelope::{Batch, Consumer, HandlerError, Message, Outbox, Producer, TransactionalProducer};
use rdkafka::types::RDKafkaRespErr;

use super::Report;
use super::report::by_length;

const RECORDS: u64 = 40;
const PARTITIONS: i32 = 2;
const BATCH: usize = 5;
/// So long a batch takes, so that a consumer lives for some heartbeats.
const WORK: Duration = Duration::from_millis(60);
/// So many cases run at a time: they wait, most of the time.
const AT_ONCE: usize = 12;

/// Kinds of requests that consumers make, producers, and those that copy in transactions.
const CONSUMING: [ApiKey; 11] = [
    ApiKey::ApiVersion,
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::SyncGroup,
    ApiKey::Heartbeat,
    ApiKey::LeaveGroup,
];
const PRODUCING: [ApiKey; 4] = [ApiKey::ApiVersion, ApiKey::Produce, ApiKey::InitProducerId, ApiKey::Metadata];
const COPYING: [ApiKey; 5] = [
    ApiKey::InitProducerId,
    ApiKey::AddPartitionsToTxn,
    ApiKey::AddOffsetsToTxn,
    ApiKey::TxnOffsetCommit,
    ApiKey::EndTxn,
];

#[derive(Clone, Copy, Debug)]
enum Doing {
    Consuming,
    Producing,
    Copying,
}

#[derive(Clone, Copy)]
struct Case {
    doing: Doing,
    request: ApiKey,
    code: ErrorCode,
    /// The how many-th request of the kind gets it.
    position: usize,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    /// All was done.
    Done,
    /// An error was returned.
    Error,
    /// It stands still, and its health says so.
    Reported,
    /// It stands still, and nothing tells.
    Silent(String),
}

fn codes() -> Vec<ErrorCode> {
    let known = (1..=200).filter_map(|code| RDKafkaRespErr::try_from(code).ok()).map(ErrorCode::from);
    known.chain([ErrorCode::BrokerTransportFailure]).collect()
}

fn cases() -> Vec<Case> {
    let consuming = CONSUMING.map(|request| (Doing::Consuming, request));
    let producing = PRODUCING.map(|request| (Doing::Producing, request));
    let copying = COPYING.map(|request| (Doing::Copying, request));
    let mut cases = Vec::new();
    for (doing, request) in consuming.into_iter().chain(producing).chain(copying) {
        for code in codes() {
            cases.extend((1..=3).map(|position| Case { doing, request, code, position }));
        }
    }
    // A stride that meets all requests, codes and positions.
    cases.into_iter().step_by(by_length(41, 1)).collect()
}

impl Case {
    fn run(&self, duplicates: &AtomicU64) -> Outcome {
        let broker = EmbeddedBroker::start().unwrap();
        broker.create_topic("t", PARTITIONS).unwrap();
        broker.create_topic("copies", PARTITIONS).unwrap();
        if !matches!(self.doing, Doing::Producing) {
            assert_eq!(self.produce(&broker), Outcome::Done);
        }
        let mut codes = vec![ErrorCode::NoError; self.position - 1];
        codes.push(self.code);
        broker.fail_next(self.request, codes).unwrap();
        // Some requests a client makes only once: as many clients as it takes, each in a group of its own.
        let rounds = (0..self.position).map(|round| match self.doing {
            Doing::Producing => self.produce(&broker),
            Doing::Consuming | Doing::Copying => self.consume(&broker, &format!("g{round}"), duplicates),
        });
        rounds.into_iter().find(|outcome| *outcome != Outcome::Done).unwrap_or(Outcome::Done)
    }

    fn produce(&self, broker: &EmbeddedBroker) -> Outcome {
        let producer = Producer::builder("test", broker.bootstrap_servers());
        let producer = producer.config([("delivery.timeout.ms", "10000"), ("request.timeout.ms", "2000")]).build();
        let producer = producer.unwrap();
        for number in 0..RECORDS {
            let message = Message::new(number).partition(number as i32 % PARTITIONS);
            // Whatever it is, it comes within the time that a delivery has.
            if producer.produce("t", &message).is_err() {
                return Outcome::Error;
            }
        }
        Outcome::Done
    }

    fn consume(&self, broker: &EmbeddedBroker, group: &str, duplicates: &AtomicU64) -> Outcome {
        let mut consumer = Consumer::builder("test", broker.bootstrap_servers(), group)
            .topics(["t"])
            .batch_size(BATCH)
            // A member that has to come back waits for the end of its old session.
            .config([("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "100")])
            .stall_timeout(Duration::from_secs(2))
            .idle_timeout(Duration::from_secs(20))
            .build()
            .unwrap();
        let (stopper, health) = (consumer.stopper(), consumer.health());
        let mut seen = BTreeSet::new();
        let mut handle = |batch: &Batch<u64>| {
            thread::sleep(WORK);
            let again = batch.iter().filter(|record| !seen.insert(record.payload)).count();
            duplicates.fetch_add(again as u64, Ordering::Relaxed);
            if seen.len() as u64 == RECORDS {
                stopper.stop();
            }
        };
        let run = match self.doing {
            Doing::Copying => {
                TransactionalProducer::new("test", broker.bootstrap_servers(), group).and_then(|mut to| {
                    consumer.run_exactly_once(&mut to, |batch: &Batch<u64>, outbox: &mut Outbox| {
                        handle(batch);
                        batch.iter().try_for_each(|record| outbox.send("copies", &Message::new(record.payload)))?;
                        Ok::<_, HandlerError>(())
                    })
                })
            }
            Doing::Consuming | Doing::Producing => consumer.run(|batch: &Batch<u64>| {
                handle(batch);
                Ok(())
            }),
        };
        let outcome = match run {
            Ok(_) if seen.len() as u64 == RECORDS => Outcome::Done,
            Ok(_) if !health.is_healthy() => Outcome::Reported,
            Ok(summary) => Outcome::Silent(format!("{summary:?}, {} of the records", seen.len())),
            Err(_) => Outcome::Error,
        };
        match (consumer.close(Duration::from_secs(20)), outcome) {
            (Err(_), Outcome::Done) => Outcome::Error,
            (_, outcome) => outcome,
        }
    }
}

/// One error at a time, as the first, second or third answer to each kind of request that consumers, producers and
/// transactions make at every start or all the time. All is handled or delivered in the end, or there is an error, or the
/// health tells of a stall: nothing stands still silently. On the embedded broker, which answers as it is told. It may forget
/// a member, and keeps no offsets of transactions: all that one client had may come to it once more.
#[test]
fn row_23_injected_errors() {
    let cases = cases();
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<BTreeMap<&str, usize>> = Mutex::default();
    let silent: Mutex<Vec<String>> = Mutex::default();
    let duplicates = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = match case.run(&duplicates) {
                        Outcome::Done => "done",
                        Outcome::Error => "error",
                        Outcome::Reported => "reported",
                        Outcome::Silent(why) => {
                            let Case { doing, request, code, position } = case;
                            let what = format!("{doing:?}: {request:?} {position} answered {code:?}: {why}");
                            silent.lock().unwrap().push(what);
                            "silent"
                        }
                    };
                    *outcomes.lock().unwrap().entry(outcome).or_default() += 1;
                }
            });
        }
    });
    println!("row 23: {:?}", outcomes.lock().unwrap());
    let rounds: usize = cases.iter().map(|case| case.position).sum();
    let bound = cases.iter().filter(|case| !matches!(case.doing, Doing::Producing)).count() as u64 * RECORDS;
    Report {
        row: 23,
        fault: "each error to each request",
        times: cases.len(),
        records: rounds * RECORDS as usize,
        duplicates: duplicates.into_inner(),
        bound,
        wrong: silent.into_inner().unwrap(),
        ..Report::default()
    }
    .file();
}
