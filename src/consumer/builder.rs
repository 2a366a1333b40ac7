//! What can be said of a consumer before it starts.

use std::path::PathBuf;
use std::time::Duration;

use crate::consumer::context::Context;
use crate::consumer::{Consumer, FOR_EVER, fetch};
use crate::error::{Error, Result};
use crate::settings::{Settings, check};

/// When offsets are committed. Either way only after the handler returned `Ok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Every batch waits for the confirmation of its commit before the next is handed over. A crash repeats one batch.
    EachBatch,
    /// Commits go on beside the handling, one at a time; each carries all that was completed meanwhile.
    Overlapped {
        /// So many batches may be handled and not confirmed; then handling waits. A crash repeats at most these and the
        /// one in hand.
        max_batches: usize,
    },
}

impl Default for Commit {
    fn default() -> Self {
        Self::Overlapped { max_batches: 32 }
    }
}

/// Builds a [`Consumer`]; see [`Consumer::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ConsumerBuilder {
    service: String,
    brokers: String,
    group: String,
    topics: Vec<String>,
    settings: Settings,
    batch_size: usize,
    batch_bytes: usize,
    linger: Duration,
    idle_timeout: Option<Duration>,
    commit: Commit,
    drain_budget: Duration,
}

impl ConsumerBuilder {
    pub(super) fn new(service: &str, brokers: &str, group: &str) -> Self {
        Self {
            service: service.to_owned(),
            brokers: brokers.to_owned(),
            group: group.to_owned(),
            topics: Vec::new(),
            settings: Settings::consumer(),
            batch_size: 500,
            batch_bytes: 16 << 20,
            linger: Duration::ZERO,
            idle_timeout: None,
            commit: Commit::default(),
            drain_budget: Duration::from_secs(30),
        }
    }

    /// The topics to read. A name that starts with `^` is a pattern, as in librdkafka.
    pub fn topics<S: Into<String>>(mut self, topics: impl IntoIterator<Item = S>) -> Self {
        self.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// The most records in a batch, 500 unless set.
    pub fn batch_size(mut self, records: usize) -> Self {
        self.batch_size = records;
        self
    }

    /// The most bytes of keys, values and headers in a batch, 16 MiB unless set. One record that is larger makes a
    /// batch of its own.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// How long a batch that is not full waits for more records after its first. Zero unless set: a free handler gets
    /// at once what is there, and under load batches fill by themselves.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger.min(FOR_EVER);
        self
    }

    /// After so long without a record `process` and `run` return. Never unless set.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Some(timeout.min(FOR_EVER));
        self
    }

    /// When offsets are committed, [`Commit::Overlapped`] with 32 batches unless set. [`Consumer::process`] waits for
    /// each commit whatever this says.
    pub fn commit(mut self, commit: Commit) -> Self {
        self.commit = commit;
        self
    }

    /// How long a partition that is taken away waits for the handler to finish its batch, 30 seconds unless set. The
    /// whole group waits meanwhile. Must be less than `max.poll.interval.ms`.
    pub fn drain_budget(mut self, budget: Duration) -> Self {
        self.drain_budget = budget;
        self
    }

    /// librdkafka properties over the defaults, the properties file and the environment. Any map or list of pairs; of
    /// several calls the later wins.
    pub fn config<K: Into<String>, V: Into<String>>(mut self, entries: impl IntoIterator<Item = (K, V)>) -> Self {
        self.settings = self.settings.map(entries);
        self
    }

    /// A properties file with librdkafka properties, over the defaults, as `--command-config` of Kafka's own tools.
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings = self.settings.file(path);
        self
    }

    /// Checks everything, then starts the consumer. It joins its group in the background.
    ///
    /// # Errors
    /// [`Error::Setting`] for whatever cannot work, before anything connects.
    pub fn build(self) -> Result<Consumer> {
        check::service(&self.service)?;
        check::brokers(&self.brokers)?;
        check::group(&self.group)?;
        check::topics(&self.topics)?;
        if self.batch_size == 0 {
            return Err(Error::setting("batch_size", "must be at least 1"));
        }
        if self.batch_bytes == 0 {
            return Err(Error::setting("batch_bytes", "must be at least 1"));
        }
        if self.commit == (Commit::Overlapped { max_batches: 0 }) {
            return Err(Error::setting("commit", "max_batches must be at least 1"));
        }
        let managed = [("bootstrap.servers", &*self.brokers), ("group.id", &*self.group)];
        let settings = self.settings.client_id(&self.service).resolve(&managed)?;
        let max_poll_interval = Duration::from_millis(settings.effective_number("max.poll.interval.ms")?);
        if self.drain_budget >= max_poll_interval {
            return Err(Error::setting(
                "drain_budget",
                format!("{:?} is not less than max.poll.interval.ms, {max_poll_interval:?}", self.drain_budget),
            ));
        }
        let options = fetch::Options {
            batch_size: self.batch_size,
            batch_bytes: self.batch_bytes,
            drain_budget: self.drain_budget,
            max_poll_interval,
        };
        let client = settings.create(Context::default())?;
        Consumer::start(client, &self.topics, options, (self.linger, self.idle_timeout, self.commit))
    }
}
