//! The thread that reads the filter topic: all partitions, assigned by hand, without a group's offsets.
//!
//! It counts next offsets itself: an end-of-partition event moves librdkafka's own.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::Utc;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::bootstrap::Bootstrap;
use crate::client;
use crate::error::{Error, Result, panic_text};
use crate::export::filter_client::builder::Callbacks;
use crate::export::filter_client::reading::{Changed, News, Reading};
use crate::export::filter_client::shared::Shared;
use crate::native::{Reader, Reply, Taken, TopicId};

/// So many messages become one set of filters.
const BATCH: usize = 1_000;
/// Until the next look at the topic: new partitions, and whether it was made anew.
const LOOK: Duration = Duration::from_secs(5);
/// The same where the topic is not there, or nothing was answered.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// How long a look may take. Everything else waits meanwhile, a stop too.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a partition with an error waits at first, and at most, until it is given to librdkafka anew.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a quiet client sleeps at most, to serve what rings no bell.
const QUIET: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Context {
    bootstrap: Bootstrap,
}

client::client_context!(Context, |context, error, reason| {
    client::error(error, reason);
    context.bootstrap.hear(error);
});

impl ConsumerContext for Context {}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Why the client cannot go on.
type Failure = String;

pub(super) struct Work {
    shared: Arc<Shared>,
    callbacks: Callbacks,
    reader: Reader<Context>,
    reading: Reading,
    /// In sync after so long without a message.
    delay: Duration,
    /// The last message, or the brokers' first answer before there is one.
    heard: Option<Instant>,
    is_in_sync: bool,
    /// All ids that the topic had. The old ones, too, since a broker may be behind.
    ids: Vec<TopicId>,
    /// Whether an answer about the id is awaited.
    is_id_asked: bool,
    /// When to look at the topic next.
    look_at: Instant,
    /// Why the last look found no topic.
    missing: Option<Code>,
    /// Partitions that had an error and nothing else since.
    failed: BTreeSet<i32>,
    /// When they are assigned anew, and after what pause the time after that.
    assign_at: Option<Instant>,
    pause: Duration,
}

impl Work {
    pub(super) fn new(
        shared: Arc<Shared>,
        client: BaseConsumer<Context>,
        reading: Reading,
        delay: Duration,
        callbacks: Callbacks,
    ) -> Result<Self> {
        let bell = Arc::clone(&shared);
        let ring = move || bell.bell.ring();
        let reader =
            Reader::new(client, ring.clone(), ring).ok_or_else(|| Error::Closed("librdkafka gave no queue".into()))?;
        Ok(Self {
            shared,
            callbacks,
            reader,
            reading,
            delay,
            heard: None,
            is_in_sync: false,
            ids: Vec::new(),
            is_id_asked: false,
            look_at: Instant::now(),
            missing: None,
            failed: BTreeSet::new(),
            assign_at: None,
            pause: FIRST_PAUSE,
        })
    }

    /// Runs until the client is stopped, or cannot go on.
    pub(super) fn run(mut self) {
        self.shared.is_this_thread();
        let shared = Arc::clone(&self.shared);
        // Callbacks are caught one by one: what panics here is a logger, most likely.
        let outcome = caught("the thread", || self.work());
        if let Err(failure) = outcome.and_then(|outcome| outcome) {
            client::guarded(|| self.fail(failure));
        }
        // Callbacks may hold what panics on drop; and the client's end may take long.
        client::guarded(|| drop(self));
        shared.end();
    }

    fn work(&mut self) -> Result<(), Failure> {
        while !self.shared.is_stopped() {
            self.serve_events()?;
            self.serve_replies();
            let is_drained = self.take()?;
            self.publish(false)?;
            self.synchronize()?;
            self.look()?;
            self.assign_failed();
            if is_drained {
                self.shared.bell.wait(self.patience());
            }
        }
        Ok(())
    }

    /// How long there is nothing to do unless the bell rings.
    fn patience(&self) -> Duration {
        let sync_at = self.quiet_at().filter(|_| !self.is_in_sync);
        let next = [self.assign_at, sync_at].into_iter().flatten().fold(self.look_at, Instant::min);
        next.saturating_duration_since(Instant::now()).min(QUIET)
    }

    fn fail(&mut self, failure: Failure) {
        log::error!("the client of filter topic {} ends: {failure}", self.reading.topic());
        self.shared.status().failure = Some(failure);
        if !self.is_in_sync {
            if let Some(mut on_sync) = self.callbacks.on_sync.take() {
                on_sync(true);
            }
        }
    }

