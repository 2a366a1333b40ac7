//! What can be said of a data client or a worker before it starts.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use crate::consumer::{Consumer, ConsumerBuilder};
use crate::error::Result;
use crate::export::data_client::DataClient;
use crate::export::exports::Form;
use crate::export::filter_client::{FilterClient, Following};
use crate::export::shape::Shape;
use crate::export::source::Source;
use crate::export::worker::ExportWorker;

/// The most records that a data client has ready.
const READY: usize = 10_000;

/// Builds a [`DataClient`]; see [`DataClient::builder`].
pub type DataClientBuilder = ExportBuilder<DataClient>;

/// Builds an [`ExportWorker`]; see [`ExportWorker::builder`].
pub type ExportWorkerBuilder = ExportBuilder<ExportWorker>;

/// Builds a [`DataClient`] or an [`ExportWorker`].
#[must_use = "a builder does nothing until `start`"]
pub struct ExportBuilder<T> {
    consumer: ConsumerBuilder,
    following: Following,
    form: Form,
    handle_offsets: bool,
    built: PhantomData<fn() -> T>,
}

impl<T> ExportBuilder<T> {
    pub(super) fn new(group: &str, brokers: &str, filters: &FilterClient) -> Self {
        Self {
            consumer: Consumer::builder(group, brokers, group),
            following: filters.follow(),
            form: Form::default(),
            handle_offsets: false,
            built: PhantomData,
        }
    }

    /// How data are put together, [`Shape::Map`] unless set.
    pub fn data(self, shape: Shape) -> Self {
        Self { form: self.form.data(shape), ..self }
    }

    /// How extra are put together, [`Shape::Map`] unless set.
    pub fn extra(self, shape: Shape) -> Self {
        Self { form: self.form.extra(shape), ..self }
    }

    /// Whether a key that a message lacks is left out of the data, instead of being the result's error. No unless set.
    pub fn data_ignore_missing_keys(self, ignore: bool) -> Self {
        Self { form: self.form.data_ignore_missing_keys(ignore), ..self }
    }

    /// Whether a key that a message lacks is left out of extra, instead of being the result's error. No unless set.
    pub fn extra_ignore_missing_keys(self, ignore: bool) -> Self {
        Self { form: self.form.extra_ignore_missing_keys(ignore), ..self }
    }

    /// Whether messages are [envelopes](crate::envelope), of which filters see the item. Unless set they are JSON as it
    /// is.
    pub fn envelopes(self, envelopes: bool) -> Self {
        Self { form: self.form.envelopes(envelopes), ..self }
    }

    /// librdkafka properties over the defaults, the properties file and the environment. Any map or list of pairs; of
    /// several calls the later wins.
    pub fn config<K: Into<String>, V: Into<String>>(self, entries: impl IntoIterator<Item = (K, V)>) -> Self {
        Self { consumer: self.consumer.config(entries), ..self }
    }

    /// A properties file with librdkafka properties, over the defaults, as `--command-config` of Kafka's own tools.
    pub fn config_file(self, path: impl Into<PathBuf>) -> Self {
        Self { consumer: self.consumer.config_file(path), ..self }
    }
}

impl ExportBuilder<DataClient> {
    /// Whether records count as done by [`DataClient::store_offsets`] alone. Unless set, they also do once the next ones
    /// are asked for.
    pub fn handle_offsets(self, handle: bool) -> Self {
        Self { handle_offsets: handle, ..self }
    }

    /// How long records wait for more after the first, until there are as many as a call asks for, or
    /// as a client has ready at most: 10,000, or 16 MiB. Zero unless set: a call gets at once what is there. A call whose
    /// timeout is shorter may get nothing meanwhile.
    pub fn linger(self, linger: Duration) -> Self {
        Self { consumer: self.consumer.linger(linger), ..self }
    }

    /// Checks everything, then starts the client. It joins its group once the filters are in sync.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for whatever cannot work, before anything connects.
    pub fn start(self) -> Result<DataClient> {
        let source = Source::start(self.consumer.batch_size(READY), self.following, self.form)?;
        Ok(DataClient::new(source, self.handle_offsets))
    }
}

impl ExportBuilder<ExportWorker> {
    /// Says more of the consumer: the size of batches, what happens after failures, and all else that a
    /// [`ConsumerBuilder`] takes but topics, which are those of the filters.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), kafka_envelope::Error> {
    /// use kafka_envelope::export::{ExportWorker, FilterClient};
    /// use kafka_envelope::{Backoff, GiveUp, OnError};
    ///
    /// let filters = FilterClient::builder("filters", "localhost:9092").start()?;
    /// let on_error = OnError::retry(Backoff::default()).then(GiveUp::DeadLetter);
    /// let worker = ExportWorker::builder("exports", "localhost:9092", &filters)
    ///     .consumer(|consumer| consumer.batch_size(2_000).on_error(on_error))
    ///     .start()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn consumer(self, say: impl FnOnce(ConsumerBuilder) -> ConsumerBuilder) -> Self {
        Self { consumer: say(self.consumer), ..self }
    }

    /// Checks everything, then starts the worker. It joins its group once the filters are in sync.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for whatever cannot work, before anything connects.
    pub fn start(self) -> Result<ExportWorker> {
        Source::start(self.consumer, self.following, self.form).map(ExportWorker::new)
    }
}

impl<T> fmt::Debug for ExportBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportBuilder")
            .field("consumer", &self.consumer)
            .field("form", &self.form)
            .field("handle_offsets", &self.handle_offsets)
            .finish_non_exhaustive()
    }
}
