//! Async handlers: the engine is the same, so these are the places where a task differs from a thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kafka_envelope::{Backoff, Batch, Consumer, Error, GiveUp, HandlerError, OnError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::support::{
    PATIENCE, TestTopic, committed, consume_all, consumer, create_topic_with, delete_topic, group, produce_numbers,
    shared_broker,
};

/// Ends a consumer, which blocks, outside of the runtime.
async fn close(consumer: Consumer) {
    tokio::task::spawn_blocking(move || consumer.close(PATIENCE)).await.unwrap().unwrap();
}

/// A run is a future like any other: it can be spawned. It commits what its handler is done with, and stops from within.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spawned_run_commits_what_was_handled() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 2);
    for partition in 0..2 {
        produce_numbers(broker, &topic, partition, 0..500);
    }
    let mut consumer = consumer(broker, &group, &topic).batch_size(50).build().unwrap();
    let stopper = consumer.stopper();
    let mut left = 1_000;
    let service = tokio::spawn(async move {
        let summary = consumer
            .run_async(async move |batch: &Batch<u64>| {
                for record in batch.iter() {
                    tokio::task::yield_now().await;
                    left -= usize::from(record.payload < 500);
                }
                if left == 0 {
                    stopper.stop();
                }
                Ok(())
            })
            .await;
        close(consumer).await;
        summary
    });
    let summary = service.await.unwrap().unwrap();
    assert_eq!(summary.records, 1_000);
    assert_eq!([0, 1].map(|partition| committed(broker, &group, &topic, partition)), [Some(500); 2]);
}

/// Errors, panics before and after an await, partial success and pauses count as they do for a handler that blocks; and
/// while a pause lasts, the thread is free.
#[tokio::test(flavor = "current_thread")]
async fn failures_are_treated_as_everywhere() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    let letters = format!("{}-dlt", &*topic);
    create_topic_with(broker, &letters, 1, &[]);
    produce_numbers(broker, &topic, 0, 0..6);
    let backoff = Backoff { first: Duration::from_millis(200), attempts: 4, ..Backoff::default() };
    let mut consumer = consumer(broker, &group, &topic)
        .batch_size(6)
        .linger(Duration::from_secs(5))
        .on_error(OnError::retry(backoff).then(GiveUp::DeadLetter))
        .build()
        .unwrap();
    let (stopper, calls) = (consumer.stopper(), Arc::new(AtomicUsize::new(0)));
    let ticks = Arc::new(AtomicUsize::new(0));
    let ticking = tokio::spawn({
        let ticks = Arc::clone(&ticks);
        async move {
            loop {
                sleep(Duration::from_millis(10)).await;
                ticks.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let handler = {
        let calls = Arc::clone(&calls);
        async move |batch: &Batch<u64>| -> Result<(), HandlerError> {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            match call {
                0 => panic!("at once"),
                1 => {
                    tokio::task::yield_now().await;
                    panic!("after an await");
                }
                2 => Err(HandlerError::at(2, "two are done")),
                3 => {
                    assert_eq!((batch.attempt(), batch[0].payload, batch.len()), (4, 2, 4));
                    Err(HandlerError::at(0, "this one never"))
                }
                _ => {
                    assert_eq!((batch[0].payload, batch.len()), (3, 3));
                    stopper.stop();
                    Ok(())
                }
            }
        }
    };
    let summary = consumer.run_async(handler).await.unwrap();
    ticking.abort();
    assert_eq!((summary.batches, summary.records, summary.dead_lettered), (1, 6, 1));
    assert_eq!(committed(broker, &group, &topic, 0), Some(6));
    assert_eq!(consume_all(broker, &letters).len(), 1);
    // Pauses of at least 160, 320 and 640 ms.
    let ticks = ticks.load(Ordering::SeqCst);
    assert!(ticks > 10, "{ticks} ticks");
    delete_topic(broker, &letters);
}

/// The first failure ends a run by default; the error names the batch.
#[tokio::test(flavor = "current_thread")]
async fn a_failure_ends_the_run() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..3);
    let mut consumer = consumer(broker, &group, &topic).linger(Duration::from_secs(5)).batch_size(3).build().unwrap();
    let error = consumer.run_async(async |_: &Batch<u64>| Err("no".into())).await.unwrap_err();
    assert!(matches!(&error, Error::Handler { batch, .. } if *batch == format!("{}[0=0:3]", &*topic)), "{error}");
    let error = consumer.run_async(async |_: &Batch<String>| Ok(())).await.unwrap_err();
    assert!(matches!(error, Error::Undecodable { offset: 0, .. }), "{error}");
    assert_eq!(committed(broker, &group, &topic, 0), None);
}

/// A run whose future is dropped commits nothing of its batch, does not keep a rebalance waiting, and the next run gets
/// the batch first.
#[tokio::test(flavor = "current_thread")]
async fn a_dropped_run_commits_nothing_of_its_batch() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..10);
    let mut consumer = consumer(broker, &group, &topic).linger(Duration::from_secs(5)).batch_size(5).build().unwrap();
    let (started, mut has_started) = mpsc::unbounded_channel();
    {
        let run = consumer.run_async(async |batch: &Batch<u64>| {
            started.send(batch[0].payload).unwrap();
            if batch[0].payload == 5 {
                std::future::pending::<()>().await;
            }
            Ok(())
        });
        tokio::pin!(run);
        for first in [0, 5] {
            tokio::select! {
                started = has_started.recv() => assert_eq!(started, Some(first)),
                ended = &mut run => panic!("{ended:?}"),
            }
        }
    }
    let reference = consumer.process(|batch: &Batch<u64>| {
        assert_eq!((batch[0].payload, batch.attempt()), (5, 1));
        assert!(committed(broker, &group, &topic, 0).is_none_or(|offset| offset == 5));
        Ok(())
    });
    assert_eq!(reference.unwrap().unwrap().reference.to_string(), format!("{}[0=5:10]", &*topic));
    assert_eq!(committed(broker, &group, &topic, 0), Some(10));

    // Dropped in mid-batch again, and then left alone: a second member need not wait for the drain budget.
    produce_numbers(broker, &topic, 0, 10..15);
    let hangs = consumer.run_async(async |_: &Batch<u64>| std::future::pending().await);
    timeout(Duration::from_secs(8), hangs).await.unwrap_err();
    let began = Instant::now();
    let mut second = self::consumer(broker, &group, &topic).build().unwrap();
    tokio::task::spawn_blocking(move || {
        drop(consumer);
        second.process(|batch: &Batch<u64>| {
            assert_eq!(batch[0].payload, 10);
            Ok(())
        })
    })
    .await
    .unwrap()
    .unwrap()
    .unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

