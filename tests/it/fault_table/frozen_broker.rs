//! Row 5: a broker that does not answer and does not go away.

use std::time::{Duration, Instant};

use super::history::Clock;
use super::report::by_length;
use super::{Report, Scene, Setup, Work};
use crate::support::{Broker, PATIENCE, eventually};

/// What a service may take to end while nobody answers: 5 s for the last commit, 5 s for the client's end, and as much
/// again for a busy machine.
const END: Duration = Duration::from_secs(20);

/// The broker gets a SIGSTOP while services have commits under way, for longer than their sessions and longer than
/// `max.poll.interval.ms`. Meanwhile one service is told to end, with its commit unanswered, and has to within 20 s; another
/// starts, so that all rejoin when the broker goes on. No service may have stopped polling. Each freeze may repeat what each
/// of the three had not confirmed.
#[test]
fn row_05_frozen_broker() {
    let freezes = by_length(2, 5);
    let frozen = by_length(Duration::from_secs(8), Duration::from_secs(60));
    let broker = Broker::start();
    // Twice as fast as two services handle, so that each has something in hand when nothing comes any more.
    let mut scene = Scene::start(Setup::new(broker.bootstrap(), 1_000_000).rate(2_000));
    scene.service.batch = 50;
    scene.service.work = Work::Takes(Duration::from_millis(100));
    scene.service.drain_budget = Some(Duration::from_secs(2));
    scene.service.set("max.poll.interval.ms", "6000");
    let mut running: Vec<_> = (0..2).map(|_| scene.spawn()).collect();
    let mut unconfirmed = 0;
    for _ in 0..freezes {
        scene.until_all_handle(&running, 500, PATIENCE);
        broker.freeze();
        let (since, now) = (Instant::now(), Clock::new().now());
        // What is handled now cannot be committed. Who rejoins in this very moment has nothing to handle.
        eventually(frozen, "time passes", || (since.elapsed() >= frozen / 4).then_some(()));
        unconfirmed += running.iter().filter(|service| scene.has_handled_since(**service, now)).count();
        running.push(scene.spawn());
        scene.end_within(running.remove(0), END);
        eventually(frozen * 2, "time passes", || (since.elapsed() >= frozen).then_some(()));
        broker.thaw();
    }
    scene.until_all_handle(&running, 500, PATIENCE);
    assert!(unconfirmed > 0, "no commit was under way at any time");
    let records = scene.end_loads(PATIENCE);
    let bound = (freezes * 3) as u64 * scene.service.records_at_risk();
    assert_eq!(scene.logged("MAXPOLL"), [""; 0]);
    let verdict = scene.finish(PATIENCE);
    Report::of(5, "the broker is frozen with commits under way", freezes, records, &verdict, bound).file();
}
