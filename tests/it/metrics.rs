//! What consumers and producers measure, read as Prometheus reads it.

use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use kafka_envelope::testing::{ApiKey, EmbeddedBroker, ErrorCode};
use kafka_envelope::{
    Backoff, Batch, Consumer, Error, GiveUp, Message, OnError, OnUndecodable, Producer, TransactionalProducer,
};

use crate::support::metrics::exporter;
use crate::support::{
    TestTopic, consumer, create_topic_with, delete_topic, group, produce_numbers, produce_raw, shared_broker, unique,
};

const GROUP: &str = "messaging_consumer_group_name";
const TOPIC: &str = "messaging_destination_name";
const PARTITION: &str = "messaging_destination_partition_id";
const CLIENT: &str = "messaging_client_id";
const OPERATION: &str = "messaging_operation_name";
const ERROR: &str = "error_type";

/// So short that a test need not wait.
const OFTEN: (&str, &str) = ("statistics.interval.ms", "100");

fn twice() -> Backoff {
    Backoff { first: Duration::from_millis(10), attempts: 2, ..Backoff::default() }
}

/// One record that a handler fails on, one that cannot be read, a tombstone, and good ones.
#[test]
fn what_becomes_of_records_is_counted() {
    let (exporter, broker, group) = (exporter(), shared_broker(), group());
    let topic = TestTopic::new(broker, 2);
    let letters = format!("{}-dlt", &*topic);
    create_topic_with(broker, &letters, 1, &[]);
    produce_numbers(broker, &topic, 0, 0..10);
    produce_numbers(broker, &topic, 1, 10..20);
    produce_raw(broker, &topic, 1, None, Some(b"nonsense"));
    produce_raw(broker, &topic, 1, Some(b"gone"), None);
    let service = unique("service").replace('-', ".");
    let mut consumer = Consumer::builder(&service, broker, &group)
        .topics([&*topic])
        .linger(Duration::from_secs(3))
        .batch_size(22)
        .on_error(OnError::retry(twice()).then(GiveUp::DeadLetter))
        .on_undecodable(OnUndecodable::Skip)
        .python_metrics(true)
        .build()
        .unwrap();
    let stopper = consumer.stopper();
    let mut handled = 0;
    let summary = consumer
        .run(|batch: &Batch<u64>| {
            batch.each(|record| {
                if record.payload == 7 {
                    return Err("not this one".into());
                }
                handled += 1;
                if handled == 19 {
                    stopper.stop();
                }
                Ok(())
            })
        })
        .unwrap();
    assert_eq!((summary.records, summary.skipped, summary.dead_lettered), (22, 1, 1));

    let of_group = [(GROUP, &*group), ("messaging_system", "kafka"), (CLIENT, &*service)];
    let with = |more: &[(&'static str, &'static str)]| [&of_group[..], more].concat();
    let in_topic = |more: &[(&'static str, &'static str)]| [&with(more)[..], &[(TOPIC, &*topic)]].concat();
    let consumed = "messaging_client_consumed_messages_total";
    exporter.is(consumed, &in_topic(&[(PARTITION, "0"), (OPERATION, "poll")]), 10.0);
    exporter.is(consumed, &in_topic(&[(PARTITION, "1"), (OPERATION, "poll")]), 12.0);
    exporter.is("messaging_process_handled_messages_total", &in_topic(&[(OPERATION, "process")]), 20.0);
    exporter.is("messaging_process_failed_messages_total", &in_topic(&[(ERROR, "handler")]), 2.0);
    exporter.is("messaging_process_failed_messages_total", &in_topic(&[(ERROR, "undecodable")]), 1.0);
    exporter.is("messaging_process_retried_messages_total", &in_topic(&[]), 1.0);
    exporter.is("messaging_process_dead_lettered_messages_total", &in_topic(&[]), 1.0);
    exporter.is("messaging_process_skipped_messages_total", &in_topic(&[]), 1.0);
    exporter.is("messaging_client_sent_messages_total", &[(CLIENT, &service), (TOPIC, &letters)], 1.0);

    let batches = exporter.value("messaging_process_batch_size_count", &of_group).unwrap();
    assert!(batches >= 4.0, "{batches}: unreadable, twice failed, the rest");
    assert!(exporter.value("messaging_process_batch_size_sum", &of_group).unwrap() >= 22.0);
    let duration = "messaging_process_duration_seconds_count";
    exporter.is(duration, &with(&[(ERROR, "handler")]), 2.0);
    assert!(exporter.value(duration, &with(&[(ERROR, "undecodable")])).unwrap() >= 1.0);
    let commits = "messaging_client_operation_duration_seconds_count";
    assert!(exporter.value(commits, &with(&[(OPERATION, "commit")])).unwrap() >= 1.0);
    exporter.is("messaging_client_failed_commits_total", &of_group, 0.0);
    exporter.is("messaging_client_rebalances_total", &with(&[("messaging_kafka_rebalance_type", "assigned")]), 1.0);

    // Only what went well, and no tombstones.
    let python = format!("{}_kafka_process", service.replace('.', "_"));
    assert!(exporter.value(&format!("{python}_seconds_count"), &[]).unwrap() >= 1.0);
    assert!(exporter.value(&format!("{python}_seconds_sum"), &[]).unwrap() > 0.0);
    let count = exporter.value(&format!("{python}_count_total"), &[]).unwrap();
    assert!((1.0..=19.0).contains(&count), "{count}");
    delete_topic(broker, &letters);
}

