//! What happens when a handler fails, and to records that cannot be read.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use kafka_envelope::{
    Backoff, Batch, Commit, ConsumerBuilder, Error, GiveUp, HandlerError, OnError, OnUndecodable, RawBatch,
};
use rdkafka::Message as _;
use rdkafka::message::{Header, Headers as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::support::kafka::client;
use crate::support::{
    PATIENCE, TestTopic, committed, consume_all, consumer, create_topic_with, delete_topic, envelope, eventually,
    group, keep_logs, logged, produce_numbers, produce_raw, produce_raw_batch, shared_broker, unique,
};

/// Tries so often, with next to no pause.
fn backoff(attempts: u32) -> Backoff {
    Backoff { first: Duration::from_millis(1), max: Duration::from_millis(5), attempts, ..Backoff::default() }
}

/// A consumer whose first batch holds so many records.
fn reader(group: &str, topic: &str, records: usize) -> ConsumerBuilder {
    consumer(shared_broker(), group, topic).batch_size(records).linger(Duration::from_secs(5))
}

fn payloads(batch: &Batch<u64>) -> Vec<u64> {
    batch.iter().map(|record| record.payload).collect()
}

/// The dead-letter topic of a test's topic, deleted with it.
struct DeadLetters(String);

impl DeadLetters {
    fn of(topic: &TestTopic) -> Self {
        let name = format!("{}-dlt", &**topic);
        create_topic_with(shared_broker(), &name, 1, &[]);
        Self(name)
    }

    fn all(&self) -> Vec<OwnedMessage> {
        consume_all(shared_broker(), &self.0)
    }
}

impl Drop for DeadLetters {
    fn drop(&mut self) {
        if !thread::panicking() {
            delete_topic(shared_broker(), &self.0);
        }
    }
}

/// All headers with this name, in order.
fn headers(record: &OwnedMessage, name: &str) -> Vec<Option<Vec<u8>>> {
    let headers = record.headers().unwrap();
    headers.iter().filter(|header| header.key == name).map(|header| header.value.map(<[u8]>::to_vec)).collect()
}

fn number(record: &OwnedMessage, name: &str) -> i64 {
    let bytes = headers(record, name).pop().flatten().unwrap();
    match *bytes.as_slice() {
        [a, b, c, d] => i32::from_be_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => i64::from_be_bytes([a, b, c, d, e, f, g, h]),
        _ => panic!("{name}: {bytes:?}"),
    }
}

fn text(record: &OwnedMessage, name: &str) -> String {
    String::from_utf8(headers(record, name).pop().flatten().unwrap()).unwrap()
}

/// A failed batch is handled again as it was, and the handler knows for which time. A panic counts as any failure.
#[test]
fn a_failed_batch_is_handled_again() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..5);
    let mut consumer = reader(&group, &topic, 5).on_error(OnError::retry(backoff(4))).build().unwrap();
    let mut attempts = Vec::new();
    let done = consumer
        .process(|batch: &Batch<u64>| {
            attempts.push((batch.attempt(), payloads(batch)));
            assert_eq!(committed(broker, &group, &topic, 0), None);
            match batch.attempt() {
                1 => Err("not yet".into()),
                2 => panic!("not yet"),
                _ => Ok(()),
            }
        })
        .unwrap()
        .unwrap();
    assert_eq!(attempts, [1, 2, 3].map(|attempt| (attempt, vec![0, 1, 2, 3, 4])));
    assert!(done.committed && done.records == 5 && done.skipped == 0, "{done:?}");
    assert_eq!(committed(broker, &group, &topic, 0), Some(5));
}

/// Once the attempts are used up the run stops with the error. The next run goes on with the same batch.
#[test]
fn attempts_come_to_an_end() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..5);
    let mut consumer = reader(&group, &topic, 5).on_error(OnError::retry(backoff(3))).build().unwrap();
    let mut attempts = Vec::new();
    let error = consumer.run(|batch: &Batch<u64>| {
        attempts.push(batch.attempt());
        Err("never".into())
    });
    let error = error.unwrap_err();
    assert_eq!(error.to_string(), format!("handler failed on {}[0=0:5]: never", &*topic));
    assert_eq!(attempts, [1, 2, 3]);
    assert_eq!(committed(broker, &group, &topic, 0), None);
    let mut again = |batch: &Batch<u64>| {
        attempts.push(batch.attempt());
        Ok(())
    };
    assert_eq!(consumer.process(&mut again).unwrap().unwrap().records, 5);
    assert_eq!(attempts, [1, 2, 3, 4]);
    assert_eq!(committed(broker, &group, &topic, 0), Some(5));
}

