//! Rows 14 and 27: what is committed stands before the log's start, or is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};

use super::checker::{Evidence, Place};
use super::history::{Clock, Line, What};
use super::load::ENDLESS;
use super::report::{by_length, is_long};
use super::{Report, Scene, Setup};
use crate::support::kafka::{self, delete_group, delete_records};
use crate::support::{Broker, PATIENCE, committed, eventually, shared_broker};

const PARTITIONS: i32 = 3;

/// While no service runs, `DeleteRecords` removes records that were not handled. The next service says of each partition
/// how many records are lost, and goes on where `auto.offset.reset` says: at the log's start with `earliest`, at its end
/// with `latest`. Nothing else is left out, and nothing comes twice.
#[test]
fn row_14_records_deleted_before_they_are_read() {
    for (policy, fault) in [
        ("earliest", "DeleteRecords beyond the committed offset, earliest"),
        ("latest", "DeleteRecords beyond the committed offset, latest"),
    ] {
        let times = by_length(2, 20);
        let mut scene = scene(shared_broker(), policy);
        let mut running = scene.spawn();
        for _ in 0..times {
            scene.until_it_handles(running, 600, PATIENCE);
            scene.worker(running).sigterm();
            assert!(scene.worker(running).wait(PATIENCE).success());
            let committed: Vec<_> = (0..PARTITIONS).map(|partition| committed_of(&scene, partition)).collect();
            let behind = |end: i64, partition: i32| end >= committed[partition as usize] + 400;
            let ends = eventually(PATIENCE, "records come that nobody handles", || {
                let ends = ends(&scene);
                ends.iter().all(|(partition, end)| behind(*end, *partition)).then_some(ends)
            });
            let cut: Vec<Place> =
                ends.iter().map(|(partition, end)| (*partition, (committed[*partition as usize] + end) / 2)).collect();
            delete_records(&scene.bootstrap, &scene.topic, &cut);
            running = scene.spawn();
            let told = eventually(PATIENCE, "the service says what is lost", || {
                let told = resets(scene.lines(running));
                (told.len() == PARTITIONS as usize).then_some(told)
            });
            let ends_now = self::ends(&scene);
            for (partition, start) in cut {
                let (wanted, goes_on) = told[&partition];
                assert_eq!(wanted, committed[partition as usize], "partition {partition}");
                match policy {
                    "earliest" => assert_eq!(goes_on, start, "partition {partition}"),
                    _ => assert!(
                        (ends[&partition]..=ends_now[&partition]).contains(&goes_on),
                        "partition {partition}: {told:?}, {ends:?}, {ends_now:?}"
                    ),
                }
            }
        }
        scene.until_it_handles(running, 600, PATIENCE);
        let records = scene.end_loads(PATIENCE);
        let verdict = scene.finish_with(PATIENCE, |evidence| {
            let gone = evidence.services.iter().flat_map(|lines| resets(lines)).collect::<Vec<_>>();
            let is_gone = |(partition, offset): &Place| {
                gone.iter().any(|(of, (wanted, goes_on))| of == partition && (*wanted..*goes_on).contains(offset))
            };
            evidence.log.retain(|place| !is_gone(place));
            let low = lows(evidence);
            evidence.acknowledged.retain(|place| !is_gone(place) && place.1 >= low[&place.0]);
        });
        Report::of(14, fault, times, records, &verdict, 0).file();
    }
}

/// What the group has committed is deleted while no service runs (in the long form it also expires, on a broker of its own).
/// The next service says that nothing is committed, and starts where `auto.offset.reset` says: with `earliest` all that is
/// in the log comes again, which is the bound; with `latest` it goes on with what comes from then on.
#[test]
fn row_27_committed_offsets_that_are_gone() {
    lose_offsets(shared_broker(), "earliest", "committed offsets are deleted, earliest", delete_group);
    lose_offsets(shared_broker(), "latest", "committed offsets are deleted, latest", delete_group);
    if is_long() {
        let settings = [("offsets.retention.minutes", "1"), ("offsets.retention.check.interval.ms", "1000")];
        let broker = Broker::start_with(&settings);
        let expire = |_: &str, _: &str| ();
        lose_offsets(broker.bootstrap(), "earliest", "committed offsets expire, earliest", expire);
        lose_offsets(broker.bootstrap(), "latest", "committed offsets expire, latest", expire);
    }
}

