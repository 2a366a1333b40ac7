//! Stream workers lose nothing: what waits in batches comes again after a kill, and goes on at once before a rebalance.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kafka_envelope::HandlerError;
use kafka_envelope::stream::{Agent, Sinks, Worker as StreamWorker};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::support::stream::{Running, soon};
use super::support::{
    PATIENCE, Worker, committed, create_topic, emit, eventually, produce_raw_batch, shared_broker, unique,
};

/// A partition, and a number that grows by one there.
type Number = (i32, u32);

#[derive(Serialize, Deserialize)]
struct Config {
    bootstrap: String,
    topic: String,
    group: String,
    size: usize,
    age: Option<Duration>,
}

#[derive(Serialize, Deserialize)]
enum Line {
    /// The first agent got it.
    Got(Number),
    /// It was in a batch that was released.
    Handled(Vec<Number>),
}

fn batching(
    size: usize,
    age: Option<Duration>,
    call: impl Fn(Vec<Number>) + Send + Sync + 'static,
) -> Agent<Number, ()> {
    let agent = Agent::batched("batch", size, move |numbers: Vec<Number>, _: Sinks| {
        call(numbers);
        async { Ok::<_, HandlerError>(None) }
    });
    match age {
        Some(age) => agent.max_age(age),
        None => agent,
    }
}

fn telling(call: impl Fn(Number) + Send + Sync + 'static) -> Agent<Number, Number> {
    Agent::new("telling", move |number: Number, _: Sinks| {
        call(number);
        async move { Ok::<_, HandlerError>(Some(number)) }
    })
}

#[test]
fn a_worker() {
    let Some(config) = Worker::arguments::<Config>("stream_faults::a_worker") else { return };
    let worker = StreamWorker::builder::<Number>(&config.topic, &config.bootstrap, &config.group)
        .config([("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500")])
        .agent(telling(|number| emit(&Line::Got(number))))
        .agent(batching(config.size, config.age, |numbers| emit(&Line::Handled(numbers))))
        .build()
        .unwrap();
    Runtime::new().unwrap().block_on(worker.run_until(kafka_envelope::shutdown_signal())).unwrap();
}

/// The next `count` numbers of each partition, one record each.
fn produce(topic: &str, partitions: i32, from: u32, count: u32) {
    let all = (from..from + count).flat_map(|n| (0..partitions).map(move |p| (p, n)));
    let records = all.map(|(p, n)| (p, None::<&str>, Some(format!("[[{p}, {n}]]"))));
    produce_raw_batch(shared_broker(), topic, records);
}

fn handled(lines: impl IntoIterator<Item = Line>) -> impl Iterator<Item = Number> {
    lines.into_iter().flat_map(|line| match line {
        Line::Got(_) => Vec::new(),
        Line::Handled(numbers) => numbers,
    })
}

/// All that was read waits in a batch that is not full: nothing of it is committed, and all of it comes again.
#[test]
fn what_waits_in_batches_comes_again_after_a_kill() {
    const ALL: u32 = 500;
    let (topic, group) = (create_topic(shared_broker(), 1), unique("group"));
    produce(&topic, 1, 0, ALL);
    let config =
        Config { bootstrap: shared_broker().into(), topic: topic.clone(), group: group.clone(), size: 300, age: None };
    let comes = |worker: &Worker| {
        let (mut first, mut numbers) = (None, HashSet::new());
        loop {
            match worker.next::<Line>(PATIENCE) {
                Line::Got((_, n)) => {
                    first.get_or_insert(n);
                    if n == ALL - 1 {
                        return (first, numbers);
                    }
                }
                Line::Handled(all) => numbers.extend(all),
            }
        }
    };
    let mut worker = Worker::spawn("stream_faults::a_worker", &config);
    let (_, mut all) = comes(&worker);
    while all.is_empty() {
        all.extend(handled([worker.next(PATIENCE)]));
    }
    worker.kill9();
    all.extend(handled(worker.rest()));
    assert_eq!(all.len(), 300, "one batch was full");
    let first = committed(shared_broker(), &group, &topic, 0).unwrap_or(0) as u32;
    assert!(first <= 300, "{first} is committed");

    let mut worker = Worker::spawn("stream_faults::a_worker", &config);
    let (again, numbers) = comes(&worker);
    assert_eq!(again, Some(first));
    all.extend(numbers);
    // The end releases what is left.
    worker.sigterm();
    assert!(worker.wait(PATIENCE).success());
    all.extend(handled(worker.rest()));
    assert_eq!(all.len(), ALL as usize);
    assert_eq!(committed(shared_broker(), &group, &topic, 0), Some(i64::from(ALL)));
}

