//! What an app commits, and when: only what is done, whatever fails, ends or dies.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_envelope::app::{App, AppBuilder, Context, Record};
use kafka_envelope::{Backoff, Error, GiveUp, HandlerError, OnError, OnUndecodable};
use rdkafka::message::{Headers as _, Message as _};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore};

use super::support::app::{Running, soon};
use super::support::{
    PATIENCE, Worker, committed, consume_all, create_topic, create_topic_with, emit, eventually, produce_raw_batch,
    shared_broker, unique,
};

/// A topic with these records of the event `e`: each a partition, a key and a number.
fn topic_of(partitions: i32, records: &[(i32, Option<&str>, u32)]) -> (&'static str, String) {
    let bootstrap = shared_broker();
    let topic = create_topic(bootstrap, partitions);
    add(bootstrap, &topic, records);
    (bootstrap, topic)
}

fn add(bootstrap: &str, topic: &str, records: &[(i32, Option<&str>, u32)]) {
    let record = |(partition, key, n): &(i32, Option<&str>, u32)| {
        (*partition, key.map(str::to_owned), Some(json!({"event": "e", "n": n}).to_string()))
    };
    produce_raw_batch(bootstrap, topic, records.iter().map(record));
}

#[derive(Deserialize)]
struct Numbered {
    n: u32,
}

fn app(bootstrap: &str, topic: &str) -> AppBuilder {
    App::builder(&unique("app"), bootstrap).listen([topic])
}

/// The group is the app's name, so a restart goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_is_committed_under_the_apps_name() {
    let (bootstrap, topic) = topic_of(1, &[(0, None, 0), (0, None, 1), (0, None, 2)]);
    let name = unique("shop");
    let run = async |expected: Vec<u32>| {
        let (sender, seen) = mpsc::channel();
        let handler = move |message: Numbered, _: Context| Ok(sender.send(message.n)?);
        let service = Running::start(App::builder(&name, bootstrap).listen([&topic]).on("e", handler).build().unwrap());
        let mut got: Vec<u32> = expected.iter().map(|_| seen.recv_timeout(PATIENCE).unwrap()).collect();
        service.stop().await.unwrap();
        got.extend(seen.try_iter());
        got.sort_unstable();
        assert_eq!(got, expected);
    };
    run(vec![0, 1, 2]).await;
    assert_eq!(committed(bootstrap, &name, &topic, 0), Some(3));
    add(bootstrap, &topic, &[(0, None, 3)]);
    run(vec![3]).await;
    assert_eq!(committed(bootstrap, &name, &topic, 0), Some(4));
}

/// Handlers finish in any order; the commit stands at the first that has not, and the other partition's goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_never_passes_a_record_that_is_not_done() {
    let records: Vec<_> = (0..6).map(|n| (0, None, n)).chain([(1, None, 6)]).collect();
    let (bootstrap, topic) = topic_of(2, &records);
    let group = unique("group");
    let (gate, done) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (gate, done) = (Arc::clone(&gate), Arc::clone(&done));
        move |message: Numbered, _: Context| {
            let (gate, done) = (Arc::clone(&gate), Arc::clone(&done));
            async move {
                if message.n == 2 {
                    gate.acquire().await?.forget();
                }
                done.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        }
    };
    let service = Running::start(app(bootstrap, &topic).group(&group).on("e", handler).build().unwrap());
    soon("all but one are done", || (done.load(Ordering::Relaxed) == 6).then_some(()));
    let offsets = || (committed(bootstrap, &group, &topic, 0), committed(bootstrap, &group, &topic, 1));
    soon("what stands before it is committed", || (offsets() == (Some(2), Some(1))).then_some(()));
    assert_eq!(service.counts.handled(), 6);
    gate.add_permits(1);
    soon("all is committed", || (offsets() == (Some(6), Some(1))).then_some(()));
    service.stop().await.unwrap();
}

