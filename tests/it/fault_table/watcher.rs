//! Somebody who looks at the committed offsets of a group from outside, all the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::checker::Seen;
use super::history::Clock;
use crate::support::kafka;

const PAUSE: Duration = Duration::from_millis(10);
const ANSWER: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_secs(10);

pub(super) struct Watcher {
    seen: Arc<Mutex<Vec<Seen>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub(super) fn start(bootstrap: &str, group: &str, topic: &str, partitions: i32) -> Watcher {
        let config = kafka::client(bootstrap).set("group.id", group).clone();
        let mut client: BaseConsumer = config.create().unwrap();
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_range(topic, 0, partitions - 1);
        let (seen, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (all, over) = (Arc::clone(&seen), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            let clock = Clock::new();
            let mut answered = Instant::now();
            while !over.load(Ordering::Relaxed) {
                let asked = clock.now();
                if let Ok(answer) = client.committed_offsets(wanted.clone(), ANSWER) {
                    let told = clock.now();
                    answered = Instant::now();
                    let mut all = all.lock().unwrap();
                    for element in answer.elements() {
                        if let Offset::Offset(offset) = element.offset() {
                            all.push(Seen { asked, told, partition: element.partition(), offset });
                        }
                    }
                }
                // librdkafka does not find a coordinator again that came back at another address.
                if answered.elapsed() > SILENCE {
                    answered = Instant::now();
                    let old = std::mem::replace(&mut client, config.create().unwrap());
                    thread::spawn(move || drop(old));
                }
                // The client's errors are polled away: brokers come and go.
                let _ = client.poll(Duration::ZERO);
                thread::park_timeout(PAUSE);
            }
        });
        Watcher { seen, is_over, thread: Some(thread) }
    }

    /// What is committed of a partition, as it was seen last.
    pub(super) fn committed(&self, partition: i32) -> Option<i64> {
        let seen = self.seen.lock().unwrap();
        seen.iter().rev().find(|seen| seen.partition == partition).map(|seen| seen.offset)
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
