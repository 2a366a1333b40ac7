//! Rows 3 and 21: services that come and go, and two that claim the same place.

use std::thread;
use std::time::{Duration, Instant};

use super::history::What;
use super::load::ENDLESS;
use super::report::by_length;
use super::{Report, Scene, Setup, Work};
use crate::support::{PATIENCE, shared_broker};

const PACE: Duration = Duration::from_secs(2);

/// Every two seconds one service joins and another leaves, while two more go on; with an assignor that takes all
/// partitions away at each change, with one that takes only those that move, and with the protocol in which the broker
/// assigns. Each record is handled, in order within an ownership, and nobody commits for a partition that another has.
/// The bound is one for each change and service of what a service has handled and not committed: a change may take
/// partitions away while their commit is refused.
#[test]
fn row_03_services_that_come_and_go() {
    for (key, protocol, fault) in [
        ("partition.assignment.strategy", "range,roundrobin", "services join and leave, eager"),
        ("partition.assignment.strategy", "cooperative-sticky", "services join and leave, cooperative"),
        ("group.protocol", "consumer", "services join and leave, assigned by the broker"),
    ] {
        let changes = by_length(4, 60);
        let mut scene = Scene::start(Setup::new(shared_broker(), ENDLESS).rate(2_000));
        if key == "group.protocol" {
            scene.service.config.clear();
        }
        scene.service.set(key, protocol);
        scene.service.batch = 20;
        // A change meets some batches in hand.
        scene.service.work = Work::Takes(Duration::from_millis(10));
        let mut members: Vec<_> = (0..3).map(|_| scene.spawn()).collect();
        scene.until_handled(500, PATIENCE);
        for _ in 0..changes {
            let until = Instant::now() + PACE;
            members.push(scene.spawn());
            let oldest = members.remove(0);
            scene.worker(oldest).sigterm();
            assert!(scene.worker(oldest).wait(PATIENCE).success());
            thread::sleep(until.saturating_duration_since(Instant::now()));
        }
        let records = scene.end_loads(PATIENCE);
        let bound = (2 * changes * members.len()) as u64 * scene.service.records_at_risk();
        let verdict = scene.finish(PATIENCE);
        Report::of(3, fault, 2 * changes, records, &verdict, bound).file();
    }
}

/// A service starts with the `group.instance.id` of one that runs, and takes its place. The older one ends with an error
/// that says so, nobody else ends, and it commits nothing any more. The bound is what it had handled and not committed.
#[test]
fn row_21_one_place_for_two_services() {
    let times = by_length(4, 30);
    let mut scene = Scene::start(Setup::new(shared_broker(), ENDLESS).rate(2_000));
    scene.service.set("group.instance.id", "the-one");
    let mut running = scene.spawn();
    scene.until_it_handles(running, 200, PATIENCE);
    for _ in 0..times {
        let next = scene.spawn();
        assert!(!scene.worker(running).wait(PATIENCE).success(), "the older one ends with an error");
        let ended = |line: &super::history::Line| match &line.what {
            What::Ended { error } => error.clone(),
            _ => None,
        };
        let error = scene.lines(running).iter().find_map(ended).unwrap_or_default();
        assert!(error.to_lowercase().contains("fenced"), "{error}");
        scene.until_it_handles(next, 200, PATIENCE);
        assert!(scene.worker(next).ended().is_none(), "both ended");
        running = next;
    }
    let records = scene.end_loads(PATIENCE);
    let bound = times as u64 * scene.service.records_at_risk();
    let verdict = scene.finish(PATIENCE);
    Report::of(21, "two services with one group.instance.id", times, records, &verdict, bound).file();
}