/// A shutdown lets the batch in hand end, and commits it.
#[tokio::test(flavor = "current_thread")]
async fn a_shutdown_drains() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..10);
    let mut consumer = consumer(broker, &group, &topic).linger(Duration::from_secs(5)).batch_size(5).build().unwrap();
    let (shut, shutdown) = oneshot::channel();
    let mut shut = Some(shut);
    let handler = async |batch: &Batch<u64>| {
        if let Some(shut) = shut.take() {
            shut.send(()).unwrap();
        }
        // The shutdown comes first.
        sleep(Duration::from_millis(300)).await;
        assert_eq!(batch[0].payload, 0);
        Ok(())
    };
    let summary = consumer.run_async_until(handler, async { shutdown.await.unwrap() }).await.unwrap();
    assert_eq!((summary.batches, summary.records), (1, 5));
    assert_eq!(committed(broker, &group, &topic, 0), Some(5));
    // For good.
    let again = consumer.run_async(async |_: &Batch<u64>| panic!("after a shutdown")).await.unwrap();
    assert_eq!(again.batches, 0);
}

/// Where batches never cease to be there, other tasks of the same thread run all the same.
#[tokio::test(flavor = "current_thread")]
async fn other_tasks_run_beside_a_busy_run() {
    let (broker, group) = (shared_broker(), group());
    let topic = TestTopic::new(broker, 1);
    produce_numbers(broker, &topic, 0, 0..20_000);
    let mut consumer = consumer(broker, &group, &topic).batch_size(10).build().unwrap();
    let (stopper, others) = (consumer.stopper(), Arc::new(AtomicUsize::new(0)));
    let other = tokio::spawn({
        let others = Arc::clone(&others);
        async move {
            loop {
                others.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        }
    });
    let (mut seen, mut batches) = (0, 0);
    let run = consumer.run_async(async |batch: &Batch<u64>| {
        seen += batch.len();
        batches += 1;
        if seen == 20_000 {
            stopper.stop();
        }
        Ok(())
    });
    assert_eq!(run.await.unwrap().records, 20_000);
    other.abort();
    let others = others.load(Ordering::SeqCst);
    assert!(others >= batches, "{others} turns of another task beside {batches} batches");
}
