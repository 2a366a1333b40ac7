//! Rows 9 and 25: commits whose answers are lost, or come too late.

use std::time::{Duration, Instant};

use super::report::by_length;
use super::{Report, Scene, Setup, Work};
use crate::support::proxy::{Fate, OFFSET_COMMIT, Proxy};
use crate::support::{PATIENCE, eventually};

/// As for a broker that is frozen.
const END: Duration = Duration::from_secs(20);

/// What is said of an answer that belongs to no commit.
const UNMATCHED: &str = "which is not in flight";

/// Of the answers to commits every twentieth is lost; all else gets through. The commit stands, and nobody is told: after
/// `socket.timeout.ms` (2 s here) it is sent again, nobody leaves the group, and nothing is handled twice.
#[test]
fn row_09_lost_answers() {
    let (fault, times) = ("answers to commits are lost", by_length(4, 50));
    commits_go_on((9, fault), &[("socket.timeout.ms", "2000")], times, Fate::Lost);
}

/// Answers to commits come twice as late as librdkafka waits for them, which has asked again by then, on the same
/// connection. Nothing is committed backward, and nothing is handled twice.
#[test]
fn row_25_answers_after_their_timeout() {
    let (fault, times) = ("answers to commits come after their timeout", by_length(3, 30));
    let settings = [("socket.timeout.ms", "2000"), ("socket.max.fails", "0")];
    commits_go_on((25, fault), &settings, times, Fate::Late(Duration::from_secs(4)));
}

/// Every twentieth answer to a commit has this fate, so many times, and nothing is handled twice.
fn commits_go_on((row, fault): (u32, &'static str), settings: &[(&str, &str)], times: usize, fate: Fate) {
    let (proxy, mut scene) = start(settings);
    let running = [scene.spawn(), scene.spawn()];
    scene.until_all_handle(&running, 500, PATIENCE);
    proxy.treat(OFFSET_COMMIT, 20, fate);
    eventually(PATIENCE * times as u32, fault, || (proxy.treated() >= times).then_some(()));
    proxy.treat_none();
    scene.until_all_handle(&running, 500, PATIENCE);
    assert_eq!(scene.logged(UNMATCHED), [""; 0]);
    let records = scene.end_loads(PATIENCE);
    let verdict = scene.finish(PATIENCE);
    Report::of(row, fault, proxy.treated(), records, &verdict, 0).file();
}

/// Answers to commits come after the deadlines of those who wait: of a revocation (2 s here), as another service joins, and
/// of a service that is told to end (5 s). Partitions go all the same, and the answer that comes later is matched with its
/// commit. What was not confirmed then is handled again: at each of the two deadlines what each of the services had in hand.
#[test]
fn row_25_answers_after_a_deadline() {
    let rounds = by_length(1, 10);
    let (proxy, mut scene) = start(&[]);
    scene.service.drain_budget = Some(Duration::from_secs(2));
    let mut running = vec![scene.spawn(), scene.spawn()];
    for _ in 0..rounds {
        scene.until_all_handle(&running, 500, PATIENCE);
        let before = proxy.treated();
        proxy.treat(OFFSET_COMMIT, 1, Fate::Late(Duration::from_secs(8)));
        eventually(PATIENCE, "answers are late", || (proxy.treated() >= before + 2).then_some(()));
        let since = Instant::now();
        running.push(scene.spawn());
        scene.until_it_handles(running[2], 50, PATIENCE);
        scene.end_within(running.remove(0), END);
        // Those that were late by then have come.
        eventually(PATIENCE, "time passes", || (since.elapsed() >= Duration::from_secs(9)).then_some(()));
        proxy.treat_none();
    }
    scene.until_all_handle(&running, 500, PATIENCE);
    assert_eq!(scene.logged(UNMATCHED), [""; 0]);
    let records = scene.end_loads(PATIENCE);
    let bound = (rounds * 2 * 3) as u64 * scene.service.records_at_risk();
    let verdict = scene.finish(PATIENCE);
    Report::of(25, "answers to commits come after a deadline", proxy.treated(), records, &verdict, bound).file();
}

/// Only the services go through the proxy. Sessions are so long that nobody leaves, however slow the machine is.
fn start(settings: &[(&str, &str)]) -> (Proxy, Scene) {
    let (proxy, broker) = Proxy::start();
    let setup = Setup::new(broker.bootstrap(), 1_000_000).rate(1_500);
    let mut scene = Scene::start(Setup { services_bootstrap: Some(proxy.address()), ..setup });
    scene.keep(broker);
    scene.service.batch = 50;
    scene.service.work = Work::Takes(Duration::from_millis(5));
    let settings = [&[("session.timeout.ms", "30000")], settings].concat();
    for (key, value) in settings {
        scene.service.set(key, value);
    }
    (proxy, scene)
}
