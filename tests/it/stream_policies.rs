//! What becomes of elements that an agent fails on, and of records that cannot be read.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kafka_envelope::stream::{Agent, Sinks, Worker};
use kafka_envelope::{Backoff, Error, GiveUp, HandlerError, OnError, OnUndecodable};
use rdkafka::Message;
use serde_json::{Value, json};

use super::support::stream::{Running, committed, soon, topic_of, worker};
use super::support::{consume_all, create_topic_with, shared_broker, unique};

/// What an agent got.
type Seen<T> = Arc<Mutex<Vec<T>>>;

/// Batches of two; fails on those with a 3 in them.
fn picky(seen: &Seen<Vec<Value>>) -> Agent<Value, ()> {
    let seen = Arc::clone(seen);
    Agent::batched("picky", 2, move |values: Vec<Value>, _: Sinks| {
        seen.lock().unwrap().push(values.clone());
        async move { if values.contains(&json!(3)) { Err("a three".into()) } else { Ok::<_, HandlerError>(None) } }
    })
}

fn numbers(upto: u32) -> impl Iterator<Item = String> {
    (1..=upto).map(|n| format!("[{n}]"))
}

/// The values of the dead letters of a topic, in order of their offsets there.
fn dead_letters(topic: &str) -> Vec<String> {
    let all = consume_all(shared_broker(), &format!("{topic}-dlt"));
    let mut all: Vec<_> =
        all.iter().map(|letter| String::from_utf8_lossy(letter.payload().unwrap()).into_owned()).collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_is_skipped() {
    let topic = topic_of(numbers(6));
    let (group, builder) = worker(&topic);
    let seen = Seen::default();
    let builder = builder.consumer(|consumer| consumer.on_error(OnError::stop().then(GiveUp::Skip)));
    let running = Running::start(builder.agent(picky(&seen)).build().unwrap());
    soon("all is committed", || (committed(&group, &topic) == Some(6)).then_some(()));
    running.stop().await.unwrap();
    assert_eq!(json!(*seen.lock().unwrap()), json!([[1, 2], [3, 4], [5, 6]]));
}

/// Each record of the batch, as it was, once each.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_batch_that_fails_each_record_becomes_a_dead_letter() {
    let topic = topic_of(["[1]", "[2]", "[3, 4]", "[5]", "[6]", "[3]", "[7]"]);
    create_topic_with(shared_broker(), &format!("{topic}-dlt"), 1, &[]);
    let (group, builder) = worker(&topic);
    let seen = Seen::default();
    let builder = builder.consumer(|consumer| consumer.on_error(OnError::stop().then(GiveUp::DeadLetter)));
    let running = Running::start(builder.agent(picky(&seen)).build().unwrap());
    soon("all is committed", || (committed(&group, &topic) == Some(7)).then_some(()));
    running.stop().await.unwrap();
    assert_eq!(json!(*seen.lock().unwrap()), json!([[1, 2], [3, 4], [5, 6], [3, 7]]));
    assert_eq!(dead_letters(&topic), ["[3, 4]", "[3]", "[7]"]);
}

/// Also where many of its elements fail, each in a call of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_becomes_one_dead_letter() {
    let many = json!((0..300).collect::<Vec<_>>()).to_string();
    let topic = topic_of([&*many, "[1]", "[2, 3]"]);
    create_topic_with(shared_broker(), &format!("{topic}-dlt"), 1, &[]);
    let (group, builder) = worker(&topic);
    let failing = Agent::new("failing", |_: Value, _: Sinks| async { Err::<Option<()>, HandlerError>("no".into()) });
    let builder = builder.consumer(|consumer| consumer.on_error(OnError::stop().then(GiveUp::DeadLetter)));
    let running = Running::start(builder.agent(failing).build().unwrap());
    soon("all is committed", || (committed(&group, &topic) == Some(3)).then_some(()));
    running.stop().await.unwrap();
    assert_eq!(dead_letters(&topic), [&*many, "[1]", "[2, 3]"]);
}

/// Many more than wait anywhere, also at the end.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_becomes_a_dead_letter_up_to_the_end() {
    const ALL: u32 = 2_000;
    let topic = topic_of(numbers(ALL));
    create_topic_with(shared_broker(), &format!("{topic}-dlt"), 1, &[]);
    let (group, builder) = worker(&topic);
    let calls: Arc<AtomicUsize> = Arc::default();
    let counted = Arc::clone(&calls);
    let failing = Agent::new("failing", move |_: Value, _: Sinks| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Err::<Option<()>, HandlerError>("no".into()) }
    });
    let builder = builder.consumer(|consumer| consumer.on_error(OnError::stop().then(GiveUp::DeadLetter)));
    let running = Running::start(builder.agent(failing).build().unwrap());
    soon("some came", || (calls.load(Ordering::Relaxed) > 0).then_some(()));
    // In the midst of it.
    running.stop().await.unwrap();
    let calls = calls.load(Ordering::Relaxed);
    assert_eq!(committed(&group, &topic), Some(calls as i64));
    assert_eq!(dead_letters(&topic).len(), calls);
}

