//! Agents beside one another: what is filled while something is handled, several calls at once, and statistics.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use kafka_envelope::HandlerError;
use kafka_envelope::stream::{Agent, Sinks, Worker};
use tokio::sync::Semaphore;

use super::support::stream::{Running, committed, soon, topic_of};
use super::support::{keep_logs, logged, shared_broker, unique};

fn lists(count: u64) -> Vec<String> {
    (0..count).map(|number| format!("[{number}]")).collect()
}

/// What an agent is called with, in order, and what lets it go on.
#[derive(Clone)]
struct Gate {
    called: Arc<Mutex<Vec<Vec<u64>>>>,
    opened: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self { called: Arc::default(), opened: Arc::new(Semaphore::new(0)) }
    }

    async fn pass(self, numbers: Vec<u64>) -> Vec<u64> {
        self.called.lock().unwrap().push(numbers.clone());
        self.opened.acquire().await.unwrap().forget();
        numbers
    }

    fn open(&self, times: usize) {
        self.opened.add_permits(times);
    }

    fn called(&self) -> Vec<Vec<u64>> {
        self.called.lock().unwrap().clone()
    }
}

/// The next batch is complete while the agent still has the first: no element of it is held back by what is handled.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_fills_while_the_one_before_is_handled() {
    const SIZE: u64 = 5_000;
    let (topic, group, gate) = (topic_of(lists(2 * SIZE)), unique("worker"), Gate::new());
    let passed = Arc::new(AtomicUsize::new(0));
    let (inner, count) = (gate.clone(), Arc::clone(&passed));
    let running = Worker::builder(&topic, shared_broker(), &group)
        .agent(Agent::new("passing", move |number: u64, _: Sinks| {
            count.fetch_add(1, Ordering::Relaxed);
            async move { Ok::<_, HandlerError>(Some(number)) }
        }))
        .agent(Agent::batched("slow", SIZE as usize, move |numbers: Vec<u64>, _: Sinks| {
            let gate = inner.clone();
            async move {
                gate.pass(numbers).await;
                Ok::<Option<()>, HandlerError>(None)
            }
        }));
    let running = Running::start(running.build().unwrap());
    soon("the first is handled and the second there", || {
        (gate.called().len() == 1 && passed.load(Ordering::Relaxed) as u64 == 2 * SIZE).then_some(())
    });
    gate.open(2);
    soon("all is committed", || (committed(&group, &topic) == Some(2 * SIZE as i64)).then_some(()));
    running.stop().await.unwrap();
    assert_eq!(gate.called(), [(0..SIZE).collect::<Vec<_>>(), (SIZE..2 * SIZE).collect()]);
}

/// Of more records than are taken by default beyond one that is not done.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_is_whole() {
    const SIZE: u64 = 150_000;
    let (topic, group, sizes) = (topic_of(lists(SIZE)), unique("worker"), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&sizes);
    let builder = Worker::builder(&topic, shared_broker(), &group).agent(Agent::batched(
        "large",
        SIZE as usize,
        move |numbers: Vec<u64>, _: Sinks| {
            noted.lock().unwrap().push(numbers.len() as u64);
            async { Ok::<Option<()>, HandlerError>(None) }
        },
    ));
    let running = Running::start(builder.build().unwrap());
    soon("all is committed", || (committed(&group, &topic) == Some(SIZE as i64)).then_some(()));
    running.stop().await.unwrap();
    assert_eq!(*sizes.lock().unwrap(), [SIZE]);
}

