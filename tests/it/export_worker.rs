//! Exports that are handed to a handler: the batch consumer's contract, and its policies.

use std::time::Duration;

use kafka_envelope::export::{ExportWorker, ExportWorkerBuilder, Exports};
use kafka_envelope::{Backoff, ConsumerBuilder, Error, GiveUp, OnError, OnUndecodable, Summary};

use crate::support::exports::{FilterTopic, numbers, produce_json};
use crate::support::{
    PATIENCE, TestTopic, committed, consume_all, create_topic_with, delete_topic, eventually, group, keep_logs, logged,
    produce_raw, shared_broker,
};

/// A worker that ends once nothing came for a while after what there was.
fn builder(group: &str, filters: &FilterTopic) -> ExportWorkerBuilder {
    ExportWorker::builder(group, shared_broker(), &filters.client())
        .consumer(|consumer| consumer.idle_timeout(Duration::from_secs(10)))
}

fn policies(on_error: OnError) -> impl FnOnce(ConsumerBuilder) -> ConsumerBuilder {
    |consumer| consumer.on_error(on_error).on_undecodable(OnUndecodable::DeadLetter)
}

fn quick(attempts: u32) -> Backoff {
    Backoff { first: Duration::from_millis(10), attempts, ..Backoff::default() }
}

/// The numbers of the results.
fn seen(exports: &Exports) -> Vec<u64> {
    numbers(exports).into_iter().map(|(_, _, number)| number).collect()
}

