//! What a consumer makes of commits that fail, are answered late, or stay unanswered. On the embedded broker, which can
//! be told to fail.

use std::time::{Duration, Instant};

use kafka_envelope::testing::{ApiKey, EmbeddedBroker, ErrorCode};
use kafka_envelope::{Batch, Error, Message, Producer};

use crate::support::{committed, consumer};

fn broker_with(records: u64) -> EmbeddedBroker {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 1).unwrap();
    let producer = Producer::new("test", broker.bootstrap_servers()).unwrap();
    let messages: Vec<_> = (0..records).map(Message::new).collect();
    producer.produce_batch("t", &messages).unwrap();
    broker
}

/// Whatever a commit is answered, the watermark is sent again while the partition is owned, with nothing handled twice.
#[test]
fn a_failed_commit_is_sent_again() {
    for code in [
        ErrorCode::RebalanceInProgress,
        ErrorCode::NotCoordinator,
        ErrorCode::CoordinatorLoadInProgress,
        ErrorCode::RequestTimedOut,
        ErrorCode::OffsetMetadataTooLarge,
        ErrorCode::GroupAuthorizationFailed,
        ErrorCode::UnknownTopicOrPartition,
    ] {
        let broker = broker_with(3);
        broker.fail_next(ApiKey::OffsetCommit, [code, code]).unwrap();
        let mut consumer = consumer(broker.bootstrap_servers(), "g", "t").batch_size(1).build().unwrap();
        for expected in 0..3 {
            let done = consumer
                .process(|batch: &Batch<u64>| {
                    assert_eq!(batch[0].payload, expected, "{code:?}");
                    Ok(())
                })
                .unwrap()
                .unwrap();
            assert!(done.committed, "{code:?}");
            assert_eq!(committed(broker.bootstrap_servers(), "g", "t", 0), Some(expected as i64 + 1), "{code:?}");
        }
    }
}

/// A topic that the broker goes on not to know was deleted: nobody can commit what was handled of it, and nothing waits
/// for that.
#[test]
fn what_cannot_be_committed_any_more_holds_nothing_back() {
    let broker = broker_with(3);
    broker.fail_next(ApiKey::OffsetCommit, [ErrorCode::UnknownTopicOrPartition; 20]).unwrap();
    let mut consumer = consumer(broker.bootstrap_servers(), "g", "t").batch_size(1).build().unwrap();
    let mut process = || consumer.process(|_: &Batch<u64>| Ok(())).unwrap().unwrap().committed;
    assert!(!process(), "it is told");
    assert!(!process());
    // The broker knows it again, and all that was handled is committed with the next.
    broker.clear_failures(ApiKey::OffsetCommit).unwrap();
    assert!(process());
    assert_eq!(committed(broker.bootstrap_servers(), "g", "t", 0), Some(3));
}

/// A broker that does not know a topic for a moment is asked again before `run` says that all is committed.
#[test]
fn a_run_does_not_end_before_what_a_broker_did_not_know_is_committed() {
    let broker = broker_with(1);
    let mut codes = vec![ErrorCode::OffsetMetadataTooLarge];
    codes.extend([ErrorCode::UnknownTopicOrPartition; 3]);
    broker.fail_next(ApiKey::OffsetCommit, codes).unwrap();
    let mut consumer = consumer(broker.bootstrap_servers(), "g", "t").build().unwrap();
    let stopper = consumer.stopper();
    let run = consumer.run(|_: &Batch<u64>| {
        stopper.stop();
        Ok(())
    });
    assert_eq!(run.unwrap().records, 1);
    assert_eq!(committed(broker.bootstrap_servers(), "g", "t", 0), Some(1));

    // Nor does it claim so where that does not end.
    let broker = broker_with(1);
    broker.fail_next(ApiKey::OffsetCommit, [ErrorCode::UnknownTopicOrPartition; 100]).unwrap();
    let mut consumer = self::consumer(broker.bootstrap_servers(), "g", "t").build().unwrap();
    let stopper = consumer.stopper();
    let run = consumer.run(|_: &Batch<u64>| {
        stopper.stop();
        Ok(())
    });
    assert!(matches!(run, Err(Error::NotCommitted { .. })), "{run:?}");
}

/// A commit that stays unanswered past its deadline is an error of `process`, which returns; the batch is not handed
/// over again, the late answer is taken for what it is, and the next commit covers both.
#[test]
fn a_late_answer_is_matched() {
    let broker = broker_with(2);
    let mut consumer = consumer(broker.bootstrap_servers(), "g", "t").batch_size(1).build().unwrap();
    let start = Instant::now();
    let late = consumer.process(|_: &Batch<u64>| {
        broker.delay(Duration::from_secs(8)).unwrap();
        Ok(())
    });
    assert!(matches!(&late, Err(Error::NotCommitted { partitions, .. }) if partitions == "t[0=0:1]"), "{late:?}");
    assert!(late.unwrap_err().is_retriable());
    assert!(start.elapsed() < Duration::from_secs(20));
    broker.delay(Duration::ZERO).unwrap();
    let done = consumer
        .process(|batch: &Batch<u64>| {
            assert_eq!(batch[0].payload, 1);
            Ok(())
        })
        .unwrap()
        .unwrap();
    assert!(done.committed);
    assert_eq!(committed(broker.bootstrap_servers(), "g", "t", 0), Some(2));
}

/// A commit that stays unanswered for long holds a run up, and does not end it: the next batch waits.
#[test]
fn a_run_waits_for_a_late_answer() {
    use kafka_envelope::Commit;
    for commit in [Commit::EachBatch, Commit::default()] {
        let broker = broker_with(3);
        let builder = consumer(broker.bootstrap_servers(), "g", "t").batch_size(1).commit(commit);
        let mut consumer = builder.idle_timeout(Duration::from_secs(60)).build().unwrap();
        let stopper = consumer.stopper();
        let (mut handled, mut confirmed_late) = (0, None);
        let run = consumer.run(|_: &Batch<u64>| {
            handled += 1;
            match handled {
                1 => broker.delay(Duration::from_secs(8)).unwrap(),
                2 => {
                    broker.delay(Duration::ZERO).unwrap();
                    confirmed_late = committed(broker.bootstrap_servers(), "g", "t", 0);
                }
                _ => stopper.stop(),
            }
            Ok(())
        });
        assert_eq!(run.unwrap().records, 3, "{commit:?}");
        if commit == Commit::EachBatch {
            assert_eq!(confirmed_late, Some(1));
        }
        assert_eq!(committed(broker.bootstrap_servers(), "g", "t", 0), Some(3), "{commit:?}");
    }
}

/// While commits fail, no more than `max_batches` batches are handled; once they succeed, handling goes on.
#[test]
fn handling_waits_at_the_bound() {
    use kafka_envelope::Commit;
    let broker = broker_with(50);
    broker.fail_next(ApiKey::OffsetCommit, [ErrorCode::RebalanceInProgress; 4]).unwrap();
    let mut consumer = consumer(broker.bootstrap_servers(), "g", "t")
        .batch_size(1)
        .commit(Commit::Overlapped { max_batches: 3 })
        .build()
        .unwrap();
    let stopper = consumer.stopper();
    let mut handled = 0;
    consumer
        .run(|_: &Batch<u64>| {
            handled += 1;
            let confirmed = committed(broker.bootstrap_servers(), "g", "t", 0).unwrap_or(0);
            // The one in hand is not counted.
            assert!(handled - 1 - confirmed <= 3, "{handled} are handled, {confirmed} are committed");
            if handled == 50 {
                stopper.stop();
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(committed(broker.bootstrap_servers(), "g", "t", 0), Some(50));
}
