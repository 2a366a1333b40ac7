//! Row 16: a broker that lets only so much through.

use std::fs;
use std::time::{Duration, Instant};

use super::history::What;
use super::report::by_length;
use super::{Report, Scene, Setup};
use crate::support::{Broker, PATIENCE, eventually};

/// Bytes a second.
const QUOTA: usize = 102_400;

/// Of each record without compression, at least.
const SIZE: usize = 900;

/// The broker answers no service faster than at 100 KB/s, while far more is there; a fetch's answer waits for as long as it
/// takes. The members keep their places, nothing is handled twice, and their memory does not grow: within 24 MB of
/// what it was when the first records came.
#[test]
fn row_16_quota() {
    let records = by_length(1_500, 40_000);
    // Measured over two seconds instead of eleven.
    let broker = Broker::start_with(&[("quota.window.num", "2")]);
    let alter = |change: [&str; 2]| {
        let whom = ["--alter", "--entity-type", "clients", "--entity-default"];
        let arguments = [&["--bootstrap-server", "{bootstrap}"], &whom[..], &change].concat();
        broker.tool("kafka.admin.ConfigCommand", &arguments);
    };
    alter(["--add-config", &format!("consumer_byte_rate={QUOTA}")]);
    let topic_settings = &[("compression.type", "uncompressed")];
    let mut scene = Scene::start(Setup { topic_settings, ..Setup::new(broker.bootstrap(), records) });
    scene.service.batch = 50;
    let service = scene.spawn();
    scene.until_it_handles(service, 100, PATIENCE);
    let (since, began, memory) = (Instant::now(), scene.handled(), resident(scene.worker(service).pid()));
    eventually(PATIENCE, "all is produced", || scene.load.is_done().then_some(()));
    let all = scene.load.reported();
    while scene.handled() < all {
        scene.until_handled(1, PATIENCE);
    }
    let (took, grown) = (since.elapsed(), resident(scene.worker(service).pid()).saturating_sub(memory));
    // What its windows let through at first is not counted.
    let least = ((all - began) * SIZE / QUOTA).saturating_sub(6);
    assert!(took >= Duration::from_secs(least as u64), "{took:?} for {all} records: there was no quota");
    assert!(grown < 24 << 20, "it grew by {grown} bytes");
    let left = scene.lines(service).iter().filter(|line| matches!(line.what, What::Lost { .. } | What::Revoked { .. }));
    assert_eq!(left.count(), 0);
    // Else the log would be read as slowly.
    alter(["--delete-config", "consumer_byte_rate"]);
    let verdict = scene.finish(PATIENCE);
    Report::of(16, "a quota of 100 KB/s", 1, all, &verdict, 0).file();
}

/// What a process has in memory, in bytes.
fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() << 10
}
