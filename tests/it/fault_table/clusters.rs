//! Rows 7, 24 and 26: three brokers, of which one goes at a time.

use std::time::Duration;

use super::checker::{Evidence, Place};
use super::history::Clock;
use super::load::ENDLESS;
use super::log_of_topic::log_of;
use super::report::by_length;
use super::service::Commits;
use super::{Report, Scene, Setup};
use crate::support::{Cluster, PATIENCE, eventually};

const OFFSETS: &str = "__consumer_offsets";

/// One of three brokers after the other is stopped in order and started again, as in an upgrade, while two services run.
/// No partition stands still for more than 60 seconds. The bound is once for each restart and service what it has handled and
/// not committed: with the group's coordinator a commit may go, too.
#[test]
fn row_07_rolling_restarts() {
    let mut cluster = Cluster::start();
    let rounds = by_length(1, 6);
    let mut scene = Scene::start(Setup::new(&cluster.bootstrap(), ENDLESS).rate(1_000));
    let services = [scene.spawn(), scene.spawn()];
    for _ in 0..rounds {
        for node in cluster.nodes() {
            scene.until_handled(500, PATIENCE);
            cluster.node(node).stop();
            // Also without it.
            scene.until_handled(500, PATIENCE);
            cluster.node(node).restart();
            cluster.until_in_sync();
        }
    }
    scene.until_all_handle(&services, 200, PATIENCE);
    let records = scene.end_loads(PATIENCE);
    let restarts = 3 * rounds;
    let bound = (restarts * services.len()) as u64 * scene.service.records_at_risk();
    let mut of_a_partition = 0;
    let verdict = scene.finish_with(PATIENCE, |evidence| of_a_partition = evidence.longest_stall_of_a_partition());
    let fault = "three brokers are restarted one after the other";
    let mut report = Report::of(7, fault, restarts, records, &verdict, bound);
    let of_a_partition = Duration::from_micros(of_a_partition);
    if of_a_partition > Duration::from_secs(60) {
        report.wrong.push(format!("a partition stood still for {of_a_partition:?}"));
    }
    report.file();
}

/// The broker that keeps the group's commits is killed, or stopped, while a commit is always under way, and another takes
/// its place. The bound is once for each move and service what it has handled and not committed.
#[test]
fn row_26_coordinators_that_move() {
    let mut cluster = Cluster::start_with(&[("offsets.topic.num.partitions", "1")]);
    let moves = by_length(2, 20);
    let mut scene = Scene::start(Setup::new(&cluster.bootstrap(), ENDLESS).rate(1_000));
    (scene.service.commits, scene.service.batch) = (Commits::EachBatch, 10);
    let services = [scene.spawn(), scene.spawn()];
    for number in 0..moves {
        scene.until_handled(200, PATIENCE);
        let coordinator = eventually(PATIENCE, "the coordinator is told", || cluster.leader(OFFSETS, 0));
        match number % 2 {
            0 => cluster.node(coordinator).kill(),
            _ => cluster.node(coordinator).stop(),
        }
        eventually(PATIENCE, "it moves", || cluster.leader(OFFSETS, 0).filter(|now| *now != coordinator));
        // Each batch waits for its commit.
        scene.until_handled(200, PATIENCE);
        cluster.node(coordinator).restart();
        cluster.until_in_sync();
    }
    scene.until_all_handle(&services, 100, PATIENCE);
    let records = scene.end_loads(PATIENCE);
    let bound = (moves * services.len()) as u64 * scene.service.records_at_risk();
    let verdict = scene.finish(PATIENCE);
    Report::of(26, "the coordinator goes amid commits", moves, records, &verdict, bound).file();
}

/// What the service does while the log loses its end.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    GoesOn,
    IsFrozen,
    IsStopped,
}

/// Of two replicas one stops, the other takes records alone and is killed, and the first is elected all the same: the log
/// has lost its end, though that was handled and committed. Then it gets more records than it lost, while the service goes
/// on, is frozen, or does not run. The service says so and handles each record that came since, from where the log was cut
/// off. Nothing is handled twice: what one handled and had not committed is the bound.
#[test]
fn row_24_unclean_elections() {
    let mut cluster =
        Cluster::start_with(&[("default.replication.factor", "2"), ("offsets.topic.num.partitions", "1")]);
    let rounds = by_length(1, 6);
    let short = [Meanwhile::IsFrozen, Meanwhile::IsStopped];
    let long = [Meanwhile::GoesOn, Meanwhile::IsFrozen, Meanwhile::IsStopped];
    let mut all = Report { row: 24, fault: "an unclean leader election", ..Report::default() };
    for _ in 0..rounds {
        for meanwhile in by_length(&short[..], &long[..]) {
            elect_uncleanly(&mut cluster, *meanwhile, &mut all);
        }
    }
    all.file();
}

