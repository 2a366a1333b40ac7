//! A consuming process is killed: the next one gets everything from the last commit on.

use std::time::Duration;

use kafka_envelope::{Batch, Commit};
use serde::{Deserialize, Serialize};

use crate::support::{TestTopic, Worker, committed, consumer, emit, group, produce_numbers, shared_broker};

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Config {
    broker: String,
    topic: String,
    group: String,
    each_batch: bool,
}

/// Handles batches of ten and reports each record once its batch is handled, as a service that writes to a store would.
#[test]
fn a_worker() {
    let Some(config) = Worker::arguments::<Config>("crash::a_worker") else { return };
    let commit = if config.each_batch { Commit::EachBatch } else { Commit::default() };
    let mut consumer = consumer(&config.broker, &config.group, &config.topic)
        .batch_size(10)
        .commit(commit)
        .config([("session.timeout.ms", "2000"), ("heartbeat.interval.ms", "500")])
        .idle_timeout(PATIENCE)
        .build()
        .unwrap();
    consumer
        .run(|batch: &Batch<u64>| {
            for record in batch {
                emit(&record.payload);
            }
            Ok(())
        })
        .unwrap();
}

/// Killed in mid-flight twice, then run to the end: no number is missing, and no more is repeated than was promised.
#[test]
fn after_a_kill_everything_from_the_last_commit_on_comes_again() {
    const RECORDS: u64 = 5_000;
    let broker = shared_broker();
    for each_batch in [false, true] {
        let (topic, group) = (TestTopic::new(broker, 1), group());
        produce_numbers(broker, &topic, 0, 0..RECORDS);
        let config = Config { broker: broker.into(), topic: topic.to_string(), group: group.clone(), each_batch };
        let mut next = 0;
        for upto in [300, 1_500] {
            let mut worker = Worker::spawn("crash::a_worker", &config);
            let mut seen = Vec::new();
            while seen.last().is_none_or(|last| *last < upto) {
                seen.push(worker.next::<u64>(PATIENCE));
            }
            worker.kill9();
            seen.extend(worker.rest::<u64>());
            let (first, last) = (seen[0], *seen.last().unwrap());
            assert_eq!(seen, (first..=last).collect::<Vec<_>>());
            assert!(first <= next, "{next} to {first} are lost");
            let repeated = next - first;
            // Unconfirmed batches and the one in hand, ten records each.
            let bound = if each_batch { 2 * 10 } else { 17 * 10 };
            assert!(repeated <= bound, "{repeated} came again, each_batch: {each_batch}");
            next = last + 1;
            let committed = committed(broker, &group, &topic, 0).unwrap_or(0) as u64;
            assert!(committed <= next, "{committed} is committed, {next} is handled");
        }
        let mut worker = Worker::spawn("crash::a_worker", &config);
        let first = worker.next::<u64>(PATIENCE);
        assert!(first <= next);
        let mut last = first;
        while last < RECORDS - 1 {
            let number = worker.next::<u64>(PATIENCE);
            assert_eq!(number, last + 1);
            last = number;
        }
        worker.kill9();
    }
}
