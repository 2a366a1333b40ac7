//! What agents of the Python worker saw, and what ours see of the same records.
//!
//! Where they differ, `expected` says how: batches are released when they are full and at the end, what is returned as
//! nothing goes nowhere, numpy's types are JSON's, and what fails stops the worker.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_envelope::stream::{Agent, Sinks, Whole, WorkerBuilder};
use kafka_envelope::{Error, HandlerError};
use serde_json::{Map, Value, json};
use tokio::task::block_in_place;

use super::support::stream::{Running, add, committed, soon, topic_of, worker};

/// Per agent, the calls in order.
type Seen = Arc<Mutex<Vec<Vec<Value>>>>;

#[derive(Debug, PartialEq)]
enum End {
    Stopped,
    /// At that agent.
    Handler(usize),
    Undecodable,
    /// It could not be built.
    Setting,
}

/// What our agents see where it is not what the Python ones saw, and how the worker ends.
fn expected(name: &str) -> (Option<Value>, End) {
    let saw = match name {
        "buffer-exact" => json!([[[1, 2, 3]], [[1, 2, 3]]]),
        "buffer-plus-one" => json!([[[1, 2, 3], [4]], [[1, 2, 3], [4]]]),
        "buffer-many" => {
            let batches = json!([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10]]);
            json!([batches, batches])
        }
        "buffer-one" => json!([[[1], [2], [3]], [[1], [2], [3]]]),
        "buffer-atomic-send" | "buffer-atomic-send-array" => json!([[[1, 2, 3], [4]], [1, 2, 3, 4]]),
        "atomic-send-map" => json!([[[1, 2, 3], [4]], [["k0", 1], ["k1", 2], ["k2", 3], ["k0", 4]]]),
        "returns-nothing" | "atomic-send-nothing" => json!([[1, 2], []]),
        "two-buffers" => {
            let merged = json!([[1, 2, 3], [4, 5, 6], [7, 8, 9]]);
            json!([[[1, 2], [3, 4], [5, 6], [7, 8], [9]], merged, merged])
        }
        "buffer-mixed-numbers" => json!([[[1, 2.5, 3], [4]]]),
        "buffer-mixed-text" => json!([[[1, "a", true], [4]]]),
        "buffer-maps" => json!([[[{"a": 1}, {"b": 2}, {"c": 3}], [4]]]),
        "buffer-lists-equal" => json!([[[[1, 2], [3, 4], [5, 6]], [7]]]),
        "buffer-lists-ragged" => json!([[[[1, 2], [3], [5, 6]], [7]]]),
        "buffer-with-null" => json!([[[1, null, 3], [4]]]),
        "timeout-without-buffer" => return (Some(json!([[]])), End::Setting),
        "number-record-atomic" | "null-record-atomic" | "not-json" => return (None, End::Undecodable),
        "failing-agent" | "atomic-send-number-unbuffered" => return (None, End::Handler(0)),
        _ => return (None, End::Stopped),
    };
    (Some(saw), End::Stopped)
}

/// As JSON: of numpy's arrays and numbers the values, of pairs lists.
fn plain(seen: &Value) -> Value {
    match seen {
        Value::Array(all) => all.iter().map(plain).collect(),
        Value::Object(fields) => {
            let inner = ["array", "scalar", "pair"].iter().find_map(|name| fields.get(*name));
            inner.map_or_else(|| seen.clone(), plain)
        }
        _ => seen.clone(),
    }
}

/// What the vectors say an agent returns.
fn returned(what: &str, input: Value) -> Result<Option<Value>, HandlerError> {
    let number = |input: &Value| input.as_i64().ok_or_else(|| HandlerError::from("it is no number"));
    Ok(match what {
        "nothing" => None,
        "its input plus one" => Some((number(&input)? + 1).into()),
        "its input times two" => Some((number(&input)? * 2).into()),
        "its input" | "its input as a list" => Some(input),
        map if map.starts_with("a map") => {
            let values = input.as_array().unwrap().iter().enumerate();
            Some(Value::Object(values.map(|(n, value)| (format!("k{n}"), value.clone())).collect::<Map<_, _>>()))
        }
        other => panic!("it returns {other}"),
    })
}

fn elements(output: Value) -> Result<Vec<Value>, HandlerError> {
    Ok(match output {
        Value::Array(all) => all,
        Value::Object(fields) => fields.into_iter().map(|(key, value)| json!([key, value])).collect(),
        Value::String(text) => text.chars().map(|c| c.to_string().into()).collect(),
        other => return Err(format!("{other} has no elements").into()),
    })
}

/// Twice as long as in the vectors, for a machine that does much else.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(2.0 * seconds)
}

fn agent(builder: WorkerBuilder<Value>, number: usize, says: &Value, seen: &Seen) -> WorkerBuilder<Value> {
    let (options, name) = (&says["options"], format!("agent-{number}"));
    let is_split = options["atomic_send"] == true;
    let (what, seen) = (says["returns"].as_str().unwrap().to_owned(), Arc::clone(seen));
    let call = move |input: Value, _: Sinks| {
        seen.lock().unwrap()[number].push(input.clone());
        let output = returned(&what, input).and_then(|output| match output {
            Some(output) if is_split => elements(output).map(Some),
            output => Ok(output.map(|output| vec![output])),
        });
        async { output }
    };
    let agent = match options["buffer_size"].as_u64() {
        None => Agent::new(name, call),
        Some(size) => {
            Agent::batched(name, size as usize, move |all: Vec<Value>, sinks: Sinks| call(Value::Array(all), sinks))
        }
    };
    let agent = match options["timeout"].as_f64() {
        None => agent,
        Some(timeout) => agent.timeout(seconds(timeout)),
    };
    builder.agent(agent.atomic_send())
}