fn lose_offsets(bootstrap: &str, policy: &str, fault: &'static str, lose: impl Fn(&str, &str)) {
    let mut scene = scene(bootstrap, policy);
    let clock = Clock::new();
    let first = scene.spawn();
    scene.until_it_handles(first, 1_000, PATIENCE);
    scene.worker(first).sigterm();
    assert!(scene.worker(first).wait(PATIENCE).success());
    let handled = scene.handled();
    let stopped = clock.now();
    let before = scene.evidence(Vec::new());
    lose(bootstrap, &scene.group);
    eventually(PATIENCE * 4, "nothing is committed any more", || {
        (0..PARTITIONS).all(|p| committed(bootstrap, &scene.group, &scene.topic, p).is_none()).then_some(())
    });
    let gone = clock.now();
    let ends_then = ends(&scene);
    let second = scene.spawn();
    scene.until_it_handles(second, 1_500, PATIENCE);
    let records = scene.end_loads(PATIENCE);
    let mut told = 0;
    let mut verdict = scene.finish_with(PATIENCE, |evidence| {
        told = evidence.logged("nothing committed").iter().filter(|(at, _)| *at > stopped).count();
        evidence.committed.retain(|seen| seen.asked > gone);
        if policy == "latest" {
            let starts = starts(&evidence.services[second]);
            for (partition, start) in &starts {
                assert!(start >= &ends_then[partition], "partition {partition}: {starts:?}, {ends_then:?}");
            }
            // Handled or not, what stands before is none of its business.
            let is_left_out = |(partition, offset): &Place| *offset < starts[partition];
            evidence.log.retain(|place| !is_left_out(place));
            evidence.acknowledged.retain(|place| !is_left_out(place));
        }
    });
    // Before they were lost the commits were right, too.
    let log = before.acknowledged.clone();
    let earlier = Evidence { log, acknowledged: Vec::new(), ..before }.check();
    verdict.early.extend(earlier.early);
    verdict.rewound.extend(earlier.rewound);
    let bound = if policy == "earliest" { handled as u64 } else { 0 };
    let mut report = Report::of(27, fault, 1, records, &verdict, bound);
    if told == 0 {
        report.wrong.push("nobody says that nothing is committed".into());
    }
    report.file();
}

fn scene(bootstrap: &str, policy: &str) -> Scene {
    let setup = Setup { partitions: PARTITIONS, ..Setup::new(bootstrap, ENDLESS).rate(1_500) };
    let mut scene = Scene::start(setup);
    scene.service.set("auto.offset.reset", policy);
    scene.service.set("session.timeout.ms", "30000");
    if policy == "latest" {
        // Without anything committed it would not read what is there.
        let mut from_the_start = scene.service.clone();
        from_the_start.set("auto.offset.reset", "earliest");
        let first = scene.spawn_as(from_the_start);
        scene.until_it_handles(first, 300, PATIENCE);
        scene.worker(first).sigterm();
        assert!(scene.worker(first).wait(PATIENCE).success());
    }
    scene
}

fn committed_of(scene: &Scene, partition: i32) -> i64 {
    committed(&scene.bootstrap, &scene.group, &scene.topic, partition).unwrap_or(0)
}

/// Where the log of each partition ends.
fn ends(scene: &Scene) -> BTreeMap<i32, i64> {
    let client: BaseConsumer = kafka::client(&scene.bootstrap).create().unwrap();
    let end = |partition| {
        let told = || client.fetch_watermarks(&scene.topic, partition, Duration::from_secs(5)).ok();
        (partition, eventually(PATIENCE, "the log's end is told", told).1)
    };
    (0..PARTITIONS).map(end).collect()
}

/// The first offsets that are left.
fn lows(evidence: &Evidence) -> BTreeMap<i32, i64> {
    let mut lows = BTreeMap::new();
    for (partition, offset) in &evidence.log {
        let low = lows.entry(*partition).or_insert(*offset);
        *low = (*offset).min(*low);
    }
    lows
}

/// What was handled first of each partition.
fn starts(lines: &[Line]) -> BTreeMap<i32, i64> {
    let mut starts = BTreeMap::new();
    for line in lines {
        if let What::Handled { records, .. } = &line.what {
            for (partition, (first, _)) in records {
                starts.entry(*partition).or_insert(*first);
            }
        }
    }
    starts
}

/// Of each partition the offset that was wanted and the one from which it goes on, as the service logged it.
fn resets(lines: &[Line]) -> BTreeMap<i32, (i64, i64)> {
    let reset = |line: &Line| {
        let What::Logged { line } = &line.what else { return None };
        let (name, rest) = line.split_once(" goes on at offset ")?;
        let (goes_on, rest) = rest.split_once(" instead of ")?;
        let (wanted, _) = rest.split_once(':')?;
        let partition = name.rsplit_once(':')?.1.parse().ok()?;
        Some((partition, (wanted.parse().ok()?, goes_on.parse().ok()?)))
    };
    lines.iter().filter_map(reset).collect()
}
