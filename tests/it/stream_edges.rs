//! Stream workers at the edge of what they are made for.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kafka_envelope::HandlerError;
use kafka_envelope::stream::{Agent, Sinks, Worker};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::support::stream::{Running, add, committed, rss_mib, soon, topic_of, worker};
use super::support::{PATIENCE, kafka, shared_broker, unique};

/// Batches of that size, whose sizes are noted.
fn batches(size: usize) -> (Agent<Value, ()>, Arc<Mutex<Vec<usize>>>) {
    let sizes: Arc<Mutex<Vec<usize>>> = Arc::default();
    let all = Arc::clone(&sizes);
    let agent = Agent::batched("batch", size, move |values: Vec<Value>, _: Sinks| {
        all.lock().unwrap().push(values.len());
        async { Ok::<_, HandlerError>(None) }
    });
    (agent, sizes)
}

/// No more is taken while so much of it is not done: what a batch keeps back is released, where it would wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_window_releases_what_is_kept_back() {
    let topic = topic_of((0..200).map(|n| format!("[{n}]")));
    let (group, builder) = worker(&topic);
    let (agent, sizes) = batches(100);
    let builder = builder.consumer(|consumer| consumer.batch_size(10).max_window(10));
    let running = Running::start(builder.agent(agent).build().unwrap());
    soon("all is done", || (committed(&group, &topic) == Some(200)).then_some(()));
    running.stop().await.unwrap();
    assert!(sizes.lock().unwrap().iter().all(|size| *size <= 100));
    assert_eq!(sizes.lock().unwrap().iter().sum::<usize>(), 200);
}

/// Of many records few get into the batch, which keeps the first from being done.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_few_of_many_records_does_not_hold_up_the_worker() {
    const ALL: u64 = 250_000;
    let topic = topic_of((0..ALL).map(|n| format!("[{n}]")));
    let (group, builder) = worker(&topic);
    let (agent, sizes) = batches(2);
    let rare = Agent::new("rare", |value: Value, _: Sinks| async move {
        Ok::<_, HandlerError>(Some(value).filter(|value| *value == 1 || *value == ALL - 1))
    });
    let running = Running::start(builder.agent(rare).agent(agent).build().unwrap());
    soon("all others are done", || (committed(&group, &topic) == Some(ALL as i64 - 1)).then_some(()));
    running.stop().await.unwrap();
    assert_eq!(committed(&group, &topic), Some(ALL as i64));
    assert_eq!(sizes.lock().unwrap().iter().sum::<usize>(), 2);
}

/// From one record, in order, and in little memory beside the elements themselves.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_elements_come_of_one_record() {
    const ALL: u64 = 1_000_000;
    let topic = topic_of(["[0]", "[1]"]);
    let (group, builder) = worker(&topic);
    let many = Agent::new("many", |from: Value, _: Sinks| async move {
        let from = from.as_u64().unwrap_or_default() * ALL;
        Ok::<_, HandlerError>(Some((from..from + ALL).collect::<Vec<_>>()))
    });
    let (next, sum): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
    let (expected, all) = (Arc::clone(&next), Arc::clone(&sum));
    let add_up = Agent::batched("add", 777, move |numbers: Vec<u64>, _: Sinks| {
        for number in &numbers {
            assert_eq!(*number, expected.fetch_add(1, Ordering::Relaxed));
        }
        all.fetch_add(numbers.iter().sum(), Ordering::Relaxed);
        async { Ok::<_, HandlerError>(None::<()>) }
    });
    let before = rss_mib(std::process::id());
    let running = Running::start(builder.agent(many.atomic_send()).agent(add_up).build().unwrap());
    let mut peak = 0.0_f64;
    soon("all but the end is there", || {
        peak = peak.max(rss_mib(std::process::id()));
        (next.load(Ordering::Relaxed) >= 2 * ALL - 777).then_some(())
    });
    running.stop().await.unwrap();
    assert_eq!(sum.load(Ordering::Relaxed), (0..2 * ALL).sum::<u64>());
    assert_eq!(committed(&group, &topic), Some(2));
    // Eight bytes each, once as a list and once in the queue.
    assert!(peak < before + 200.0, "{before:.0} to {peak:.0} MiB");
}