/// What the handler says is done is committed and not handed over again. Attempts are counted for the record that fails.
#[test]
fn partial_success_shrinks_what_is_retried() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..6);
    let mut consumer = reader(&group, &topic, 6).on_error(OnError::retry(backoff(2))).build().unwrap();
    let mut calls = Vec::new();
    let mut failures = BTreeMap::from([(2, 1), (4, 1)]);
    let handle = |batch: &Batch<u64>| {
        calls.push((batch.attempt(), payloads(batch)));
        batch.each(|record| match failures.get_mut(&record.payload) {
            Some(left @ 1..) => {
                *left -= 1;
                Err("once".into())
            }
            _ => Ok(()),
        })
    };
    assert!(consumer.process(handle).unwrap().unwrap().committed);
    assert_eq!(calls, [(1, vec![0, 1, 2, 3, 4, 5]), (2, vec![2, 3, 4, 5]), (2, vec![4, 5])]);
    assert_eq!(committed(broker, &group, &topic, 0), Some(6));
}

/// A record that is skipped is counted, logged with its place and committed; the others are handled.
#[test]
fn skipped_records_are_counted_and_committed() {
    keep_logs();
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..6);
    let on_error = OnError::retry(backoff(2)).then(GiveUp::Skip);
    let mut consumer = reader(&group, &topic, 6).on_error(on_error).build().unwrap();
    let mut handled = Vec::new();
    let done = consumer
        .process(|batch: &Batch<u64>| {
            batch.each(|record| match record.payload {
                0 | 3 | 5 => Err("bad".into()),
                number => {
                    handled.push(number);
                    Ok(())
                }
            })
        })
        .unwrap()
        .unwrap();
    assert_eq!(handled, [1, 2, 4]);
    assert_eq!((done.records, done.skipped, done.dead_lettered, done.committed), (6, 3, 0, true));
    for number in [0, 3, 5] {
        let line = format!("{}:0:{number}:{number} is skipped after attempt 2: bad", &*topic);
        assert_eq!(logged(&["ERROR", &line]).len(), 1);
    }
    assert_eq!(committed(broker, &group, &topic, 0), Some(6));
}

/// A dead letter is the record as it came, with Spring Kafka's headers. Its offset is committed with those around it.
#[test]
fn a_dead_letter_is_the_record_as_it_came() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    let letters = DeadLetters::of(&topic);
    let value = envelope(&1);
    let producer: BaseProducer = client(broker).remove("enable.auto.commit").create().unwrap();
    let came = OwnedHeaders::new()
        .insert(Header { key: "trace", value: Some("a") })
        .insert(Header { key: "none", value: None::<&str> })
        .insert(Header { key: "trace", value: Some("b") })
        .insert(Header { key: "bytes", value: Some(&[0u8, 255][..]) });
    let record = BaseRecord::to(&topic).key("id-1").payload(&value).headers(came).timestamp(1_700_000_000_123);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();
    produce_raw(broker, &topic, 0, None, Some(&envelope(&2)));

    let on_error = OnError::retry(backoff(3)).then(GiveUp::DeadLetter);
    let mut consumer = reader(&group, &topic, 2).on_error(on_error).build().unwrap();
    let long = "ä".repeat(10_000);
    let done = consumer.process(|batch: &Batch<u64>| match batch.first().map(|record| record.payload) {
        Some(1) => Err(HandlerError::at(0, "no such customer")),
        _ => Err(long.as_str().into()),
    });
    let done = done.unwrap().unwrap();
    assert_eq!((done.records, done.dead_lettered, done.skipped, done.committed), (2, 2, 0, true));
    assert_eq!(committed(broker, &group, &topic, 0), Some(2));

    let all = letters.all();
    let [first, second] = all.as_slice() else { panic!("{} letters", all.len()) };
    assert_eq!((first.key(), first.payload()), (Some(&b"id-1"[..]), Some(value.as_slice())));
    assert_eq!(headers(first, "trace"), [Some(b"a".to_vec()), Some(b"b".to_vec())]);
    assert_eq!(headers(first, "none"), [None]);
    assert_eq!(headers(first, "bytes"), [Some(vec![0, 255])]);
    assert_eq!(text(first, "kafka_dlt-original-topic"), &*topic);
    assert_eq!(number(first, "kafka_dlt-original-partition"), 0);
    assert_eq!(number(first, "kafka_dlt-original-offset"), 0);
    assert_eq!(number(first, "kafka_dlt-original-timestamp"), 1_700_000_000_123);
    assert_eq!(text(first, "kafka_dlt-original-consumer-group"), group);
    assert_eq!(text(first, "kafka_dlt-exception-fqcn"), "kafka_envelope::Error::Handler");
    assert_eq!(text(first, "kafka_dlt-exception-message"), "no such customer");
    assert_eq!(number(first, "kafka_dlt-attempts"), 3);
    assert_eq!((second.key(), number(second, "kafka_dlt-original-offset")), (None, 1));
    assert_eq!(text(second, "kafka_dlt-exception-message"), "ä".repeat(512));
}

