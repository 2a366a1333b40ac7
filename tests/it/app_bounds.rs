//! What an app survives: handlers that block and panic where they should not, and failures beside what succeeds.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context as Waking, Poll};
use std::thread;
use std::time::{Duration, Instant};

use kafka_envelope::app::{App, AppBuilder, Context, connector};
use kafka_envelope::{Backoff, Error, GiveUp, HandlerError, OnError};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::support::{Broker, PATIENCE, committed, create_topic, eventually, produce_raw_batch, shared_broker, unique};

/// A topic with so many records of the event `e` in each partition.
fn topic_of(partitions: i32, records: i32) -> (&'static str, String) {
    let bootstrap = shared_broker();
    let topic = create_topic(bootstrap, partitions);
    let value = json!({"event": "e"}).to_string();
    let all = (0..partitions * records).map(|n| (n % partitions, None::<String>, Some(value.clone())));
    produce_raw_batch(bootstrap, &topic, all);
    (bootstrap, topic)
}

fn app(bootstrap: &str, topic: &str) -> AppBuilder {
    App::builder(&unique("app"), bootstrap).listen([topic])
}

/// The end keeps its bound although a handler blocks its thread, one of the runtime's own or the last that may block.
#[test]
fn the_end_does_not_wait_for_threads_that_are_blocked() {
    for is_async in [true, false] {
        let (bootstrap, topic) = topic_of(1, 1);
        let (shutdown, begun) = oneshot::channel::<()>();
        let (go_on, blocked) = mpsc::channel::<()>();
        let (shutdown, blocked) = (Mutex::new(Some(shutdown)), Mutex::new(blocked));
        let block = move || {
            shutdown.lock().unwrap().take();
            let _ = blocked.lock().unwrap().recv();
            Ok::<(), HandlerError>(())
        };
        let builder = app(bootstrap, &topic).drain_timeout(Duration::from_millis(10));
        let block = Arc::new(block);
        let app = match is_async {
            true => builder.on("e", move |_: Value, _: Context| {
                let block = Arc::clone(&block);
                async move { block() }
            }),
            false => builder.on("e", move |_: Value, _: Context| block()),
        }
        .build()
        .unwrap();
        let (sender, ended) = mpsc::channel();
        let running = thread::spawn(move || {
            let mut runtime = Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap();
            sender.send(runtime.block_on(app.run_until(async { _ = begun.await }))).unwrap();
        });
        ended.recv_timeout(PATIENCE).unwrap().unwrap();
        drop(go_on);
        running.join().unwrap();
    }
}

/// What had ended well when another failed for good is committed all the same.
#[test]
fn a_failure_leaves_what_succeeded_beside_it_to_be_committed() {
    let (bootstrap, topic) = topic_of(4, 8);
    let group = unique("group");
    let (is_first, seen) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(BTreeMap::<i32, i64>::new())));
    let handler = {
        let seen = Arc::clone(&seen);
        move |_: Value, context: Context| {
            let is_first = is_first.swap(false, Ordering::Relaxed);
            let next = match is_first {
                // Of this partition nothing is to be committed.
                true => i64::MIN,
                false => 1,
            };
            *seen.lock().unwrap().entry(context.record().partition()).or_default() += next;
            async move { if is_first { Err("the first".into()) } else { Ok::<(), HandlerError>(()) } }
        }
    };
    // All at once, so that many share a task.
    let app = app(bootstrap, &topic).group(&group).consumer(|consumer| consumer.linger(Duration::from_secs(1)));
    let app = app.on("e", handler).build().unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(app.run_until(std::future::pending())).unwrap_err();
    assert!(matches!(error, Error::Handler { .. }), "{error}");
    for (partition, seen) in &*seen.lock().unwrap() {
        let wanted = Some(*seen).filter(|seen| *seen > 0);
        assert_eq!(committed(bootstrap, &group, &topic, *partition), wanted, "partition {partition}");
    }
}

/// Ready at once, and a panic when it is dropped.
struct Spiteful;

impl Future for Spiteful {
    type Output = Result<(), HandlerError>;

    fn poll(self: Pin<&mut Self>, _: &mut Waking<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Spiteful {
    fn drop(&mut self) {
        panic!("in a drop");
    }
}

/// A panic in the drop of what has answered is a failure like any other.
#[test]
fn a_panic_in_a_drop_is_a_failure() {
    let (bootstrap, topic) = topic_of(1, 3);
    let group = unique("group");
    let on_error = OnError::retry(Backoff { attempts: 1, ..Backoff::default() }).then(GiveUp::Skip);
    let builder = app(bootstrap, &topic).group(&group).consumer(|consumer| consumer.on_error(on_error));
    let handler = |_: Value, _: Context| async { Ok::<(), HandlerError>(()) };
    let app = builder.middleware(|_: Context| Spiteful).on("e", handler).build().unwrap();
    let counts = app.counts();
    let (shutdown, shut) = oneshot::channel::<()>();
    let running = thread::spawn(move || Runtime::new().unwrap().block_on(app.run_until(async { _ = shut.await })));
    eventually(PATIENCE, "all are skipped", || (counts.skipped() == 3).then_some(()));
    drop(shutdown);
    running.join().unwrap().unwrap();
    assert_eq!((counts.handled(), committed(bootstrap, &group, &topic, 0)), (0, Some(3)));
}

/// Dropping an app blocks nobody, whether or not it ran, and whatever the broker does.
#[test]
fn a_drop_does_not_wait_for_a_broker_that_does_not_answer() {
    let broker = Broker::start();
    let bootstrap = broker.bootstrap();
    let (topic, answers) = (create_topic(bootstrap, 1), create_topic(bootstrap, 1));
    produce_raw_batch(bootstrap, &topic, [(0, None::<String>, Some(json!({"event": "e"}).to_string()))]);
    let (sender, begun) = mpsc::channel();
    let build = || {
        let sender = sender.clone();
        let handler = move |_: Value, _: Context| Ok(sender.send(())?);
        app(bootstrap, &topic).answers([(&answers, "a")]).on("e", handler).build().unwrap()
    };
    let (ran, never_ran) = (build(), build());
    let runtime = Runtime::new().unwrap();
    let running = runtime.spawn(ran.run_until(std::future::pending()));
    begun.recv_timeout(PATIENCE).unwrap();
    broker.freeze();
    let start = Instant::now();
    drop(never_ran);
    running.abort();
    drop(runtime);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    broker.thaw();
}

/// What would be left without effect is refused.
#[test]
fn what_is_for_batches_is_no_setting_of_single_records() {
    let key = |built: Result<(), Error>| match built.unwrap_err() {
        Error::Setting { key, .. } => key,
        other => panic!("{other}"),
    };
    let built = |builder: AppBuilder| key(builder.build().map(drop));
    let new = || App::builder("app", "127.0.0.1:1").listen(["t"]);
    assert_eq!(built(new().consumer(|consumer| consumer.handler_timeout(PATIENCE))), "handler_timeout");
    assert_eq!(built(new().consumer(|consumer| consumer.idle_timeout(PATIENCE))), "idle_timeout");
    assert_eq!(built(new().consumer(|consumer| consumer.topics(["u"]))), "topics");
    let callback = |_: kafka_envelope::app::Record| Ok::<(), HandlerError>(());
    let config = connector::ListenerConfig::new("127.0.0.1:1", "group", ["t"], callback);
    let config = config.consumer(|consumer| consumer.handler_timeout(PATIENCE));
    assert_eq!(key(connector::listener(config).map(drop)), "handler_timeout");
}