/// Records of one key one after the other; those of other keys, and those without one, do not wait for them.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_in_order_and_beside_one_another() {
    let records: Vec<_> = (0..30).map(|n| (0, [Some("a"), Some("b"), None][n as usize % 3], n)).collect();
    let (bootstrap, topic) = topic_of(1, &records);
    let (running, most) = (Arc::new(Mutex::new(HashMap::<String, usize>::new())), Arc::new(AtomicUsize::new(0)));
    let order = Arc::new(Mutex::new(BTreeMap::<String, Vec<u32>>::new()));
    let handler = {
        let (running, most, order) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&order));
        move |message: Numbered, context: Context| {
            let (running, most, order) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&order));
            async move {
                let key = context.record().key().map(|key| String::from_utf8_lossy(key).into_owned());
                let name = key.clone().unwrap_or_else(|| format!("none {}", message.n));
                {
                    let mut running = running.lock().unwrap();
                    *running.entry(name.clone()).or_default() += 1;
                    assert_eq!(running[&name], 1, "two of one key at a time");
                    most.fetch_max(running.values().sum(), Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                *running.lock().unwrap().get_mut(&name).unwrap() -= 1;
                order.lock().unwrap().entry(key.unwrap_or_default()).or_default().push(message.n);
                Ok(())
            }
        }
    };
    let service = Running::start(app(bootstrap, &topic).on("e", handler).max_concurrent_tasks(5).build().unwrap());
    soon("all are handled", || (service.counts.handled() == 30).then_some(()));
    service.stop().await.unwrap();
    let order = order.lock().unwrap();
    let every_third = |from: u32| (0..10).map(|n| from + 3 * n).collect::<Vec<_>>();
    assert_eq!((&order["a"], &order["b"]), (&every_third(0), &every_third(1)));
    assert_eq!(most.load(Ordering::Relaxed), 5, "as many as may, and no more");
}

/// Attempts, then the policy. The records of its key wait for it, and nothing is lost on the way.
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_tried_again_and_then_go_where_the_policy_says() {
    let (bootstrap, topic) = topic_of(1, &[(0, Some("a"), 0), (0, Some("a"), 1), (0, Some("b"), 2), (0, Some("b"), 3)]);
    create_topic_with(bootstrap, &format!("{topic}-dlt"), 1, &[]);
    let group = unique("group");
    let calls = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let calls = Arc::clone(&calls);
        move |message: Numbered, context: Context| {
            calls.lock().unwrap().push((message.n, context.attempt()));
            match message.n {
                0 if context.attempt() < 3 => Err("not yet".into()),
                2 => panic!("never"),
                _ => Ok(()),
            }
        }
    };
    let backoff = Backoff { first: Duration::from_millis(10), attempts: 3, ..Backoff::default() };
    let on_error = OnError::retry(backoff).then(GiveUp::DeadLetter);
    let builder =
        app(bootstrap, &topic).group(&group).on("e", handler).consumer(|consumer| consumer.on_error(on_error));
    let service = Running::start(builder.build().unwrap());
    soon("all is committed", || (committed(bootstrap, &group, &topic, 0) == Some(4)).then_some(()));
    let counts = service.counts.clone();
    service.stop().await.unwrap();
    let calls = calls.lock().unwrap();
    let of = |numbers: [u32; 2]| calls.iter().copied().filter(|(n, _)| numbers.contains(n)).collect::<Vec<_>>();
    assert_eq!(of([0, 1]), [(0, 1), (0, 2), (0, 3), (1, 1)]);
    assert_eq!(of([2, 3]), [(2, 1), (2, 2), (2, 3), (3, 1)]);
    assert_eq!((counts.handled(), counts.dead_lettered(), counts.retried()), (3, 1, 4));
    let letters = consume_all(bootstrap, &format!("{topic}-dlt"));
    assert_eq!(letters.len(), 1);
    let headers: Vec<_> = letters[0].headers().unwrap().iter().map(|header| (header.key, header.value)).collect();
    assert!(headers.contains(&("kafka_dlt-exception-message", Some(b"it panicked: never"))), "{headers:?}");
    assert!(headers.contains(&("kafka_dlt-attempts", Some(&[0, 0, 0, 3]))), "{headers:?}");
}

/// By default the first failure ends the app with its error; the record comes again.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_failure_ends_the_app_unless_said_otherwise() {
    let (bootstrap, topic) = topic_of(1, &[(0, None, 0), (0, None, 1)]);
    let group = unique("group");
    let handler = |message: Numbered, _: Context| if message.n == 1 { Err("no".into()) } else { Ok(()) };
    let service = Running::start(app(bootstrap, &topic).group(&group).on("e", handler).build().unwrap());
    let error = service.error().await;
    assert!(matches!(error, Error::Handler { .. }), "{error}");
    assert!(error.to_string().contains(&format!("{topic}[0=1:2]: no")), "{error}");
    assert_eq!(committed(bootstrap, &group, &topic, 0), Some(1));

    // What does not fit the handler's type is a record that cannot be read.
    let handler = |_: String, _: Context| Ok(());
    let service = Running::start(app(bootstrap, &topic).group(&group).on("e", handler).build().unwrap());
    assert!(matches!(service.error().await, Error::Undecodable { offset: 1, .. }));
    let skip = app(bootstrap, &topic).group(&group).consumer(|consumer| consumer.on_undecodable(OnUndecodable::Skip));
    let service = Running::start(skip.on("e", handler).build().unwrap());
    soon("it is skipped", || (committed(bootstrap, &group, &topic, 0) == Some(2)).then_some(()));
    assert_eq!(service.counts.skipped(), 1);
    service.stop().await.unwrap();
}