/// Three workers over six partitions, under load: one is killed and another one comes.
#[test]
fn of_three_workers_one_is_killed_and_one_added() {
    const PARTITIONS: i32 = 6;
    let (topic, group) = (create_topic(shared_broker(), PARTITIONS), unique("group"));
    let config = Config {
        bootstrap: shared_broker().into(),
        topic: topic.clone(),
        group: group.clone(),
        size: 7,
        age: Some(Duration::from_millis(100)),
    };
    let start = || Worker::spawn("stream_faults::a_worker", &config);
    let mut workers = vec![start(), start(), start()];
    let mut all: Vec<Vec<Number>> = vec![Vec::new(); 3];
    let mut next = 0;
    let mut add = |count: u32| {
        produce(&topic, PARTITIONS, next, count);
        next += count;
        next
    };
    let take = |workers: &[Worker], all: &mut [Vec<Number>]| {
        for (worker, all) in workers.iter().zip(all) {
            while let Ok(line) = worker.try_next::<Line>(Duration::from_millis(20)) {
                all.extend(handled([line]));
            }
        }
    };
    eventually(PATIENCE, "all three handle records", || {
        add(5);
        take(&workers, &mut all);
        (!all.iter().any(Vec::is_empty)).then_some(())
    });
    add(100);
    workers[0].kill9();
    all[0].extend(handled(workers[0].rest()));
    let killed: HashSet<Number> = all[0].iter().copied().collect();
    workers.push(start());
    all.push(Vec::new());
    let mut total = add(100);
    eventually(PATIENCE, "the fourth handles records", || {
        total = add(5);
        take(&workers[1..], &mut all[1..]);
        (!all[3].is_empty()).then_some(())
    });
    // Balanced: each of the three has two partitions.
    eventually(PATIENCE, "the load is spread", || {
        total = add(5);
        let before: Vec<usize> = all.iter().map(Vec::len).collect();
        take(&workers[1..], &mut all[1..]);
        let new = all.iter().zip(before).skip(1).map(|(all, before)| &all[before..]);
        let partitions = |all: &[Number]| all.iter().map(|(partition, _)| *partition).collect::<HashSet<_>>().len();
        new.map(partitions).all(|count| count == 2).then_some(())
    });
    let every = |all: &[Vec<Number>], total: u32| {
        let seen: HashSet<&Number> = all.iter().flatten().collect();
        (seen.len() == (PARTITIONS as u32 * total) as usize).then_some(())
    };
    let go_on = |all: &mut [Vec<Number>], total: u32| {
        eventually(PATIENCE, "every record is handled", || {
            take(&workers[1..], &mut all[1..]);
            every(all, total)
        });
    };
    go_on(&mut all, total);
    let before: Vec<usize> = all.iter().map(Vec::len).collect();
    total = add(300);
    go_on(&mut all, total);
    let shares: Vec<usize> = all.iter().zip(before).skip(1).map(|(all, before)| all.len() - before).collect();
    assert_eq!(shares, [600; 3], "of 1800 records");
    for (worker, all) in workers[1..].iter_mut().zip(&mut all[1..]) {
        worker.sigterm();
        assert!(worker.wait(PATIENCE).success());
        all.extend(handled(worker.rest()));
    }
    for partition in 0..PARTITIONS {
        assert_eq!(committed(shared_broker(), &group, &topic, partition), Some(i64::from(total)), "{partition}");
    }
    // Twice only what the killed one had handled and not committed.
    let mut times: HashMap<Number, u32> = HashMap::new();
    all.iter().flatten().for_each(|number| *times.entry(*number).or_default() += 1);
    let twice: Vec<_> = times.iter().filter(|(number, times)| **times > 1 && !killed.contains(number)).collect();
    assert!(twice.is_empty(), "{twice:?}");
    // A worker goes on where another one was, never back; in between all are in order.
    for (index, all) in all.iter().enumerate() {
        let mut last: HashMap<i32, u32> = HashMap::new();
        let mut gaps: HashMap<i32, u32> = HashMap::new();
        for (partition, n) in all {
            if let Some(before) = last.insert(*partition, *n) {
                assert!(*n > before, "worker {index}, partition {partition}: {n} after {before}");
                *gaps.entry(*partition).or_default() += u32::from(*n != before + 1);
            }
        }
        // So often the group changes at the most: three come at the start, one is killed, the fourth comes.
        assert!(gaps.values().all(|gaps| *gaps <= 5), "worker {index}: {gaps:?}");
    }
}

