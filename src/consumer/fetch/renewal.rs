//! A client that cannot find its group any more is replaced.
//!
//! librdkafka 2.12 goes on trying the old address of a group's coordinator for ever where that broker came back at another
//! one under the same id, unless a commit was under way when the connection ended. All else of the client learns the new
//! address.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::consumer::context::Context;
use crate::consumer::fetch::Fetch;
use crate::error::{Error, Result};
use crate::native::{self, Reader};

/// Makes a client like the one that is there.
pub(in crate::consumer) type Make = Box<dyn Fn() -> Result<Reader<Context>> + Send>;

/// The group went on without this member, which has not come back since.
pub(super) struct Exile {
    /// What it had.
    partitions: Vec<(Arc<str>, i32)>,
    /// When to look whether the group answers others. Not before a rebalance must have ended.
    look_at: Instant,
}

/// Marks the answer to what is asked here: no assignment has this number.
const ROUND: u64 = u64::MAX;

impl Fetch {
    pub(super) fn exiled(&mut self, partitions: &TopicPartitionList) {
        let partitions = partitions.elements().iter().map(|p| (Arc::from(p.topic()), p.partition())).collect();
        self.exile = Some(Exile { partitions, look_at: Instant::now() + self.options.max_poll_interval });
    }

    /// Asks the group what is committed, by a way that does find its coordinator.
    pub(super) fn serve_exile(&mut self) {
        let Some(exile) = self.exile.as_mut().filter(|exile| Instant::now() >= exile.look_at) else { return };
        if native::generation(self.reader.consumer().client()).is_some() {
            self.exile = None;
            return;
        }
        exile.look_at = Instant::now() + self.options.max_poll_interval;
        let asked = exile.partitions.iter().map(|(topic, partition)| (&**topic, *partition));
        self.reader.ask_committed(&self.options.group, asked, ROUND);
    }

    /// Whether this was the answer to that question.
    pub(super) fn exile_answered(&mut self, round: u64, is_told: bool) -> bool {
        if round != ROUND {
            return false;
        }
        let is_away = self.exile.is_some() && native::generation(self.reader.consumer().client()).is_none();
        if is_told && is_away && self.lanes.iter().next().is_none() && self.link.lock().fatal.is_none() {
            self.renew();
        }
        true
    }

    fn renew(&mut self) {
        let Some(make) = &self.make else { return };
        let renewed = self.reader.consumer().subscription().map_err(Error::from).and_then(|subscribed| {
            let reader = make()?;
            let topics = subscribed.elements();
            reader.consumer().subscribe(&topics.iter().map(|element| element.topic()).collect::<Vec<_>>())?;
            Ok(reader)
        });
        let reader = match renewed {
            Ok(reader) => reader,
            Err(error) => {
                log::warn!(
                    "the group {} answers others only, and no new client can be made: {error}",
                    self.options.group
                );
                return;
            }
        };
        log::warn!("the group {} answers others only: a new client joins it", self.options.group);
        let old = std::mem::replace(&mut self.reader, reader);
        old.consumer().context().close();
        {
            // Nobody answers it any more.
            let mut state = self.link.lock();
            if let Some(sequence) = state.ledger.in_flight().map(|commit| commit.sequence) {
                state.ledger.answered(sequence, |_| false);
            }
        }
        self.commit_not_before = None;
        self.unknown_since = None;
        self.left_paused.clear();
        self.topic_ids.answered(Vec::new(), Instant::now());
        // Its end waits for brokers that are not there.
        let ending = thread::Builder::new().name("kafka-envelope old client".into()).spawn(move || drop(old));
        if let Err(error) = ending {
            log::warn!("no thread could be started to end the old client: {error}");
        }
        self.link.wake_caller();
    }
}