/// The middleware is asked before anything handles a record, async or not, and an error of it rejects the record.
#[tokio::test(flavor = "multi_thread")]
async fn middleware_may_reject() {
    let records: Vec<_> = (0..4).map(|n| (0, None, n)).collect();
    let (bootstrap, topic) = topic_of(1, &records);
    let number = |record: &Record| {
        serde_json::from_slice::<serde_json::Value>(record.value().unwrap()).unwrap()["n"].as_u64().unwrap()
    };
    let odd = move |context: &Context| match number(context.record()) % 2 {
        1 => Err::<(), HandlerError>("odd".into()),
        _ => Ok(()),
    };
    for is_async in [false, true] {
        let group = unique("group");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let handler = {
            let seen = Arc::clone(&seen);
            move |message: Numbered, _: Context| {
                seen.lock().unwrap().push(message.n);
                Ok(())
            }
        };
        let builder = app(bootstrap, &topic).group(&group).on("e", handler);
        let service = Running::start(
            match is_async {
                false => builder.middleware(move |context: Context| odd(&context)),
                true => builder.middleware(move |context: Context| async move { odd(&context) }),
            }
            .build()
            .unwrap(),
        );
        soon("all is committed", || (committed(bootstrap, &group, &topic, 0) == Some(4)).then_some(()));
        assert_eq!((service.counts.rejected(), service.counts.handled()), (2, 2));
        service.stop().await.unwrap();
        let mut seen = seen.lock().unwrap().clone();
        seen.sort_unstable();
        assert_eq!(seen, [0, 2]);
    }
}

/// A shutdown finishes what is being handled, begins nothing more, and gives up what takes too long.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_what_is_being_handled_within_its_bound() {
    let records: Vec<_> = (0..4).map(|n| (0, Some("key"), n)).collect();
    let (bootstrap, topic) = topic_of(1, &records);
    let group = unique("group");
    let (begun, go) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let handler = |begun: &Arc<Semaphore>, go: &Arc<Notify>| {
        let (begun, go) = (Arc::clone(begun), Arc::clone(go));
        move |_: Numbered, _: Context| {
            let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
            async move {
                begun.add_permits(1);
                go.notified().await;
                Ok::<(), HandlerError>(())
            }
        }
    };
    let wait_until_begun = || soon("it begins", || begun.try_acquire().ok().map(|one| one.forget()));
    let service = Running::start(app(bootstrap, &topic).group(&group).on("e", handler(&begun, &go)).build().unwrap());
    wait_until_begun();
    service.stop_and(|| go.notify_one()).await.unwrap();
    assert_eq!(begun.available_permits(), 0, "nothing more began");
    assert_eq!(committed(bootstrap, &group, &topic, 0), Some(1));

    let builder = app(bootstrap, &topic).group(&group).drain_timeout(Duration::from_millis(100));
    let service = Running::start(builder.on("e", handler(&begun, &go)).build().unwrap());
    wait_until_begun();
    service.stop().await.unwrap();
    assert_eq!(committed(bootstrap, &group, &topic, 0), Some(1), "what was given up comes again");
}

/// Dropping the run drops what is being handled, commits nothing of it, and blocks nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_dropped_leaves_its_records_to_the_next() {
    let (bootstrap, topic) = topic_of(1, &[(0, None, 0)]);
    let group = unique("group");
    let begun = Arc::new(Notify::new());
    let is_over = Arc::new(AtomicBool::new(false));
    let handler = {
        let (begun, is_over) = (Arc::clone(&begun), Arc::clone(&is_over));
        move |_: Numbered, _: Context| {
            let (begun, is_over) = (Arc::clone(&begun), Arc::clone(&is_over));
            async move {
                struct Over(Arc<AtomicBool>);
                impl Drop for Over {
                    fn drop(&mut self) {
                        self.0.store(true, Ordering::Relaxed);
                    }
                }
                let _over = Over(is_over);
                begun.notify_one();
                std::future::pending::<Result<(), HandlerError>>().await
            }
        }
    };
    let app = app(bootstrap, &topic).group(&group).on("e", handler).build().unwrap();
    tokio::select! {
        ended = app.run_until(std::future::pending()) => panic!("{ended:?}"),
        () = begun.notified() => {}
    }
    soon("the handler is dropped", || is_over.load(Ordering::Relaxed).then_some(()));
    assert_eq!(committed(bootstrap, &group, &topic, 0), None);
}