/// Where the dead letter cannot be written the run stops, and the record is not committed. Once it can be, it is.
#[test]
fn a_dead_letter_that_cannot_be_written_stops_the_run() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    let narrow = format!("{}-narrow", &*topic);
    create_topic_with(broker, &narrow, 1, &[("max.message.bytes", "1000")]);
    // What cannot be compressed.
    let long: String = (0..100).map(|_| unique("")).collect();
    let long = envelope(&long);
    produce_raw_batch(
        broker,
        &topic,
        [b"good", b"long", b"next"].map(|key| {
            let value = if key == b"long" { long.clone() } else { envelope(&"short") };
            (0, Some(key), Some(value))
        }),
    );
    let policy = OnError::retry(backoff(1)).then(GiveUp::DeadLetter);
    let handle = |batch: &Batch<String>| {
        batch.each(|record| match record.id() {
            Some("long") => Err("too long".into()),
            _ => Ok(()),
        })
    };
    let mut stopped = {
        let builder = reader(&group, &topic, 3).on_error(policy.clone()).dead_letter_topic(&narrow);
        builder.build().unwrap()
    };
    for _ in 0..2 {
        let error = stopped.run(handle).unwrap_err();
        assert!(matches!(&error, Error::DeadLetter { topic: to, .. } if *to == narrow), "{error}");
        assert!(error.to_string().contains(&format!("{}:0:1:long", &*topic)), "{error}");
        assert_eq!(committed(broker, &group, &topic, 0), Some(1));
    }
    drop(stopped);

    let letters = DeadLetters::of(&topic);
    let mut consumer = reader(&group, &topic, 2).on_error(policy).build().unwrap();
    assert_eq!(consumer.process(handle).unwrap().unwrap().dead_lettered, 1);
    assert_eq!(committed(broker, &group, &topic, 0), Some(3));
    assert_eq!(letters.all().len(), 1);
    delete_topic(broker, &narrow);
}

/// Dead letters do not come back by a pattern that matches their topic, too.
#[test]
fn a_pattern_does_not_match_the_dead_letters() {
    let (broker, group, prefix) = (shared_broker(), group(), unique("pattern"));
    let elsewhere = format!("{prefix}.elsewhere");
    for dead_letter_topic in [None, Some(&elsewhere)] {
        let topic = format!("{prefix}.in{}", dead_letter_topic.map_or(0, |_| 1));
        let letters = dead_letter_topic.map_or_else(|| format!("{topic}-dlt"), String::clone);
        create_topic_with(broker, &topic, 1, &[]);
        create_topic_with(broker, &letters, 1, &[]);
        produce_numbers(broker, &topic, 0, 0..2);
        let mut builder = reader(&group, &format!("^{prefix}\\..*"), 2)
            .on_error(OnError::stop().then(GiveUp::DeadLetter))
            .config([("topic.metadata.refresh.interval.ms", "500")])
            .idle_timeout(Duration::from_secs(4));
        if let Some(topic) = dead_letter_topic {
            builder = builder.dead_letter_topic(topic);
        }
        let summary = builder.build().unwrap().run(|_: &Batch<u64>| Err("all are bad".into())).unwrap();
        assert_eq!((summary.records, summary.dead_lettered), (2, 2), "{letters}");
        assert_eq!(consume_all(broker, &letters).len(), 2);
        delete_topic(broker, &topic);
        delete_topic(broker, &letters);
    }
}