/// The Python library's counter has the messages of handlers that succeeded; its summary has the handlers.
#[test]
fn pythons_names_count_what_python_counts() {
    let (exporter, broker, group) = (exporter(), shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..5);
    produce_raw(broker, &topic, 0, Some(b"gone"), None);
    let service = unique("python");
    let builder = Consumer::builder(&service, broker, &group).topics([&*topic]).python_metrics(true);
    let mut consumer = builder.batch_size(6).linger(Duration::from_secs(5)).build().unwrap();
    let failed = consumer.process(|_: &Batch<u64>| Err("not now".into()));
    assert!(matches!(failed, Err(Error::Handler { .. })));
    let names = ["seconds_count", "seconds_sum", "count_total"];
    let [calls, seconds, messages] = names.map(|name| format!("{}_kafka_process_{name}", service.replace('-', "_")));
    exporter.is(&calls, &[], 0.0);
    consumer
        .process(|batch: &Batch<u64>| {
            assert_eq!(batch.len(), 5);
            thread::sleep(Duration::from_millis(60));
            Ok(())
        })
        .unwrap();
    exporter.is(&calls, &[], 1.0);
    exporter.is(&messages, &[], 5.0);
    assert!((0.06..5.0).contains(&exporter.value(&seconds, &[]).unwrap()));
    // Who does not ask for them has none.
    assert_eq!(exporter.value("test_kafka_process_count_total", &[]), None);
}

/// A lag is there before anything is handled, goes with what is committed, and does not outlive its consumer.
#[test]
fn lag_is_what_is_not_committed() {
    let (exporter, broker, group) = (exporter(), shared_broker(), group());
    let topic = TestTopic::new(broker, 2);
    produce_numbers(broker, &topic, 0, 0..50);
    let builder = || consumer(broker, &group, &topic).config([OFTEN]);
    let lag = |partition, expected| {
        let labels = [(GROUP, &*group), (TOPIC, &*topic), (PARTITION, partition)];
        exporter.is("messaging_consumer_lag", &labels, expected);
    };
    let mut consumer = builder().batch_size(20).build().unwrap();
    lag("0", 50.0);
    lag("1", 0.0);
    for left in [30.0, 10.0] {
        consumer.process(|_: &Batch<u64>| Ok(())).unwrap();
        lag("0", left);
    }
    drop(consumer);
    lag("0", 0.0);
    // The next one goes on from what is committed.
    let mut consumer = builder().build().unwrap();
    lag("0", 10.0);
    consumer.process(|_: &Batch<u64>| Ok(())).unwrap();
    lag("0", 0.0);
    produce_numbers(broker, &topic, 1, 0..3);
    lag("1", 3.0);
}

