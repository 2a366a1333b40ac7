//! Row 23: every error that a broker can answer, to every request.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kafka_envelope::testing::{ApiKey, EmbeddedBroker, ErrorCode};
use kafka_envelope::{Batch, Consumer, Message, Producer};
use rdkafka::types::RDKafkaRespErr;

use super::Report;
use super::report::by_length;

const RECORDS: u64 = 40;
/// So many cases run at a time: they wait, most of the time.
const AT_ONCE: usize = 12;

/// Kinds of requests that consumers make, and producers.
const CONSUMING: [ApiKey; 9] = [
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::SyncGroup,
    ApiKey::Heartbeat,
];
const PRODUCING: [ApiKey; 3] = [ApiKey::Produce, ApiKey::InitProducerId, ApiKey::Metadata];

#[derive(Clone, Copy)]
struct Case {
    is_producing: bool,
    request: ApiKey,
    code: ErrorCode,
    /// The how many-th request of the kind gets it.
    position: usize,
}

#[derive(Debug)]
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
    let consuming = CONSUMING.map(|request| (false, request));
    let producing = PRODUCING.map(|request| (true, request));
    let mut cases = Vec::new();
    for (is_producing, request) in consuming.into_iter().chain(producing) {
        for code in codes() {
            cases.extend((1..=3).map(|position| Case { is_producing, request, code, position }));
        }
    }
    // A stride that meets all requests, codes and positions.
    cases.into_iter().step_by(by_length(29, 1)).collect()
}

impl Case {
    fn run(&self) -> Outcome {
        let broker = EmbeddedBroker::start().unwrap();
        broker.create_topic("t", 2).unwrap();
        let mut codes = vec![ErrorCode::NoError; self.position - 1];
        codes.push(self.code);
        if self.is_producing {
            broker.fail_next(self.request, codes).unwrap();
            return self.produce(&broker);
        }
        self.produce(&broker);
        broker.fail_next(self.request, codes).unwrap();
        self.consume(&broker)
    }

    fn produce(&self, broker: &EmbeddedBroker) -> Outcome {
        let producer = Producer::builder("test", broker.bootstrap_servers());
        let producer = producer.config([("delivery.timeout.ms", "10000"), ("request.timeout.ms", "2000")]).build();
        let producer = producer.unwrap();
        for number in 0..RECORDS {
            let message = Message::new(number).partition((number % 2) as i32);
            // Whatever it is, it comes within the time that a delivery has.
            if producer.produce("t", &message).is_err() {
                return Outcome::Error;
            }
        }
        Outcome::Done
    }

    fn consume(&self, broker: &EmbeddedBroker) -> Outcome {
        let mut consumer = Consumer::builder("test", broker.bootstrap_servers(), "g")
            .topics(["t"])
            .batch_size(5)
            // A member that has to come back waits for the end of its old session.
            .config([("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500")])
            .stall_timeout(Duration::from_secs(2))
            .idle_timeout(Duration::from_secs(20))
            .build()
            .unwrap();
        let (stopper, health) = (consumer.stopper(), consumer.health());
        let mut seen = 0;
        let run = consumer.run(|batch: &Batch<u64>| {
            seen += batch.len() as u64;
            if seen >= RECORDS {
                stopper.stop();
            }
            Ok(())
        });
        match run {
            Ok(_) if seen >= RECORDS => Outcome::Done,
            Ok(_) if !health.is_healthy() => Outcome::Reported,
            Ok(summary) => Outcome::Silent(format!("{summary:?}")),
            Err(_) => Outcome::Error,
        }
    }
}

/// One error at a time, as the first, second or third answer to each kind of request. All is handled or delivered in the
/// end, or there is an error, or the health tells of a stall: nothing stands still silently. On the embedded broker, which
/// answers as it is told.
#[test]
fn row_23_injected_errors() {
    let cases = cases();
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<BTreeMap<&str, usize>> = Mutex::default();
    let silent: Mutex<Vec<String>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = match case.run() {
                        Outcome::Done => "done",
                        Outcome::Error => "error",
                        Outcome::Reported => "reported",
                        Outcome::Silent(why) => {
                            let Case { request, code, position, .. } = case;
                            silent.lock().unwrap().push(format!("{request:?} {position} answered {code:?}: {why}"));
                            "silent"
                        }
                    };
                    *outcomes.lock().unwrap().entry(outcome).or_default() += 1;
                }
            });
        }
    });
    println!("row 23: {:?}", outcomes.lock().unwrap());
    let records = cases.len() * RECORDS as usize;
    Report {
        row: 23,
        fault: "each error to each request",
        times: cases.len(),
        records,
        wrong: silent.into_inner().unwrap(),
        ..Report::default()
    }
    .file();
}
