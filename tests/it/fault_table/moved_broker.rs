//! Row 30: a broker that is found at another address from now on.

use std::time::Duration;

use super::report::by_length;
use super::{Report, Scene, Setup};
use crate::support::proxy::Proxy;
use crate::support::{Broker, PATIENCE};

/// The broker ends, and comes back on another port with what it had. All clients know one first address, which leads to
/// wherever it is, as a name or a balancer does; from there they learn the new one, and go on. A member that its group went
/// on without, and that does not find it again within `max.poll.interval.ms` (6 s here), goes on with a new client. Each move
/// may repeat what the two services had not confirmed.
#[test]
fn row_30_moved_broker() {
    let moves = by_length(2, 10);
    let mut broker = Broker::start();
    let first = Proxy::before(broker.bootstrap());
    let mut scene = Scene::start(Setup::new(first.address(), 1_000_000).rate(1_000));
    scene.service.batch = 50;
    scene.service.drain_budget = Some(Duration::from_secs(2));
    scene.service.set("max.poll.interval.ms", "6000");
    let running = [scene.spawn(), scene.spawn()];
    for number in 0..moves {
        scene.until_all_handle(&running, 500, PATIENCE);
        // In order, and not.
        if number % 2 == 0 {
            broker.stop()
        } else {
            broker.kill()
        }
        broker.move_away();
        broker.restart();
        first.lead_to(broker.bootstrap());
    }
    scene.until_all_handle(&running, 500, PATIENCE);
    let failures = scene.load.failures();
    assert!(failures.is_empty(), "{failures:?}");
    let records = scene.end_loads(PATIENCE);
    let bound = (moves * running.len()) as u64 * scene.service.records_at_risk();
    let verdict = scene.finish(PATIENCE);
    Report::of(30, "the broker moves to another address", moves, records, &verdict, bound).file();
}
