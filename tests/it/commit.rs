//! When offsets are committed, and what a restart gets.

use kafka_envelope::{Batch, Commit, Error, HandlerError, RawBatch};

use crate::support::{
    TestTopic, committed, consumer, envelope, group, produce_numbers, produce_raw_batch, shared_broker,
};

fn payloads(batch: &Batch<u64>) -> Vec<u64> {
    batch.iter().map(|record| record.payload).collect()
}

/// While the handler runs nothing is committed of its batch; when `process` returns, all of it is.
#[test]
fn offsets_are_committed_after_ok_and_not_before() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..10);
    let mut consumer = consumer(broker, &group, &topic).batch_size(4).build().unwrap();

    for (first, next) in [(0, 4), (4, 8), (8, 10)] {
        let done = consumer
            .process(|batch: &Batch<u64>| {
                assert_eq!(payloads(batch), (first..next).collect::<Vec<_>>());
                assert_eq!(committed(broker, &group, &topic, 0), (first > 0).then_some(first as i64));
                Ok(())
            })
            .unwrap()
            .unwrap();
        assert_eq!(committed(broker, &group, &topic, 0), Some(next as i64));
        assert_eq!(done.reference.to_string(), format!("{}[0={first}:{next}]", &*topic));
        assert!(done.committed && done.records as u64 == next - first);
    }
}

/// `run` overlaps commits with handling; when it returns, everything is committed. So it is with a commit for each.
#[test]
fn a_run_commits_everything_it_handled() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 3);
    for partition in 0..3 {
        produce_numbers(broker, &topic, partition, 0..1_000);
    }
    for commit in [Commit::default(), Commit::Overlapped { max_batches: 1 }, Commit::EachBatch] {
        let group = group();
        let mut consumer = consumer(broker, &group, &topic).batch_size(50).commit(commit).build().unwrap();
        let stopper = consumer.stopper();
        let mut seen = 0;
        let summary = consumer
            .run(|batch: &Batch<u64>| {
                seen += batch.len();
                if seen == 3_000 {
                    stopper.stop();
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(summary.records, 3_000, "{commit:?}");
        for partition in 0..3 {
            assert_eq!(committed(broker, &group, &topic, partition), Some(1_000), "{commit:?}");
        }
    }
}

/// A failed batch is not committed, by an error or by a panic; the next call gets it first, a new consumer too.
#[test]
fn a_failed_batch_is_not_committed_and_comes_again() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..6);
    let mut first = consumer(broker, &group, &topic).batch_size(3).build().unwrap();
    assert!(first.process(|_: &Batch<u64>| Ok(())).unwrap().is_some());

    let failed = first.process(|_: &Batch<u64>| Err("no paper".into())).unwrap_err();
    let text = format!("handler failed on {}[0=3:6]: no paper", &*topic);
    assert_eq!(failed.to_string(), text);
    let panicked = first
        .run(|batch: &Batch<u64>| {
            assert_eq!(payloads(batch), [3, 4, 5]);
            panic!("out of ink")
        })
        .unwrap_err();
    assert!(matches!(&panicked, Error::Handler { source, .. } if source.to_string().contains("out of ink")));
    assert!(panicked.is_retriable());
    drop(first);
    assert_eq!(committed(broker, &group, &topic, 0), Some(3));

    let mut second = consumer(broker, &group, &topic).build().unwrap();
    second
        .process(|batch: &Batch<u64>| {
            assert_eq!(payloads(batch), [3, 4, 5]);
            Ok(())
        })
        .unwrap();
    assert_eq!(committed(broker, &group, &topic, 0), Some(6));
}