#[derive(Serialize, Deserialize)]
struct Replica {
    bootstrap: String,
    topic: String,
    group: String,
    name: String,
}

/// What a replica says once a record is handled.
#[derive(Serialize, Deserialize)]
struct Handled {
    key: String,
    n: u32,
}

#[test]
fn a_replica() {
    let Some(config) = Worker::arguments::<Replica>("app_commits::a_replica") else { return };
    let lines: Arc<Mutex<()>> = Arc::default();
    let handler = move |message: Numbered, context: Context| {
        let lines = Arc::clone(&lines);
        async move {
            tokio::time::sleep(Duration::from_millis(u64::from(message.n % 3))).await;
            let record = context.record();
            let key = String::from_utf8_lossy(record.key().unwrap_or_default()).into_owned();
            let _one_at_a_time = lines.lock().unwrap();
            emit(&Handled { key, n: message.n });
            Ok(())
        }
    };
    let builder = App::builder(&config.name, &config.bootstrap).group(&config.group).listen([&config.topic]);
    let builder = builder.config([("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500")]);
    let app = builder.on("e", handler).build().unwrap();
    Runtime::new().unwrap().block_on(app.run_until(kafka_envelope::shutdown_signal())).unwrap();
}

/// One of two replicas is killed under load: every record is handled, and each key's in order within each ownership.
#[test]
fn of_two_replicas_one_is_killed() {
    const KEYS: u32 = 20;
    let bootstrap = shared_broker();
    let topic = create_topic(bootstrap, 4);
    let group = unique("group");
    let replica = |name: &str| {
        let config =
            Replica { bootstrap: bootstrap.into(), topic: topic.clone(), group: group.clone(), name: name.into() };
        Worker::spawn("app_commits::a_replica", &config)
    };
    let mut workers = [replica("one"), replica("two")];
    let mut next = 0;
    let mut produce = |rounds: u32| {
        let keys: Vec<_> = (0..KEYS).map(|key| (key as i32 % 4, format!("key-{key}"))).collect();
        let round = |n: u32| keys.iter().map(move |(partition, key)| (*partition, Some(&**key), n));
        add(bootstrap, &topic, &(next..next + rounds).flat_map(round).collect::<Vec<_>>());
        next += rounds;
        next
    };
    let mut handled: Vec<Vec<Handled>> = vec![Vec::new(), Vec::new()];
    // Until both have some of the partitions, and records of them.
    eventually(PATIENCE, "both replicas handle records", || {
        produce(5);
        for (worker, handled) in workers.iter().zip(&mut handled) {
            handled.extend(worker.try_next::<Handled>(Duration::from_millis(100)));
        }
        (!handled.iter().any(Vec::is_empty)).then_some(())
    });
    produce(50);
    workers[0].kill9();
    handled[0].extend(workers[0].rest::<Handled>());
    let total = produce(50);
    let wanted = |handled: &[Vec<Handled>]| {
        let mut seen: HashMap<&str, Vec<u32>> = HashMap::new();
        handled.iter().flatten().for_each(|one| seen.entry(&one.key).or_default().push(one.n));
        let all = seen.values_mut().map(|numbers| {
            numbers.sort_unstable();
            numbers.dedup();
            numbers.len()
        });
        all.sum::<usize>() == (KEYS * total) as usize
    };
    while !wanted(&handled) {
        handled[1].push(workers[1].next(PATIENCE));
    }
    workers[1].sigterm();
    assert!(workers[1].wait(PATIENCE).success());
    handled[1].extend(workers[1].rest::<Handled>());
    // The first has each partition once; the second may have had one, lost it to the first, and got it again.
    for (records, most) in handled.iter().zip([0, 1]) {
        let mut numbers: HashMap<&str, Vec<u32>> = HashMap::new();
        records.iter().for_each(|one| numbers.entry(&one.key).or_default().push(one.n));
        for (key, numbers) in numbers {
            let breaks = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
            assert!(breaks <= most, "{key}: {numbers:?}");
        }
    }
    for partition in 0..4 {
        let records = (KEYS / 4 * total) as i64;
        assert_eq!(committed(bootstrap, &group, &topic, partition), Some(records), "partition {partition}");
    }
}
