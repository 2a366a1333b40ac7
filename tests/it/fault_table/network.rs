//! Row 8: a network that breaks, delays, throttles and swallows.

use std::time::{Duration, Instant};

use super::report::by_length;
use super::{Report, Scene, Setup, Work};
use crate::support::proxy::{Proxy, Way};
use crate::support::{Broker, eventually};

/// Nothing that is sent into a black hole is missed before librdkafka's `socket.timeout.ms`, a minute by default.
const SOON: Duration = Duration::from_secs(180);

/// As for a broker that is frozen.
const END: Duration = Duration::from_secs(20);

/// Services and producer reach the broker through a proxy. All connections break, again and again, with requests and answers
/// under way; every round trip takes two seconds; only a kilobyte a second gets through on each connection; and nothing
/// arrives for longer than a session, while no connection ends, and those that lost something stay silent for ever. A service
/// that is told to end meanwhile does within 20 s, its last commit unanswered. Each time what each service had not confirmed
/// may come again.
#[test]
fn row_08_network() {
    let (proxy, broker) = Proxy::start();
    cut(&proxy, &broker);
    slow(&proxy, &broker);
    black_hole(&proxy, &broker);
}

fn cut(proxy: &Proxy, broker: &Broker) {
    let mut scene = start(proxy, broker);
    let cuts = by_length(6, 100);
    let running = [scene.spawn(), scene.spawn()];
    for _ in 0..cuts {
        scene.until_all_handle(&running, 200, SOON);
        proxy.cut();
    }
    // And once for longer than a session.
    proxy.set(Way::Shut);
    pass(Duration::from_secs(8));
    proxy.set(Way::Open);
    report(scene, "all connections break", cuts + 1, running.len());
}

fn slow(proxy: &Proxy, broker: &Broker) {
    for (way, fault) in [
        (Way::Late(Duration::from_secs(1)), "every round trip takes 2 s"),
        (Way::Slow(1024), "1 KB/s on each connection"),
    ] {
        let times = by_length(1, 3);
        let mut scene = start(proxy, broker);
        let running = [scene.spawn(), scene.spawn()];
        for _ in 0..times {
            scene.until_all_handle(&running, 500, SOON);
            proxy.set(way);
            // What was fetched before is soon handled; this is more.
            let before = Instant::now();
            scene.until_handled(200, SOON);
            pass(by_length(Duration::from_secs(4), Duration::from_secs(60)).saturating_sub(before.elapsed()));
            proxy.set(Way::Open);
        }
        report(scene, fault, times, running.len());
    }
}

fn black_hole(proxy: &Proxy, broker: &Broker) {
    let holes = by_length(1, 3);
    // The long form waits for librdkafka's own minute.
    let timeouts: &[_] = by_length(&[("socket.timeout.ms", "10000"), ("request.timeout.ms", "10000")], &[]);
    let setup = Setup::new(broker.bootstrap(), 1_000_000).rate(2_000).through(proxy);
    let mut scene = Scene::start(Setup { load_config: timeouts, ..setup });
    scene.service.batch = 50;
    scene.service.work = Work::Takes(Duration::from_millis(10));
    for (key, value) in timeouts.iter().filter(|(key, _)| *key == "socket.timeout.ms") {
        scene.service.set(key, value);
    }
    let mut running = vec![scene.spawn(), scene.spawn()];
    for _ in 0..holes {
        scene.until_all_handle(&running, 500, SOON);
        proxy.set(Way::Hole);
        let since = Instant::now();
        running.push(scene.spawn());
        scene.end_within(running.remove(0), END);
        pass(by_length(Duration::from_secs(8), Duration::from_secs(60)).saturating_sub(since.elapsed()));
        proxy.set(Way::Open);
    }
    scene.until_all_handle(&running, 500, SOON);
    // One joins, and one ends.
    report(scene, "nothing arrives, and no connection ends", holes, running.len() + 1);
}

fn start(proxy: &Proxy, broker: &Broker) -> Scene {
    let mut scene = Scene::start(Setup::new(broker.bootstrap(), 1_000_000).rate(2_000).through(proxy));
    scene.service.batch = 50;
    scene.service.work = Work::Takes(Duration::from_millis(10));
    scene
}

fn report(mut scene: Scene, fault: &'static str, times: usize, services: usize) {
    let records = scene.end_loads(SOON);
    let bound = (times * services) as u64 * scene.service.records_at_risk();
    let verdict = scene.finish(SOON);
    Report::of(8, fault, times, records, &verdict, bound).file();
}

fn pass(time: Duration) {
    let since = Instant::now();
    eventually(time * 2, "time passes", || (since.elapsed() >= time).then_some(()));
}