/// What stands before the index is committed, tombstones included, and only the rest comes again.
#[test]
fn partial_success_commits_what_stands_before_the_failure() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    let records = [Some(envelope(&0)), None, Some(envelope(&1)), Some(Vec::new()), Some(envelope(&2))];
    produce_raw_batch(broker, &topic, records.into_iter().map(|value| (0, Some("k"), value)));
    let linger = std::time::Duration::from_secs(2);
    let mut consumer = consumer(broker, &group, &topic).batch_size(5).linger(linger).build().unwrap();

    let mut handle = |expected: &[u64], outcome: Result<(), HandlerError>| {
        let mut outcome = Some(outcome);
        consumer.process(|batch: &Batch<u64>| {
            assert_eq!(payloads(batch), expected);
            outcome.take().unwrap()
        })
    };
    handle(&[0, 1, 2], Err(HandlerError::at(1, "stuck"))).unwrap_err();
    assert_eq!(committed(broker, &group, &topic, 0), Some(2));
    handle(&[1, 2], Err(HandlerError::at(7, "no such record"))).unwrap_err();
    assert_eq!(committed(broker, &group, &topic, 0), Some(2), "an index beyond the batch says nothing");
    handle(&[1, 2], Err(HandlerError::at(0, "stuck at once"))).unwrap_err();
    assert_eq!(committed(broker, &group, &topic, 0), Some(2));
    handle(&[1, 2], Ok(())).unwrap();
    assert_eq!(committed(broker, &group, &topic, 0), Some(5));
}

/// `each` carries the index for the handler.
#[test]
fn each_says_how_far_it_came() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..5);
    let linger = std::time::Duration::from_secs(2);
    let mut consumer = consumer(broker, &group, &topic).batch_size(5).linger(linger).build().unwrap();
    let error = consumer
        .process(|batch: &Batch<u64>| {
            batch.each(|record| if record.payload == 3 { Err("three".into()) } else { Ok(()) })
        })
        .unwrap_err();
    assert!(matches!(error, Error::Handler { .. }), "{error}");
    assert_eq!(committed(broker, &group, &topic, 0), Some(3));
}

/// Tombstones and empty values never reach a handler, and are committed like everything else.
#[test]
fn tombstones_and_empty_values_count_as_processed() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_raw_batch(broker, &topic, [(0, Some("a"), None), (0, Some("b"), Some("")), (0, None, None)]);
    let mut consumer = consumer(broker, &group, &topic).build().unwrap();
    let done = consumer.process(|_: &Batch| panic!("nothing to handle")).unwrap().unwrap();
    assert!(done.records >= 1);
    let mut records = done.records;
    while records < 3 {
        records += consumer.process(|_: &Batch| panic!("nothing to handle")).unwrap().unwrap().records;
    }
    assert_eq!(committed(broker, &group, &topic, 0), Some(3));
}

/// A record that is no envelope, or does not fit the type, stops the run with its place; nothing of its batch is
/// committed, and a handler that decodes for itself gets the same error.
#[test]
fn a_record_that_cannot_be_read_stops_the_run() {
    let broker = shared_broker();
    for (bad, rule) in [("{oops", "key must be a string"), ("{\"item\":\"text\"}", "invalid type: string")] {
        let topic = TestTopic::new(broker, 1);
        let records = [envelope(&1), bad.into(), envelope(&3)];
        produce_raw_batch(broker, &topic, records.into_iter().map(|value| (0, Some("key-7"), Some(value))));
        let linger = std::time::Duration::from_secs(2);
        let build = |group: &str| consumer(broker, group, &topic).batch_size(3).linger(linger).build().unwrap();

        let name = group();
        let error = build(&name).run(|_: &Batch<u64>| panic!("not to be handled")).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot decode {}:0:1:key-7: {rule}", &*topic)), "{text}");
        assert!(text.contains("line 1 column"), "{text}");
        assert_eq!(committed(broker, &name, &topic, 0), None);

        let name = group();
        let raw = build(&name).run_raw(|batch: &RawBatch| {
            batch.each(|record| {
                record.decode::<u64>()?;
                Ok(())
            })
        });
        assert!(matches!(raw, Err(Error::Undecodable { offset: 1, .. })), "{raw:?}");
    }
}

/// A restart goes on exactly where the commits stand, whatever the batch sizes are.
#[test]
fn a_restart_resumes_exactly() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..100);
    let mut seen = Vec::new();
    for batch_size in [7, 13, 1, 40, 100] {
        let mut consumer = consumer(broker, &group, &topic).batch_size(batch_size).build().unwrap();
        consumer
            .process(|batch: &Batch<u64>| {
                seen.extend(payloads(batch));
                Ok(())
            })
            .unwrap();
        consumer.close(std::time::Duration::from_secs(10)).unwrap();
    }
    assert_eq!(seen, (0..seen.len() as u64).collect::<Vec<_>>());
    assert_eq!(committed(broker, &group, &topic, 0), Some(seen.len() as i64));
}