/// A batch that keeps failing is halved: the good records are completed in order, only the bad ones become dead letters,
/// and the handler is called no more often than promised.
#[test]
fn a_failing_batch_is_halved_until_the_bad_records_stand_alone() {
    const BAD: [u64; 3] = [7, 40, 41];
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 2);
    let letters = DeadLetters::of(&topic);
    produce_numbers(broker, &topic, 0, 0..32);
    produce_numbers(broker, &topic, 1, 32..64);
    let on_error = OnError::retry(backoff(2)).then(GiveUp::DeadLetter).bisect(true);
    let mut consumer = reader(&group, &topic, 64).on_error(on_error).build().unwrap();
    let (mut calls, mut handled) = (0, Vec::new());
    let done = consumer
        .process(|batch: &Batch<u64>| {
            calls += 1;
            if batch.iter().any(|record| BAD.contains(&record.payload)) {
                return Err("one of them".into());
            }
            handled.extend(payloads(batch));
            Ok(())
        })
        .unwrap()
        .unwrap();
    assert_eq!((done.records, done.dead_lettered, done.committed), (64, 3, true));
    for range in [0..32, 32..64] {
        let of_partition: Vec<_> = handled.iter().copied().filter(|number| range.contains(number)).collect();
        let good: Vec<_> = range.filter(|number| !BAD.contains(number)).collect();
        assert_eq!(of_partition, good);
    }
    assert!(calls <= 2 + 2 * BAD.len() * 6, "{calls} calls");
    let mut keys: Vec<_> = letters.all().iter().map(|letter| letter.key().unwrap().to_vec()).collect();
    keys.sort();
    assert_eq!(keys, [b"40".to_vec(), b"41".to_vec(), b"7".to_vec()]);
    assert_eq!([0, 1].map(|partition| committed(broker, &group, &topic, partition)), [Some(32), Some(32)]);
}

/// What is no envelope, does not fit the type, or has an id that is no text: the others are handled all the same.
#[test]
fn records_that_cannot_be_read_are_skipped_or_become_dead_letters() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let letters = DeadLetters::of(&topic);
    let values = [&envelope(&1)[..], b"{", &envelope(&"text"), b"", &envelope(&2), &envelope(&3)];
    let keys: [&[u8]; 6] = [b"a", b"b", b"c", b"d", b"\xff", b"f"];
    produce_raw_batch(broker, &topic, keys.into_iter().zip(values).map(|(key, value)| (0, Some(key), Some(value))));
    for on_undecodable in [OnUndecodable::Skip, OnUndecodable::DeadLetter] {
        let group = group();
        let mut consumer = reader(&group, &topic, 6).on_undecodable(on_undecodable).build().unwrap();
        let mut calls = Vec::new();
        let done = consumer
            .process(|batch: &Batch<u64>| {
                calls.push((batch.attempt(), payloads(batch)));
                Ok(())
            })
            .unwrap()
            .unwrap();
        assert_eq!(calls, [(1, vec![1, 3])]);
        let given_up = if on_undecodable == OnUndecodable::Skip { (3, 0) } else { (0, 3) };
        assert_eq!((done.skipped, done.dead_lettered), given_up);
        assert_eq!((done.records, done.committed), (6, true));
        assert_eq!(committed(broker, &group, &topic, 0), Some(6));
    }
    let all = letters.all();
    assert_eq!(all.iter().map(|letter| letter.key().unwrap()).collect::<Vec<_>>(), [b"b", b"c", b"\xff"]);
    assert_eq!(
        all.iter().map(|letter| letter.payload().unwrap()).collect::<Vec<_>>(),
        [values[1], values[2], values[4]]
    );
    for (letter, offset) in all.iter().zip([1, 2, 4]) {
        assert_eq!(text(letter, "kafka_dlt-exception-fqcn"), "kafka_envelope::Error::Undecodable");
        assert_eq!(number(letter, "kafka_dlt-original-offset"), offset);
        assert_eq!(number(letter, "kafka_dlt-attempts"), 1);
    }
}

