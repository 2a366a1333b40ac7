//! Stream workers at their start: brokers and sinks that are not there, or not yet.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kafka_envelope::stream::{Agent, KafkaSink, Sink, Sinks, Worker, WorkerBuilder};
use kafka_envelope::{Backoff, Error, GiveUp, HandlerError, OnError};
use serde_json::Value;

use super::support::stream::{Running, committed, soon, topic_of};
use super::support::{TestTopic, keep_logs, logged, produce_raw_batch, shared_broker, unique};

/// Counts what it gets.
fn counting(seen: &Arc<AtomicUsize>) -> Agent<Value, ()> {
    let seen = Arc::clone(seen);
    Agent::new("counting", move |_: Value, _: Sinks| {
        seen.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, HandlerError>(None) }
    })
}

fn attempts(attempts: u32) -> Backoff {
    Backoff { first: Duration::from_millis(10), attempts, ..Backoff::default() }
}

/// Nobody listens there, for now.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// From now on that address leads to the broker.
fn lead_to_broker(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, broker) = (client.unwrap(), TcpStream::connect(shared_broker()).unwrap());
            let (from, to) = (client.try_clone().unwrap(), broker.try_clone().unwrap());
            for (mut from, mut to) in [(from, to), (broker, client)] {
                thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
}

async fn error_of(builder: WorkerBuilder<()>) -> Error {
    Running::start(builder.build().unwrap()).failed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_broker_is_an_error_after_so_many_attempts() {
    let (address, seen) = (free_address(), Arc::default());
    let builder = Worker::builder("t", &address, "g").agent(counting(&seen)).connect_backoff(attempts(3));
    let since = Instant::now();
    let error = error_of(builder).await;
    assert!(matches!(&error, Error::Unreachable { brokers, .. } if *brokers == address), "{error}");
    assert!(error.is_retriable());
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("Connection refused"), "{text}");
    // Three attempts of a second each, and the end.
    let took = since.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(20)).contains(&took), "{took:?}");
}

