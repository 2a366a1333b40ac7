//! Outputs and offsets in one transaction: whatever happens, a reader of committed records sees each input's output once.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_envelope::testing::{ApiKey, EmbeddedBroker, ErrorCode};
use kafka_envelope::{
    Backoff, Batch, Consumer, ConsumerBuilder, Error, GiveUp, HandlerError, Message, OnError, OnUndecodable, Outbox,
    TransactionalProducer, unpack,
};
use rdkafka::Message as _;
use rdkafka::message::OwnedMessage;
use serde::{Deserialize, Serialize};

use crate::support::{
    Broker, PATIENCE, TestTopic, Worker, committed, consume_all, consumer, create_topic, create_topic_with,
    delete_topic, emit, envelope, eventually, group, produce_numbers, produce_raw_batch, shared_broker, unique,
};

/// A consumer whose first batch holds so many records.
fn reader(bootstrap: &str, group: &str, topic: &str, records: usize) -> ConsumerBuilder {
    consumer(bootstrap, group, topic).batch_size(records).linger(Duration::from_secs(5))
}

fn producer(bootstrap: &str) -> TransactionalProducer {
    TransactionalProducer::new("doubler", bootstrap, &unique("transactional")).unwrap()
}

/// For each input the double of its number, with the input's place as id.
fn double(batch: &Batch<u64>, outbox: &mut Outbox, out: &str) -> Result<(), HandlerError> {
    for record in batch {
        let id = format!("{}-{}", record.partition(), record.offset());
        outbox.send(out, &Message::new(record.payload * 2).id(id).caused_by(record))?;
    }
    Ok(())
}

/// How often each output stands among the committed records.
fn outputs(bootstrap: &str, out: &str) -> BTreeMap<String, u32> {
    let mut times = BTreeMap::new();
    for record in consume_all(bootstrap, out) {
        *times.entry(id(&record)).or_default() += 1;
    }
    times
}

/// Waits for as many outputs as there should be, then compares them. The markers of a commit are written after its answer.
#[track_caller]
fn check_outputs(bootstrap: &str, out: &str, expected: &BTreeMap<String, u32>) {
    let found = eventually(PATIENCE, "the outputs are there", || {
        let found = outputs(bootstrap, out);
        (found.len() >= expected.len()).then_some(found)
    });
    assert_eq!(found, *expected);
}

fn id(record: &OwnedMessage) -> String {
    String::from_utf8(record.key().unwrap().to_vec()).unwrap()
}

/// The outputs for so many inputs in each partition, each once.
fn each_once(partitions: i32, records: u64) -> BTreeMap<String, u32> {
    let of_partition = |partition| (0..records).map(move |offset| (format!("{partition}-{offset}"), 1));
    (0..partitions).flat_map(of_partition).collect()
}

/// Outputs appear when the offsets are committed and not before. They carry their lineage.
#[test]
fn outputs_and_offsets_are_committed_together() {
    let (broker, group) = (shared_broker(), group());
    let (topic, out) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
    produce_numbers(broker, &topic, 0, 0..10);
    let mut consumer = reader(broker, &group, &topic, 5).build().unwrap();
    let (stopper, mut producer, mut batches) = (consumer.stopper(), producer(broker), 0);
    let summary = consumer
        .run_exactly_once(&mut producer, |batch: &Batch<u64>, outbox| {
            let before = batches * 5u64;
            check_outputs(broker, &out, &each_once(1, before));
            assert_eq!(committed(broker, &group, &topic, 0), (before > 0).then_some(before as i64));
            double(batch, outbox, &out)?;
            batches += 1;
            if batches == 2 {
                stopper.stop();
            }
            Ok(())
        })
        .unwrap();
    assert_eq!((summary.batches, summary.records), (2, 10));
    check_outputs(broker, &out, &each_once(1, 10));
    assert_eq!(committed(broker, &group, &topic, 0), Some(10));
    let last = consume_all(broker, &out).pop().unwrap();
    let envelope = unpack(last.payload().unwrap()).unwrap();
    assert_eq!(envelope.payload::<u64>().unwrap(), 18);
    assert!(envelope.history().unwrap().get().contains(&*topic));
}

