//! Row 6: brokers that are killed and come back.

use super::report::by_length;
use super::{Report, Scene, Setup};
use crate::support::{Broker, Cluster, PATIENCE};

/// The only broker gets a SIGKILL under load and is started again on what it had written, time after time. What it had
/// acknowledged is there and is handled. What was handled and not confirmed may come again where a member's session ends
/// meanwhile: each kill may repeat what each of the two services had not confirmed.
#[test]
fn row_06_killed_broker() {
    let kills = by_length(2, 20);
    let mut broker = Broker::start();
    let mut scene = Scene::start(Setup::new(broker.bootstrap(), 1_000_000).rate(1_000));
    scene.service.batch = 50;
    let running: Vec<_> = (0..2).map(|_| scene.spawn()).collect();
    for _ in 0..kills {
        scene.until_all_handle(&running, 500, PATIENCE);
        broker.kill();
        broker.restart();
    }
    end(scene, &running, kills, "the only broker is killed and started again");
}

/// Of three brokers one after the other gets a SIGKILL under load and comes back, each record on all three and acknowledged
/// by two. The next is killed once all have everything again. Bounded as above.
#[test]
fn row_06_killed_brokers_of_three() {
    let kills = by_length(3, 20);
    let mut cluster = Cluster::start();
    let bootstrap = cluster.bootstrap();
    let mut scene = Scene::start(Setup::new(&bootstrap, 1_000_000).rate(1_000));
    scene.service.batch = 50;
    let running: Vec<_> = (0..2).map(|_| scene.spawn()).collect();
    let nodes: Vec<_> = cluster.nodes().collect();
    for node in nodes.into_iter().cycle().take(kills) {
        scene.until_all_handle(&running, 500, PATIENCE);
        cluster.node(node).kill();
        scene.until_handled(500, PATIENCE);
        cluster.node(node).restart();
        cluster.until_in_sync();
    }
    end(scene, &running, kills, "one of three brokers is killed and started again");
}

/// All goes on after so many kills, and every record was acknowledged.
fn end(mut scene: Scene, running: &[usize], kills: usize, fault: &'static str) {
    scene.until_all_handle(running, 500, PATIENCE);
    let records = scene.end_loads(PATIENCE);
    let bound = (kills * running.len()) as u64 * scene.service.records_at_risk();
    let failures = scene.load.failures();
    assert!(failures.is_empty(), "{failures:?}");
    let verdict = scene.finish(PATIENCE);
    Report::of(6, fault, kills, records, &verdict, bound).file();
}