/// The partitions that go to another consumer take their lag along.
#[test]
fn a_rebalance_moves_the_lag() {
    let (exporter, broker, group) = (exporter(), shared_broker(), group());
    let topic = TestTopic::new(broker, 2);
    for partition in 0..2 {
        produce_numbers(broker, &topic, partition, 0..50);
    }
    let (one, two) = (unique("one"), unique("two"));
    let member = |service: &str| {
        let short = [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "300"), OFTEN];
        Consumer::builder(service, broker, &group).topics([&*topic]).config(short).build().unwrap()
    };
    let lag = |service: &str, expected| {
        exporter.is("messaging_consumer_lag", &[(GROUP, &*group), (CLIENT, service)], expected);
    };
    let first = member(&one);
    lag(&one, 100.0);
    let second = member(&two);
    lag(&two, 50.0);
    lag(&one, 50.0);
    let rebalances = |service: &str, kind, least| {
        let labels = [(CLIENT, service), ("messaging_kafka_rebalance_type", kind)];
        exporter.is_at_least("messaging_client_rebalances_total", &labels, least);
    };
    rebalances(&one, "assigned", 1.0);
    rebalances(&one, "revoked", 1.0);
    rebalances(&two, "assigned", 1.0);
    drop(first);
    lag(&two, 100.0);
    lag(&one, 0.0);
    drop(second);
    lag(&two, 0.0);
}

/// On the embedded broker, which can be told that a group does not know its member.
#[test]
fn a_lost_assignment_is_counted() {
    let (exporter, service) = (exporter(), unique("lost"));
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 1).unwrap();
    let short = [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "300")];
    let builder = Consumer::builder(&service, broker.bootstrap_servers(), &group()).topics(["t"]).config(short);
    let _consumer = builder.build().unwrap();
    let rebalances = |kind, least| {
        let labels = [(CLIENT, &*service), ("messaging_kafka_rebalance_type", kind)];
        exporter.is_at_least("messaging_client_rebalances_total", &labels, least);
    };
    rebalances("assigned", 1.0);
    broker.fail_next(ApiKey::Heartbeat, [ErrorCode::UnknownMemberId]).unwrap();
    rebalances("lost", 1.0);
    rebalances("assigned", 2.0);
}

