//! Rows 12, 13 and 19: topics that are made anew, that grow, and whose logs have gaps.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};

use super::checker::Place;
use super::history::{Clock, What};
use super::load::{ENDLESS, Payload};
use super::log_of_topic::log_of;
use super::report::by_length;
use super::service::{KNOWS_ITS_TOPIC, PARTITIONS};
use super::{Report, Scene, Setup, Work};
use crate::support::kafka::{self, create_partitions};
use crate::support::{
    Broker, PATIENCE, consume_all, create_topic_with, delete_topic, envelope, eventually, shared_broker, unique,
};

/// The topic is deleted and made anew under its services; the new one soon has more records than the old one had. The
/// services say so and read it from 0, also after another has joined, and end in time though the topic is gone again.
/// The bound: with each line that says so a partition starts at 0 once more, so what was handled before comes again.
#[test]
fn row_12_topics_made_anew() {
    let (times, rate) = (by_length(1, 6), 1_500);
    let setup = Setup { partitions: 3, ..Setup::new(shared_broker(), ENDLESS).rate(rate) };
    let mut scene = Scene::start(setup);
    scene.service.set("session.timeout.ms", "30000");
    let clock = Clock::new();
    let mut running: Vec<_> = (0..2).map(|_| scene.spawn()).collect();
    scene.until_handled(2_000, PATIENCE);
    scene.end_loads(PATIENCE);
    let log = scene.until_committed(PATIENCE);
    let first = scene.evidence(log).check();
    let mut report = Report::of(12, "a topic is deleted and made anew", times, first.records, &first, 0);
    for generation in 1..=times {
        let knows = |scene: &mut Scene, service: usize| {
            let is_told = |what: &What| matches!(what, What::Logged { line } if line.contains(KNOWS_ITS_TOPIC));
            scene.lines(service).iter().any(|line| is_told(&line.what))
        };
        eventually(PATIENCE, "all know the topic", || {
            running.iter().all(|service| knows(&mut scene, *service)).then_some(())
        });
        delete_topic(&scene.bootstrap, &scene.topic);
        let deleted = clock.now();
        create_topic_with(&scene.bootstrap, &scene.topic, 3, &[]);
        scene.load_again(3, ENDLESS, Some(rate + 500 * generation));
        let is_told = |scene: &mut Scene, service: usize| {
            let lines = scene.lines(service).iter().filter(|line| line.at > deleted);
            lines
                .filter(
                    |line| matches!(&line.what, What::Logged { line } if line.contains("was deleted and made anew")),
                )
                .count()
                > 0
        };
        eventually(PATIENCE, "all say that the topic was made anew", || {
            running.iter().all(|service| is_told(&mut scene, *service)).then_some(())
        });
        // From then on what is committed is of the new topic.
        eventually(PATIENCE, "commits are of the new topic", || {
            // Asked before what is handled, which goes on meanwhile.
            let committed: Option<Vec<_>> = (0..3).map(|partition| scene.watcher.committed(partition)).collect();
            let handled = handled_of(&mut scene, generation as i32, None);
            let is_new = |(partition, committed): (i32, i64)| {
                (0..committed).all(|offset| handled.contains(&(partition, offset)))
            };
            (0..).zip(committed?).all(is_new).then_some(())
        });
        let settled = clock.now();

        let late = scene.spawn();
        scene.until_it_handles(late, 300, PATIENCE);
        let oldest = running.remove(0);
        scene.worker(oldest).sigterm();
        scene.worker(oldest).wait(PATIENCE);
        running.push(late);
        scene.until_it_handles(late, 1_000, PATIENCE);
        scene.end_loads(PATIENCE);
        let log = scene.until_committed(PATIENCE);
        let mut evidence = scene.evidence(log).of_generation(generation as i32);
        let load = &scene.more_loads[generation - 1];
        (evidence.acknowledged, evidence.unplaced) = (load.acknowledged(), load.unplaced());
        evidence.committed.retain(|seen| seen.asked > settled);
        let told = evidence.logged("made anew").into_iter().map(|(at, _)| at).filter(|at| *at > deleted);
        let told: Vec<_> = told.collect();
        let bound = told.len() * evidence.handled_until(*told.iter().max().unwrap());
        let verdict = evidence.check();
        report.wrong.extend(verdict.faults());
        report.lost += verdict.lost.len();
        report.records += verdict.records;
        report.duplicates += verdict.duplicates;
        report.bound += bound as u64;
        report.longest_stall = report.longest_stall.max(Duration::from_micros(verdict.longest_stall));
    }
    delete_topic(&scene.bootstrap, &scene.topic);
    let began = Instant::now();
    scene.stop_services();
    assert!(began.elapsed() < Duration::from_secs(20), "they ended after {:?}", began.elapsed());
    report.file();
}