/// The worker's own broker is there, that of its sink is not: nothing is read.
#[tokio::test(flavor = "multi_thread")]
async fn no_broker_of_a_sink_is_an_error_before_anything_is_read() {
    let (topic, group, address, seen) = (topic_of(["[1]"]), unique("worker"), free_address(), Arc::default());
    let builder = Worker::builder(&topic, shared_broker(), &group)
        .agent(counting(&seen))
        .sink(KafkaSink::new("elsewhere", &address).unwrap())
        .connect_backoff(attempts(2));
    let error = error_of(builder).await;
    assert!(matches!(&error, Error::Unreachable { brokers, .. } if *brokers == address), "{error}");
    assert_eq!(seen.load(Ordering::Relaxed), 0);
    assert_eq!(committed(&group, &topic), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_up_late_is_waited_for() {
    let (topic, group, address) = (topic_of(["[1, 2]"]), unique("worker"), free_address());
    let seen = Arc::default();
    let builder = Worker::builder(&topic, &address, &group).agent(counting(&seen));
    keep_logs();
    let running = Running::start(builder.build().unwrap());
    soon("an attempt fails", || (!logged(&["consumer: attempt 1 of 10", &address]).is_empty()).then_some(()));
    assert_eq!(seen.load(Ordering::Relaxed), 0);
    lead_to_broker(&address);
    soon("all is committed", || (committed(&group, &topic) == Some(1)).then_some(()));
    running.stop().await.unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_while_it_connects_ends() {
    let seen = Arc::default();
    let builder = Worker::builder("t", &free_address(), "g").agent(counting(&seen));
    let running = Running::start(builder.build().unwrap());
    tokio::task::yield_now().await;
    let since = Instant::now();
    running.stop().await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
}

/// One that was built, and one whose sink is not there yet, keep no partition from the others.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_work_is_no_member() {
    let (topic, group) = (TestTopic::new(shared_broker(), 2), unique("worker"));
    produce_raw_batch(shared_broker(), &topic, (0..2).map(|partition| (partition, None::<&str>, Some("[1]"))));
    let (idle, seen) = (Arc::default(), Arc::default());
    let builder = |seen: &Arc<AtomicUsize>| Worker::builder(&topic, shared_broker(), &group).agent(counting(seen));
    let _built = builder(&idle).build().unwrap();
    let connecting =
        Running::start(builder(&idle).sink(KafkaSink::new("away", &free_address()).unwrap()).build().unwrap());
    let running = Running::start(builder(&seen).build().unwrap());
    soon("all is handled", || (seen.load(Ordering::Relaxed) == 2).then_some(()));
    running.stop().await.unwrap();
    connecting.stop().await.unwrap();
    assert_eq!(idle.load(Ordering::Relaxed), 0);
}

/// Answers each attempt to connect with the next of these.
struct Shaky(Mutex<Vec<Result<(), Error>>>);

impl Shaky {
    fn new(mut answers: Vec<Result<(), Error>>) -> Self {
        answers.reverse();
        Self(Mutex::new(answers))
    }
}

impl Sink for Shaky {
    fn id(&self) -> &str {
        "shaky"
    }

    async fn connect(&self, _: Duration) -> Result<(), Error> {
        self.0.lock().unwrap().pop().expect("not so often")
    }

    async fn close(&self, _: Duration) -> Result<(), Error> {
        Ok(())
    }
}

/// Until it has, and before anything is read; not again after what another attempt would not mend.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_of_ones_own_connects() {
    let away = || Err(Error::Redis { address: "there".into(), reason: "not yet".into(), refused: false });
    let refused = || Err(Error::Setting { key: "password".into(), reason: "is wrong".into() });
    for (answers, is_fine) in
        [(vec![away(), away(), Ok(())], true), (vec![away(), refused()], false), (vec![away(), away(), away()], false)]
    {
        let (topic, group) = (topic_of(["[1]"]), unique("worker"));
        let left = answers.len();
        let expected = answers.last().unwrap().as_ref().err().map(ToString::to_string);
        let (sink, seen) = (Shaky::new(answers), Arc::default());
        let builder = Worker::builder(&topic, shared_broker(), &group).sink(sink).agent(counting(&seen));
        let builder = builder.connect_backoff(attempts(3));
        if is_fine {
            let running = Running::start(builder.build().unwrap());
            soon("all is committed", || (committed(&group, &topic) == Some(1)).then_some(()));
            running.stop().await.unwrap();
            continue;
        }
        assert_eq!(error_of(builder).await.to_string(), expected.unwrap(), "{left}");
        assert_eq!(seen.load(Ordering::Relaxed), 0);
    }
}

/// Where nothing would heed them.
#[test]
fn settings_that_would_do_nothing_are_refused() {
    let builder = || Worker::builder("t", "localhost:1", "g").agent(counting(&Arc::default()));
    let refused = |builder: WorkerBuilder<()>, key: &str| {
        let error = builder.build().unwrap_err();
        assert!(matches!(&error, Error::Setting { key: of, .. } if of == key), "{error}");
    };
    refused(builder().consumer(|consumer| consumer.topics(["more"])), "topics");
    refused(builder().consumer(|consumer| consumer.idle_timeout(Duration::from_secs(1))), "idle_timeout");
    let attempts = OnError::retry(Backoff::default()).then(GiveUp::Skip);
    refused(builder().consumer(|consumer| consumer.on_error(attempts)), "on_error");
    refused(builder().connect_backoff(Backoff { attempts: 0, ..Backoff::default() }), "connect_backoff");
    let refused_agent =
        |agent: Agent<Value, ()>, key: &str| refused(Worker::builder("t", "localhost:1", "g").agent(agent), key);
    refused_agent(counting(&Arc::default()).retry(Backoff { attempts: 0, ..Backoff::default() }), "retry");
    refused_agent(counting(&Arc::default()).concurrency(0), "agent");
    let twice = counting(&Arc::default()).retry(Backoff::default()).retry(Backoff::default());
    refused_agent(twice, "agent");
}