/// Before a partition goes, batches that are not full are released; the next owner does not get their records again.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_releases_incomplete_batches() {
    const ALL: u32 = 20;
    let (topic, group) = (create_topic(shared_broker(), 2), unique("group"));
    produce(&topic, 2, 0, ALL);
    let got: Arc<AtomicUsize> = Arc::default();
    let released: Arc<Mutex<Vec<Number>>> = Arc::default();
    let member = || {
        let (got, released) = (Arc::clone(&got), Arc::clone(&released));
        let worker = StreamWorker::builder::<Number>(&topic, shared_broker(), &group)
            .config([("heartbeat.interval.ms", "200")])
            .consumer(|consumer| consumer.drain_budget(Duration::from_secs(30)))
            .agent(telling(move |_| {
                got.fetch_add(1, Ordering::Relaxed);
            }))
            .agent(batching(1_000_000, None, move |numbers| released.lock().unwrap().extend(numbers)));
        Running::start(worker.build().unwrap())
    };
    let one = member();
    soon("all wait in one batch", || (got.load(Ordering::Relaxed) == 2 * ALL as usize).then_some(()));
    assert!(released.lock().unwrap().is_empty());
    let (two, since) = (member(), Instant::now());
    soon("the batch is released", || (released.lock().unwrap().len() == 2 * ALL as usize).then_some(()));
    // What comes now is the other one's in part.
    produce(&topic, 2, ALL, ALL);
    soon("the others come", || (got.load(Ordering::Relaxed) == 4 * ALL as usize).then_some(()));
    assert!(since.elapsed() < Duration::from_secs(20), "the rebalance waited: {:?}", since.elapsed());
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    let mut released = released.lock().unwrap().clone();
    released.sort_unstable();
    let wanted: Vec<Number> = (0..2).flat_map(|p| (0..2 * ALL).map(move |n| (p, n))).collect();
    assert_eq!(released, wanted);
    for partition in 0..2 {
        assert_eq!(committed(shared_broker(), &group, &topic, partition), Some(i64::from(2 * ALL)));
    }
}

/// While an agent does not move, so much is read and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_agent_holds_back_the_consumer() {
    const ALL: u32 = 50_000;
    let (topic, group) = (create_topic(shared_broker(), 1), unique("group"));
    produce(&topic, 1, 0, ALL);
    let read: Arc<AtomicUsize> = Arc::default();
    let (counted, gate, is_open) = (Arc::clone(&read), Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
    let (entry, is_free) = (Arc::clone(&gate), Arc::clone(&is_open));
    let slow = Agent::new("slow", move |_: Vec<u8>, _: Sinks| {
        let (entry, is_free) = (Arc::clone(&entry), Arc::clone(&is_free));
        async move {
            if !is_free.load(Ordering::Relaxed) {
                entry.acquire().await?.forget();
            }
            Ok::<_, HandlerError>(None::<()>)
        }
    });
    let worker = StreamWorker::builder::<u32>(&topic, shared_broker(), &group)
        .deserialize_with(move |record| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(vec![record.value().unwrap_or_default().to_vec()])
        })
        .agent(Agent::new("quick", |value: Vec<u8>, _: Sinks| async move { Ok::<_, HandlerError>(Some(value)) }))
        .agent(slow);
    let running = Running::start(worker.build().unwrap());
    // Until nothing has come for a second.
    let (mut most, mut since) = (0, Instant::now());
    soon("it is held back", || {
        let now = read.load(Ordering::Relaxed);
        if now != most {
            (most, since) = (now, Instant::now());
        }
        (most > 0 && since.elapsed() > Duration::from_secs(1)).then_some(())
    });
    // Of each agent a queue of four times 256 and what it has in hand, and 500 before the first.
    let bound = 2 * (4 * 256 + 2 * 256) + 500;
    assert!(most <= bound, "{most} were read ahead");
    is_open.store(true, Ordering::Relaxed);
    gate.add_permits(1);
    soon("all is committed", || (committed(shared_broker(), &group, &topic, 0) == Some(i64::from(ALL))).then_some(()));
    running.stop().await.unwrap();
}
