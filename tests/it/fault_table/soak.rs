//! Row 22: a random mix of faults for a while, and what it leaves behind.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use super::log_of_topic::commits_of;
use super::report::by_length;
use super::service::Work;
use super::{Report, Scene, Setup};
use crate::support::{Broker, PATIENCE, eventually};

const FAULTS_BETWEEN_RESTS: usize = 5;
/// glibc maps each allocation by itself, and gives it back when it is freed. Else one small allocation at the end of its
/// heap keeps resident what a queue once took, for a while or for ever, and tells nothing of what is in use.
const GIVE_BACK: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "1"), ("MALLOC_MMAP_MAX_", "1000000")];

/// What a process uses.
#[derive(Clone, Copy, Debug)]
struct Usage {
    resident_bytes: u64,
    threads: usize,
    files: usize,
}

impl Usage {
    fn of(pid: u32) -> Usage {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        Usage {
            resident_bytes: number("VmRSS:") * 1024,
            threads: number("Threads:") as usize,
            files: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
        }
    }
}

/// Services and their broker are killed, stopped and frozen at random, one fault at a time, for 30 minutes in the long form.
/// One service is spared. After every few faults the load pauses until all is committed, and its memory, threads and file
/// descriptors are looked at: with nothing in hand what it has is what it keeps. Once a quarter of the run has made it warm,
/// the median of each must not grow from the first half of what follows to the second.
#[test]
fn row_22_soak() {
    let length = by_length(Duration::from_secs(30), Duration::from_secs(30 * 60));
    let rate = by_length(1_000, 500);
    let records = length.as_secs() as usize * rate;
    let mut broker = Broker::start();
    let mut scene = Scene::start(Setup::new(broker.bootstrap(), records).rate(rate));
    scene.service.batch = 50;
    scene.service.work = Work::Takes(Duration::from_millis(2));
    // Now and then a broker that was killed loads a group twice at its restart, and forgets the sessions of members that
    // are gone: it waits so long for them.
    scene.service.set("max.poll.interval.ms", "40000");
    let spared = {
        let mut service = scene.service.clone();
        service.environment.extend(GIVE_BACK.map(|(name, value)| (name.into(), value.into())));
        scene.spawn_as(service)
    };
    let mut others = [scene.spawn(), scene.spawn()];
    scene.until_it_handles(spared, 200, PATIENCE);

    let pid = scene.worker(spared).pid();
    let mut usages = Vec::new();
    let (mut injected, mut at_risk) = (0, 0);
    let start = Instant::now();
    let mut random = same_numbers(0x5eed);
    while start.elapsed() < length && !scene.load.is_done() {
        let which = random() as usize % others.len();
        match random() % 5 {
            0 => {
                scene.worker(others[which]).kill9();
                others[which] = scene.spawn();
                at_risk += scene.service.records_at_risk();
            }
            1 => {
                scene.worker(others[which]).sigterm();
                scene.worker(others[which]).wait(PATIENCE);
                others[which] = scene.spawn();
                // The broker may be coming back, and not answer within the time that a stop has.
                at_risk += scene.service.records_at_risk();
            }
            2 => {
                scene.worker(others[which]).freeze();
                scene.until_it_is_assigned(spared, 3, PATIENCE);
                scene.worker(others[which]).thaw();
                at_risk += scene.service.records_at_risk();
            }
            3 => {
                broker.kill();
                broker.restart();
                at_risk += 3 * scene.service.records_at_risk();
            }
            _ => {
                broker.freeze();
                // Longer than sessions of brokers and of members.
                let frozen = Instant::now();
                eventually(PATIENCE, "sessions end", || (frozen.elapsed() > Duration::from_secs(8)).then_some(()));
                broker.thaw();
                at_risk += 3 * scene.service.records_at_risk();
            }
        }
        injected += 1;
        // The load may have ended during a long fault.
        let before = scene.handled();
        eventually(PATIENCE, "records are handled", || {
            (scene.handled() >= before + 500 || scene.load.is_done()).then_some(())
        });
        if injected % FAULTS_BETWEEN_RESTS == 0 && !scene.load.is_done() {
            scene.rest(PATIENCE);
            usages.push(Usage::of(pid));
            scene.load.go_on();
        }
    }
    scene.load.stop();
    let produced = scene.load.reported();
    let (group, topic) = (scene.group.clone(), scene.topic.clone());
    let verdict = scene.finish_with(PATIENCE, |evidence| {
        let accepted = commits_of(broker.bootstrap(), &group, &topic);
        // All is committed, so the last commits that were written are what was told last.
        let last: BTreeMap<_, _> = accepted.iter().copied().collect();
        assert_eq!(last, evidence.committed.iter().map(|seen| (seen.partition, seen.offset)).collect());
        evidence.accepted = Some(accepted);
    });
    println!("row 22: the coordinator told less than before, with no such commit: {:?}", verdict.forgotten);

    let warm = &usages[usages.len() / 4..];
    assert!(warm.len() >= by_length(0, 10), "too few looks to say anything: {usages:?}");
    let (early, late) = warm.split_at(warm.len() / 2);
    let mut report = Report::of(22, "random faults", injected, produced, &verdict, at_risk);
    // The least, the median and the most.
    let spread = |of: fn(&Usage) -> u64, usages: &[Usage]| {
        let mut figures: Vec<_> = usages.iter().map(of).collect();
        figures.sort_unstable();
        [0, figures.len() / 2, figures.len().saturating_sub(1)].map(|at| figures.get(at).copied().unwrap_or(0))
    };
    // With so much more than in the first half it is not yet said to have grown.
    let figures: [(&str, fn(&Usage) -> u64, u64); 3] = [
        ("KiB resident", |usage| usage.resident_bytes / 1024, 4_096),
        ("threads", |usage| usage.threads as u64, 0),
        ("file descriptors", |usage| usage.files as u64, 0),
    ];
    for (name, of, room) in figures {
        let ([least, first, most], [later_least, second, later_most]) = (spread(of, early), spread(of, late));
        println!(
            "row 22, {name} at rest, after the first quarter: {first} ({least} to {most}) in the first half, {second} \
             ({later_least} to {later_most}) in the second"
        );
        // A short run is not yet flat: buffers still grow to what they need.
        if by_length(false, true) && second > first + room {
            report.wrong.push(format!("{name} grow"));
        }
    }
    report.file();
}

/// The same faults in the same order at every run: a linear congruential generator.
fn same_numbers(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}