/// What stands at the end of the log of transactions is no record, and is no lag.
#[test]
fn transactions_are_counted_and_leave_no_lag() {
    let (exporter, broker, group) = (exporter(), shared_broker(), group());
    let (topic, out) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
    produce_numbers(broker, &topic, 0, 0..10);
    let service = unique("transactional");
    let mut producer = TransactionalProducer::new(&service, broker, &service).unwrap();
    let mut reader = consumer(broker, &group, &topic).config([OFTEN]).build().unwrap();
    let (stopper, mut attempts) = (reader.stopper(), 0);
    let summary = reader
        .run_exactly_once(&mut producer, |batch: &Batch<u64>, outbox| {
            attempts += 1;
            for record in batch {
                outbox.send(&out, &Message::new(record.payload).caused_by(record))?;
            }
            if batch[batch.len() - 1].payload == 9 {
                stopper.stop();
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(summary.records, 10);
    exporter.is("messaging_process_handled_messages_total", &[(GROUP, &*group), (TOPIC, &*topic)], 10.0);
    exporter.is_at_least("messaging_client_sent_messages_total", &[(CLIENT, &*service), (TOPIC, &*out)], 10.0);
    let duration = "messaging_process_duration_seconds_count";
    exporter.is(duration, &[(GROUP, &*group)], f64::from(attempts));
    let commits = "messaging_client_operation_duration_seconds_count";
    exporter.is_at_least(commits, &[(GROUP, &*group), (OPERATION, "commit")], 1.0);
    exporter.is("messaging_consumer_lag", &[(GROUP, &*group)], 0.0);

    let (readers, mut read) = (unique("readers"), 0);
    let mut reader = consumer(broker, &readers, &out).config([OFTEN]).build().unwrap();
    exporter.is_at_least("messaging_consumer_lag", &[(GROUP, &*readers)], 10.0);
    while read < 10 {
        read += reader.process(|_: &Batch<u64>| Ok(())).unwrap().unwrap().records;
    }
    exporter.is("messaging_consumer_lag", &[(GROUP, &*readers)], 0.0);
}

/// On the embedded broker, which can be told to refuse commits.
#[test]
fn commits_that_fail_are_counted_by_their_error() {
    let (exporter, group) = (exporter(), group());
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 1).unwrap();
    Producer::new("test", broker.bootstrap_servers()).unwrap().produce("t", &Message::new(1u64)).unwrap();
    broker
        .fail_next(ApiKey::OffsetCommit, [ErrorCode::RebalanceInProgress, ErrorCode::OffsetMetadataTooLarge])
        .unwrap();
    let mut consumer = consumer(broker.bootstrap_servers(), &group, "t").build().unwrap();
    assert!(consumer.process(|_: &Batch<u64>| Ok(())).unwrap().unwrap().committed);
    let of_group = [(GROUP, &*group), (OPERATION, "commit")];
    exporter.is("messaging_client_failed_commits_total", &of_group, 2.0);
    let duration = "messaging_client_operation_duration_seconds_count";
    for error in ["REBALANCE_IN_PROGRESS", "OFFSET_METADATA_TOO_LARGE"] {
        exporter.is(duration, &[&of_group[..], &[(ERROR, error)]].concat(), 1.0);
    }
    exporter.is(duration, &of_group, 3.0);
}

/// A consumer on a thread of its own, whose handler waits for each word.
fn waiting(mut consumer: Consumer) -> (Sender<()>, thread::JoinHandle<()>) {
    let (go, gone) = channel();
    let handle = move || {
        let stopper = consumer.stopper();
        let run = consumer.run(|_: &Batch<u64>| {
            if gone.recv().is_err() {
                stopper.stop();
            }
            Ok(())
        });
        run.unwrap();
    };
    (go, thread::spawn(handle))
}

#[test]
fn a_consumer_that_stands_still_is_seen() {
    let (exporter, broker, group) = (exporter(), shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..10);
    let builder = consumer(broker, &group, &topic).batch_size(5).stall_timeout(Duration::from_millis(300));
    let (go, thread) = waiting(builder.build().unwrap());
    let of_group = [(GROUP, &*group)];
    exporter.is("messaging_consumer_stalled_partitions", &of_group, 1.0);
    exporter.is("messaging_consumer_unhealthy", &of_group, 1.0);
    go.send(()).unwrap();
    go.send(()).unwrap();
    exporter.is("messaging_consumer_stalled_partitions", &of_group, 0.0);
    exporter.is("messaging_consumer_unhealthy", &of_group, 0.0);
    produce_numbers(broker, &topic, 0, 10..11);
    drop(go);
    thread.join().unwrap();
}

/// Good and bad records, calls that wait for them, and what is on its way.
#[test]
fn what_a_producer_sends_is_counted() {
    let (exporter, broker, service) = (exporter(), shared_broker(), unique("shop"));
    let topic = TestTopic::new(broker, 1);
    let producer = Producer::builder(&service, broker).config([OFTEN]).build().unwrap();
    let messages: Vec<_> = (0..100u64).map(Message::new).collect();
    producer.produce_batch(&topic, &messages).unwrap();
    producer.produce(&topic, &Message::new(1u64)).unwrap();
    let failed = producer.produce(&topic, &Message::new(1u64).partition(99));
    assert!(matches!(failed, Err(Error::NotDelivered { .. })));

    let client = [(CLIENT, &*service), ("messaging_system", "kafka")];
    let with = |more: &[(&'static str, &'static str)]| [&client[..], more].concat();
    let sent = "messaging_client_sent_messages_total";
    exporter.is_at_least(sent, &[&client[..], &[(TOPIC, &*topic), (OPERATION, "send")]].concat(), 101.0);
    exporter.is("messaging_client_in_flight_messages", &client, 0.0);
    let calls = "messaging_client_operation_duration_seconds_count";
    exporter.is(calls, &with(&[(OPERATION, "send")]), 3.0);
    exporter.is(calls, &with(&[(ERROR, "UNKNOWN_PARTITION")]), 1.0);
    exporter.is_at_least("messaging_client_sent_bytes_total", &client, 1_000.0);
    exporter.is_at_least("messaging_client_received_bytes_total", &client, 100.0);
}

#[test]
fn records_without_a_report_are_in_flight() {
    let (exporter, service) = (exporter(), unique("shop"));
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 1).unwrap();
    let producer = Producer::new(&service, broker.bootstrap_servers()).unwrap();
    producer.produce("t", &Message::new(0u64)).unwrap();
    broker.delay(Duration::from_secs(2)).unwrap();
    let pending: Vec<_> = (0..5u64).map(|number| producer.send("t", &Message::new(number)).unwrap()).collect();
    let client = [(CLIENT, &*service)];
    exporter.is("messaging_client_in_flight_messages", &client, 5.0);
    broker.delay(Duration::ZERO).unwrap();
    for pending in pending {
        pending.wait().unwrap();
    }
    exporter.is("messaging_client_in_flight_messages", &client, 0.0);
    exporter.is("messaging_client_sent_messages_total", &client, 6.0);
    // What is given up at the end is in flight no more.
    broker.delay(Duration::from_secs(20)).unwrap();
    drop(producer.send("t", &Message::new(6u64)).unwrap());
    exporter.is("messaging_client_in_flight_messages", &client, 1.0);
    drop(producer);
    exporter.is("messaging_client_in_flight_messages", &client, 0.0);
    exporter.is("messaging_client_sent_messages_total", &[(CLIENT, &*service), (ERROR, "PURGE_INFLIGHT")], 1.0);
}

/// A consumer receives, too.
#[test]
fn bytes_of_consumers_are_counted() {
    let (exporter, broker, group) = (exporter(), shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..1_000);
    let mut consumer = consumer(broker, &group, &topic).config([OFTEN]).build().unwrap();
    consumer.process(|_: &Batch<u64>| Ok(())).unwrap();
    exporter.is_at_least("messaging_client_received_bytes_total", &[(GROUP, &*group)], 10_000.0);
    exporter.is_at_least("messaging_client_sent_bytes_total", &[(GROUP, &*group)], 500.0);
}

/// What a user says of statistics counts: without them there is no lag to tell.
#[test]
fn statistics_can_be_turned_off() {
    let (exporter, broker, group) = (exporter(), shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..10);
    let builder = consumer(broker, &group, &topic).batch_size(5);
    let mut consumer = builder.config([("statistics.interval.ms", "0")]).build().unwrap();
    consumer.process(|_: &Batch<u64>| Ok(())).unwrap();
    exporter.is("messaging_process_handled_messages_total", &[(GROUP, &*group)], 5.0);
    assert_eq!(exporter.value("messaging_consumer_lag", &[(GROUP, &*group)]), Some(0.0));
    assert_eq!(exporter.value("messaging_client_received_bytes_total", &[(GROUP, &*group)]), Some(0.0));
}