/// What a failed attempt put into the outbox is forgotten, and nothing is committed of its batch; a retry starts afresh.
#[test]
fn a_failed_attempt_leaves_nothing() {
    let (broker, group) = (shared_broker(), group());
    let (topic, out) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
    produce_numbers(broker, &topic, 0, 0..6);
    let mut producer = producer(broker);
    let mut consumer = reader(broker, &group, &topic, 6).build().unwrap();
    let error = consumer.run_exactly_once(&mut producer, |batch: &Batch<u64>, outbox| {
        double(batch, outbox, &out)?;
        Err(HandlerError::at(3, "after all of it"))
    });
    assert!(matches!(error.unwrap_err(), Error::Handler { .. }));
    let error = consumer.run_exactly_once(&mut producer, |batch: &Batch<u64>, outbox| {
        double(batch, outbox, &out)?;
        panic!("after all of it")
    });
    assert!(matches!(error.unwrap_err(), Error::Handler { .. }));
    assert_eq!((outputs(broker, &out).len(), committed(broker, &group, &topic, 0)), (0, None));
    let stopper = consumer.stopper();
    let run = consumer.run_exactly_once(&mut producer, |batch: &Batch<u64>, outbox| {
        assert_eq!((batch.attempt(), batch.len()), (3, 6));
        stopper.stop();
        double(batch, outbox, &out)
    });
    assert_eq!(run.unwrap().records, 6);
    check_outputs(broker, &out, &each_once(1, 6));
    assert_eq!(committed(broker, &group, &topic, 0), Some(6));
}

/// Retries, halving, dead letters and skips go with transactions: the good records' outputs appear once.
#[test]
fn policies_hold_with_transactions() {
    let (broker, group) = (shared_broker(), group());
    let (topic, out) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
    let letters = format!("{}-dlt", &*topic);
    create_topic_with(broker, &letters, 1, &[]);
    let value = |number: u64| if number == 11 { b"{".to_vec() } else { envelope(&number) };
    produce_raw_batch(broker, &topic, (0..16).map(|number| (0, None::<&str>, Some(value(number)))));
    let backoff = Backoff { first: Duration::from_millis(1), attempts: 2, ..Backoff::default() };
    let mut consumer = reader(broker, &group, &topic, 16)
        .on_error(OnError::retry(backoff).then(GiveUp::DeadLetter).bisect(true))
        .on_undecodable(OnUndecodable::Skip)
        .idle_timeout(Duration::from_secs(8))
        .build()
        .unwrap();
    let mut producer = producer(broker);
    let summary = consumer
        .run_exactly_once(&mut producer, |batch: &Batch<u64>, outbox| {
            double(batch, outbox, &out)?;
            if batch.iter().any(|record| [5, 15].contains(&record.payload)) { Err("bad".into()) } else { Ok(()) }
        })
        .unwrap();
    assert_eq!((summary.records, summary.skipped, summary.dead_lettered), (16, 1, 2));
    let mut expected = each_once(1, 16);
    expected.retain(|id, _| !["0-5", "0-11", "0-15"].contains(&id.as_str()));
    check_outputs(broker, &out, &expected);
    assert_eq!(consume_all(broker, &letters).len(), 2);
    assert_eq!(committed(broker, &group, &topic, 0), Some(16));
    delete_topic(broker, &letters);
}

