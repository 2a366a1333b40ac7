//! What can be said of a filter client before it starts.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::export::filter_client::reading::Reading;
use crate::export::filter_client::shared::Shared;
use crate::export::filter_client::work::{self, Context, Work};
use crate::export::filter_client::{FilterClient, Handle};
use crate::export::timestamp::TimeFormat;
use crate::settings::{Settings, check};

/// librdkafka assigns nothing without a group's name. The group is never joined, and nothing is committed in it.
const GROUP: &str = "kafka-envelope-filters";

/// Where the log no longer has what is to be read next, it is another one. Wins over what is set for the consumers of
/// data, in the environment for one.
const FROM_BEGINNING: (&str, &str) = ("auto.offset.reset", "earliest");

/// Builds a [`FilterClient`]; see [`FilterClient::builder`].
#[must_use = "a builder does nothing until `start`"]
pub struct FilterClientBuilder {
    topic: String,
    brokers: String,
    settings: Settings,
    time_format: Option<String>,
    utc: bool,
    delay: Duration,
    callbacks: Callbacks,
}

/// What the client calls, on its own thread.
#[derive(Default)]
pub(super) struct Callbacks {
    pub(super) on_sync: Option<Box<dyn FnMut(bool) + Send>>,
    pub(super) on_put: Option<Box<dyn FnMut(&str) + Send>>,
    pub(super) on_delete: Option<Box<dyn FnMut(&str) + Send>>,
}

impl FilterClientBuilder {
    pub(super) fn new(topic: &str, brokers: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            brokers: brokers.to_owned(),
            settings: Settings::consumer(),
            time_format: None,
            utc: true,
            delay: Duration::from_secs(30),
            callbacks: Callbacks::default(),
        }
    }

    /// Calls back once: with false when the filters are in sync, with true if the client ends by an error before.
    ///
    /// In sync means that what stood in the topic at the start has been read: each partition was read to its end, or
    /// brought a message that was made since. Where no message comes for `delay`, 30 seconds unless set, and that is
    /// not known yet, it counts as in sync all the same; that counts from the brokers' first answer.
    pub fn on_sync(mut self, delay: Duration, call: impl FnMut(bool) + Send + 'static) -> Self {
        self.delay = delay;
        self.callbacks.on_sync = Some(Box::new(call));
        self
    }

    /// Calls with the id of each filter that was put, once it is in force. Where the topic was made anew, with all that are
    /// in the new one.
    pub fn on_put(mut self, call: impl FnMut(&str) + Send + 'static) -> Self {
        self.callbacks.on_put = Some(Box::new(call));
        self
    }

    /// Calls with the id of each filter that was deleted, once it is no longer in force; also where a message deletes an
    /// id that there is not. Where the topic was made anew, with those that are not in the new one.
    pub fn on_delete(mut self, call: impl FnMut(&str) + Send + 'static) -> Self {
        self.callbacks.on_delete = Some(Box::new(call));
        self
    }

    /// How timestamps that are texts are written, in the terms of Python's `strptime`, as in `%Y-%m-%dT%H:%M:%S.%f%z`.
    /// Without it a text is no timestamp; numbers, seconds since 1970, always are.
    pub fn time_format(mut self, format: &str) -> Self {
        self.time_format = Some(format.to_owned());
        self
    }

    /// Whether a text without an offset from UTC tells UTC, as it does unless this says false, or local time.
    pub fn utc(mut self, utc: bool) -> Self {
        self.utc = utc;
        self
    }

    /// librdkafka properties over the defaults, the properties file and the environment. Any map or list of pairs; of
    /// several calls the later wins. `auto.offset.reset` is `earliest` whatever they say.
    pub fn config<K: Into<String>, V: Into<String>>(mut self, entries: impl IntoIterator<Item = (K, V)>) -> Self {
        self.settings = self.settings.map(entries);
        self
    }

    /// A properties file with librdkafka properties, over the defaults, as `--command-config` of Kafka's own tools.
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings = self.settings.file(path);
        self
    }

    /// Checks everything, then starts the thread. A topic that does not exist yet is waited for.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for whatever cannot work, before anything connects.
    pub fn start(self) -> Result<FilterClient> {
        check::topic(&self.topic)?;
        check::brokers(&self.brokers)?;
        let format = self.time_format.map(|format| TimeFormat::new(&format, self.utc)).transpose()?;
        let settings = self.settings.client_id("filter-client").map([FROM_BEGINNING]);
        let managed = [("bootstrap.servers", &*self.brokers), ("group.id", GROUP), ("enable.partition.eof", "true")];
        let client = settings.resolve(&managed)?.create(Context::default())?;
        let reading = Reading::new(self.topic, format, work::now());
        let shared = Arc::new(Shared::default());
        let work = Work::new(Arc::clone(&shared), client, reading, self.delay, self.callbacks)?;
        thread::Builder::new()
            .name("kafka-envelope filters".into())
            .spawn(move || work.run())
            .map_err(|error| Error::Closed(format!("no thread could be started: {error}")))?;
        Ok(FilterClient(Arc::new(Handle { shared })))
    }
}

impl fmt::Debug for FilterClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterClientBuilder")
            .field("topic", &self.topic)
            .field("brokers", &self.brokers)
            .field("settings", &self.settings)
            .field("time_format", &self.time_format)
            .field("utc", &self.utc)
            .field("delay", &self.delay)
            .finish_non_exhaustive()
    }
}
