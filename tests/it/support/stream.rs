//! Stream workers that run beside the test, and topics for them.

use kafka_envelope::Error;
use kafka_envelope::stream::{Worker, WorkerBuilder};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, block_in_place};

use super::{PATIENCE, create_topic, eventually, produce_raw_batch, shared_broker, unique};

/// A worker that runs until it is stopped.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    pub(crate) fn start(worker: Worker) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(worker.run_until(async { drop(stopped.await) })) }
    }

    pub(crate) async fn stop(self) -> Result<(), Error> {
        let _ = self.stop.send(());
        self.task.await.unwrap()
    }

    /// What ended it.
    pub(crate) async fn failed(self) -> Error {
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends").unwrap().unwrap_err()
    }
}

pub(crate) fn soon<T>(what: &str, poll: impl FnMut() -> Option<T>) -> T {
    block_in_place(|| eventually(PATIENCE, what, poll))
}

/// A topic of one partition with these records.
pub(crate) fn topic_of<V: AsRef<[u8]>>(records: impl IntoIterator<Item = V>) -> String {
    let topic = create_topic(shared_broker(), 1);
    add(&topic, records);
    topic
}

pub(crate) fn add<V: AsRef<[u8]>>(topic: &str, records: impl IntoIterator<Item = V>) {
    produce_raw_batch(shared_broker(), topic, records.into_iter().map(|value| (0, None::<&str>, Some(value))));
}

/// The group, and a worker in it.
pub(crate) fn worker(topic: &str) -> (String, WorkerBuilder<Value>) {
    let group = unique("worker");
    (group.clone(), kafka_envelope::stream::Worker::builder(topic, shared_broker(), &group))
}

pub(crate) fn committed(group: &str, topic: &str) -> Option<i64> {
    super::committed(shared_broker(), group, topic, 0)
}

/// What a process has in memory right now.
pub(crate) fn rss_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    // None between the start of a process and its first page.
    let kib = line.and_then(|line| line.split_whitespace().next()).map_or(0, |kib| kib.parse::<u64>().unwrap());
    kib as f64 / 1024.0
}