/// Only what the handler answered `Ok` for is committed; what stands before a result that fails is done, and the failed
/// one comes again first.
#[test]
fn a_batch_is_committed_after_the_handler_returned_ok() {
    let (topic, group) = (TestTopic::new(shared_broker(), 1), group());
    let filters = FilterTopic::of(&[&topic]);
    // Records without a result before it are done with it.
    produce_raw(shared_broker(), &topic, 0, None, Some(b"[]"));
    produce_raw(shared_broker(), &topic, 0, Some(b"key"), None);
    produce_json(&topic, 0, 0..10);
    let mut worker = builder(&group, &filters).start().unwrap();
    let mut stored = Vec::new();
    let error = worker
        .run(|exports| {
            exports.each(|export| match export.data["n"].as_u64() {
                Some(4) => Err("not this one".into()),
                Some(number) => {
                    stored.push(number);
                    Ok(())
                }
                None => unreachable!(),
            })
        })
        .expect_err("it goes on");
    assert!(matches!(&error, Error::Handler { .. }), "{error}");
    assert_eq!(stored, [0, 1, 2, 3]);
    assert_eq!(committed(shared_broker(), &group, &topic, 0), Some(2 + 4));
    let stopper = worker.stopper();
    let mut again = Vec::new();
    worker
        .run(|exports| {
            again.extend(seen(exports));
            if again.last() == Some(&9) {
                stopper.stop();
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(again, [4, 5, 6, 7, 8, 9]);
    worker.close(PATIENCE).unwrap();
    assert_eq!(committed(shared_broker(), &group, &topic, 0), Some(12));
}

/// A handler that fails gets its batch again, as often as the policy says.
#[test]
fn a_failed_batch_is_handed_over_again() {
    let (topic, group) = (TestTopic::new(shared_broker(), 1), group());
    let filters = FilterTopic::of(&[&topic]);
    produce_json(&topic, 0, 0..3);
    let mut worker = builder(&group, &filters).consumer(policies(OnError::retry(quick(5)))).start().unwrap();
    let (stopper, mut calls) = (worker.stopper(), 0);
    let summary = worker
        .run(|exports| {
            calls += 1;
            match calls {
                1 => Err("not yet".into()),
                2 => panic!("on purpose"),
                _ if seen(exports).last() == Some(&2) => {
                    stopper.stop();
                    Ok(())
                }
                _ => Ok(()),
            }
        })
        .unwrap();
    assert_eq!((summary.records, summary.skipped, summary.dead_lettered), (3, 0, 0));
    assert!(calls >= 3);
    assert_eq!(committed(shared_broker(), &group, &topic, 0), Some(3));
}

/// Records whose exports never work, and those that cannot be read, become dead letters; all others are handled. A
/// filter may name the topic of dead letters: they do not come back.
#[test]
fn what_never_works_becomes_a_dead_letter() {
    keep_logs();
    let (broker, topic, group) = (shared_broker(), TestTopic::new(shared_broker(), 1), group());
    let letters = format!("{}-dlt", &*topic);
    create_topic_with(broker, &letters, 1, &[]);
    let filters = FilterTopic::of(&[&topic, &letters]);
    produce_json(&topic, 0, 0..5);
    produce_raw(broker, &topic, 0, Some(b"bad"), Some(b"no JSON"));
    produce_json(&topic, 0, 5..10);
    let policy = policies(OnError::retry(quick(2)).then(GiveUp::DeadLetter).bisect(true));
    // Whatever librdkafka is told to hide.
    let blacklist = [("topic.blacklist", "^something-else$")];
    let mut worker = builder(&group, &filters).consumer(policy).config(blacklist).start().unwrap();
    let mut stored = Vec::new();
    // One is named by its place; the other is found.
    let summary = worker.run(|exports| {
        assert!(exports.errors.is_empty());
        if seen(exports).contains(&7) {
            return Err("one of these".into());
        }
        exports.each(|export| match export.data["n"].as_u64() {
            Some(2) => Err("this one".into()),
            number => {
                stored.extend(number);
                Ok(())
            }
        })
    });
    let Summary { records, skipped, dead_lettered, .. } = summary.unwrap();
    assert_eq!((records, skipped, dead_lettered), (11, 0, 3));
    stored.dedup();
    assert_eq!(stored, [0, 1, 3, 4, 5, 6, 8, 9]);
    assert_eq!(committed(broker, &group, &topic, 0), Some(11));
    let values: Vec<_> = consume_all(broker, &letters)
        .iter()
        .map(|letter| String::from_utf8(rdkafka::Message::payload(letter).unwrap().to_vec()).unwrap())
        .collect();
    let mut sorted = values.clone();
    sorted.sort();
    assert_eq!(sorted, ["no JSON", r#"{"n":2}"#, r#"{"n":7}"#]);
    assert_eq!(logged(&["are not read", &letters]).len(), 1);
    delete_topic(broker, &letters);
}

/// A handler that fails on a whole batch has failed on what it saw: records that no filter matches are not given up.
#[test]
fn records_without_a_result_are_no_dead_letters() {
    let (broker, topic, group) = (shared_broker(), TestTopic::new(shared_broker(), 1), group());
    let letters = format!("{}-dlt", &*topic);
    create_topic_with(broker, &letters, 1, &[]);
    let filters = FilterTopic::of(&[&topic]);
    for _ in 0..5 {
        produce_raw(broker, &topic, 0, None, Some(b"[]"));
    }
    produce_json(&topic, 0, 0..2);
    produce_raw(broker, &topic, 0, None, Some(b"[]"));
    let policy = policies(OnError::retry(quick(2)).then(GiveUp::DeadLetter));
    let builder = builder(&group, &filters).consumer(policy).consumer(|consumer| consumer.linger(PATIENCE / 30));
    let mut is_panic = false;
    let summary = builder.start().unwrap().run(|_| {
        is_panic = !is_panic;
        if is_panic { panic!("on purpose") } else { Err("none of these".into()) }
    });
    let Summary { records, skipped, dead_lettered, .. } = summary.unwrap();
    assert_eq!((records, skipped, dead_lettered), (8, 0, 2));
    assert_eq!(consume_all(broker, &letters).len(), 2);
    assert_eq!(committed(broker, &group, &topic, 0), Some(8));
    delete_topic(broker, &letters);
}

/// Records without a result are done without a call of the handler.
#[test]
fn a_batch_without_results_is_done() {
    let (topic, group) = (TestTopic::new(shared_broker(), 1), group());
    let filters = FilterTopic::of(&[&topic]);
    for _ in 0..3 {
        produce_raw(shared_broker(), &topic, 0, None, Some(b"1"));
    }
    let mut worker = builder(&group, &filters).start().unwrap();
    let stopper = worker.stopper();
    let health = worker.health();
    let running = std::thread::spawn(move || {
        let summary = worker.run(|exports| panic!("{exports:?}")).unwrap();
        worker.close(PATIENCE).unwrap();
        summary
    });
    eventually(PATIENCE, "they are committed", || {
        (committed(shared_broker(), &group, &topic, 0) == Some(3)).then_some(())
    });
    assert!(health.is_healthy());
    stopper.stop();
    assert_eq!(running.join().unwrap().records, 3);
}

/// Which topics are read the filters say.
#[test]
fn a_worker_has_no_topics_of_its_own() {
    let filters = FilterTopic::new();
    let builder = builder(&group(), &filters).consumer(|consumer| consumer.topics(["orders"]));
    let error = builder.start().expect_err("it starts");
    assert!(matches!(&error, Error::Setting { key, .. } if key == "topics"), "{error}");
}

/// A filter client that ends by an error ends the run, also where nothing is read yet.
#[test]
fn a_run_ends_with_its_filters() {
    let filters = FilterTopic::of(&["any"]);
    let failing = kafka_envelope::export::FilterClient::builder(filters.name(), shared_broker())
        .on_put(|_| panic!("on purpose"))
        .start()
        .unwrap();
    let mut worker = ExportWorker::builder(&group(), shared_broker(), &failing).start().unwrap();
    let error = worker.run(|_| Ok(())).expect_err("it goes on");
    assert!(error.to_string().contains("on purpose"), "{error}");
}
