//! Chains of agents: what each gets, when batches are released, and when records count as done.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_envelope::stream::{Agent, Sinks, Whole, Worker};
use kafka_envelope::{Error, HandlerError, Ref, pack};
use serde_json::{Value, json};

use super::support::stream::{Running, committed, soon, topic_of, worker};
use super::support::{shared_broker, unique};

/// What agents saw, in order.
type Seen = Arc<Mutex<Vec<Value>>>;

fn seen(all: &Seen) -> Vec<Value> {
    all.lock().unwrap().clone()
}

/// An agent that notes what it gets and passes it on.
fn noting(all: &Seen) -> Agent<Value, Value> {
    let all = Arc::clone(all);
    Agent::new("noting", move |value: Value, _: Sinks| {
        all.lock().unwrap().push(value.clone());
        async { Ok::<_, HandlerError>(Some(value)) }
    })
}

/// The same with batches, which it passes on as lists.
fn batching(all: &Seen, size: usize) -> Agent<Value, Value> {
    let all = Arc::clone(all);
    Agent::batched("batching", size, move |values: Vec<Value>, _: Sinks| {
        all.lock().unwrap().push(Value::Array(values.clone()));
        async { Ok::<_, HandlerError>(Some(Value::Array(values))) }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn elements_go_through_the_chain_one_by_one() {
    let topic = topic_of(["[1, 2, 3]", "{\"a\": 1, \"b\": 2}", "\"xy\"", "[]", "[[4]]"]);
    let (first, last) = (Seen::default(), Seen::default());
    let (group, builder) = worker(&topic);
    let running = Running::start(builder.agent(noting(&first)).agent(noting(&last)).build().unwrap());
    soon("all is committed", || (committed(&group, &topic) == Some(5)).then_some(()));
    running.stop().await.unwrap();
    let expected: Value = serde_json::from_str(r#"[1, 2, 3, "a", "b", "x", "y", [4]]"#).unwrap();
    assert_eq!((Value::Array(seen(&first)), Value::Array(seen(&last))), (expected.clone(), expected));
}

/// Full: at once, and not a message late. What is left of it waits uncommitted, and the end releases it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_released_when_it_is_full_and_at_the_end() {
    let topic = topic_of(["[1, 2, 3]", "[4, 5]"]);
    let (batches, last) = (Seen::default(), Seen::default());
    let (group, builder) = worker(&topic);
    let running = Running::start(builder.agent(batching(&batches, 3)).agent(noting(&last)).build().unwrap());
    soon("the first is released", || (seen(&last).len() == 1).then_some(()));
    soon("its record is committed", || (committed(&group, &topic) == Some(1)).then_some(()));
    running.stop().await.unwrap();
    let expected: Value = serde_json::from_str("[[1, 2, 3], [4, 5]]").unwrap();
    assert_eq!(Value::Array(seen(&batches)), expected);
    assert_eq!(committed(&group, &topic), Some(2));
}

/// By its timeout, which starts again with each message.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_released_when_its_time_is_up() {
    let topic = topic_of(["[1, 2]"]);
    let batches = Seen::default();
    let (group, builder) = worker(&topic);
    let agent = batching(&batches, 100).timeout(Duration::from_millis(200));
    let running = Running::start(builder.agent(agent).build().unwrap());
    soon("it is committed", || (committed(&group, &topic) == Some(1)).then_some(()));
    assert_eq!(seen(&batches).len(), 1);
    running.stop().await.unwrap();
}

/// The first failure ends the worker with its error, and nothing of its record is committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_agent_stops_the_worker() {
    let topic = topic_of(["[1]", "[2]", "[3]"]);
    let (group, builder) = worker(&topic);
    let failing = Agent::new("failing", |value: u64, _: Sinks| async move {
        if value == 2 { Err("no".into()) } else { Ok::<_, HandlerError>(Some(value)) }
    });
    let builder = builder.agent(Agent::new("number", |value: Value, _: Sinks| async move { Ok(value.as_u64()) }));
    let running = Running::start(builder.agent(failing).build().unwrap());
    let error = running.failed().await;
    assert!(matches!(&error, Error::Handler { .. }), "{error}");
    assert!(error.to_string().contains(&format!("{topic}[0=1:2]: agent `failing`: no")), "{error}");
    assert_eq!(committed(&group, &topic), Some(1));
}

/// For what is made of them: their place, and where they came from.
#[tokio::test(flavor = "multi_thread")]
async fn whole_envelopes_have_their_history() {
    let cause = Ref::new("orders", 3, 7);
    let topic = topic_of([pack("shop", &json!({"sku": "apples"}), &[cause]).unwrap()]);
    let (sent, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let worker = Worker::builder(&topic, shared_broker(), &unique("worker")).whole_envelopes().agent(Agent::new(
        "noting",
        move |order: Whole<Value>, _: Sinks| {
            let noted = sent.send((order.value.clone(), order.reference()));
            async move { Ok::<Option<()>, HandlerError>(noted.map(|()| None)?) }
        },
    ));
    let running = Running::start(worker.build().unwrap());
    let (value, reference) = seen.recv().await.unwrap();
    running.stop().await.unwrap();
    assert_eq!(value, json!({"sku": "apples"}));
    assert_eq!((&*reference.topic, reference.partition, reference.offset), (&*topic, 0, 0));
    let stage = reference.history.unwrap().stage().unwrap();
    assert_eq!((&*stage.service, stage.refs[0].offset), ("shop", 7));
}