fn elect_uncleanly(cluster: &mut Cluster, meanwhile: Meanwhile, all: &mut Report) {
    let bootstrap = cluster.bootstrap();
    let topic_settings: &[_] = &[("unclean.leader.election.enable", "true"), ("min.insync.replicas", "1")];
    // One whose second replica is not on the group's coordinator, which is not to be frozen.
    let (mut scene, leader, follower) = eventually(PATIENCE, "a topic on the right brokers", || {
        let setup = Setup { partitions: 1, topic_settings, ..Setup::new(&bootstrap, ENDLESS).rate(1_000) };
        let mut scene = Scene::start(setup);
        scene.service.set("session.timeout.ms", "45000");
        let service = scene.spawn();
        scene.until_it_handles(service, 300, PATIENCE);
        let (leader, coordinator) = (cluster.leader(&scene.topic, 0)?, cluster.leader(OFFSETS, 0)?);
        let follower = cluster.in_sync(&scene.topic, 0)?.into_iter().find(|node| *node != leader)?;
        (follower != coordinator).then_some((scene, leader, follower))
    });
    cluster.node(follower).freeze();
    eventually(PATIENCE, "the follower is left behind", || {
        (cluster.in_sync(&scene.topic, 0)? == [leader]).then_some(())
    });
    scene.until_handled(1_000, PATIENCE);
    scene.end_loads(PATIENCE);
    let log = scene.until_committed(PATIENCE);
    let end = log.iter().map(|(_, offset)| offset + 1).max().unwrap();
    let before = scene.evidence(log.clone()).check();

    let service = 0;
    match meanwhile {
        Meanwhile::GoesOn => {}
        Meanwhile::IsFrozen => scene.worker(service).freeze(),
        Meanwhile::IsStopped => {
            scene.worker(service).sigterm();
            assert!(scene.worker(service).wait(PATIENCE).success());
        }
    }
    let killed = Clock::new().now();
    cluster.node(leader).kill();
    cluster.node(follower).thaw();
    eventually(PATIENCE, "the one left behind leads", || {
        cluster.leader(&scene.topic, 0).filter(|now| *now == follower)
    });
    let cut = log_of(&bootstrap, &scene.topic).iter().map(|(_, offset)| offset + 1).max().unwrap_or(0);
    assert!(cut < end, "the log lost nothing, it ends at {cut}");
    scene.load_again(1, (end - cut) as usize + 1_000, None);
    eventually(PATIENCE, "the log has outgrown what it was", || scene.more_loads[0].is_done().then_some(()));
    match meanwhile {
        Meanwhile::GoesOn => {}
        Meanwhile::IsFrozen => scene.worker(service).thaw(),
        Meanwhile::IsStopped => {
            scene.spawn();
        }
    }
    let log_then = scene.until_committed(PATIENCE);
    scene.stop_services();

    let mut after = scene.evidence(log_then.into_iter().filter(|(_, offset)| *offset >= cut).collect());
    let told = after.logged("lost its end").iter().filter(|(at, _)| *at > killed).count();
    (after.acknowledged, after.unplaced) = (scene.more_loads[0].acknowledged(), scene.more_loads[0].unplaced());
    // What was committed of the old log stands until the service knows.
    let is_of_old = |offset: i64| offset == end;
    let old = after.committed.iter().take_while(|seen| seen.asked < killed || is_of_old(seen.offset)).count();
    after.committed.drain(..old);
    let verdict = after.of_generation(1).check();
    let kept: Vec<Place> = log.into_iter().filter(|(_, offset)| *offset < cut).collect();
    let kept = Evidence { acknowledged: Vec::new(), unplaced: 0, committed: Vec::new(), ..scene.evidence(kept) };
    let kept = kept.of_generation(0).check();

    let say = |faults: Vec<String>| faults.into_iter().map(move |fault| format!("{meanwhile:?}: {fault}"));
    all.wrong.extend(say(before.faults()).chain(say(verdict.faults())));
    all.wrong.extend(kept.lost.iter().take(3).map(|place| format!("{meanwhile:?}: {place:?} was left out")));
    if told == 0 {
        all.wrong.push(format!("{meanwhile:?}: nobody says that the log lost its end"));
    }
    all.times += 1;
    all.records += before.records + verdict.records;
    all.lost += kept.lost.len() + verdict.lost.len();
    all.duplicates += kept.duplicates + verdict.duplicates;
    all.bound += scene.service.records_at_risk();
    let stall = before.longest_stall.max(verdict.longest_stall);
    all.longest_stall = all.longest_stall.max(Duration::from_micros(stall));
    cluster.node(leader).restart();
    cluster.until_in_sync();
}