/// Three at once and no more; what ends first goes on first, and is committed with what came before it.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_makes_several_calls_at_once() {
    let (topic, group) = (topic_of(lists(5)), unique("worker"));
    let gates: Vec<Gate> = (0..5).map(|_| Gate::new()).collect();
    let (inner, ended) = (gates.clone(), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&ended);
    let builder = Worker::builder(&topic, shared_broker(), &group)
        .agent(
            Agent::new("asking", move |number: u64, _: Sinks| {
                let gate = inner[number as usize].clone();
                async move { Ok::<_, HandlerError>(gate.pass(vec![number]).await.first().copied()) }
            })
            .concurrency(3),
        )
        .agent(Agent::new("noting", move |number: u64, _: Sinks| {
            noted.lock().unwrap().push(number);
            async { Ok::<Option<()>, HandlerError>(None) }
        }));
    let running = Running::start(builder.build().unwrap());
    let called = || gates.iter().map(|gate| gate.called().len()).collect::<Vec<_>>();
    let soon_called = |expected: [usize; 5]| soon("calls", || (called() == expected).then_some(()));
    let soon_ended = |expected: &[u64]| soon("ends", || (*ended.lock().unwrap() == expected).then_some(()));
    soon_called([1, 1, 1, 0, 0]);
    gates[2].open(1);
    soon_ended(&[2]);
    soon_called([1, 1, 1, 1, 0]);
    gates[1].open(1);
    soon_ended(&[2, 1]);
    soon_called([1; 5]);
    assert_eq!(committed(&group, &topic), None);
    gates[0].open(1);
    soon_ended(&[2, 1, 0]);
    soon("those before the fourth are committed", || (committed(&group, &topic) == Some(3)).then_some(()));
    gates[3].open(1);
    gates[4].open(1);
    soon("all is committed", || (committed(&group, &topic) == Some(5)).then_some(()));
    running.stop().await.unwrap();
}

/// At the end those under way are waited for.
#[tokio::test(flavor = "multi_thread")]
async fn calls_under_way_end_with_the_worker() {
    let (topic, group, gate) = (topic_of(lists(4)), unique("worker"), Gate::new());
    let inner = gate.clone();
    let builder = Worker::builder(&topic, shared_broker(), &group).agent(
        Agent::batched("asking", 2, move |numbers: Vec<u64>, _: Sinks| {
            let gate = inner.clone();
            async move {
                gate.pass(numbers).await;
                Ok::<Option<()>, HandlerError>(None)
            }
        })
        .concurrency(2),
    );
    let running = Running::start(builder.build().unwrap());
    soon("both are called", || (gate.called().len() == 2).then_some(()));
    let opening = gate.clone();
    let stopping = tokio::spawn(running.stop());
    opening.open(2);
    stopping.await.unwrap().unwrap();
    assert_eq!(committed(&group, &topic), Some(4));
}

/// Each on a thread of its own: all have to be there before one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn blocking_calls_at_once_have_a_thread_each() {
    let (topic, group) = (topic_of(lists(3)), unique("worker"));
    let barrier = Arc::new(std::sync::Barrier::new(3));
    let builder = Worker::builder(&topic, shared_broker(), &group).agent(
        Agent::blocking("heavy", move |_: u64, _: Sinks| {
            barrier.wait();
            Ok::<Option<()>, HandlerError>(None)
        })
        .concurrency(3),
    );
    let running = Running::start(builder.build().unwrap());
    soon("all is committed", || (committed(&group, &topic) == Some(3)).then_some(()));
    running.stop().await.unwrap();
}

/// The same of batches, off the runtime's own threads.
#[tokio::test]
async fn batches_are_handled_on_a_thread_that_may_block() {
    let (topic, group) = (topic_of(lists(4)), unique("worker"));
    let own = thread::current().id();
    let (sent, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let builder = Worker::builder(&topic, shared_broker(), &group).agent(Agent::batched_blocking(
        "heavy",
        2,
        move |numbers: Vec<u64>, _: Sinks| {
            sent.send((numbers, thread::current().id() == own))?;
            Ok::<Option<()>, HandlerError>(None)
        },
    ));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(builder.build().unwrap().run_until(async { drop(stopped.await) }));
    assert_eq!(seen.recv().await, Some((vec![0, 1], false)));
    assert_eq!(seen.recv().await, Some((vec![2, 3], false)));
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_are_logged() {
    keep_logs();
    let (topic, group, name) = (topic_of(lists(7)), unique("worker"), unique("agent"));
    let builder = Worker::builder(&topic, shared_broker(), &group).agent(
        Agent::batched(&name, 5, |_: Vec<u64>, _: Sinks| {
            thread::sleep(Duration::from_millis(20));
            async { Ok::<Option<()>, HandlerError>(None) }
        })
        .statistics(true),
    );
    let running = Running::start(builder.build().unwrap());
    soon("the first batch is committed", || (committed(&group, &topic) == Some(5)).then_some(()));
    running.stop().await.unwrap();
    let lines = logged(&[&name, "2 calls with 7 elements, at most 5 at once", "0 elements wait"]);
    assert!(matches!(&*lines, [line] if line.starts_with("INFO ")), "{lines:?}: {:?}", logged(&[&name]));
}