/// What was handled of a generation, by one service or by all.
fn handled_of(scene: &mut Scene, generation: i32, by: Option<usize>) -> BTreeSet<Place> {
    let evidence = scene.evidence(Vec::new()).of_generation(generation);
    let mut handled = BTreeSet::new();
    let services = evidence.services.iter().enumerate().filter(|(service, _)| by.is_none_or(|by| by == *service));
    for line in services.flat_map(|(_, lines)| lines) {
        if let What::Handled { records, .. } = &line.what {
            for (partition, (first, last)) in records {
                handled.extend((*first..=*last).map(|offset| (*partition, offset)));
            }
        }
    }
    handled
}

/// A topic of 6 partitions gets 12, and records come to the new ones before the services know of them. All are read from
/// 0, and nothing is handled twice: what a change of partitions takes away is finished and committed before.
#[test]
fn row_13_topics_that_grow() {
    let times = by_length(1, 3);
    let most = 6 << times;
    let setup = Setup { partitions_later: Some(most), ..Setup::new(shared_broker(), ENDLESS).rate(1_500) };
    let mut scene = Scene::start(setup);
    scene.service.set("session.timeout.ms", "30000");
    // The change meets some batches in hand.
    scene.service.work = Work::Takes(Duration::from_millis(20));
    let services: Vec<_> = (0..3).map(|_| scene.spawn()).collect();
    let mut partitions = 6;
    for generation in 1..=times {
        scene.until_handled(1_000, PATIENCE);
        let before = partitions;
        partitions *= 2;
        create_partitions(&scene.bootstrap, &scene.topic, partitions);
        scene.load_again(partitions, ENDLESS, Some(1_500));
        let new: Vec<_> = (before..partitions).map(|partition| (partition, 0)).collect();
        eventually(PATIENCE, "the new partitions are handled", || {
            let handled = handled_of(&mut scene, generation as i32, None);
            new.iter().all(|first| handled.contains(first)).then_some(())
        });
    }
    scene.until_all_handle(&services, 300, PATIENCE);
    let records = scene.end_loads(PATIENCE);
    let verdict = scene.finish_with(PATIENCE, |evidence| {
        // Of whichever load a record is.
        for line in evidence.services.iter_mut().flatten() {
            if let What::Handled { records, .. } = &mut line.what {
                records.iter_mut().for_each(|(partition, _)| *partition %= PARTITIONS);
            }
        }
    });
    Report::of(13, "a topic gets twice as many partitions", times, records, &verdict, 0).file();
}

