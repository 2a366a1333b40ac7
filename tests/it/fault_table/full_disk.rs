//! Row 17: a broker whose disk is full.

use super::report::by_length;
use super::{Report, Scene, Setup};
use crate::support::{Broker, PATIENCE, eventually};

const FAULT: &str = "the broker's disk is full";

/// The broker's log directory is a tmpfs of 256 MB, which the load fills until nothing can be written; Kafka ends then. The
/// producer reports what it could not deliver within `delivery.timeout.ms` (5 s here). There is space again, and the broker
/// is started: all that it had acknowledged is there and is handled. As for a kill, what both services had not confirmed may
/// come again.
#[test]
fn row_17_full_disk() {
    let mut broker = match Broker::start_on_small_disk(256) {
        Ok(broker) => broker,
        Err(why) => return Report::cannot(17, FAULT, &why),
    };
    // In the short form most of it is taken by something else.
    broker.disk().take(by_length(216, 100));
    let mut scene = Scene::start(Setup {
        load_config: &[("delivery.timeout.ms", "5000"), ("compression.type", "none")],
        topic_settings: &[("compression.type", "uncompressed")],
        ..Setup::new(broker.bootstrap(), 1_000_000)
    });
    let running = [scene.spawn(), scene.spawn()];
    eventually(PATIENCE * 2, "the producer reports that records are not delivered", || {
        assert!(!scene.load.is_done(), "it is all there: {} records", scene.load.reported());
        (!scene.load.failures().is_empty()).then_some(())
    });
    if !broker.has_ended() {
        broker.kill();
    }
    broker.disk().give_back();
    broker.restart();
    scene.until_all_handle(&running, 500, PATIENCE);
    let records = scene.end_loads(PATIENCE);
    let bound = running.len() as u64 * scene.service.records_at_risk();
    let verdict = scene.finish(PATIENCE);
    Report::of(17, FAULT, 1, records, &verdict, bound).file();
}
