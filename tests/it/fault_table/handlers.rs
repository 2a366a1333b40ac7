//! Rows 10 and 11: handlers that are slow, fail, panic or hang.

use std::time::Duration;

use super::history::What;
use super::report::by_length;
use super::service::Work;
use super::{Report, Scene, Setup};
use crate::support::{PATIENCE, eventually, shared_broker};

/// Each batch takes three times `max.poll.interval.ms`. The service stays in its group, and nothing comes twice.
#[test]
fn row_10_slow_handlers() {
    let batches = by_length(3, 30);
    let mut scene = Scene::start(Setup { partitions: 1, ..Setup::new(shared_broker(), batches * 100) });
    eventually(PATIENCE, "all is produced", || scene.load.is_done().then_some(()));
    for (key, value) in [("session.timeout.ms", "2000"), ("max.poll.interval.ms", "2000")] {
        scene.service.set(key, value);
    }
    scene.service.drain_budget = Some(Duration::from_secs(1));
    scene.service.work = Work::Takes(Duration::from_secs(6));
    let service = scene.spawn();
    scene.until_it_handles(service, batches * 100, Duration::from_secs(6) * batches as u32 + PATIENCE);
    let left = scene.lines(service).iter().filter(|line| matches!(line.what, What::Revoked { .. } | What::Lost { .. }));
    assert_eq!(left.count(), 0, "it left its group");
    let verdict = scene.finish(PATIENCE);
    Report::of(10, "a handler takes 3x max.poll.interval.ms", batches, batches * 100, &verdict, 0).file();
}

/// Every fifth batch fails at its first attempt, in turn by an error and by a panic, and comes again from memory: no commit
/// passes it. Then a handler hangs for ever: it is reported, and let go after `handler_timeout`, and another service does
/// what it had not committed.
#[test]
fn row_11_failing_handlers() {
    let records = by_length(10_000, 200_000);
    let mut scene = Scene::start(Setup::new(shared_broker(), records));
    scene.service.work = Work::Fails { every: 5 };
    scene.service.batch = 50;
    let running = [scene.spawn(), scene.spawn()];
    scene.until_handled(records, PATIENCE * 5);
    let mut failed = 0;
    for service in running {
        failed += scene.lines(service).iter().filter(|line| matches!(line.what, What::Failed { .. })).count();
    }
    assert!(failed >= records / 50 / 10, "{failed} batches failed");
    let verdict = scene.finish(PATIENCE);
    Report::of(11, "a handler fails or panics", failed, records, &verdict, 0).file();

    let (hangs, records) = by_length((1, 10_000), (10, 100_000));
    let mut scene = Scene::start(Setup::new(shared_broker(), records).rate(2_000));
    scene.service.handler_timeout = Some(Duration::from_secs(2));
    // Then it polls no more, and the group goes on without it after so long.
    scene.service.set("max.poll.interval.ms", "6000");
    scene.service.drain_budget = Some(Duration::from_secs(3));
    scene.service.batch = 50;
    scene.spawn();
    let mut injected = 0;
    while injected < hangs && !scene.load.is_done() {
        let mut hanging = scene.service.clone();
        hanging.work = Work::HangsAt(5);
        let hanging = scene.spawn_as(hanging);
        eventually(PATIENCE, "it hangs", || {
            scene.lines(hanging).iter().any(|line| matches!(line.what, What::Failed { .. })).then_some(())
        });
        eventually(PATIENCE, "the hang is reported", || {
            let is_report =
                |line: &What| matches!(line, What::Logged { line } if line.starts_with("the handler has not returned"));
            scene.lines(hanging).iter().any(|line| is_report(&line.what)).then_some(())
        });
        // All partitions go to the other, though this one still hangs.
        scene.until_it_is_assigned(0, 6, PATIENCE);
        scene.worker(hanging).kill9();
        injected += 1;
    }
    let bound = injected as u64 * scene.service.records_at_risk();
    let verdict = scene.finish(PATIENCE);
    Report::of(11, "a handler hangs for ever", injected, records, &verdict, bound).file();
}