fn quick(attempts: u32) -> Backoff {
    Backoff { first: Duration::from_millis(1), attempts, ..Backoff::default() }
}

/// The same batch, by an error and by a panic; then as if it had never failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_tried_again() {
    let topic = topic_of(numbers(2));
    let (group, builder) = worker(&topic);
    let seen: Seen<Vec<Value>> = Seen::default();
    let all = Arc::clone(&seen);
    let agent = Agent::batched("shaky", 2, move |values: Vec<Value>, _: Sinks| {
        let attempt = {
            let mut all = all.lock().unwrap();
            all.push(values);
            all.len()
        };
        async move {
            match attempt {
                1 => Err("not yet".into()),
                2 => panic!("not yet"),
                _ => Ok::<_, HandlerError>(None::<()>),
            }
        }
    });
    let running = Running::start(builder.agent(agent.retry(quick(3))).build().unwrap());
    soon("all is committed", || (committed(&group, &topic) == Some(2)).then_some(()));
    running.stop().await.unwrap();
    assert_eq!(json!(*seen.lock().unwrap()), json!([[1, 2], [1, 2], [1, 2]]));
}

/// Attempts are the agent's own; when they are used up, the policy says what is next.
#[tokio::test(flavor = "multi_thread")]
async fn when_attempts_are_used_up_the_worker_stops() {
    let topic = topic_of(numbers(4));
    let (group, builder) = worker(&topic);
    let seen = Seen::default();
    let error = Running::start(builder.agent(picky(&seen).retry(quick(3))).build().unwrap()).failed().await;
    assert!(matches!(error, Error::Handler { .. }), "{error}");
    assert!(error.to_string().contains(&format!("{topic}[0=2:4]: agent `picky`: a three")), "{error}");
    assert_eq!(json!(*seen.lock().unwrap()), json!([[1, 2], [3, 4], [3, 4], [3, 4]]));
    assert_eq!(committed(&group, &topic), Some(2));
}

/// In each kind of agent: before the first await, after it, on a thread of its own.
/// Also where the next agent takes nothing more of what was made before.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_does_not_wait_for_the_next_agent() {
    let topic = topic_of(["[1]", "[2]"]);
    let (group, builder) = worker(&topic);
    let many = Agent::new("many", |value: Value, _: Sinks| async move {
        // More than wait between agents, and not so much that there would be no next call.
        if value == 1 { Ok::<_, HandlerError>(Some(vec![0; 5 * 256 + 10])) } else { Err("no".into()) }
    });
    let stuck = Agent::new("stuck", |_: i32, _: Sinks| pending::<Result<Option<()>, HandlerError>>());
    let builder = builder.drain_timeout(Duration::from_millis(500)).agent(many.atomic_send()).agent(stuck);
    let error = Running::start(builder.build().unwrap()).failed().await;
    assert!(matches!(error, Error::Handler { .. }), "{error}");
    assert_eq!(committed(&group, &topic), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_panics_stops_the_worker() {
    fn at_once(value: Value, _: Sinks) -> std::future::Ready<Result<Option<Value>, HandlerError>> {
        panic!("at {value}")
    }
    let later = |value: Value, _: Sinks| async move {
        tokio::task::yield_now().await;
        if true { panic!("at {value}") } else { Ok::<_, HandlerError>(Some(value)) }
    };
    let blocking = |value: Value, _: Sinks| -> Result<Option<Value>, HandlerError> { panic!("at {value}") };
    for agent in [Agent::new("a", at_once), Agent::new("a", later), Agent::blocking("a", blocking)] {
        let topic = topic_of(numbers(2));
        let (group, builder) = worker(&topic);
        let since = Instant::now();
        let error = Running::start(builder.agent(agent).build().unwrap()).failed().await;
        assert!(error.to_string().contains("agent `a`: it panicked: at 1"), "{error}");
        assert_eq!(committed(&group, &topic), None);
        assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
    }
}

const MIXED: [&str; 6] = ["[1]", "{oops", "5", "null", "[2, 3]", "[4]"];

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_skipped_or_becomes_a_dead_letter() {
    for policy in [OnUndecodable::Skip, OnUndecodable::DeadLetter] {
        let topic = topic_of(MIXED);
        create_topic_with(shared_broker(), &format!("{topic}-dlt"), 1, &[]);
        let (group, builder) = worker(&topic);
        let seen: Seen<Value> = Seen::default();
        let all = Arc::clone(&seen);
        let agent = Agent::new("noting", move |value: Value, _: Sinks| {
            all.lock().unwrap().push(value);
            async { Ok::<_, HandlerError>(None::<()>) }
        });
        let builder = builder.consumer(|consumer| consumer.on_undecodable(policy));
        let running = Running::start(builder.agent(agent).build().unwrap());
        soon("all is committed", || (committed(&group, &topic) == Some(6)).then_some(()));
        running.stop().await.unwrap();
        assert_eq!(json!(*seen.lock().unwrap()), json!([1, 2, 3, 4]));
        let buried: &[&str] = if policy == OnUndecodable::Skip { &[] } else { &["5", "null", "{oops"] };
        assert_eq!(dead_letters(&topic), buried);
    }
}

/// What came before it is handled and committed, incomplete batches too.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_stops_the_worker_in_order() {
    let topic = topic_of(MIXED);
    let (group, builder) = worker(&topic);
    let seen = Seen::default();
    let error = Running::start(builder.agent(picky(&seen)).build().unwrap()).failed().await;
    assert!(matches!(error, Error::Undecodable { offset: 1, .. }), "{error}");
    assert_eq!(json!(*seen.lock().unwrap()), json!([[1]]));
    assert_eq!(committed(&group, &topic), Some(1));
}

