//! What can be said of a consumer before it starts.

use std::path::PathBuf;
use std::time::Duration;

use crate::consumer::context::Context;
use crate::consumer::dead_letters::{self, DeadLetters, LetterTopics};
use crate::consumer::policy::{Commit, GiveUp, OnError, OnUndecodable};
use crate::consumer::sight::Sight;
use crate::consumer::{Consumer, FOR_EVER, desk, fetch};
use crate::error::{Error, Result};
use crate::metrics::ConsumerMeter;
use crate::otel::Tracing;
use crate::settings::{Resolved, Settings, check};

/// Builds a [`Consumer`]; see [`Consumer::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ConsumerBuilder {
    service: String,
    brokers: String,
    group: String,
    topics: Vec<String>,
    /// [`Subscription`](crate::consumer::Subscription) says what is read.
    topics_change: bool,
    /// The group is joined once a broker was [reached](Consumer::reach).
    #[cfg(feature = "stream")]
    joins_late: bool,
    settings: Settings,
    batch_size: usize,
    batch_bytes: usize,
    linger: Duration,
    idle_timeout: Option<Duration>,
    commit: Commit,
    drain_budget: Duration,
    on_error: OnError,
    on_undecodable: OnUndecodable,
    dead_letter_topic: Option<String>,
    stall_timeout: Duration,
    handler_timeout: Option<Duration>,
    max_window: Option<usize>,
    /// Also under the names of the Python library.
    python_metrics: bool,
}

impl ConsumerBuilder {
    pub(super) fn new(service: &str, brokers: &str, group: &str) -> Self {
        Self {
            service: service.to_owned(),
            brokers: brokers.to_owned(),
            group: group.to_owned(),
            topics: Vec::new(),
            topics_change: false,
            #[cfg(feature = "stream")]
            joins_late: false,
            settings: Settings::consumer().measured(),
            batch_size: 500,
            batch_bytes: 16 << 20,
            linger: Duration::ZERO,
            idle_timeout: None,
            commit: Commit::default(),
            drain_budget: Duration::from_secs(30),
            on_error: OnError::default(),
            on_undecodable: OnUndecodable::default(),
            dead_letter_topic: None,
            stall_timeout: Duration::from_secs(60),
            handler_timeout: None,
            max_window: None,
            python_metrics: false,
        }
    }

