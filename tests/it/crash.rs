//! A consuming process is killed: the next one gets everything from the last commit on.

use kafka_envelope::{Batch, Commit};
use serde::{Deserialize, Serialize};

use crate::support::{PATIENCE, TestTopic, Worker, committed, consumer, emit, group, produce_numbers, shared_broker};

#[derive(Serialize, Deserialize)]
struct Config {
    broker: String,
    topic: String,
    group: String,
    commits: Commits,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Commits {
    EachBatch,
    Overlapped(usize),
    Default,
}

/// Handles batches of ten and reports the first and last record of each, as a service that writes to a store would.
#[test]
fn a_worker() {
    let Some(config) = Worker::arguments::<Config>("crash::a_worker") else { return };
    let commit = match config.commits {
        Commits::EachBatch => Commit::EachBatch,
        Commits::Overlapped(max_batches) => Commit::Overlapped { max_batches },
        Commits::Default => Commit::default(),
    };
    let mut consumer = consumer(&config.broker, &config.group, &config.topic)
        .batch_size(10)
        .commit(commit)
        .config([("session.timeout.ms", "2000"), ("heartbeat.interval.ms", "500")])
        .idle_timeout(PATIENCE)
        .build()
        .unwrap();
    consumer
        .run(|batch: &Batch<u64>| {
            emit(&(batch[0].payload, batch[batch.len() - 1].payload));
            Ok(())
        })
        .unwrap();
}

/// Killed in full flight twice, then run to the end: no number is missing, and no more is repeated than was promised.
#[test]
fn after_a_kill_everything_from_the_last_commit_on_comes_again() {
    let broker = shared_broker();
    let cases = [
        (Commits::EachBatch, 5_000, 10),
        (Commits::Overlapped(16), 200_000, 17 * 10),
        (Commits::Default, 200_000, 257 * 10),
    ];
    for (commits, records, records_at_risk) in cases {
        let (topic, group) = (TestTopic::new(broker, 1), group());
        produce_numbers(broker, &topic, 0, 0..records);
        let config = Config { broker: broker.into(), topic: topic.to_string(), group: group.clone(), commits };
        // The next number that nobody has handled.
        let mut next = 0;
        // Takes a batch's (first, last): it goes on where the one before ended.
        let follows = |at: &mut u64, (first, last): (u64, u64)| {
            assert_eq!(first, *at, "{commits:?}");
            *at = last + 1;
        };
        for upto in [300, 1_500] {
            let mut worker = Worker::spawn("crash::a_worker", &config);
            let (first, last) = worker.next::<(u64, u64)>(PATIENCE);
            assert!(first <= next, "{next} to {first} are lost");
            assert!(next - first <= records_at_risk, "{} came again, {commits:?}", next - first);
            next = last + 1;
            while next < upto {
                follows(&mut next, worker.next(PATIENCE));
            }
            worker.kill9();
            worker.rest::<(u64, u64)>().into_iter().for_each(|batch| follows(&mut next, batch));
            assert!(next < records, "killed too late to show anything");
            let committed = committed(broker, &group, &topic, 0).unwrap_or(0) as u64;
            assert!(committed <= next, "{committed} is committed, {next} is handled");
        }
        let mut worker = Worker::spawn("crash::a_worker", &config);
        let (first, last) = worker.next::<(u64, u64)>(PATIENCE);
        assert!(first <= next);
        next = last + 1;
        while next < records {
            follows(&mut next, worker.next(PATIENCE));
        }
        worker.kill9();
    }
}
