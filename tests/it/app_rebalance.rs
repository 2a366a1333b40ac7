//! Partitions that go to another replica: what is being handled is finished first, what has not begun goes along.

use std::sync::Arc;
use std::time::Duration;

use kafka_envelope::HandlerError;
use kafka_envelope::app::{App, AppBuilder, Context, Event, MemoryCache};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

use super::support::app::{Calls, Running, soon};
use super::support::{committed, create_topic, kafka, produce_raw_batch, shared_broker, unique};

#[derive(Deserialize)]
struct Numbered {
    n: u32,
}

/// A replica that handles two at a time. It notes partition and number of what begins, and waits for a permit then.
fn replica(topic: &str, group: &str, go: &Arc<Semaphore>) -> (AppBuilder, Calls<(i32, u32)>) {
    let calls = Calls::default();
    let handler = {
        let (go, calls) = (Arc::clone(go), calls.clone());
        move |message: Numbered, context: Context| {
            calls.push((context.record().partition(), message.n));
            let go = Arc::clone(&go);
            async move {
                go.acquire().await?.forget();
                Ok::<(), HandlerError>(())
            }
        }
    };
    let builder = App::builder(&unique("replica"), shared_broker()).group(group).listen([topic]);
    (builder.max_concurrent_tasks(2).on("e", handler), calls)
}

fn members(group: &str) -> usize {
    let client: BaseConsumer = kafka::client(shared_broker()).create().unwrap();
    let groups = client.fetch_group_list(Some(group), Duration::from_secs(10)).unwrap();
    groups.groups().first().map_or(0, |group| group.members().len())
}

async fn check(config: [(&'static str, &'static str); 1]) {
    let broker = shared_broker();
    let (topic, group) = (create_topic(broker, 2), unique("group"));
    let record = |n: u32| {
        let value = json!({"event": "e", "n": n}).to_string();
        ((n % 2) as i32, Some(format!("key-{}", n % 2)), Some(value))
    };
    produce_raw_batch(broker, &topic, (0..20).map(record));
    let (stuck, free) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(1_000)));
    let (first, begun) = replica(&topic, &group, &stuck);
    let first = Running::start(first.config(config).build().unwrap());
    soon("one record of each partition is being handled", || (begun.get().len() == 2).then_some(()));

    // Either one or both of the partitions are asked back; whichever is waits for its record.
    let (second, others) = replica(&topic, &group, &free);
    let second = Running::start(second.config(config).build().unwrap());
    soon("both are members", || (members(&group) == 2).then_some(()));
    assert_eq!((begun.get().len(), others.get().len()), (2, 0), "nothing goes before what is being handled is done");
    stuck.add_permits(1_000);
    let done = || first.counts.handled() + second.counts.handled() == 20;
    soon("all are handled", || done().then_some(()));
    let mut all: Vec<_> = [begun.get(), others.get()].concat();
    for partition in 0..2 {
        // In order over both, since the second began after the first had ended: none twice, and none left out.
        let of_partition: Vec<_> = all.iter().filter(|(of, _)| *of == partition).map(|(_, n)| *n).collect();
        assert_eq!(of_partition, (0..10).map(|n| 2 * n + partition as u32).collect::<Vec<_>>());
        soon("all is committed", || (committed(broker, &group, &topic, partition) == Some(10)).then_some(()));
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 20);
    first.stop().await.unwrap();
    second.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_waits_for_what_is_being_handled() {
    check([("partition.assignment.strategy", "cooperative-sticky")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_does_with_eager_groups() {
    check([("partition.assignment.strategy", "range")]).await;
}

/// Every record asks the app itself, whose replica may be the one that joins. Nobody waits for the other: no question fails.
async fn check_asking(config: [(&'static str, &'static str); 1]) {
    let broker = shared_broker();
    let [work, questions, answers] = [(); 3].map(|()| create_topic(broker, 2));
    let (group, cache) = (unique("group"), MemoryCache::default());
    let replica = || {
        let ask_at = questions.clone();
        let ask = move |message: Numbered, context: Context| {
            let ask_at = ask_at.clone();
            async move {
                let question = Event::new("double", json!({"n": message.n})).key(message.n.to_string());
                let doubled: Numbered = context.emit_with_response(&ask_at, question, Duration::from_secs(10)).await?;
                assert_eq!(doubled.n, 2 * message.n);
                Ok::<(), HandlerError>(())
            }
        };
        let answer_to = answers.clone();
        let double = move |message: Numbered, context: Context| {
            let answer_to = answer_to.clone();
            async move {
                // So that questions are open at any time.
                tokio::time::sleep(Duration::from_millis(300)).await;
                context.respond(&answer_to, Event::new("doubled", json!({"n": 2 * message.n}))).await?;
                Ok::<(), HandlerError>(())
            }
        };
        let builder = App::builder(&unique("replica"), broker).group(&group).listen([&work, &questions]).config(config);
        let builder = builder.answers([(&answers, "doubled")]).cache(cache.clone());
        Running::start(builder.on("e", ask).on("double", double).build().unwrap())
    };
    let produce = |from: u32| {
        let record = |n: u32| {
            let value = json!({"event": "e", "n": n}).to_string();
            ((n % 2) as i32, Some(n.to_string()), Some(value))
        };
        produce_raw_batch(broker, &work, (from..from + 20).map(record));
    };
    let (first, mut produced) = (replica(), 0);
    let mut more = || {
        produce(produced);
        produced += 20;
        produced
    };
    let mut all = more();
    soon("the first handles records", || (first.counts.handled() > 10).then_some(()));
    let second = replica();
    soon("so does the second", || {
        // Each is handled, and so is its question: no more than can be answered in time.
        if first.counts.handled() + second.counts.handled() + 20 >= 2 * u64::from(all) {
            all = more();
        }
        (second.counts.handled() > 10).then_some(())
    });
    all = more();
    for partition in 0..2 {
        let is_done = || committed(broker, &group, &work, partition) == Some(i64::from(all / 2));
        soon("all is committed", || is_done().then_some(()));
    }
    first.stop().await.unwrap();
    second.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_does_not_wait_for_answers_that_wait_for_it() {
    check_asking([("partition.assignment.strategy", "cooperative-sticky")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_that_of_an_eager_group() {
    check_asking([("partition.assignment.strategy", "range")]).await;
}
