//! Exports that are asked for: what they hold, and when their records are committed.

use std::thread;
use std::time::{Duration, Instant};

use kafka_envelope::Error;
use kafka_envelope::export::{DataClient, FilterClient, Shape};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::support::exports::{FilterTopic, numbers, produce_json};
use crate::support::{
    PATIENCE, TestTopic, Worker, committed, emit, envelope, eventually, group, keep_logs, logged, produce_raw,
    produce_raw_batch, shared_broker, unique,
};

const KILLED: &str = "export_data::a_client";
const SOON: Duration = Duration::from_secs(10);

fn client(group: &str, filters: &FilterClient) -> DataClient {
    DataClient::builder(group, shared_broker(), filters).start().unwrap()
}

/// The numbers of the next batch.
fn take(data: &mut DataClient, limit: usize) -> Vec<u64> {
    let exports = data.get_exports_batch(PATIENCE, limit).unwrap().expect("nothing came");
    numbers(&exports).into_iter().map(|(_, _, number)| number).collect()
}

fn await_committed(group: &str, topic: &str, offset: i64) {
    eventually(PATIENCE, "the offset is committed", || {
        (committed(shared_broker(), group, topic, 0) == Some(offset)).then_some(())
    });
}

/// A filter client that was stopped before it knew its filters leaves nothing to wait for.
#[test]
fn a_filter_client_that_is_stopped_before_it_is_in_sync_is_an_error() {
    let filters = FilterClient::builder(&unique("missing"), shared_broker()).start().unwrap();
    let mut data = client(&group(), &filters);
    assert!(data.get_exports(Duration::from_millis(100)).unwrap().is_none());
    filters.stop();
    filters.join();
    let error = data.get_exports(PATIENCE).unwrap_err();
    assert!(matches!(&error, Error::Closed(reason) if reason.contains("before it was in sync")), "{error}");
}

