//! A stream worker whose sink is slow takes no more memory than a quick one: what does not fit stays in Kafka.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kafka_envelope::stream::{Agent, Sink, Sinks, Worker as StreamWorker};
use kafka_envelope::{Error, HandlerError};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::support::stream::rss_mib;
use super::support::{
    PATIENCE, TestTopic, Worker, committed, emit, eventually, produce_raw_batch, shared_broker, unique,
};

const RECORDS: u64 = 4_000;
const BYTES: usize = 100_000;

#[derive(Serialize, Deserialize)]
struct Config {
    bootstrap: String,
    topic: String,
    group: String,
    /// The sink is slow until this file is there.
    gate: PathBuf,
}

/// So many records were read, and so many are in the sink.
#[derive(Serialize, Deserialize, Debug)]
struct Progress {
    read: u64,
    stored: u64,
}

/// Takes 20 ms a message, until a file is there.
struct Slow {
    gate: PathBuf,
    stored: Arc<AtomicU64>,
}

impl Slow {
    async fn store(&self, message: &[u8]) {
        if !self.gate.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(message.len(), BYTES);
        self.stored.fetch_add(1, Ordering::Relaxed);
    }
}

impl Sink for Slow {
    fn id(&self) -> &str {
        "slow"
    }

    async fn close(&self, _: Duration) -> Result<(), Error> {
        Ok(())
    }
}

/// Passes messages on, so that each step's queue fills up.
fn passing<T: Send + 'static>(name: &str) -> Agent<T, T> {
    Agent::new(name, |message: T, _: Sinks| async move { Ok::<_, HandlerError>(Some(message)) })
}

#[test]
fn a_worker() {
    let Some(config) = Worker::arguments::<Config>("stream_memory::a_worker") else { return };
    let (read, stored): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
    let counted = Arc::clone(&read);
    let store = Agent::batched("store", 10, async |messages: Vec<Vec<u8>>, sinks: Sinks| {
        for message in &messages {
            sinks.get::<Slow>("slow")?.store(message).await;
        }
        Ok::<_, HandlerError>(None::<()>)
    });
    let worker = StreamWorker::builder::<()>(&config.topic, &config.bootstrap, &config.group)
        .deserialize_with(move |record| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(vec![record.value().unwrap_or_default().to_vec()])
        })
        // What librdkafka holds is bounded by its own settings.
        .config([("queued.max.messages.kbytes", "8192"), ("max.partition.fetch.bytes", "2000000")])
        .sink(Slow { gate: config.gate, stored: Arc::clone(&stored) })
        .agent(passing("one"))
        .agent(passing("two"))
        .agent(store)
        .build()
        .unwrap();
    Runtime::new().unwrap().block_on(async {
        tokio::spawn(async move {
            let mut often = tokio::time::interval(Duration::from_millis(50));
            loop {
                often.tick().await;
                emit(&Progress { read: read.load(Ordering::Relaxed), stored: stored.load(Ordering::Relaxed) });
            }
        });
        worker.run_until(kafka_envelope::shutdown_signal()).await.unwrap();
    });
}

/// The topic holds 400 MB. While the sink is slow hardly anything is read, and once it is quick all of it.
#[test]
fn a_worker_with_a_slow_sink_keeps_its_memory() {
    let (topic, group) = (TestTopic::new(shared_broker(), 1), unique("group"));
    let value = vec![b'x'; BYTES];
    produce_raw_batch(shared_broker(), &topic, (0..RECORDS).map(|_| (0, None::<&str>, Some(&value))));
    let gate = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("gate"));
    let config = Config {
        bootstrap: shared_broker().into(),
        topic: topic.to_string(),
        group: group.clone(),
        gate: gate.clone(),
    };
    let mut worker = Worker::spawn("stream_memory::a_worker", &config);
    let mut peak = 0.0_f64;
    let mut next = |worker: &Worker| {
        peak = peak.max(rss_mib(worker.pid()));
        worker.next::<Progress>(PATIENCE)
    };
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_secs(4) {
        if next(&worker).stored == 0 {
            since = Instant::now();
        }
    }
    let slow = next(&worker);
    // 20 ms each.
    assert!(slow.stored < 400, "{slow:?}");
    let ahead = slow.read - slow.stored;
    fs::write(&gate, "").unwrap();
    while next(&worker).stored < RECORDS {}
    worker.sigterm();
    assert!(worker.wait(PATIENCE).success());
    fs::remove_file(&gate).unwrap();
    eventually(PATIENCE, "all is committed", || {
        (committed(shared_broker(), &group, &topic, 0) == Some(RECORDS as i64)).then_some(())
    });
    assert!(ahead < 500, "{ahead} were read ahead");
    // Read without bounds these would be 400 MB and more.
    assert!(peak < 170.0, "{peak:.0} MiB");
}