/// A payload that a raw handler cannot decode is a record that cannot be read, whatever `on_error` says.
#[test]
fn what_a_raw_handler_cannot_decode_is_undecodable() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    let values = [envelope(&1), envelope(&"text"), envelope(&3)];
    produce_raw_batch(broker, &topic, values.into_iter().map(|value| (0, None::<&str>, Some(value))));
    let mut consumer = reader(&group, &topic, 3).on_undecodable(OnUndecodable::Skip).build().unwrap();
    let (stopper, mut sum, mut calls) = (consumer.stopper(), 0, Vec::new());
    let summary = consumer
        .run_raw(|batch: &RawBatch| {
            calls.push((batch.attempt(), batch.len()));
            let numbers: Vec<u64> = batch.iter().map(|record| record.decode()).collect::<Result<_, _>>()?;
            sum += numbers.iter().sum::<u64>();
            stopper.stop();
            Ok(())
        })
        .unwrap();
    assert_eq!((sum, calls), (4, vec![(1, 3), (1, 2)]));
    assert_eq!((summary.batches, summary.records, summary.skipped), (1, 3, 1));
    assert_eq!(committed(broker, &group, &topic, 0), Some(3));
}

/// A record that is said to be done is done, whatever else is said of it.
#[test]
fn an_unreadable_record_before_the_index_is_done() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    let values = [envelope(&"text"), envelope(&2), envelope(&3)];
    produce_raw_batch(broker, &topic, values.into_iter().map(|value| (0, None::<&str>, Some(value))));
    let mut consumer = reader(&group, &topic, 3).on_undecodable(OnUndecodable::Skip).build().unwrap();
    let error = consumer.run_raw(|batch: &RawBatch| {
        let first = batch[0].decode::<u64>().unwrap_err();
        Err(HandlerError::at(2, first))
    });
    assert!(matches!(error.unwrap_err(), Error::Handler { .. }));
    assert_eq!(committed(broker, &group, &topic, 0), Some(2));
}

/// A handler does not see tombstones, and they never become dead letters.
#[test]
fn tombstones_are_not_given_up() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    let letters = DeadLetters::of(&topic);
    produce_raw_batch(broker, &topic, [(0, Some("a"), None), (0, Some("a"), Some(envelope(&1))), (0, Some("a"), None)]);
    let on_error = OnError::retry(backoff(2)).then(GiveUp::DeadLetter);
    let mut consumer = reader(&group, &topic, 3).on_error(on_error).build().unwrap();
    let done = consumer.process(|_: &Batch<u64>| Err("bad".into())).unwrap().unwrap();
    assert_eq!((done.records, done.dead_lettered, done.committed), (3, 1, true));
    assert_eq!(committed(broker, &group, &topic, 0), Some(3));
    assert_eq!(letters.all().len(), 1);
}

/// A stop ends a pause at once, and commits nothing of the batch that failed.
#[test]
fn a_stop_ends_a_pause() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..5);
    let pause = Duration::from_secs(600);
    let on_error = OnError::retry(Backoff { first: pause, max: pause, ..Backoff::default() });
    let mut consumer = reader(&group, &topic, 5).on_error(on_error).build().unwrap();
    let stopper = consumer.stopper();
    let (failed, has_failed) = channel();
    let stop = thread::spawn(move || {
        has_failed.recv().unwrap();
        stopper.stop();
    });
    let summary = consumer.run(|batch: &Batch<u64>| {
        failed.send(batch.attempt()).unwrap();
        Err("later".into())
    });
    let summary = summary.unwrap();
    stop.join().unwrap();
    assert_eq!((summary.batches, summary.records), (0, 0));
    consumer.close(PATIENCE).unwrap();
    assert_eq!(committed(broker, &group, &topic, 0), None);
}

