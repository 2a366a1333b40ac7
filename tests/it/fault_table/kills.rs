//! Rows 1, 2 and 4: services that are killed, stopped and frozen.

use std::time::{Duration, Instant};

use super::report::by_length;
use super::service::Commits;
use super::{Report, Scene, Setup, Work};
use crate::support::{PATIENCE, shared_broker};

/// A good part of the time a service has a batch in hand, so that its end meets it there: what is committed too early, or not
/// at all, shows.
const WORK: Work = Work::Takes(Duration::from_millis(20));

/// Of three services one is killed at a time, and another takes its place.
#[test]
fn row_01_killed_services() {
    for (commits, fault) in [
        (Commits::Overlapped(16), "a service is killed, commits overlapped"),
        (Commits::EachBatch, "a service is killed, each batch committed"),
    ] {
        let kills = by_length(4, 50);
        let records = by_length(30_000, 200_000);
        let mut scene = Scene::start(Setup::new(shared_broker(), records).rate(by_length(3_000, 2_000)));
        scene.service.commits = commits;
        (scene.service.batch, scene.service.work) = (50, WORK);
        let mut running: Vec<_> = (0..3).map(|_| scene.spawn()).collect();
        let mut injected = 0;
        while injected < kills && !scene.load.is_done() {
            let victim = running.remove(0);
            scene.until_it_handles(victim, 200, PATIENCE);
            scene.worker(victim).kill9();
            running.push(scene.spawn());
            injected += 1;
        }
        let bound = injected as u64 * scene.service.records_at_risk();
        let verdict = scene.finish(PATIENCE);
        Report::of(1, fault, injected, records, &verdict, bound).file();
    }
}

/// One service after the other is told to end. It commits what it did, so nothing is handled twice.
#[test]
fn row_02_stopped_services() {
    let stops = by_length(6, 50);
    let records = by_length(30_000, 200_000);
    let mut scene = Scene::start(Setup::new(shared_broker(), records).rate(by_length(3_000, 2_000)));
    (scene.service.batch, scene.service.work) = (50, WORK);
    let mut running: Vec<_> = (0..3).map(|_| scene.spawn()).collect();
    let mut injected = 0;
    while injected < stops && !scene.load.is_done() {
        let next = running.remove(0);
        scene.until_it_handles(next, 200, PATIENCE);
        let began = Instant::now();
        scene.worker(next).sigterm();
        assert!(scene.worker(next).wait(PATIENCE).success());
        assert!(began.elapsed() < Duration::from_secs(10), "it ended after {:?}", began.elapsed());
        running.push(scene.spawn());
        injected += 1;
    }
    let verdict = scene.finish(PATIENCE);
    Report::of(2, "a service is told to end", injected, records, &verdict, 0).file();
}

/// A service stands still until the group has gone on without it, and wakes up as one that believes to have its partitions:
/// it repeats what it had not committed at the most, and commits nothing any more.
#[test]
fn row_04_frozen_services() {
    let freezes = by_length(2, 20);
    let records = by_length(30_000, 200_000);
    let mut scene = Scene::start(Setup::new(shared_broker(), records).rate(by_length(1_000, 1_000)));
    (scene.service.batch, scene.service.work) = (50, WORK);
    let running = [scene.spawn(), scene.spawn()];
    let mut injected = 0;
    while injected < freezes && !scene.load.is_done() {
        let (victim, other) = (running[injected % 2], running[(injected + 1) % 2]);
        scene.until_it_handles(victim, 200, PATIENCE);
        scene.worker(victim).freeze();
        // It has all partitions once the session of the frozen one is over.
        scene.until_it_is_assigned(other, 6, PATIENCE);
        scene.until_it_handles(other, 1_000, PATIENCE);
        scene.worker(victim).thaw();
        injected += 1;
    }
    let bound = injected as u64 * scene.service.records_at_risk();
    let verdict = scene.finish(PATIENCE);
    Report::of(4, "a service is frozen past its session", injected, records, &verdict, bound).file();
}