/// Records are read as their elements go on: few bytes may be many elements.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_many_elements_are_not_read_ahead() {
    let topic = topic_of((0..400).map(|n| n.to_string()));
    let (group, builder) = worker(&topic);
    let (read, gate): (Arc<AtomicUsize>, _) = (Arc::default(), Arc::new(Semaphore::new(0)));
    let (counted, opened) = (Arc::clone(&read), Arc::clone(&gate));
    let builder = builder.deserialize_with(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(vec![(); 1_000])
    });
    let stuck = Agent::new("stuck", move |(), _: Sinks| {
        let opened = Arc::clone(&opened);
        async move {
            let _ = opened.acquire().await?;
            Ok::<_, HandlerError>(None::<()>)
        }
    });
    let running = Running::start(builder.agent(stuck).build().unwrap());
    soon("the queues are full", || (read.load(Ordering::Relaxed) >= 2).then_some(()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ahead = read.load(Ordering::Relaxed);
    gate.add_permits(1);
    soon("all is done", || (committed(&group, &topic) == Some(400)).then_some(()));
    running.stop().await.unwrap();
    assert!(ahead < 10, "{ahead} were read ahead");
}

/// It is given up after the drain's time, and what it had comes again.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_ends_does_not_hold_up_the_end() {
    let topic = topic_of(["[1]", "[2]", "[3]"]);
    let (group, builder) = worker(&topic);
    let has_come = Arc::new(AtomicBool::new(false));
    let came = Arc::clone(&has_come);
    let stuck = Agent::new("stuck", move |value: Value, _: Sinks| {
        let came = Arc::clone(&came);
        async move {
            if value == 2 {
                came.store(true, Ordering::Relaxed);
                std::future::pending::<()>().await;
            }
            Ok::<_, HandlerError>(None::<()>)
        }
    });
    let running = Running::start(builder.drain_timeout(Duration::from_millis(300)).agent(stuck).build().unwrap());
    soon("it is stuck", || has_come.load(Ordering::Relaxed).then_some(()));
    let since = Instant::now();
    running.stop().await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert_eq!(committed(&group, &topic), Some(1));
}

/// A blocking one too, which cannot be ended: its thread goes on, and the worker does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_agent_that_never_ends_does_not_hold_up_the_end() {
    let topic = topic_of(["[1]"]);
    let (group, builder) = worker(&topic);
    let (has_come, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (came, over) = (Arc::clone(&has_come), Arc::clone(&is_over));
    let stuck = Agent::blocking("stuck", move |_: Value, _: Sinks| {
        came.store(true, Ordering::Relaxed);
        while !over.load(Ordering::Relaxed) {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(None::<()>)
    });
    let running = Running::start(builder.drain_timeout(Duration::from_millis(300)).agent(stuck).build().unwrap());
    soon("it is stuck", || has_come.load(Ordering::Relaxed).then_some(()));
    let since = Instant::now();
    running.stop().await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert_eq!(committed(&group, &topic), None);
    is_over.store(true, Ordering::Relaxed);
}

/// Before the group has been joined, and with no broker at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_be_stopped_while_it_starts() {
    let topic = topic_of(["[1]"]);
    for _ in 0..3 {
        let (_, builder) = worker(&topic);
        let since = Instant::now();
        builder.agent(batches(10).0).build().unwrap().run_until(async {}).await.unwrap();
        assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    }
    let since = Instant::now();
    let nowhere = Worker::builder::<Value>("t", "127.0.0.1:1", "g").agent(batches(10).0).build().unwrap();
    nowhere.run_until(tokio::time::sleep(Duration::from_millis(200))).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
}

