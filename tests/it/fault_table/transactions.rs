//! Row 18: services that handle in transactions.

use std::collections::BTreeMap;

use kafka_envelope::unpack;
use rdkafka::message::Message;

use super::report::by_length;
use super::service::Copies;
use super::{Report, Scene, Setup};
use crate::support::{PATIENCE, TestTopic, consume_all, eventually, shared_broker, unique};

/// Two services copy a topic in transactions, of which three in ten fail when all is in the outbox. They are killed
/// soon after a handler is done, while its transaction is committed or the next one is open, and frozen until another with
/// their `transactional.id` has taken over, which fences them. A reader of committed records finds each record copied exactly once.
#[test]
fn row_18_transactions() {
    let rounds = by_length(2, 25);
    let broker = shared_broker();
    let out = TestTopic::new(broker, 6);
    let mut scene = Scene::start(Setup::new(broker, usize::MAX).rate(500));
    scene.service.batch = 50;
    let ids = [unique("copier"), unique("copier")];
    let copier = |scene: &Scene, place: usize| {
        let mut service = scene.service.clone();
        let transactional_id = ids[place].clone();
        service.copies = Some(Copies { to: out.to_string(), transactional_id, fails: 30 });
        service
    };
    let mut running = [0, 1].map(|place| scene.spawn_as(copier(&scene, place)));
    let mut injected = 0;
    for round in 0..rounds {
        let place = round % 2;
        scene.until_it_handles(running[place], 150, PATIENCE);
        scene.worker(running[place]).kill9();
        running[place] = scene.spawn_as(copier(&scene, place));

        scene.until_it_handles(running[place], 150, PATIENCE);
        let zombie = running[place];
        scene.worker(zombie).freeze();
        running[place] = scene.spawn_as(copier(&scene, place));
        scene.until_it_handles(running[place], 150, PATIENCE);
        scene.worker(zombie).thaw();
        // It ends by itself: fenced.
        eventually(PATIENCE, "the zombie ends", || scene.worker(zombie).ended());
        injected += 2;
    }
    let records = scene.end_loads(PATIENCE);
    let mut verdict = scene.finish(PATIENCE);
    // What a transaction that is aborted had handled comes again, within the same ownership.
    verdict.disordered.clear();

    let mut copies: BTreeMap<usize, u64> = BTreeMap::new();
    for record in consume_all(broker, &out) {
        let number = unpack(record.payload().unwrap()).unwrap().payload().unwrap();
        *copies.entry(number).or_default() += 1;
    }
    let mut report = Report::of(18, "transactions: failures, kills, zombies", injected, records, &verdict, 0);
    report.lost += records - copies.len();
    report.duplicates = copies.values().map(|times| times - 1).sum();
    if report.lost > 0 {
        report.wrong.push(format!("{} of {records} records were copied", copies.len()));
    }
    report.file();
}