    /// The topics to read. A name that starts with `^` is a pattern, as in librdkafka.
    pub fn topics<S: Into<String>>(mut self, topics: impl IntoIterator<Item = S>) -> Self {
        self.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// The same in another group.
    #[cfg(feature = "app")]
    pub(crate) fn in_group(mut self, group: &str) -> Self {
        self.group = group.to_owned();
        self
    }

    /// Refuses what is not for a consumer whose records are handled one by one, and whose topics somebody else says.
    ///
    /// # Errors
    /// [`Error::Setting`]
    #[cfg(any(feature = "app", feature = "stream"))]
    pub(crate) fn for_single_records(self) -> Result<Self> {
        let refused = [
            ("topics", !self.topics.is_empty(), "are not said here"),
            ("idle_timeout", self.idle_timeout.is_some(), "is not for records that are handled one by one"),
            ("handler_timeout", self.handler_timeout.is_some(), "is not for records that are handled one by one"),
        ];
        match refused.iter().find(|(_, is_set, _)| *is_set) {
            Some((key, _, reason)) => Err(Error::setting(*key, *reason)),
            None => Ok(self),
        }
    }

    /// Refuses attempts, which somebody else makes.
    ///
    /// # Errors
    /// [`Error::Setting`]
    #[cfg(feature = "stream")]
    pub(crate) fn for_one_attempt(self) -> Result<Self> {
        match self.on_error.backoff.attempts > 1 || self.on_error.bisect {
            true => Err(Error::setting("on_error", "is not where attempts are said: `Agent::retry` is")),
            false => Ok(self),
        }
    }

    /// It is no member of its group before [`Consumer::reach`].
    #[cfg(feature = "stream")]
    pub(crate) fn joining_late(mut self) -> Self {
        self.joins_late = true;
        self
    }

    /// Where nobody says how large the window is, it has room for so many records that are kept back on purpose, too.
    #[cfg(feature = "stream")]
    pub(crate) fn keeping_back(mut self, records: usize) -> Self {
        self.max_window = self.max_window.or(Some(records.saturating_add(self.default_window())));
        self
    }

    fn default_window(&self) -> usize {
        self.batch_size.saturating_mul(10).max(100_000)
    }

    /// A consumer in another group, which reaches its brokers in the same way and reads everything from the start.
    #[cfg(feature = "app")]
    pub(crate) fn sibling(&self, group: &str) -> Self {
        let settings = self.settings.clone().map([("auto.offset.reset", "earliest")]);
        Self { settings, ..Self::new(&self.service, &self.brokers, group) }
    }

    /// What decides how it reaches its brokers.
    ///
    /// # Errors
    /// As [`ConsumerBuilder::build`].
    #[cfg(feature = "app")]
    pub(crate) fn connection(&self) -> Result<Vec<(String, String)>> {
        let managed = [("bootstrap.servers", &*self.brokers), ("group.id", &*self.group)];
        let settings = self.settings.resolve(&managed)?;
        Ok(settings.connection().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// Without topics: [`Consumer::subscription`] says which are read, and that may change.
    #[cfg(feature = "export")]
    pub(crate) fn topics_change(mut self) -> Self {
        self.topics_change = true;
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

    /// When offsets are committed, [`Commit::Overlapped`] with 256 batches unless set. [`Consumer::process`] waits for
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

    /// What happens when the handler fails, [`OnError::stop`] unless set.
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }

    /// What becomes of records that are no envelope or do not fit the handler's type, [`OnUndecodable::Stop`] unless
    /// set.
    pub fn on_undecodable(mut self, on_undecodable: OnUndecodable) -> Self {
        self.on_undecodable = on_undecodable;
        self
    }

    /// Where dead letters go, instead of to the record's own topic with `-dlt` after its name. Where the brokers do not
    /// make topics by themselves, it has to exist. A pattern among the consumer's topics does not match it, unless
    /// `topic.blacklist` is set to something else. Its `max.message.bytes` should be some 2 KiB more than that of the
    /// topics read: the headers are added.
    ///
    /// Key, value and headers are the record's own. Added are the headers of Spring Kafka's dead letters
    /// (`kafka_dlt-original-topic`, `-partition`, `-offset`, `-timestamp`, `-consumer-group`, `kafka_dlt-exception-fqcn`,
    /// `-message`; numbers big-endian), and `kafka_dlt-attempts`, a 32-bit number.
    pub fn dead_letter_topic(mut self, topic: impl Into<String>) -> Self {
        self.dead_letter_topic = Some(topic.into());
        self
    }

    /// How long a partition with a backlog may make no progress until it counts as stalled, 60 seconds unless set:
    /// [`Health`](crate::Health) shows it then, one line is logged, and where it waits for the broker it is given to
    /// librdkafka anew. A batch that is rightly handled for longer is a stall too, so this should be more than that
    /// takes.
    ///
    /// A partition at which nothing comes is asked for its end in half of this time. Must not be zero.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout.min(FOR_EVER);
        self
    }

    /// How long the handler may work on one batch. Never ends unless set.
    ///
    /// After that the consumer is unhealthy, and stops polling: if the handler is not back within
    /// `max.poll.interval.ms`, the group goes on without this member. Once it is back, its batch is not committed where
    /// its partitions went away, and the consumer joins again. The wait for dead letters counts, and in an exactly-once
    /// run the transaction. Must not be zero.
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.handler_timeout = Some(timeout.min(FOR_EVER));
        self
    }

    /// How many offsets of a partition may be taken beyond the first record that is not completed, 100,000 or ten
    /// batches unless set, whichever is more. Past that the partition is paused, until half of it is left: one record
    /// that hangs does not let ever more be repeated after it. Not less than `batch_size`.
    ///
    /// Offsets, not records: in a log with large gaps, as compaction leaves them, it is reached with fewer records.
    pub fn max_window(mut self, offsets: usize) -> Self {
        self.max_window = Some(offsets);
        self
    }

    /// Whether handlers are also measured under the names of the Python library: `{service}_kafka_process_seconds`, a
    /// histogram of their time, and `{service}_kafka_process_count`, a counter of their messages. No unless set.
    ///
    /// As there, without attributes, and only of handlers that succeeded; tombstones are no messages. The time includes
    /// the decoding, and not the commit. What of the service's name Prometheus does not take becomes `_`. In an event app
    /// each record is a batch of its own; a stream worker's agents are not measured so.
    #[cfg(feature = "metrics")]
    pub fn python_metrics(mut self, python_metrics: bool) -> Self {
        self.python_metrics = python_metrics;
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
        self.check()?;
        let max_window = self.max_window.unwrap_or_else(|| self.default_window());
        let mut settings = self.settings.clone().client_id(&self.service);
        // Dead letters must not come back by a pattern that their topic matches, too.
        let is_pattern = |topic: &String| topic.starts_with('^');
        let mut hidden = (self.writes_dead_letters() && (self.topics_change || self.topics.iter().any(is_pattern)))
            .then(|| self.dead_letter_topic.clone().map_or(LetterTopics::Suffixed, LetterTopics::One));
        if let Some(hidden) = &hidden {
            settings = settings.fallback("topic.blacklist", hidden.pattern());
        }
        let managed = [("bootstrap.servers", &*self.brokers), ("group.id", &*self.group)];
        let settings = settings.resolve(&managed)?;
        // Who says otherwise of a pattern means it. What is subscribed to by name is looked at by itself.
        hidden = hidden.filter(|ours| self.topics_change || settings.get("topic.blacklist") == Some(&*ours.pattern()));
        if hidden.is_some() {
            let is_hidden = |topic: &&String| topic.trim_end_matches('$').ends_with(dead_letters::SUFFIX);
            if let Some(topic) = self.topics.iter().find(is_hidden) {
                let reason =
                    "is not read beside a pattern, lest dead letters come back: set `topic.blacklist` yourself";
                return Err(Error::setting("topics", format!("`{topic}` {reason}")));
            }
        }
        let max_poll_interval = Duration::from_millis(settings.effective_number("max.poll.interval.ms")?);
        if self.drain_budget >= max_poll_interval {
            return Err(Error::setting(
                "drain_budget",
                format!("{:?} is not less than max.poll.interval.ms, {max_poll_interval:?}", self.drain_budget),
            ));
        }
        let client_id = settings.get("client.id").unwrap_or(&self.service);
        let meter = ConsumerMeter::new(client_id, &self.group, self.python_metrics.then_some(&*self.service));
        let sight = Sight { meter, tracing: Tracing::new(client_id, Some(&self.group)) };
        let options = fetch::Options {
            batch_size: self.batch_size,
            batch_bytes: self.batch_bytes,
            drain_budget: self.drain_budget,
            max_poll_interval,
            stall_timeout: self.stall_timeout,
            handler_timeout: self.handler_timeout,
            max_window: max_window as u64,
            group: self.group.clone(),
            sight: sight.clone(),
            #[cfg(feature = "stream")]
            late_topics: Vec::new(),
            committed_only: settings.effective("isolation.level")? == "read_committed",
            hidden,
            resets_to_end: matches!(&*settings.effective("auto.offset.reset")?, "latest" | "largest" | "end"),
        };
        let dead_letters = self.dead_letters(&settings)?;
        let (group, measured) = (self.group.clone(), sight.meter.clone());
        let client = move || settings.create(Context::of_group(&group).heard_by(measured.statistics()));
        let desk = desk::Options {
            linger: self.linger,
            idle_timeout: self.idle_timeout,
            commit: self.commit,
            on_error: self.on_error,
            on_undecodable: self.on_undecodable,
            dead_letters,
            sight,
        };
        #[cfg(feature = "stream")]
        if self.joins_late {
            return Consumer::start(client, &[], fetch::Options { late_topics: self.topics, ..options }, desk);
        }
        Consumer::start(client, &self.topics, options, desk)
    }

    /// What can be said of these settings by themselves.
    fn check(&self) -> Result<()> {
        check::service(&self.service)?;
        check::brokers(&self.brokers)?;
        check::group(&self.group)?;
        match (self.topics_change, self.topics.is_empty()) {
            (false, _) => check::topics(&self.topics)?,
            (true, true) => {}
            (true, false) => return Err(Error::setting("topics", "are not for this consumer to choose")),
        }
        if self.batch_size == 0 {
            return Err(Error::setting("batch_size", "must be at least 1"));
        }
        if self.batch_bytes == 0 {
            return Err(Error::setting("batch_bytes", "must be at least 1"));
        }
        if self.commit == (Commit::Overlapped { max_batches: 0 }) {
            return Err(Error::setting("commit", "max_batches must be at least 1"));
        }
        self.on_error.backoff.check("on_error")?;
        if self.stall_timeout.is_zero() {
            return Err(Error::setting("stall_timeout", "must be more than 0"));
        }
        if self.handler_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Error::setting("handler_timeout", "must be more than 0"));
        }
        if let Some(max_window) = self.max_window.filter(|max_window| *max_window < self.batch_size) {
            let reason = format!("{max_window} is less than batch_size, {}", self.batch_size);
            return Err(Error::setting("max_window", reason));
        }
        let refuse = |reason: String| Err(Error::setting("dead_letter_topic", reason));
        let Some(topic) = &self.dead_letter_topic else {
            let comes_back = |topic: &&String| self.topics.contains(&dead_letters::topic_of(topic));
            return match self.topics.iter().find(comes_back).filter(|_| self.writes_dead_letters()) {
                Some(topic) => {
                    refuse(format!("this consumer reads `{topic}` and its dead letters, which would come back"))
                }
                None => Ok(()),
            };
        };
        if !self.writes_dead_letters() {
            return refuse("nothing goes there: neither `on_error` nor `on_undecodable` says `DeadLetter`".into());
        }
        if self.topics.contains(topic) {
            return refuse(format!("`{topic}` is read by this consumer: its dead letters would come back"));
        }
        check::topic(topic)
    }

    fn writes_dead_letters(&self) -> bool {
        self.on_error.then == GiveUp::DeadLetter || self.on_undecodable == OnUndecodable::DeadLetter
    }

    /// The writer of dead letters, where there may be some.
    fn dead_letters(&self, settings: &Resolved) -> Result<Option<DeadLetters>> {
        if !self.writes_dead_letters() {
            return Ok(None);
        }
        let topic = self.dead_letter_topic.clone();
        DeadLetters::new(&self.service, &self.brokers, &self.group, topic, settings, self.drain_budget).map(Some)
    }
}