/// Everything on the one thread of the test.
#[tokio::test]
async fn a_worker_runs_on_one_thread() {
    const ALL: usize = 5_000;
    let broker = shared_broker();
    let (topic, group) =
        tokio::task::spawn_blocking(|| (topic_of((0..ALL).map(|n| format!("[{n}, {n}]"))), unique("g"))).await.unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let (all, over) = (Arc::clone(&count), Arc::new(tokio::sync::Notify::new()));
    let ended = Arc::clone(&over);
    let counting = Agent::batched("count", 100, move |values: Vec<Value>, _: Sinks| {
        if all.fetch_add(values.len(), Ordering::Relaxed) + values.len() == 2 * ALL {
            ended.notify_one();
        }
        async { Ok::<_, HandlerError>(None::<()>) }
    });
    let same = Agent::blocking("same", |value: Value, _: Sinks| Ok(Some(value)));
    let worker = Worker::builder::<Value>(&topic, broker, &group).agent(same).agent(counting).build().unwrap();
    tokio::time::timeout(PATIENCE, worker.run_until(over.notified())).await.unwrap().unwrap();
    assert_eq!(committed(&group, &topic), Some(ALL as i64));
}

fn members(group: &str) -> usize {
    let client: BaseConsumer = kafka::client(shared_broker()).create().unwrap();
    let groups = client.fetch_group_list(Some(group), PATIENCE).unwrap();
    groups.groups().iter().map(|group| group.members().len()).sum()
}

/// Whoever drops the future has stopped it all: agents are gone, their values too, and so is the member of the group.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_dropped_leaves_nothing_behind() {
    let topic = topic_of((0..2_000).map(|n| format!("[{n}]")));
    let (group, builder) = worker(&topic);
    let (inside, calls) = (Arc::new(()), Arc::new(AtomicUsize::new(0)));
    let (held, counted) = (Arc::clone(&inside), Arc::clone(&calls));
    let slow = Agent::new("slow", move |_: Value, _: Sinks| {
        let held = Arc::clone(&held);
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(held);
            Ok::<_, HandlerError>(None::<()>)
        }
    });
    let worker = builder.agent(slow).build().unwrap();
    let task = tokio::spawn(worker.run_until(std::future::pending()));
    soon("it works", || (calls.load(Ordering::Relaxed) > 10).then_some(()));
    assert_eq!(members(&group), 1);
    let since = Instant::now();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    soon("all that the agents had is gone", || (Arc::strong_count(&inside) == 1).then_some(()));
    soon("the group was left", || (members(&group) == 0).then_some(()));
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    let calls = calls.load(Ordering::Relaxed) as i64;
    // What was done may be committed, and no more.
    let committed = committed(&group, &topic).unwrap_or(0);
    assert!(committed < calls);
}

/// Two in one process: in one group they share, and stop one by one.
#[tokio::test(flavor = "multi_thread")]
async fn two_workers_run_in_one_process() {
    let topic = topic_of(["[1, 2]"]);
    let seen: Arc<Mutex<Vec<(usize, Value)>>> = Arc::default();
    let member = |number: usize, group: &str| {
        let seen = Arc::clone(&seen);
        let noting = Agent::new("noting", move |value: Value, _: Sinks| {
            seen.lock().unwrap().push((number, value));
            async { Ok::<_, HandlerError>(None::<()>) }
        });
        let builder =
            Worker::builder::<Value>(&topic, shared_broker(), group).config([("heartbeat.interval.ms", "200")]);
        Running::start(builder.agent(noting).build().unwrap())
    };
    let (one_group, other_group) = (unique("g"), unique("g"));
    // Two of a group with one partition, and one of another group.
    let (one, other, third) = (member(0, &one_group), member(1, &one_group), member(2, &other_group));
    soon("both groups have all", || (seen.lock().unwrap().len() == 4).then_some(()));
    soon("two are members", || (members(&one_group) == 2).then_some(()));
    let owner = seen.lock().unwrap().iter().map(|(number, _)| *number).find(|number| *number != 2).unwrap();
    let (owning, idle) = if owner == 0 { (one, other) } else { (other, one) };
    owning.stop().await.unwrap();
    add(&topic, ["[3]"]);
    soon("the other one goes on", || (seen.lock().unwrap().len() == 6).then_some(()));
    assert!(seen.lock().unwrap().contains(&(1 - owner, 3.into())));
    idle.stop().await.unwrap();
    third.stop().await.unwrap();
    for group in [&one_group, &other_group] {
        assert_eq!(committed(group, &topic), Some(2));
    }
}
