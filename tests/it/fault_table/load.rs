//! Records with known contents, each acknowledged or reported.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kafka_envelope::{Delivery, Message, Producer};
use serde::{Deserialize, Serialize};

use super::checker::Place;
use crate::support::eventually;

/// So many are on their way at a time.
const WAVE: usize = 200;

/// More than anybody waits for: for a load that is stopped.
pub(super) const ENDLESS: usize = 5_000_000;
/// The numbers of a later load start at a multiple of this: in a topic made anew the offsets come again, and these do not.
pub(super) const GENERATION: usize = 10_000_000;

/// What each record carries, a kilobyte in all.
#[derive(Serialize, Deserialize)]
pub(super) struct Payload {
    pub(super) number: usize,
    #[serde(skip_deserializing)]
    filler: String,
}

impl Payload {
    pub(super) fn new(number: usize) -> Payload {
        Payload { number, filler: "x".repeat(850) }
    }

    pub(super) fn short(number: usize) -> Payload {
        Payload { number, filler: String::new() }
    }
}

/// Produces in the background, round robin over the partitions.
pub(super) struct Load {
    acknowledged: Arc<Mutex<Vec<Place>>>,
    /// Records that are acknowledged at a place that is not told.
    unplaced: Arc<AtomicUsize>,
    /// Records whose fate is known.
    reported: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
    pause: Arc<Pause>,
    thread: Option<JoinHandle<()>>,
}

/// Asked for by one side, and taken by the other between two waves.
#[derive(Default)]
struct Pause {
    is_wanted: AtomicBool,
    is_taken: AtomicBool,
}

impl Pause {
    /// Rests as long as it is wanted, and returns how long that was.
    fn take(&self, is_over: &AtomicBool) -> Duration {
        let began = Instant::now();
        while self.is_wanted.load(Ordering::Acquire) && !is_over.load(Ordering::Relaxed) {
            self.is_taken.store(true, Ordering::Release);
            thread::park_timeout(Duration::from_millis(20));
        }
        self.is_taken.store(false, Ordering::Release);
        began.elapsed()
    }
}

impl Load {
    /// One of several of a scene, of which the first is generation 0. `rate` in records a second; without one as fast as it
    /// goes.
    pub(super) fn of_generation(
        generation: usize,
        bootstrap: &str,
        topic: &str,
        partitions: i32,
        records: usize,
        rate: Option<usize>,
    ) -> Load {
        let producer = Producer::builder("load", bootstrap).build().unwrap();
        Load::run(producer, topic, partitions, generation * GENERATION, records, rate)
    }

    pub(super) fn start_with(
        producer: Producer,
        topic: &str,
        partitions: i32,
        records: usize,
        rate: Option<usize>,
    ) -> Load {
        Load::run(producer, topic, partitions, 0, records, rate)
    }

    fn run(
        producer: Producer,
        topic: &str,
        partitions: i32,
        first_number: usize,
        records: usize,
        rate: Option<usize>,
    ) -> Load {
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let (reported, failures) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (is_over, unplaced) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let pause = Arc::new(Pause::default());
        let (somewhere, pauses) = (Arc::clone(&unplaced), Arc::clone(&pause));
        let (all, count, failed) = (Arc::clone(&acknowledged), Arc::clone(&reported), Arc::clone(&failures));
        let (over, topic) = (Arc::clone(&is_over), topic.to_owned());
        let thread = thread::spawn(move || {
            let mut start = Instant::now();
            // With a rate in waves of a twentieth of a second.
            let wave = rate.map_or(WAVE, |rate| (rate / 20).clamp(1, WAVE));
            for first in (0..records).step_by(wave) {
                start += pauses.take(&over);
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let numbers = first..records.min(first + wave);
                let sent: Vec<_> = numbers
                    .map(|number| {
                        let partition = number as i32 % partitions;
                        producer.send(&topic, &Message::new(Payload::new(first_number + number)).partition(partition))
                    })
                    .collect();
                for pending in sent {
                    match pending.and_then(kafka_envelope::Pending::wait) {
                        Ok(Delivery { partition, offset, .. }) if offset >= 0 => {
                            all.lock().unwrap().push((partition, offset));
                        }
                        // A retry found it in the log already.
                        Ok(_) => drop(somewhere.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failed.lock().unwrap().push(error.to_string()),
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
                if let Some(rate) = rate {
                    let due = Duration::from_secs_f64((first + wave) as f64 / rate as f64);
                    thread::park_timeout(due.saturating_sub(start.elapsed()));
                }
            }
        });
        Load { acknowledged, unplaced, reported, failures, is_over, pause, thread: Some(thread) }
    }

    pub(super) fn acknowledged(&self) -> Vec<Place> {
        self.acknowledged.lock().unwrap().clone()
    }

    /// How many records are acknowledged at a place that is not told.
    pub(super) fn unplaced(&self) -> usize {
        self.unplaced.load(Ordering::Relaxed)
    }

    /// How many records are acknowledged or reported as failed.
    pub(super) fn reported(&self) -> usize {
        self.reported.load(Ordering::Relaxed)
    }

    /// Why records were not acknowledged.
    pub(super) fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }

    pub(super) fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Sends nothing from when this returns until [`Load::go_on`]; all that it sent is reported.
    #[track_caller]
    pub(super) fn pause(&self, deadline: Duration) {
        self.pause.is_wanted.store(true, Ordering::Release);
        let rests = || self.pause.is_taken.load(Ordering::Acquire) || self.is_done();
        eventually(deadline, "the load pauses", || rests().then_some(()));
    }

    pub(super) fn go_on(&self) {
        self.pause.is_wanted.store(false, Ordering::Release);
    }

    /// Sends no more than what is under way.
    pub(super) fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