    /// Errors of the client as a whole, which `Context` has logged. librdkafka goes on after all but fatal ones.
    fn serve_events(&mut self) -> Result<(), Failure> {
        let consumer = self.reader.consumer();
        loop {
            if let Some(Ok(_)) = consumer.poll(Duration::ZERO) {
                // Never, since records are forwarded; but never lost either.
                log::error!("a record of {} came on the wrong queue: it is read again", self.reading.topic());
                self.assign_at = Some(Instant::now());
            }
            if self.reader.events() == 0 {
                break;
            }
        }
        consumer.context().bootstrap.serve(consumer.client());
        match consumer.client().fatal_error() {
            Some((_, reason)) => Err(format!("filter topic {}: {reason}", self.reading.topic())),
            None => Ok(()),
        }
    }

    /// Takes what is there. False: there may be more.
    fn take(&mut self) -> Result<bool, Failure> {
        let Self { reader, reading, failed, .. } = self;
        let (mut errors, mut has_message) = (Vec::new(), false);
        let count = reader.take(BATCH, |taken| {
            let partition = match taken {
                Taken::Record(record) => {
                    has_message = true;
                    reading.record(record.partition(), record.offset(), record.key(), record.value());
                    record.partition()
                }
                Taken::Error { partition, offset, code: Code::PartitionEOF, .. } => {
                    reading.end(partition, offset);
                    partition
                }
                Taken::Error { partition, offset, code, reason, .. } => {
                    errors.push((partition, offset, code, reason));
                    return;
                }
            };
            failed.remove(&partition);
        });
        if has_message {
            self.heard = Some(Instant::now());
        }
        if self.failed.is_empty() && errors.is_empty() {
            self.pause = FIRST_PAUSE;
        }
        for (partition, offset, code, reason) in errors {
            self.partition_failed(partition, offset, code, &reason)?;
        }
        if self.reading.is_void() {
            self.restart();
        }
        Ok(count < BATCH)
    }