/// Whatever a record is, it is accounted for: results, records that nothing matches, and errors stand side by side.
#[test]
fn results_stand_beside_what_cannot_be_read() {
    let (broker, topic) = (shared_broker(), TestTopic::new(shared_broker(), 1));
    let filters = FilterTopic::of(&[&topic]);
    let values: [Option<&[u8]>; 6] =
        [Some(br#"{"n":1}"#), Some(b"no JSON"), None, Some(b"[1]"), Some(br#"{"m":2}"#), Some(br#"{"n":3}"#)];
    produce_raw_batch(broker, &topic, values.map(|value| (0, Some("key"), value)));
    let mut data = DataClient::builder(&group(), broker, &filters.client()).data(Shape::KeyValue).start().unwrap();
    let (mut records, mut results, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    while records.len() < values.len() {
        let exports = data.get_exports_batch(PATIENCE, 100).unwrap().expect("nothing came");
        records.extend(exports.records);
        results.extend(exports.results);
        errors.extend(exports.errors);
    }
    assert!(records.iter().zip(0..).all(|(record, offset)| record.offset == offset && record.topic == *topic));
    assert_eq!(records[0].key.as_deref(), Some("key"));
    let results: Vec<_> = results.iter().map(|of| (of.reference.offset, &of.data, of.error.is_some())).collect();
    assert_eq!(results, [(0, &json!(["n=1"]), false), (4, &Value::Null, true), (5, &json!(["n=3"]), false)]);
    assert!(matches!(&errors[..], [Error::Undecodable { offset: 1, .. }]), "{errors:?}");
    assert!(data.get_exports_batch(Duration::ZERO, 100).unwrap().is_none(), "there is no more");
    assert!(data.get_exports_batch(Duration::ZERO, 0).is_err());
}

/// A record that no filter matches is no silence: it comes with empty results, and is committed.
#[test]
fn records_without_a_result_are_told() {
    let (broker, topic, group) = (shared_broker(), TestTopic::new(shared_broker(), 1), group());
    let filters = FilterTopic::of(&[&topic]);
    produce_raw(broker, &topic, 0, None, Some(b"7"));
    let mut data = client(&group, &filters.client());
    let exports = data.get_exports(PATIENCE).unwrap().expect("nothing came");
    assert_eq!((exports.records.len(), exports.results.len(), exports.errors.len()), (1, 0, 0));
    data.store_offsets().unwrap();
    await_committed(&group, &topic, 1);
}

/// Filters see the item of an envelope, and the result's reference carries its history.
#[test]
fn messages_may_be_envelopes() {
    let (broker, topic) = (shared_broker(), TestTopic::new(shared_broker(), 1));
    let filters = FilterTopic::of(&[&topic]);
    produce_raw(broker, &topic, 0, Some(b"id"), Some(&envelope(&json!({ "n": 5 }))));
    produce_raw(broker, &topic, 0, None, Some(br#"{"n": 6}"#));
    let mut data = DataClient::builder(&group(), broker, &filters.client()).envelopes(true).start().unwrap();
    let exports = data.get_exports(PATIENCE).unwrap().expect("nothing came");
    assert_eq!(exports.latest_by_export_id()[&*topic], &json!({ "n": 5 }));
    assert!(exports.results[0].reference.history.is_some());
    let exports = data.get_exports(PATIENCE).unwrap().expect("nothing came");
    assert!(matches!(&exports.errors[..], [Error::Undecodable { offset: 1, .. }]), "no envelope: {exports:?}");
}

/// What was handed out is committed once the next is asked for, and not by an end before that.
#[test]
fn the_next_call_commits_what_the_last_one_got() {
    let (broker, topic, group) = (shared_broker(), TestTopic::new(shared_broker(), 1), group());
    let filters = FilterTopic::of(&[&topic]);
    produce_json(&topic, 0, 0..20);
    let mut data = client(&group, &filters.client());
    let first = take(&mut data, 5);
    data.close(SOON).unwrap();
    assert_eq!(committed(broker, &group, &topic, 0), None);

    let mut data = client(&group, &filters.client());
    assert_eq!(take(&mut data, first.len()), first, "it comes again");
    let second = take(&mut data, 5);
    assert_eq!(second[0] as usize, first.len());
    await_committed(&group, &topic, first.len() as i64);
    drop(data);
    assert_eq!(committed(broker, &group, &topic, 0), Some(first.len() as i64));
}

/// With `handle_offsets` only a store commits, and neither a drop nor a close loses it.
#[test]
fn a_store_alone_commits_where_the_caller_handles_offsets() {
    let (broker, topic, group) = (shared_broker(), TestTopic::new(shared_broker(), 1), group());
    let filters = FilterTopic::of(&[&topic]);
    produce_json(&topic, 0, 0..40);
    let start = || DataClient::builder(&group, broker, &filters.client()).handle_offsets(true).start().unwrap();
    let mut data = start();
    while *take(&mut data, 7).last().unwrap() < 39 {}
    assert!(data.get_exports(Duration::ZERO).unwrap().is_none());
    drop(data);
    assert_eq!(committed(broker, &group, &topic, 0), None, "many were asked for, none stored");

    let (mut data, mut stored) = (start(), 0);
    for _ in 0..2 {
        stored = *take(&mut data, 7).last().unwrap() as i64 + 1;
    }
    data.store_offsets().unwrap();
    data.get_exports(PATIENCE).unwrap().expect("nothing came");
    drop(data);
    assert_eq!(committed(broker, &group, &topic, 0), Some(stored));

    let mut data = start();
    assert_eq!(take(&mut data, 1), [stored as u64]);
    data.store_offsets().unwrap();
    data.close(SOON).unwrap();
    assert_eq!(committed(broker, &group, &topic, 0), Some(stored + 1));
}

/// A client that ends while another waits for what it has out ends at once: nobody can store that any more.
#[test]
fn an_end_does_not_wait_for_what_is_out() {
    keep_logs();
    let (broker, topic, group) = (shared_broker(), TestTopic::new(shared_broker(), 2), group());
    let filters = FilterTopic::of(&[&topic]);
    (0..2).for_each(|partition| produce_json(&topic, partition, 0..5));
    let start = || DataClient::builder(&group, broker, &filters.client()).handle_offsets(true).start().unwrap();
    let (mut data, mut taken) = (start(), 0);
    while taken < 10 {
        taken += take(&mut data, 10).len();
    }
    let mut other = start();
    eventually(PATIENCE, "it is to give a partition up", || (!logged(&["revoked", &topic]).is_empty()).then_some(()));
    data.close(SOON).unwrap();
    let mut taken = 0;
    while taken < 10 {
        taken += take(&mut other, 10).len();
    }
    assert_eq!(taken, 10, "the other gets all");
}

#[derive(Serialize, Deserialize)]
struct Config {
    filters: String,
    group: String,
    handle_offsets: bool,
    /// So many batches are taken; then, if offsets are handled, so many more that are not stored.
    batches: usize,
}

/// Takes batches of ten and emits their numbers, stores where it handles offsets, and waits to be killed. Not a test by
/// itself.
#[test]
fn a_client() {
    let Some(config) = Worker::arguments::<Config>(KILLED) else { return };
    let filters = FilterClient::builder(&config.filters, shared_broker()).start().unwrap();
    let builder = DataClient::builder(&config.group, shared_broker(), &filters).handle_offsets(config.handle_offsets);
    let short = [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500")];
    let mut data = builder.config(short).start().unwrap();
    for _ in 0..config.batches {
        emit(&take(&mut data, 10));
        if config.handle_offsets {
            data.store_offsets().unwrap();
        }
    }
    for _ in 0..if config.handle_offsets { config.batches } else { 0 } {
        emit(&take(&mut data, 10));
    }
    loop {
        thread::park();
    }
}

/// Killed, what was stored and confirmed does not come again, and everything else does.
#[test]
fn after_a_kill_what_was_not_stored_comes_again() {
    for handle_offsets in [true, false] {
        let (topic, group) = (TestTopic::new(shared_broker(), 1), group());
        let filters = FilterTopic::of(&[&topic]);
        produce_json(&topic, 0, 0..1_000);
        let mut next = 0;
        for batches in [3, 4] {
            let config = Config { filters: filters.name().into(), group: group.clone(), handle_offsets, batches };
            let mut worker = Worker::spawn(KILLED, &config);
            let mut taken: Vec<Vec<u64>> = Vec::new();
            while taken.len() < if handle_offsets { 2 * batches } else { batches } {
                taken.push(worker.next(PATIENCE));
            }
            // With offsets handled these were stored; else all but the last, since nothing was asked for after it.
            let done: usize = taken[..if handle_offsets { batches } else { batches - 1 }].iter().map(Vec::len).sum();
            let taken = taken.concat();
            let expected: Vec<_> = (next..next + taken.len() as u64).collect();
            assert_eq!(taken, expected, "handle_offsets: {handle_offsets}");
            next += done as u64;
            await_committed(&group, &topic, next as i64);
            worker.kill9();
            assert_eq!(committed(shared_broker(), &group, &topic, 0), Some(next as i64));
        }
    }
}

/// A sink that wants large batches gets them full: the client waits until so many are there as are asked for.
#[test]
fn with_a_linger_a_batch_fills() {
    let topic = TestTopic::new(shared_broker(), 2);
    let filters = FilterTopic::of(&[&topic]);
    let builder = DataClient::builder(&group(), shared_broker(), &filters.client());
    let mut data = builder.linger(Duration::from_secs(3600)).start().unwrap();
    produce_json(&topic, 0, 0..700);
    produce_json(&topic, 1, 0..1_300);
    produce_json(&topic, 0, 700..2_400);
    let batches = [take(&mut data, 1_800), take(&mut data, 1_800)].map(|batch| batch.len());
    assert_eq!(batches, [1_800, 1_800]);
    assert!(data.get_exports_batch(Duration::from_millis(200), 1_800).unwrap().is_none(), "100 are left");
    assert_eq!(take(&mut data, 100).len(), 100);
}

/// A client that is stopped answers at once, and says so.
#[test]
fn a_stopped_client_gives_nothing() {
    let topic = TestTopic::new(shared_broker(), 1);
    let filters = FilterTopic::of(&[&topic]);
    let mut data = client(&group(), &filters.client());
    let stopper = data.stopper();
    let stopping = thread::spawn(move || stopper.stop());
    let start = Instant::now();
    assert!(data.get_exports(Duration::MAX).unwrap().is_none());
    stopping.join().unwrap();
    produce_json(&topic, 0, 0..1);
    assert!(data.is_stopped() && data.get_exports(PATIENCE).unwrap().is_none());
    assert!(start.elapsed() < PATIENCE);
    assert!(data.health().is_healthy());
    data.close(SOON).unwrap();
}

/// A filter client that its user stopped leaves the last filters in force; one that ended by an error ends the calls of
/// whoever stands on it.
#[test]
fn the_end_of_the_filters_is_told_where_it_is_an_error() {
    let topic = TestTopic::new(shared_broker(), 1);
    let filters = FilterTopic::of(&[&topic]);
    let running = filters.client();
    let mut data = client(&group(), &running);
    produce_json(&topic, 0, 0..1);
    assert_eq!(take(&mut data, 1), [0]);
    running.stop();
    running.join();
    produce_json(&topic, 0, 1..2);
    assert_eq!(take(&mut data, 1), [1]);

    let failing = FilterClient::builder(filters.name(), shared_broker()).on_put(|_| panic!("on purpose"));
    let mut data = client(&group(), &failing.start().unwrap());
    let error = data.get_exports(Duration::MAX).expect_err("it goes on");
    assert!(error.to_string().contains("on purpose"), "{error}");
}

/// A panic of the user's own shape is the error of its result.
#[test]
fn a_shape_that_panics_loses_nothing() {
    let (topic, group) = (TestTopic::new(shared_broker(), 1), group());
    let filters = FilterTopic::of(&[&topic]);
    produce_json(&topic, 0, 0..3);
    let builder = DataClient::builder(&group, shared_broker(), &filters.client());
    let shape = Shape::custom(|pairs| match pairs[0].1.as_u64() {
        Some(1) => panic!("on purpose"),
        _ => Ok(pairs.len().into()),
    });
    let mut data = builder.data(shape).start().unwrap();
    let mut results = Vec::new();
    while results.len() < 3 {
        results.extend(data.get_exports_batch(PATIENCE, 3).unwrap().expect("nothing came").results);
    }
    let failed: Vec<_> = results.iter().map(|of| of.error.as_ref().map(ToString::to_string)).collect();
    assert!(failed[0].is_none() && failed[2].is_none());
    assert!(failed[1].as_ref().is_some_and(|error| error.contains("on purpose")), "{failed:?}");
    assert_eq!(committed(shared_broker(), &group, &topic, 0), None);
    data.store_offsets().unwrap();
    await_committed(&group, &topic, 3);
}
