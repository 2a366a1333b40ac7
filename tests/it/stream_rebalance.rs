//! Partitions that go to another stream worker while agents have elements of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kafka_envelope::HandlerError;
use kafka_envelope::stream::{Agent, Sinks, Worker};
use tokio::sync::Semaphore;

use super::support::stream::{Running, soon};
use super::support::{TestTopic, committed, create_topic, produce_raw_batch, shared_broker, unique};

/// A partition, and its offset there.
type Number = (i32, u32);

const QUICK: [(&str, &str); 1] = [("heartbeat.interval.ms", "200")];

fn produce(topic: &str, partitions: i32, from: u32, count: u32) {
    let all = (from..from + count).flat_map(|n| (0..partitions).map(move |p| (p, n)));
    let records = all.map(|(p, n)| (p, None::<&str>, Some(format!("[[{p}, {n}]]"))));
    produce_raw_batch(shared_broker(), topic, records);
}

fn batching(name: &str, size: usize) -> Agent<Number, Number> {
    let agent = Agent::batched(name, size, |numbers: Vec<Number>, _: Sinks| async move {
        tokio::task::yield_now().await;
        Ok::<_, HandlerError>(Some(numbers))
    });
    agent.atomic_send()
}

/// Three agents in a row keep some back: all of it is done before the partition goes, and nothing comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_releases_what_each_agent_of_a_chain_keeps_back() {
    const COUNT: u32 = 100;
    let (topic, group) = (create_topic(shared_broker(), 2), unique("group"));
    produce(&topic, 2, 0, COUNT);
    let done: Arc<Mutex<Vec<(usize, Number)>>> = Arc::default();
    let got: Arc<Mutex<Vec<Number>>> = Arc::default();
    let member = |number: usize| {
        let (done, got) = (Arc::clone(&done), Arc::clone(&got));
        let telling = Agent::new("telling", move |number: Number, _: Sinks| {
            got.lock().unwrap().push(number);
            async move { Ok::<_, HandlerError>(Some(number)) }
        });
        let last = Agent::new("last", move |n: Number, _: Sinks| {
            done.lock().unwrap().push((number, n));
            async { Ok::<_, HandlerError>(None::<()>) }
        });
        let worker = Worker::builder::<Number>(&topic, shared_broker(), &group)
            .config(QUICK)
            .agent(telling)
            // Of 200 elements 11 wait in the first, 24 in the second, and 30 in the third.
            .agent(batching("first", 27))
            .agent(batching("second", 33))
            .agent(batching("third", 45))
            .agent(last);
        Running::start(worker.build().unwrap())
    };
    let one = member(1);
    soon("all were read", || (got.lock().unwrap().len() == 2 * COUNT as usize).then_some(()));
    // 7 batches of 27, 5 of 33, 3 of 45.
    soon("some wait in each agent", || (done.lock().unwrap().len() == 135).then_some(()));
    let two = member(2);
    // Not exactly as many: what comes twice is to be told as such below.
    soon("all is done", || (done.lock().unwrap().len() >= 2 * COUNT as usize).then_some(()));
    produce(&topic, 2, COUNT, COUNT);
    soon("the others come", || (got.lock().unwrap().len() >= 4 * COUNT as usize).then_some(()));
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    let done = done.lock().unwrap().clone();
    let mut all: Vec<_> = done.iter().map(|(_, number)| *number).collect();
    all.sort_unstable();
    assert_eq!(all, (0..2).flat_map(|p| (0..2 * COUNT).map(move |n| (p, n))).collect::<Vec<_>>());
    let of_two = done.iter().filter(|(member, _)| *member == 2).count();
    assert_eq!(of_two, COUNT as usize, "one partition went");
    for partition in 0..2 {
        assert_eq!(committed(shared_broker(), &group, &topic, partition), Some(i64::from(2 * COUNT)));
    }
}

/// A batch that takes longer than a rebalance waits: its partition goes, its records come again at the other worker, and
/// that it is done at last says nothing about them.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_outlasts_a_rebalance_commits_nothing_of_what_went() {
    const COUNT: u32 = 20;
    let (topic, group) = (TestTopic::new(shared_broker(), 2), unique("group"));
    produce(&topic, 2, 0, COUNT);
    type Calls = Arc<Mutex<Vec<Vec<Number>>>>;
    let member = || {
        let (calls, gate, ended): (Calls, _, Calls) = (Arc::default(), Arc::new(Semaphore::new(0)), Arc::default());
        let (noted, entry, noted_end) = (Arc::clone(&calls), Arc::clone(&gate), Arc::clone(&ended));
        let agent = Agent::batched("slow", 10, move |numbers: Vec<Number>, _: Sinks| {
            let (entry, noted_end) = (Arc::clone(&entry), Arc::clone(&noted_end));
            noted.lock().unwrap().push(numbers.clone());
            async move {
                entry.acquire().await?.forget();
                noted_end.lock().unwrap().push(numbers);
                Ok::<_, HandlerError>(None::<()>)
            }
        });
        let worker = Worker::builder::<Number>(&topic, shared_broker(), &group)
            .config(QUICK)
            .consumer(|consumer| consumer.drain_budget(Duration::from_secs(1)))
            .agent(agent.max_age(Duration::from_millis(200)));
        (Running::start(worker.build().unwrap()), calls, gate, ended)
    };
    let (one, calls_one, gate_one, ended_one) = member();
    soon("the first batch is in hand", || (!calls_one.lock().unwrap().is_empty()).then_some(()));
    let (two, calls_two, gate_two, _) = member();
    let since = Instant::now();
    soon("the other one has a partition", || (!calls_two.lock().unwrap().is_empty()).then_some(()));
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    let went = calls_two.lock().unwrap()[0][0].0;
    assert_eq!(calls_two.lock().unwrap()[0][0].1, 0, "from its first record on");
    // All that the first one has is done, too late for one partition.
    gate_one.add_permits(1_000);
    let stays = 1 - went;
    soon("what stays is committed", || {
        (committed(shared_broker(), &group, &topic, stays) == Some(i64::from(COUNT))).then_some(())
    });
    let late: BTreeSet<_> = ended_one.lock().unwrap().iter().flatten().copied().filter(|n| n.0 == went).collect();
    assert!(!late.is_empty(), "it was done late");
    assert_eq!(committed(shared_broker(), &group, &topic, went), None);
    gate_two.add_permits(1_000);
    soon("the rest is committed", || {
        (committed(shared_broker(), &group, &topic, went) == Some(i64::from(COUNT))).then_some(())
    });
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    let of_two: BTreeSet<Number> = calls_two.lock().unwrap().iter().flatten().copied().collect();
    assert!((0..COUNT).all(|n| of_two.contains(&(went, n))), "all of it came again: {of_two:?}");
}