    fn partition_failed(&mut self, partition: i32, offset: i64, code: Code, reason: &str) -> Result<(), Failure> {
        self.refuse_for_good(code)?;
        let topic = self.reading.topic();
        log::warn!("{topic}:{partition} at offset {offset}: {reason}; it is tried again within {:?}", self.pause);
        self.failed.insert(partition);
        if self.assign_at.is_none() {
            self.assign_at = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }

    /// What only another configuration can mend ends a client that has not begun. One that runs waits for it to be
    /// mended: its filters are still right.
    fn refuse_for_good(&self, code: Code) -> Result<(), Failure> {
        match code {
            Code::TopicAuthorizationFailed | Code::InvalidTopic if !self.is_in_sync => {
                Err(format!("filter topic {} cannot be read: {code}", self.reading.topic()))
            }
            _ => Ok(()),
        }
    }

    /// Gives the partitions to librdkafka anew, where one has had an error and nothing else since.
    fn assign_failed(&mut self) {
        if self.assign_at.is_some_and(|at| at <= Instant::now()) {
            self.assign_at = None;
            if !self.failed.is_empty() {
                self.assign();
            }
        }
    }

    /// Gives all partitions to librdkafka, from their next offsets.
    fn assign(&mut self) {
        let topic = self.reading.topic();
        let consumer = self.reader.consumer();
        let assign = || -> KafkaResult<()> {
            let mut list = TopicPartitionList::new();
            for (partition, next_offset) in self.reading.partitions() {
                let from = next_offset.map_or(Offset::Beginning, Offset::Offset);
                list.add_partition_offset(topic, partition, from)?;
            }
            consumer.unassign()?;
            // The stop of a fetch clears its forward. librdkafka has queued it by now, and answers this after it.
            consumer.assignment()?;
            self.reading.partitions().for_each(|(partition, _)| self.reader.forward(topic, partition));
            consumer.assign(&list)
        };
        if let Err(error) = assign() {
            log::warn!("the partitions of {topic} cannot be assigned, which is tried again: {error}");
            self.failed.extend(self.reading.partitions().map(|(partition, _)| partition));
            self.assign_at = Some(Instant::now() + self.pause);
        }
    }

    /// Reads the topic from its beginning. Readers keep what they have until that is done.
    fn restart(&mut self) {
        self.reading.restart(now());
        self.failed.clear();
        self.assign_at = None;
        // How many partitions are there now?
        self.look_at = Instant::now();
    }

    /// Looks how many partitions there are, and asks for the topic's id.
    fn look(&mut self) -> Result<(), Failure> {
        if self.look_at > Instant::now() {
            return Ok(());
        }
        if !self.is_id_asked {
            self.reader.ask_topic_ids(std::iter::once(self.reading.topic()));
            self.is_id_asked = true;
        }
        let found = self.partition_count();
        self.look_at = Instant::now() + if matches!(found, Some(Ok(_))) { LOOK } else { LOOK_SOON };
        let Some(found) = found else { return Ok(()) };
        self.heard.get_or_insert_with(Instant::now);
        match found {
            Ok(partitions) => {
                self.missing = None;
                if self.reading.grow(partitions) {
                    self.assign();
                }
            }
            Err(code) => {
                self.refuse_for_good(code)?;
                if self.missing.replace(code) != Some(code) {
                    log::warn!("filter topic {} is waited for: {code}", self.reading.topic());
                }
            }
        }
        Ok(())
    }

    /// None: the brokers did not answer.
    fn partition_count(&self) -> Option<Result<usize, Code>> {
        let topic = self.reading.topic();
        let metadata = match self.reader.consumer().fetch_metadata(Some(topic), LOOK_TIMEOUT) {
            Ok(metadata) => metadata,
            Err(error) => {
                log::debug!("no look at filter topic {topic}: {error}");
                return None;
            }
        };
        let found = metadata.topics().iter().find(|found| found.name() == topic)?;
        Some(match found.error() {
            Some(error) => Err(error.into()),
            None => Ok(found.partitions().len()),
        })
    }

    fn serve_replies(&mut self) {
        while let Some(reply) = self.reader.reply() {
            let Reply::Topics(ids) = reply else { continue };
            self.is_id_asked = false;
            for (topic, id) in ids.into_iter().filter_map(|(topic, id)| Some((topic, id.ok()?))) {
                let is_anew = !self.ids.is_empty();
                if self.ids.contains(&id) {
                    continue;
                }
                self.ids.push(id);
                if is_anew {
                    log::warn!("filter topic {topic} was deleted and made anew: it is read from its beginning");
                    self.restart();
                }
            }
        }
    }

    /// Hands new filters to readers, and then calls back.
    fn publish(&mut self, now: bool) -> Result<(), Failure> {
        if self.shared.status().skipped != self.reading.skipped() {
            self.shared.status().skipped = self.reading.skipped();
        }
        let Some(News { filters, is_anew, mut changes }) = self.reading.news(now) else { return Ok(()) };
        if let Some(filters) = filters {
            if is_anew {
                let before = self.shared.filters.load();
                let gone = before.ids_beyond(&filters).into_iter().map(|id| Changed::Deleted(id.to_owned()));
                changes.splice(0..0, gone);
            }
            let sources = self.is_in_sync.then(|| filters.sources());
            self.shared.filters.store(Arc::new(filters));
            self.shared.status().last_update = Some(Utc::now());
            if let Some(sources) = sources {
                self.shared.tell_sources(sources);
            }
        }
        for change in changes {
            if self.shared.is_stopped() {
                break;
            }
            match (&change, &mut self.callbacks) {
                (Changed::Put(id), Callbacks { on_put: Some(call), .. }) => caught("on_put", || call(id))?,
                (Changed::Deleted(id), Callbacks { on_delete: Some(call), .. }) => {
                    caught("on_delete", || call(id))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// When so long nothing came that the filters count as in sync.
    fn quiet_at(&self) -> Option<Instant> {
        self.heard?.checked_add(self.delay)
    }

    fn synchronize(&mut self) -> Result<(), Failure> {
        let is_quiet = || self.quiet_at().is_some_and(|at| at <= Instant::now());
        if self.is_in_sync || !(self.reading.is_caught_up() || is_quiet()) {
            return Ok(());
        }
        // Where they were being read once more.
        self.publish(true)?;
        let filters = self.shared.filters.load_full();
        log::info!("{} filters of topic {} are in sync", filters.len(), self.reading.topic());
        self.is_in_sync = true;
        self.shared.status().is_in_sync = true;
        self.shared.tell_sources(filters.sources());
        match self.callbacks.on_sync.take() {
            Some(mut call) => caught("on_sync", || call(false)),
            None => Ok(()),
        }
    }
}

/// Runs what may hold code of the user's.
fn caught<T>(what: &str, run: impl FnOnce() -> T) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = format!("{what} of the filter client panicked: {}", panic_text(&*panic));
        // Its own `Drop` could panic again.
        std::mem::forget(panic);
        text
    })
}