/// What cannot be sent is the handler's failure: at once where it is seen at once, else when the broker refuses it.
#[test]
fn what_cannot_be_sent_is_the_handlers_failure() {
    let (broker, group) = (shared_broker(), group());
    let (topic, out) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
    let narrow = unique("narrow");
    create_topic_with(broker, &narrow, 1, &[("max.message.bytes", "1000")]);
    produce_numbers(broker, &topic, 0, 0..3);
    let mut producer = producer(broker);
    let mut consumer = reader(broker, &group, &topic, 3).build().unwrap();
    let incompressible: String = (0..100).map(|_| unique("")).collect();
    let refusals: [(&str, Message<String>); 3] = [
        (&out, Message::new("x".repeat(2_000_000))),
        (&narrow, Message::new(incompressible)),
        (&out, Message::new("nowhere".into()).partition(7)),
    ];
    for (to, message) in refusals {
        let error = consumer.run_exactly_once(&mut producer, |batch: &Batch<u64>, outbox| {
            double(batch, outbox, &out)?;
            outbox.send(to, &message)?;
            Ok(())
        });
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Handler { .. }), "{error}");
        assert_eq!((outputs(broker, &out).len(), committed(broker, &group, &topic, 0)), (0, None), "{error}");
    }
    let stopper = consumer.stopper();
    let run = consumer.run_exactly_once(&mut producer, |batch: &Batch<u64>, outbox| {
        stopper.stop();
        double(batch, outbox, &out)
    });
    assert_eq!(run.unwrap().records, 3);
    check_outputs(broker, &out, &each_once(1, 3));
    delete_topic(broker, &narrow);
}

