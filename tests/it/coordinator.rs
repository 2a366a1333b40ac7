//! A coordinator that nobody finds while a consumer has its partitions, and that comes back.

use std::time::{Duration, Instant};

use kafka_envelope::testing::{ApiKey, EmbeddedBroker, ErrorCode};
use kafka_envelope::{Batch, Message, Producer};

use crate::support::{Worker, consumer, emit, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any question of the consumer's waits for its answer.
const OUTAGE: Duration = Duration::from_secs(12);

/// In a process of its own: librdkafka aborts where it uses a question that has timed out.
#[test]
fn a_service() {
    if Worker::arguments::<()>("coordinator::a_service").is_none() {
        return;
    }
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 1).unwrap();
    let producer = Producer::new("test", broker.bootstrap_servers()).unwrap();
    let produce = |number: u64| producer.produce("t", &Message::new(number)).unwrap();
    produce(0);
    // The group finds its coordinator, and from then on nobody does.
    let mut answers = vec![ErrorCode::NoError];
    answers.extend([ErrorCode::CoordinatorNotAvailable; 50]);
    broker.fail_next(ApiKey::FindCoordinator, answers).unwrap();
    let mut consumer = consumer(broker.bootstrap_servers(), "g", "t").idle_timeout(PATIENCE).build().unwrap();
    let stopper = consumer.stopper();
    let mut seen = Vec::new();
    consumer
        .run(|batch: &Batch<u64>| {
            seen.extend(batch.iter().map(|record| record.payload));
            if seen == [0] {
                let start = Instant::now();
                eventually(PATIENCE, "all questions have timed out", || (start.elapsed() > OUTAGE).then_some(()));
                broker.clear_failures(ApiKey::FindCoordinator).unwrap();
                broker.set_down(1).unwrap();
                broker.set_up(1).unwrap();
                produce(1);
            } else {
                stopper.stop();
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, [0, 1]);
    emit(&"done");
}

#[test]
fn a_coordinator_that_comes_back_is_found() {
    let mut worker = Worker::spawn("coordinator::a_service", &());
    let status = worker.wait(PATIENCE);
    assert!(status.success(), "{status}");
    assert_eq!(worker.rest::<String>(), ["done"]);
}