/// One's own deserializer that panics has not read the record, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_deserializer_that_panics_makes_a_record_undecodable() {
    for policy in [OnUndecodable::Stop, OnUndecodable::Skip] {
        let topic = topic_of(["1", "x", "3"]);
        let group = unique("worker");
        let seen: Seen<u32> = Seen::default();
        let all = Arc::clone(&seen);
        let agent = Agent::new("noting", move |value: u32, _: Sinks| {
            all.lock().unwrap().push(value);
            async { Ok::<_, HandlerError>(None::<()>) }
        });
        let builder = Worker::builder::<Value>(&topic, shared_broker(), &group)
            .deserialize_with(|record| {
                let text = std::str::from_utf8(record.value().unwrap_or_default())?;
                Ok(vec![text.parse::<u32>().expect("no number")])
            })
            .consumer(|consumer| consumer.on_undecodable(policy))
            .agent(agent);
        let running = Running::start(builder.build().unwrap());
        if policy == OnUndecodable::Stop {
            let error = running.failed().await;
            assert!(matches!(error, Error::Undecodable { offset: 1, .. }), "{error}");
            let text = format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
            assert!(text.contains("the deserializer panicked: no number"), "{text}");
            assert_eq!(*seen.lock().unwrap(), [1]);
            assert_eq!(committed(&group, &topic), Some(1));
            continue;
        }
        soon("all is committed", || (committed(&group, &topic) == Some(3)).then_some(()));
        running.stop().await.unwrap();
        assert_eq!(*seen.lock().unwrap(), [1, 3]);
    }
}

/// By its age, while elements go on coming that start the timeout again each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_released_at_its_greatest_age() {
    let topic = topic_of(numbers(1));
    let (_, builder) = worker(&topic);
    let sizes: Seen<(usize, Duration)> = Seen::default();
    let (all, since) = (Arc::clone(&sizes), Instant::now());
    let agent = Agent::batched("aged", 1_000_000, move |values: Vec<Value>, _: Sinks| {
        all.lock().unwrap().push((values.len(), since.elapsed()));
        async { Ok::<_, HandlerError>(None::<()>) }
    });
    let agent = agent.timeout(Duration::from_secs(60)).max_age(Duration::from_millis(500));
    let running = Running::start(builder.agent(agent).build().unwrap());
    soon("three are released", || {
        super::support::stream::add(&topic, ["[1]"]);
        (sizes.lock().unwrap().len() >= 3).then_some(())
    });
    let sizes = sizes.lock().unwrap().clone();
    for pair in sizes.windows(2) {
        let apart = pair[1].1 - pair[0].1;
        assert!(apart >= Duration::from_millis(500) && apart < Duration::from_secs(10), "{sizes:?}");
    }
    assert!(sizes[1].0 > 1, "{sizes:?}");
    running.stop().await.unwrap();
}