/// Records with keys in transactions, of which every third is aborted, and tombstones among them, while the log is
/// compacted. All that is left in the log was handled; and a service that then reads what is left, with gaps wherever
/// something was removed, and one that stands at its end, behind a transaction's mark, report neither a stall nor a loss.
#[test]
fn row_19_logs_with_gaps() {
    let broker = Broker::start_with(&[("log.cleaner.backoff.ms", "200")]);
    let topic_settings: &[_] = &[
        ("cleanup.policy", "compact"),
        ("segment.ms", "200"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "100"),
    ];
    let setup = Setup { partitions: 2, topic_settings, ..Setup::new(broker.bootstrap(), 0) };
    let mut scene = Scene::start(setup);
    scene.service.set("isolation.level", "read_committed");
    scene.service.set("session.timeout.ms", "30000");
    let first = scene.spawn();
    let transactions = by_length(60, 2_000);
    let mut written = produce_transactions(broker.bootstrap(), &scene.topic, 0..transactions);
    // Each time there is one more segment that can be compacted.
    let mut next = transactions;
    eventually(PATIENCE * 2, "the log is compacted", || {
        written += produce_transactions(broker.bootstrap(), &scene.topic, next..next + 3);
        next += 3;
        (log_of(broker.bootstrap(), &scene.topic).len() < written / 2).then_some(())
    });
    let log = without_tombstones(&scene);
    // Until all of it is committed, tombstones at the end too.
    scene.until_committed(PATIENCE);
    let mut evidence = scene.evidence(log);
    evidence.acknowledged.clear();
    let verdict = evidence.check();
    let mut report = Report::of(19, "compaction, tombstones, aborted transactions", next, written, &verdict, 0);

    // One in another group reads what is left; the first stands at the end, and another in its place.
    let mut late = scene.service.clone();
    late.group = unique("late");
    late.stall_timeout = Some(Duration::from_secs(3));
    let late = scene.spawn_as(late);
    scene.worker(first).sigterm();
    scene.worker(first).wait(PATIENCE);
    scene.service.stall_timeout = Some(Duration::from_secs(3));
    let second = scene.spawn();
    let left = without_tombstones(&scene);
    eventually(PATIENCE, "the late one has read what is left", || {
        let handled = handled_of(&mut scene, 0, Some(late));
        left.iter().all(|place| handled.contains(place)).then_some(())
    });
    // So long that a false stall would show, counted from its assignment on.
    thread::sleep(Duration::from_secs(8));
    for service in [first, late, second] {
        for line in scene.lines(service) {
            let What::Logged { line } = &line.what else { continue };
            if line.contains("is stalled") || line.contains("goes on at offset") || line.contains("anew") {
                report.wrong.push(line.clone());
            }
        }
    }
    let mut evidence = scene.evidence(left);
    evidence.services = vec![evidence.services.swap_remove(late)];
    (evidence.committed, evidence.acknowledged) = Default::default();
    let read = evidence.check();
    report.wrong.extend(read.faults());
    report.duplicates += read.duplicates;
    scene.stop_services();
    report.file();
}

/// Of each three one is aborted. Every fifth record is a tombstone. Returns how many records were committed.
fn produce_transactions(bootstrap: &str, topic: &str, numbers: std::ops::Range<usize>) -> usize {
    let mut config = kafka::client(bootstrap);
    config.remove("enable.auto.commit").set("transactional.id", unique("writer"));
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    let mut committed = 0;
    for number in numbers {
        producer.begin_transaction().unwrap();
        for record in 0..20 {
            let key = format!("key-{}", (number + record) % 30);
            let partition = record as i32 % 2;
            let value = envelope(&Payload::new(number));
            let mut record_to = BaseRecord::to(topic).partition(partition).key(&key);
            if (number + record) % 5 != 0 {
                record_to = record_to.payload(&value);
            }
            producer.send(record_to).unwrap();
        }
        // An aborted record is to be in the log.
        producer.flush(PATIENCE).unwrap();
        match number % 3 {
            0 => producer.abort_transaction(PATIENCE).unwrap(),
            _ => {
                producer.commit_transaction(PATIENCE).unwrap();
                committed += 20;
            }
        }
    }
    committed
}

fn without_tombstones(scene: &Scene) -> Vec<Place> {
    use rdkafka::Message;
    let records = consume_all(&scene.bootstrap, &scene.topic);
    let values = records.iter().filter(|record| record.payload().is_some());
    values.map(|record| (record.partition(), record.offset())).collect()
}
