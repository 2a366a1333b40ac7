//! What a batch is: its limits, its order, what its records know.

use std::time::{Duration, Instant};

use kafka_envelope::testing::Records;
use kafka_envelope::{Batch, BatchRef, Error, RawBatch};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::support::{
    TestTopic, consumer, envelope, group, keep_logs, logged, produce_numbers, produce_raw, produce_raw_batch,
    shared_broker, unique,
};

/// The sizes of the batches in which so many records came.
fn sizes(consumer: &mut kafka_envelope::Consumer, records: usize) -> Vec<usize> {
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < records {
        let mut size = 0;
        let handled = consumer.process(|batch: &Batch<Value>| {
            size = batch.len();
            Ok(())
        });
        assert!(handled.unwrap().is_some(), "nothing more came after {sizes:?}");
        sizes.push(size);
    }
    sizes
}

/// Until somebody asks for a history, only its brackets and quotes are counted. One that is none is left out then, which the
/// log says, and the record is handled all the same; one that was cut off makes the record unreadable.
#[test]
fn a_history_is_read_where_it_is_asked_for() {
    keep_logs();
    let topic = unique("topic");
    let level = r#"{"svc":"shop","dt":"2026-01-02T03:04:05+00:00","refs":[]}"#;
    let deep = (0..kafka_envelope::envelope::MAX_HISTORY_DEPTH).fold("null".to_owned(), |inner, _| {
        format!(r#"{{"refs":[{{"topic":"t","partition":0,"offset":0,"hist":{inner}}}]}}"#)
    });
    let read = |histories: &[&str]| {
        histories.iter().fold(Records::new(&topic), |records, history| {
            records.raw(None, Some(format!(r#"{{"item":1,"hist":{history}}}"#).as_bytes()))
        })
    };
    let records = read(&[level, r#"{"refs":5}"#, "{][}", &deep, &format!(r#"{level},"other":{{}}"#)]);
    let batch = records.batch::<u32>().unwrap();
    assert_eq!(logged(&[&topic]), [""; 0]);
    let histories: Vec<_> = batch.iter().map(|record| record.history().map(|history| history.depth())).collect();
    assert_eq!(histories, [Some(1), None, None, None, Some(1)]);
    let why = ["`refs` must be a list or null", "key must be a string", "is too long"];
    for (offset, why) in (1..).zip(why) {
        let place = format!("the history of {topic}:0 at offset {offset} ");
        assert_eq!(logged(&["WARN", &place, why, "is left out"]).len(), 1, "{:#?}", logged(&[&topic]));
    }
    for history in [&level[..level.len() - 1], &level[..level.len() - 8], "{"] {
        assert!(read(&[history]).batch::<u32>().is_err(), "{history}");
    }
}

/// No batch has more than `batch_size` records, and where enough are there it has as many.
#[test]
fn a_batch_is_full_at_its_size() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..1_050);
    let linger = Duration::from_secs(2);
    let mut consumer = consumer(broker, &group(), &topic).batch_size(100).linger(linger).build().unwrap();
    let mut expected = vec![100; 10];
    expected.push(50);
    assert_eq!(sizes(&mut consumer, 1_050), expected);
}

/// No batch has more than `batch_bytes`, but a record that is larger comes on its own.
#[test]
fn a_batch_is_full_at_its_bytes() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let value = |size: usize| envelope(&"x".repeat(size));
    let overhead = value(0).len();
    let records = [400, 400, 400, 5_000, 100, 100].map(|size| (0, None::<&str>, Some(value(size - overhead))));
    produce_raw_batch(broker, &topic, records);
    let linger = Duration::from_secs(2);
    let mut consumer = consumer(broker, &group(), &topic).batch_bytes(1_000).linger(linger).build().unwrap();
    assert_eq!(sizes(&mut consumer, 6), [2, 1, 1, 2]);
}

/// Without `linger` a free handler gets the first record at once; with it, what comes within that time comes along.
#[test]
fn a_batch_waits_for_its_linger() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let first_batch = |linger: Duration| {
        let mut consumer = consumer(broker, &group(), &topic).linger(linger).build().unwrap();
        let start = Instant::now();
        let sizes = sizes(&mut consumer, 1);
        (sizes[0], start.elapsed())
    };
    produce_numbers(broker, &topic, 0, 0..3);
    let linger = Duration::from_millis(1_500);
    let (size, took) = first_batch(linger);
    assert_eq!(size, 3);
    assert!(took >= linger, "handed over after {took:?}");
}

/// A batch is grouped by topic and partition, keeps the order of each, and tells where it came from.
#[test]
fn several_topics_come_in_one_batch() {
    let broker = shared_broker();
    let (one, other) = (TestTopic::new(broker, 2), TestTopic::new(broker, 1));
    for number in 0..30 {
        let (topic, partition) = [(&one, 0), (&one, 1), (&other, 0)][number % 3];
        produce_raw(broker, topic, partition, Some(b"k"), Some(&envelope(&number)));
    }
    let linger = Duration::from_secs(3);
    let mut consumer = kafka_envelope::Consumer::builder("test", broker, &group())
        .topics([&*one, &*other])
        .batch_size(30)
        .linger(linger)
        .idle_timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    let mut records = 0;
    while records < 30 {
        let done = consumer
            .process(|batch: &Batch<usize>| {
                let mut groups: Vec<(&str, i32)> = batch.iter().map(|r| (r.topic(), r.partition())).collect();
                groups.dedup();
                let mut distinct = groups.clone();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(groups.len(), distinct.len(), "a partition comes twice: {groups:?}");
                for pair in batch.windows(2) {
                    let same = (pair[0].topic(), pair[0].partition()) == (pair[1].topic(), pair[1].partition());
                    assert!(!same || pair[0].offset() < pair[1].offset());
                }
                let refs: Vec<_> = batch.iter().map(kafka_envelope::Received::reference).collect();
                assert_eq!(batch.reference(), refs.iter().collect::<BatchRef>());
                Ok(())
            })
            .unwrap()
            .unwrap();
        records += done.records;
    }
}

/// Records of nearly 1 MB, the largest that a producer sends by default, come through.
#[test]
fn large_records_come_through() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let large = |fill: char| envelope(&String::from(fill).repeat(999_000));
    produce_raw_batch(broker, &topic, ['a', 'b', 'c', 'd', 'e'].map(|fill| (0, None::<&str>, Some(large(fill)))));
    let mut consumer = consumer(broker, &group(), &topic).batch_bytes(2_500_000).build().unwrap();
    let mut seen = String::new();
    while seen.len() < 5 {
        let handled = consumer.process(|batch: &Batch<String>| {
            assert!(batch.len() <= 2);
            assert!(batch.iter().all(|record| record.payload.len() == 999_000));
            seen.extend(batch.iter().filter_map(|record| record.payload.chars().next()));
            Ok(())
        });
        assert!(handled.unwrap().is_some());
    }
    assert_eq!(seen, "abcde");
}

/// A record knows its key, headers, timestamp and history; what has none of them is no error.
#[test]
fn a_record_knows_where_it_came_from() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let origin = kafka_envelope::Ref::new("carts", 3, 42);
    let with_history = kafka_envelope::pack("shop", &1, &[origin]).unwrap();
    let records =
        [(Some("zoë"), with_history), (None, br#"{"item":2}"#.to_vec()), (Some(""), br#"{"item":3}"#.to_vec())];
    produce_raw_batch(broker, &topic, records.map(|(key, value)| (0, key, Some(value))));
    let linger = Duration::from_secs(2);
    let mut consumer = consumer(broker, &group(), &topic).batch_size(3).linger(linger).build().unwrap();
    consumer
        .process(|batch: &Batch<u32>| {
            let [first, second, third] = &**batch else { panic!("{} records", batch.len()) };
            assert_eq!((first.id(), second.id(), third.id()), (Some("zoë"), None, Some("")));
            let stage = first.history().unwrap().stage().unwrap();
            assert_eq!((stage.service.as_str(), stage.refs[0].to_string().as_str()), ("shop", "carts:3:42:"));
            assert!(second.history().is_none());
            assert_eq!(first.reference().to_string(), format!("{}:0:0:zoë", &*topic));
            assert!(first.timestamp().is_some_and(|at| (chrono::Utc::now() - at).num_seconds().abs() < 60));
            assert_eq!(first.headers().iter().count(), 0);
            Ok(())
        })
        .unwrap()
        .unwrap();
}

/// Of records with one id only the last is given, in the order of those; all of them are committed.
#[test]
fn latest_by_id_gives_the_last_of_each() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let ids = ["a", "b", "a", "c", "b", "a"];
    produce_raw_batch(broker, &topic, ids.iter().enumerate().map(|(n, id)| (0, Some(id), Some(envelope(&n)))));
    let linger = Duration::from_secs(2);
    let mut consumer = consumer(broker, &group(), &topic).batch_size(6).linger(linger).build().unwrap();
    consumer
        .process(|batch: &Batch<usize>| {
            let latest: Vec<_> = batch.latest_by_id().map(|record| record.payload).collect();
            assert_eq!(latest, [3, 4, 5]);
            Ok(())
        })
        .unwrap()
        .unwrap();
}

/// Payloads may borrow from the record, stay text, or be text of their own.
#[test]
fn payloads_may_stay_text() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    produce_raw(broker, &topic, 0, None, Some(br#"{"item": {"name" : "zo\u00eb", "n": 18446744073709551616} }"#));
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        name: std::borrow::Cow<'a, str>,
    }
    let mut raw = consumer(broker, &group(), &topic).build().unwrap();
    let stopper = raw.stopper();
    raw.run_raw(|batch: &RawBatch| {
        let named: Vec<Named> = batch.iter().map(|record| record.decode()).collect::<Result<_, Error>>()?;
        assert_eq!(named[0].name, "zoë");
        stopper.stop();
        Ok(())
    })
    .unwrap();
    let mut boxed = consumer(broker, &group(), &topic).build().unwrap();
    boxed
        .process(|batch: &Batch<Box<RawValue>>| {
            assert_eq!(batch[0].payload.get(), r#"{"name" : "zo\u00eb", "n": 18446744073709551616}"#);
            Ok(())
        })
        .unwrap()
        .unwrap();
}