/// A consumer that would handle records of aborted transactions, or skip what a broken one had read, is refused.
#[test]
fn a_consumer_that_breaks_the_promise_is_refused() {
    for (key, value) in [("isolation.level", "read_uncommitted"), ("auto.offset.reset", "latest")] {
        let mut producer = TransactionalProducer::new("t", "localhost:1", "t").unwrap();
        let consumer = consumer("localhost:1", "g", "t").config([(key, value)]);
        let mut consumer: Consumer = consumer.idle_timeout(Duration::ZERO).build().unwrap();
        let error = consumer.run_exactly_once(&mut producer, |_: &Batch<u64>, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
    }
}

/// A producer with the same transactional id takes over; the older one ends its run, and commits nothing more.
#[test]
fn a_fenced_producer_ends_its_run() {
    let (broker, group) = (shared_broker(), group());
    let (topic, out) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
    produce_numbers(broker, &topic, 0, 0..10);
    let transactional_id = unique("transactional");
    let build = || TransactionalProducer::new("doubler", broker, &transactional_id).unwrap();
    let (mut old, mut new) = (build(), build());
    let mut first = reader(broker, &group, &topic, 5).build().unwrap();
    let mut second = reader(broker, &self::group(), &topic, 5).build().unwrap();
    let stopper = second.stopper();
    let error = first.run_exactly_once(&mut old, |batch: &Batch<u64>, outbox| {
        let takes_over = |_: &Batch<u64>, _: &mut Outbox| {
            stopper.stop();
            Ok(())
        };
        second.run_exactly_once(&mut new, takes_over).unwrap();
        double(batch, outbox, &out)
    });
    let error = error.unwrap_err();
    assert!(error.is_fatal(), "{error}");
    assert!(error.to_string().contains(&transactional_id), "{error}");
    assert_eq!((outputs(broker, &out).len(), committed(broker, &group, &topic, 0)), (0, None));
}

#[derive(Serialize, Deserialize, Clone)]
struct Doubler {
    bootstrap: String,
    group: String,
    topic: String,
    out: String,
    transactional_id: String,
    /// Of a static member.
    instance: Option<String>,
    /// How long a batch takes.
    millis: u64,
    protocol: Option<String>,
}

const DOUBLER: &str = "exactly_once::doubler";

/// Doubles until it is killed, and says so before and after each batch. Every seventh attempt fails. Not a test by
/// itself.
#[test]
fn doubler() {
    let Some(of) = Worker::arguments::<Doubler>(DOUBLER) else { return };
    let backoff = Backoff { first: Duration::from_millis(1), attempts: u32::MAX, ..Backoff::default() };
    let mut builder = consumer(&of.bootstrap, &of.group, &of.topic)
        .batch_size(20)
        .idle_timeout(Duration::MAX)
        .drain_budget(Duration::from_secs(3))
        .on_error(OnError::retry(backoff))
        .config([("max.poll.interval.ms", "20000")]);
    builder = match &of.protocol {
        Some(protocol) => builder.config([("group.protocol", protocol)]),
        None => builder.config([("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "300")]),
    };
    if let Some(instance) = &of.instance {
        builder = builder.config([("group.instance.id", instance)]);
    }
    let mut consumer = builder.build().unwrap();
    consumer.stop_on_signals().unwrap();
    let mut producer = TransactionalProducer::new("doubler", &of.bootstrap, &of.transactional_id).unwrap();
    let mut attempts = 0;
    let run = consumer.run_exactly_once(&mut producer, |batch: &Batch<u64>, outbox| {
        attempts += 1;
        emit(&batch.len());
        std::thread::park_timeout(Duration::from_millis(of.millis));
        double(batch, outbox, &of.out)?;
        if attempts % 7 == 0 { Err("the seventh".into()) } else { Ok(()) }
    });
    if let Err(error) = run {
        // Somebody took its place while it was frozen.
        assert!(error.is_fatal(), "{error}");
    }
}

const PARTITIONS: i32 = 4;

/// Doublers of one group.
struct Scenario {
    topic: TestTopic,
    out: TestTopic,
    group: String,
    millis: u64,
    protocol: Option<String>,
}

impl Scenario {
    fn new(records: u64, millis: u64, protocol: Option<&str>) -> Self {
        let broker = shared_broker();
        let (topic, out) = (TestTopic::new(broker, PARTITIONS), TestTopic::new(broker, 2));
        for partition in 0..PARTITIONS {
            produce_numbers(broker, &topic, partition, 0..records);
        }
        Self { topic, out, group: group(), millis, protocol: protocol.map(str::to_owned) }
    }

    fn spawn(&self, number: usize) -> Worker {
        self.spawn_as(number, None)
    }

    fn spawn_as(&self, number: usize, instance: Option<String>) -> Worker {
        let of = Doubler {
            bootstrap: shared_broker().into(),
            group: self.group.clone(),
            topic: self.topic.to_string(),
            out: self.out.to_string(),
            transactional_id: format!("{}-{number}", self.group),
            instance,
            millis: self.millis,
            protocol: self.protocol.clone(),
        };
        Worker::spawn(DOUBLER, &of)
    }

    /// Waits until so many records of each partition are committed.
    fn finish(&self, records: u64) {
        let (broker, end) = (shared_broker(), Some(records as i64));
        eventually(PATIENCE * 2, "all is committed", || {
            (0..PARTITIONS).all(|partition| committed(broker, &self.group, &self.topic, partition) == end).then_some(())
        });
    }

    fn check(&self, records: u64) {
        check_outputs(shared_broker(), &self.out, &each_once(PARTITIONS, records));
    }
}

/// Doublers that are killed again and again, at any point of a batch: every output is there once, whoever looks at
/// committed records only.
#[test]
fn kills_leave_each_output_once() {
    const CHUNK: u64 = 100;
    let scenario = Scenario::new(CHUNK, 0, None);
    // Static, so that the next one need not wait for the session of the one that was killed.
    let spawn = |number: usize| scenario.spawn_as(number, Some(number.to_string()));
    let mut workers = [spawn(0), spawn(1)];
    let mut records = CHUNK;
    for kill in 0..16 {
        let number = kill % 2;
        // There is always something to do when the next one is killed.
        for partition in 0..PARTITIONS {
            produce_numbers(shared_broker(), &scenario.topic, partition, records..records + CHUNK);
        }
        records += CHUNK;
        for _ in 0..2 {
            workers[number].next::<usize>(PATIENCE);
        }
        // From the handler's start on: into the sending, the offsets, the commit and beyond.
        std::thread::park_timeout(Duration::from_millis(3 * kill as u64));
        workers[number].kill9();
        workers[number] = spawn(number);
    }
    scenario.finish(records);
    for worker in &mut workers {
        worker.sigterm();
        assert!(worker.wait(PATIENCE).success());
    }
    scenario.check(records);
}

/// A doubler that is frozen in a batch until the group has gone on without it commits nothing when it wakes up.
#[test]
fn a_zombie_commits_nothing() {
    let scenario = Scenario::new(400, 0, None);
    let mut zombie = scenario.spawn(0);
    zombie.next::<usize>(PATIENCE);
    zombie.freeze();
    let mut heir = scenario.spawn(1);
    scenario.finish(400);
    zombie.thaw();
    // It finds out, joins again, and does its share.
    for partition in 0..PARTITIONS {
        produce_numbers(shared_broker(), &scenario.topic, partition, 400..800);
    }
    scenario.finish(800);
    for worker in [&mut zombie, &mut heir] {
        worker.sigterm();
        assert!(worker.wait(PATIENCE).success());
    }
    scenario.check(800);
}

/// Members that come and go: a rebalance aborts what it catches, and what is kept is handled again.
#[test]
fn rebalances_leave_each_output_once() {
    come_and_go(2_500, None);
}

/// The same with the group protocol of KIP-848, where every change takes until the next heartbeat.
#[test]
fn rebalances_with_the_consumer_protocol_leave_each_output_once() {
    come_and_go(8_000, Some("consumer"));
}

fn come_and_go(records: u64, protocol: Option<&str>) {
    let scenario = Scenario::new(records, 30, protocol);
    let mut workers: Vec<Worker> = Vec::new();
    for number in 0..4 {
        let worker = scenario.spawn(number);
        for _ in 0..5 {
            worker.next::<usize>(PATIENCE);
        }
        workers.push(worker);
        if workers.len() == 3 {
            let mut leaves = workers.remove(0);
            leaves.sigterm();
            assert!(leaves.wait(PATIENCE).success());
        }
    }
    scenario.finish(records);
    for worker in &mut workers {
        worker.sigterm();
        assert!(worker.wait(PATIENCE).success());
    }
    scenario.check(records);
}

/// A broker that stops answering at any point of a transaction, for longer than one may take: it is aborted, or its end is
/// unknown and the group's offsets tell. The run goes on by itself.
#[test]
fn freezes_leave_each_output_once() {
    let broker = Broker::start();
    let bootstrap = broker.bootstrap();
    let (topic, out) = (create_topic(bootstrap, 1), create_topic(bootstrap, 1));
    produce_numbers(bootstrap, &topic, 0, 0..1_000);
    let group = group();
    let mut consumer = reader(bootstrap, &group, &topic, 10).build().unwrap();
    let stopper = consumer.stopper();
    // Half of the timeout is the most that a transaction takes.
    let producer = TransactionalProducer::builder("doubler", bootstrap, &unique("transactional"));
    let mut producer = producer.config([("transaction.timeout.ms", "4000")]).build().unwrap();
    let mut freezes = 0;
    let broker = &broker;
    std::thread::scope(|scope| {
        let run = consumer.run_exactly_once(&mut producer, |batch: &Batch<u64>, outbox| {
            double(batch, outbox, &out)?;
            let last = batch.iter().next_back().map_or(0, |record| record.payload);
            if last / 100 > freezes {
                freezes += 1;
                let moment = Duration::from_millis(freezes);
                scope.spawn(move || {
                    std::thread::park_timeout(moment);
                    broker.freeze();
                    std::thread::park_timeout(Duration::from_millis(2_700));
                    broker.thaw();
                });
            }
            if last == 999 {
                stopper.stop();
            }
            Ok(())
        });
        run.unwrap();
    });
    assert_eq!(freezes, 9);
    check_outputs(bootstrap, &out, &each_once(1, 1_000));
    assert_eq!(committed(bootstrap, &group, &topic, 0), Some(1_000));
}

/// Where it is not known whether a transaction was committed, the records are read again from the group's offsets, by a
/// new client. (The embedded broker's transactions store no offsets, so here they all come again.)
#[test]
fn after_an_unknown_end_the_groups_offsets_are_read() {
    let broker = EmbeddedBroker::start().unwrap();
    let bootstrap = broker.bootstrap_servers();
    broker.create_topic("in", 1).unwrap();
    broker.create_topic("out", 1).unwrap();
    produce_numbers(bootstrap, "in", 0, 0..10);
    let mut consumer = reader(bootstrap, "group", "in", 5).build().unwrap();
    let (stopper, mut producer) = (consumer.stopper(), producer(bootstrap));
    let mut seen = Vec::new();
    let run = consumer.run_exactly_once(&mut producer, |batch: &Batch<u64>, outbox| {
        seen.push((batch.attempt(), batch[0].payload, batch.len()));
        match seen.len() {
            2 => broker.fail_next(ApiKey::EndTxn, [ErrorCode::InvalidProducerIdMapping])?,
            4 => stopper.stop(),
            _ => {}
        }
        double(batch, outbox, "out")
    });
    assert_eq!(run.unwrap().records, 15);
    assert_eq!(seen, [(1, 0, 5), (1, 5, 5), (1, 0, 5), (1, 5, 5)]);
}

/// The same where the question for the group's offsets fails at first: no record is lost to that.
#[test]
fn an_unknown_end_loses_nothing() {
    for code in [ErrorCode::TopicAuthorizationFailed, ErrorCode::Unknown, ErrorCode::CoordinatorLoadInProgress] {
        let broker = EmbeddedBroker::start().unwrap();
        let bootstrap = broker.bootstrap_servers();
        broker.create_topic("in", 1).unwrap();
        broker.create_topic("out", 1).unwrap();
        produce_numbers(bootstrap, "in", 0, 0..5);
        let mut consumer = reader(bootstrap, "group", "in", 5).idle_timeout(PATIENCE).build().unwrap();
        let (stopper, mut producer) = (consumer.stopper(), producer(bootstrap));
        let mut seen = Vec::new();
        let run = consumer.run_exactly_once(&mut producer, |batch: &Batch<u64>, outbox| {
            seen.push((batch[0].payload, batch.len()));
            if seen.len() == 1 {
                broker.fail_next(ApiKey::EndTxn, [ErrorCode::InvalidProducerIdMapping])?;
                broker.fail_next(ApiKey::OffsetFetch, [code; 3])?;
            } else {
                stopper.stop();
            }
            double(batch, outbox, "out")
        });
        assert_eq!((run.unwrap().records, &*seen), (5, &[(0, 5), (0, 5)][..]), "{code}");
    }
}

/// A time limit that has passed before the handler is even called ends no run.
#[test]
fn a_handler_timeout_that_is_too_short_stops_nothing_for_good() {
    let broker = EmbeddedBroker::start().unwrap();
    let bootstrap = broker.bootstrap_servers();
    broker.create_topic("in", 1).unwrap();
    broker.create_topic("out", 1).unwrap();
    produce_numbers(bootstrap, "in", 0, 0..100);
    let mut consumer = consumer(bootstrap, "group", "in")
        .batch_size(1)
        .handler_timeout(Duration::from_micros(50))
        .idle_timeout(Duration::from_secs(3))
        .build()
        .unwrap();
    let mut producer = producer(bootstrap);
    let run = consumer.run_exactly_once(&mut producer, |batch: &Batch<u64>, outbox| double(batch, outbox, "out"));
    assert_eq!(run.unwrap().records, 100);
    assert!(consumer.health().is_healthy());
}

/// Without the right to commit for the group no batch can succeed: that ends the run, it is no fault of the records.
#[test]
fn a_missing_right_ends_the_run() {
    let broker = EmbeddedBroker::start().unwrap();
    let bootstrap = broker.bootstrap_servers();
    broker.create_topic("in", 1).unwrap();
    broker.create_topic("out", 1).unwrap();
    produce_numbers(bootstrap, "in", 0, 0..5);
    let skip = OnError::stop().then(GiveUp::Skip);
    let mut consumer = reader(bootstrap, "group", "in", 5).on_error(skip).build().unwrap();
    let mut producer = producer(bootstrap);
    broker.fail_next(ApiKey::AddOffsetsToTxn, [ErrorCode::GroupAuthorizationFailed]).unwrap();
    let error = consumer
        .run_exactly_once(&mut producer, |batch: &Batch<u64>, outbox| double(batch, outbox, "out"))
        .unwrap_err();
    assert!(matches!(error, Error::Transaction { .. }) && !error.is_fatal() && !error.is_retriable(), "{error}");
}