/// A partition that is taken away during a pause goes at once, and starts at its new owner from the first attempt. What
/// is kept goes on after the pause, counted on.
#[test]
fn a_rebalance_does_not_wait_for_a_pause() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 2);
    for partition in 0..2 {
        produce_numbers(broker, &topic, partition, 0..10);
    }
    let pause = Duration::from_secs(12);
    let on_error = OnError::retry(Backoff { first: pause, max: pause, jitter: 0.0, ..Backoff::default() });
    let mut first = reader(&group, &topic, 20).on_error(on_error).build().unwrap();
    let (sender, calls) = channel();
    let first_stopper = first.stopper();
    let fails_once = {
        let sender = sender.clone();
        thread::spawn(move || {
            first.run(|batch: &Batch<u64>| {
                let partitions: Vec<_> = batch.iter().map(|record| record.partition()).collect();
                sender.send((1, batch.attempt(), partitions, Instant::now())).unwrap();
                if batch.attempt() == 1 { Err("later".into()) } else { Ok(()) }
            })
        })
    };
    let (_, attempt, partitions, failed_at) = calls.recv_timeout(PATIENCE).unwrap();
    assert_eq!((attempt, partitions.len()), (1, 20));

    let mut second = reader(&group, &topic, 10).build().unwrap();
    let second_stopper = second.stopper();
    let works = thread::spawn(move || {
        second.run(|batch: &Batch<u64>| {
            let partitions: Vec<_> = batch.iter().map(|record| record.partition()).collect();
            sender.send((2, batch.attempt(), partitions, Instant::now())).unwrap();
            Ok(())
        })
    });
    let mut by_member = BTreeMap::new();
    for _ in 0..2 {
        let (member, attempt, partitions, at) = calls.recv_timeout(PATIENCE).unwrap();
        assert_eq!(partitions.len(), 10, "member {member}");
        by_member.insert(member, (attempt, partitions[0], at - failed_at));
    }
    let (attempt, moved, after) = by_member[&2];
    assert!(attempt == 1 && after < pause, "{by_member:?}");
    let (attempt, kept, after) = by_member[&1];
    assert!(attempt == 2 && kept != moved && after >= pause, "{by_member:?}");
    eventually(PATIENCE, "both are committed", || {
        [0, 1].iter().all(|partition| committed(broker, &group, &topic, *partition) == Some(10)).then_some(())
    });
    first_stopper.stop();
    second_stopper.stop();
    assert_eq!(fails_once.join().unwrap().unwrap().records, 10);
    assert_eq!(works.join().unwrap().unwrap().records, 10);
}

/// With one commit a batch, and with overlapped ones, a run with failures ends with everything committed.
#[test]
fn a_run_with_failures_commits_everything() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 3);
    for partition in 0..3 {
        produce_numbers(broker, &topic, partition, 0..500);
    }
    for commit in [Commit::EachBatch, Commit::default()] {
        let group = group();
        let on_error = OnError::retry(backoff(2)).then(GiveUp::Skip).bisect(true);
        let consumer = consumer(broker, &group, &topic).batch_size(40).commit(commit).on_error(on_error);
        let mut consumer = consumer.idle_timeout(Duration::from_secs(3)).build().unwrap();
        let mut next = BTreeMap::<i32, u64>::new();
        let summary = consumer
            .run(|batch: &Batch<u64>| {
                if batch.iter().any(|record| record.payload % 50 == 7) {
                    return Err("a seventh".into());
                }
                for record in batch {
                    let next = next.entry(record.partition()).or_default();
                    let expected = if *next % 50 == 7 { *next + 1 } else { *next };
                    assert_eq!(record.payload, expected);
                    *next = expected + 1;
                }
                Ok(())
            })
            .unwrap();
        assert_eq!((summary.records, summary.skipped), (1_500, 30), "{commit:?}");
        for partition in 0..3 {
            assert_eq!(committed(broker, &group, &topic, partition), Some(500), "{commit:?}");
        }
    }
}

/// What cannot work is refused before anything connects.
#[test]
fn policies_that_cannot_work_are_refused() {
    let builder = || consumer("localhost:1", "g", "t");
    let error = builder().dead_letter_topic("elsewhere").build().unwrap_err();
    assert!(error.to_string().contains("`dead_letter_topic`"), "{error}");
    let dead_letter = || builder().on_undecodable(OnUndecodable::DeadLetter);
    for topic in ["t", "", "a b"] {
        let error = dead_letter().dead_letter_topic(topic).build().unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{error}");
    }
    let both = builder().topics(["t-dlt"]).on_undecodable(OnUndecodable::DeadLetter).build().unwrap_err();
    assert!(both.to_string().contains("come back"), "{both}");
    let hidden = builder().topics(["^x.*", "u-dlt"]).on_undecodable(OnUndecodable::DeadLetter);
    let error = hidden.clone().build().unwrap_err();
    assert!(error.to_string().contains("`u-dlt`"), "{error}");
    assert!(hidden.config([("topic.blacklist", "^y")]).build().is_ok());
    let error = builder().on_error(OnError::retry(backoff(0))).build().unwrap_err();
    assert!(error.to_string().contains("`attempts`"), "{error}");
}
