//! A client that cannot find its group any more is replaced.
//!
//! librdkafka 2.12 goes on trying the old address of a group's coordinator for ever where that broker came back at another
//! one under the same id, unless a commit was under way when the connection ended. All else of the client learns the new
//! address.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::consumer::context::Context;
use crate::consumer::fetch::Fetch;
use crate::error::Result;
use crate::native::{self, Reader};
use crate::refusal::RefusalKind;

/// Makes a client like the one that is there.
pub(in crate::consumer) type Make = Box<dyn Fn() -> Result<Reader<Context>> + Send>;

/// The group went on without this member, which has not come back since.
pub(super) struct Exile {
    /// Of what it had.
    topics: HashSet<String>,
    /// When to look whether brokers answer. Not before a rebalance must have ended.
    look_at: Instant,
    is_asked: bool,
    /// When to act on the answer: whoever was just let back has joined by then.
    renew_at: Option<Instant>,
}

/// Whether this is a member of its group still. One that has no partitions is told of no loss.
#[derive(Default)]
pub(super) struct Bystander {
    look_at: Option<Instant>,
    was_member: bool,
}

/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// How long a member that can reach its group again has to join it, at the most.
const GRACE: Duration = Duration::from_secs(30);

impl Fetch {
    pub(super) fn exiled(&mut self, partitions: &TopicPartitionList) {
        self.exile_from(partitions.elements().iter().map(|element| element.topic().to_owned()).collect());
    }

    fn exile_from(&mut self, topics: HashSet<String>) {
        let look_at = Instant::now() + self.options.max_poll_interval;
        self.exile = Some(Exile { topics, look_at, is_asked: false, renew_at: None });
    }

    fn subscribed(&self) -> Vec<String> {
        let subscribed = self.reader.consumer().subscription();
        subscribed.iter().flat_map(|list| list.elements()).map(|element| element.topic().to_owned()).collect()
    }

    /// Notices that a member without partitions is none any more.
    fn look_at_membership(&mut self, now: Instant) {
        if self.exile.is_some() || self.lanes.iter().next().is_some() {
            self.bystander = Bystander::default();
        } else if self.bystander.look_at.is_none_or(|at| at <= now) {
            self.bystander.look_at = Some(now + LOOK.min(self.options.max_poll_interval / 3));
            let is_member = native::generation(self.reader.consumer().client()).is_some();
            if self.bystander.was_member && !is_member {
                // Of a pattern nobody could tell.
                let topics = self.subscribed().into_iter().filter(|topic| !topic.starts_with('^'));
                self.exile_from(topics.collect());
            }
            self.bystander.was_member = is_member;
            if !is_member {
                self.reader.consumer().context().bootstrap.fear();
            }
        }
    }

    /// Asks for the topics, which brokers tell. Where one does, and this member is not back some time later, the client
    /// is replaced. Nothing that only the group's coordinator can answer is asked: librdkafka ends the process where that
    /// times out and the coordinator comes back later (its pull request 5397).
    pub(super) fn serve_exile(&mut self) {
        let now = Instant::now();
        self.look_at_membership(now);
        if self.exile.is_some() {
            self.reader.consumer().context().bootstrap.fear();
        }
        let is_due = |exile: &&mut Exile| exile.renew_at.unwrap_or(exile.look_at) <= now;
        let Some(exile) = self.exile.as_mut().filter(is_due) else { return };
        if native::generation(self.reader.consumer().client()).is_some() {
            self.exile = None;
            return;
        }
        if exile.renew_at.is_none() && self.topic_ids.is_asked() {
            // One question at a time: whose answer it was could not be told.
            return;
        }
        exile.look_at = now + self.options.max_poll_interval;
        if exile.renew_at.take().is_none() {
            exile.is_asked = true;
            self.reader.ask_topic_ids(exile.topics.iter().map(String::as_str));
            self.topic_ids.asked();
        } else if self.lanes.iter().next().is_none() && !self.is_refused() && self.link.lock().fatal.is_none() {
            self.renew();
        }
    }

    /// A broker told of topics.
    pub(super) fn exile_answered(&mut self) {
        if let Some(exile) = self.exile.as_mut().filter(|exile| exile.is_asked) {
            exile.is_asked = false;
            exile.renew_at = Some(Instant::now() + GRACE.min(self.options.max_poll_interval));
        }
    }

    /// Whether the group's coordinator is there, and does not let this member in: it would not let another client in.
    fn is_refused(&self) -> bool {
        let refusals = self.refusals().all();
        refusals.iter().any(|refusal| refusal.kind == RefusalKind::Group)
    }

    fn renew(&mut self) {
        let Some(make) = &self.make else { return };
        let topics = self.subscribed();
        if topics.is_empty() {
            // It left by itself.
            self.exile = None;
            return;
        }
        let renewed = make().and_then(|reader| {
            reader.consumer().subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())?;
            Ok(reader)
        });
        let reader = match renewed {
            Ok(reader) => reader,
            Err(error) => {
                log::warn!(
                    "brokers answer, the group {} does not, and no new client can be made: {error}",
                    self.options.group
                );
                return;
            }
        };
        log::warn!("brokers answer, and the group {} does not: a new client joins it", self.options.group);
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