async fn as_in(case: Value) {
    let name = case["name"].as_str().unwrap();
    let records = case["records"].as_array().unwrap();
    let is_raw = name == "not-json";
    let texts: Vec<_> = records
        .iter()
        .map(|record| if is_raw { record.as_str().unwrap().into() } else { record.to_string() })
        .collect();
    let is_atomic = case["read_atomic"] == true;
    let wanted: usize = match is_atomic {
        true if !is_raw => records.iter().map(|record| elements(record.clone()).map_or(0, |all| all.len())).sum(),
        _ => records.len(),
    };

    let pause = case["seconds_between_records"].as_f64().map(seconds);
    let topic = block_in_place(|| topic_of(if pause.is_some() { &[] } else { &texts[..] }));
    let (group, builder) = worker(&topic);
    // Counts what comes, before the first agent.
    let came: Arc<Mutex<usize>> = Arc::default();
    let counting = Arc::clone(&came);
    let mut builder = if is_atomic {
        builder.agent(Agent::new("counting", move |value: Value, _: Sinks| {
            *counting.lock().unwrap() += 1;
            async { Ok::<_, HandlerError>(Some(value)) }
        }))
    } else {
        builder.whole().agent(Agent::new("counting", move |whole: Whole<Value>, _: Sinks| {
            *counting.lock().unwrap() += 1;
            let key = whole.key().map(|key| String::from_utf8_lossy(key).into_owned());
            let (partition, offset) = (whole.partition(), whole.offset());
            // Topics are named anew for each run.
            let topic = "ch-whole-record";
            let value = json!({"record": {"topic": topic, "partition": partition, "offset": offset, "key": key, "value": whole.value}});
            async { Ok::<_, HandlerError>(Some(value)) }
        }))
    };
    let agents = case["agents"].as_array().unwrap();
    let seen: Seen = Arc::new(Mutex::new(vec![Vec::new(); agents.len()]));
    for (number, says) in agents.iter().enumerate() {
        builder = agent(builder, number, says, &seen);
    }
    let saw = || json!(*seen.lock().unwrap());

    let (ours, end) = expected(name);
    let ours = ours.unwrap_or_else(|| plain(&case["agents_saw"]));
    let worker = match builder.build() {
        Ok(worker) => worker,
        Err(error) => {
            assert!(matches!(error, Error::Setting { .. }) && end == End::Setting, "{name}: {error}");
            return;
        }
    };
    let running = Running::start(worker);
    if end != End::Stopped {
        let error = running.failed().await;
        match end {
            End::Handler(number) => assert!(error.to_string().contains(&format!("agent-{number}")), "{name}: {error}"),
            _ => assert!(matches!(error, Error::Undecodable { offset: 0, .. }), "{name}: {error}"),
        }
        assert_eq!(saw(), ours, "{name}");
        assert_eq!(committed(&group, &topic), None, "{name}");
        return;
    }
    if let Some(pause) = pause {
        for (before, text) in texts.iter().enumerate() {
            block_in_place(|| add(&topic, [text]));
            soon(name, || (*came.lock().unwrap() > before).then_some(()));
            tokio::time::sleep(pause).await;
        }
    }
    soon(name, || (*came.lock().unwrap() == wanted).then_some(()));
    // Where there is a timeout, it releases what the end need not.
    if agents.iter().any(|says| !says["options"]["timeout"].is_null()) {
        soon(name, || (saw() == ours).then_some(()));
    }
    running.stop().await.unwrap();
    assert_eq!(saw(), ours, "{name}");
    assert_eq!(committed(&group, &topic), Some(records.len() as i64), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_see_what_the_vectors_say() {
    let vectors: Value = serde_json::from_str(include_str!("../data/stream_wire.json")).unwrap();
    let Value::Array(chains) = vectors["chains"].clone() else { panic!("no chains") };
    assert!(chains.len() > 30, "{}", chains.len());
    // One by one those whose records come at times of their own.
    let (timed, others): (Vec<_>, Vec<_>) =
        chains.into_iter().partition(|case| !case["seconds_between_records"].is_null());
    let others: Vec<_> = others.into_iter().map(|case| tokio::spawn(as_in(case))).collect();
    for case in others {
        case.await.unwrap();
    }
    for case in timed {
        as_in(case).await;
    }
}

/// As in the vectors' `offsets`, where all ten were committed while they waited in the buffer.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_a_batch_is_not_committed() {
    let topic = topic_of((0..10).map(|n| format!("[{n}]")));
    let (group, builder) = worker(&topic);
    let came: Arc<Mutex<usize>> = Arc::default();
    let counting = Arc::clone(&came);
    let counting = Agent::new("counting", move |value: Value, _: Sinks| {
        *counting.lock().unwrap() += 1;
        async { Ok::<_, HandlerError>(Some(value)) }
    });
    let batch = Agent::batched("batch", 100, |_: Vec<Value>, _: Sinks| async { Ok::<_, HandlerError>(None::<()>) });
    let running = Running::start(builder.agent(counting).agent(batch).build().unwrap());
    soon("all wait", || (*came.lock().unwrap() == 10).then_some(()));
    // Longer than a commit takes.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(committed(&group, &topic), None);
    running.stop().await.unwrap();
    assert_eq!(committed(&group, &topic), Some(10));
}
