//! What can be said of an app before it runs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::app::cache::{AnyCache, ResponseCache};
use crate::app::callback::Callback;
use crate::app::context::Context;
use crate::app::counts::Counts;
use crate::app::emitter::{Emitter, Shared};
use crate::app::engine::{Engine, Options};
use crate::app::form::Form;
use crate::app::handler::{Handler, handler_task};
use crate::app::handling::Gate;
use crate::app::pipeline::Pipeline;
use crate::app::responses::Responses;
use crate::app::routes::Registrations;
use crate::app::run::App;
use crate::consumer::{Consumer, ConsumerBuilder};
use crate::error::{Error, Result};
use crate::producer::Producer;
use crate::settings::check;

/// The most handlers, and the most pipelines, at a time.
const CONCURRENT: usize = 100;
/// How long the end waits for what is being handled.
const DRAIN: Duration = Duration::from_secs(30);

/// Builds an [`App`]; see [`App::builder`].
#[must_use = "a builder does nothing until `build`"]
pub struct AppBuilder {
    name: String,
    id: Option<String>,
    brokers: String,
    group: Option<String>,
    topics: Vec<String>,
    consumer: ConsumerBuilder,
    producer: Vec<(String, String)>,
    form: Form,
    registrations: Registrations,
    answers: Vec<(String, String)>,
    /// Those that pipelines wait for.
    piped: Vec<(String, String)>,
    cache: Option<Arc<dyn AnyCache>>,
    gate: Option<Gate>,
    max_concurrent_tasks: usize,
    max_concurrent_pipelines: usize,
    drain: Duration,
}

impl AppBuilder {
    pub(super) fn new(name: &str, brokers: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: None,
            brokers: brokers.to_owned(),
            group: None,
            topics: Vec::new(),
            consumer: Consumer::builder(name, brokers, name),
            producer: Vec::new(),
            form: Form::default(),
            registrations: Registrations::default(),
            answers: Vec::new(),
            piped: Vec::new(),
            cache: None,
            gate: None,
            max_concurrent_tasks: CONCURRENT,
            max_concurrent_pipelines: CONCURRENT,
            drain: DRAIN,
        }
    }

    /// This instance's id, a fresh UUID (version 4) unless set; see [`Emitter::app_id`].
    pub fn app_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The consumer group, the app's name unless set, so that a restart goes on where it was. Responses are read as a
    /// member of a group of their own, which is called the same with `-answers` after it.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// The topics whose records are handled. Names, no patterns.
    pub fn listen<S: Into<String>>(mut self, topics: impl IntoIterator<Item = S>) -> Self {
        self.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// Whether a record's key is its event's name, for what is read and what is sent. Unless set, that is the text
    /// `event` of the message.
    ///
    /// All records of an event then have one key: they are in one partition, and are handled one after the other. A
    /// handler that waits for a response keeps those of its event behind it, whatever the limit.
    pub fn key_as_event(mut self, key_as_event: bool) -> Self {
        self.form.key_as_event = key_as_event;
        self
    }

    /// These topics carry [envelopes](crate::envelope), with the message as their item: what is read from them, and what
    /// is sent there. All other topics carry the message itself.
    pub fn envelopes<S: Into<String>>(mut self, topics: impl IntoIterator<Item = S>) -> Self {
        self.form.envelopes.extend(topics.into_iter().map(Into::into));
        self
    }

    /// What all messages of this topic have to be, whatever handles them. A record whose message does not fit is one
    /// that cannot be read.
    pub fn payload<T: DeserializeOwned + 'static>(mut self, topic: impl Into<String>) -> Self {
        self.registrations.payload::<T>(topic.into());
        self
    }

    /// librdkafka properties of the consumers, over the defaults, the properties file and the environment. Those of the
    /// connection, `security.protocol` for one, are the producer's as well. Any map or list of pairs; of several calls
    /// the later wins.
    pub fn config<K: Into<String>, V: Into<String>>(mut self, entries: impl IntoIterator<Item = (K, V)>) -> Self {
        self.consumer = self.consumer.config(entries);
        self
    }

    /// librdkafka properties of the producer, as [`AppBuilder::config`]. Unless set, `partitioner` is
    /// `murmur2_random`, as that of other Kafka clients, and `compression.type` is `none`: Python's client reads snappy
    /// only with a library that `kafka-python-app` does not bring, and without it ends at the first such record.
    pub fn producer_config<K: Into<String>, V: Into<String>>(
        mut self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.producer.extend(entries.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// Says more of the consumer: what happens after failures, how long a revocation waits, and all else that a
    /// [`ConsumerBuilder`] takes but topics, `idle_timeout` and `handler_timeout`, which are errors at
    /// [`build`](AppBuilder::build). A record is a batch of its own: it is retried and given up alone.
    ///
    /// ```
    /// use kafka_envelope::app::App;
    /// use kafka_envelope::{Backoff, GiveUp, OnError, OnUndecodable};
    ///
    /// let on_error = OnError::retry(Backoff::default()).then(GiveUp::DeadLetter);
    /// let builder = App::builder("shop", "localhost:9092")
    ///     .listen(["orders"])
    ///     .consumer(|consumer| consumer.on_error(on_error).on_undecodable(OnUndecodable::DeadLetter));
    /// ```
    pub fn consumer(mut self, say: impl FnOnce(ConsumerBuilder) -> ConsumerBuilder) -> Self {
        self.consumer = say(self.consumer);
        self
    }

    /// Is asked before anything handles a record, async or not; of records that nothing is registered for it is not
    /// asked. An error rejects the record: it is logged, counted ([`Counts::rejected`]) and done. A panic is a failure.
    ///
    /// ```
    /// use kafka_envelope::HandlerError;
    /// use kafka_envelope::app::{App, Context};
    ///
    /// async fn authorize(context: Context) -> Result<(), HandlerError> {
    ///     context.headers().get("token").map(drop).ok_or_else(|| "no token".into())
    /// }
    ///
    /// let builder = App::builder("shop", "localhost:9092").listen(["orders"]).middleware(authorize);
    /// ```
    pub fn middleware<M: 'static>(mut self, middleware: impl Callback<Context, M>) -> Self {
        let middleware = Arc::new(middleware);
        self.gate = Some(Arc::new(move |context| Box::pin(middleware.call(context))));
        self
    }

    /// What is a response: topics, and the events from there. They need not be listened to.
    /// [`Emitter::emit_with_response`] waits for any of them.
    pub fn answers<T: Into<String>, E: Into<String>>(mut self, answers: impl IntoIterator<Item = (T, E)>) -> Self {
        self.answers.extend(answers.into_iter().map(|(topic, event)| (topic.into(), event.into())));
        self
    }

    /// Where responses go beside to whoever waits for them in this process: to a replica that waits, while the record
    /// reached this one.
    pub fn cache(mut self, cache: impl ResponseCache) -> Self {
        self.cache = Some(Arc::new(cache));
        self
    }

    /// How many handlers may run at a time, 100 unless set. One that waits for a response does not count meanwhile.
    pub fn max_concurrent_tasks(mut self, limit: usize) -> Self {
        self.max_concurrent_tasks = limit;
        self
    }

    /// How many pipelines may run at a time, 100 unless set. One that waits for a response does not count meanwhile.
    pub fn max_concurrent_pipelines(mut self, limit: usize) -> Self {
        self.max_concurrent_pipelines = limit;
        self
    }

    /// How long the app's end waits for what is being handled, 30 seconds unless set. What takes longer is given up, and
    /// its records come again.
    ///
    /// A thread cannot be ended from outside: a handler that is not async, or that blocks, goes on beside the end, and the
    /// end of the runtime waits for it, unless that is `tokio::runtime::Runtime::shutdown_timeout`.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain = timeout;
        self
    }

    /// Registers a handler for this event, whichever topic it comes from.
    pub fn on<M: 'static, H>(mut self, event: impl Into<String>, handler: H) -> Self
    where
        H: Handler<M, Output = ()>,
        H::Input: DeserializeOwned,
    {
        self.registrations.handler(event.into(), None, handler_task(handler));
        self
    }

    /// Registers a handler for this event from this topic.
    pub fn on_topic<M: 'static, H>(mut self, event: impl Into<String>, topic: impl Into<String>, handler: H) -> Self
    where
        H: Handler<M, Output = ()>,
        H::Input: DeserializeOwned,
    {
        self.registrations.handler(event.into(), Some(topic.into()), handler_task(handler));
        self
    }

    /// Registers a pipeline by `event`, which is looked up first, or by `topic.event`. A record can reach a handler and a
    /// pipeline.
    pub fn pipeline<In: DeserializeOwned + Send + 'static, Out: Send + 'static>(
        mut self,
        event: impl Into<String>,
        pipeline: Pipeline<In, Out>,
    ) -> Self {
        self.piped.extend_from_slice(pipeline.answers());
        self.registrations.pipeline(event.into(), pipeline.into_task());
        self
    }

    /// Checks everything, then starts the clients. They connect in the background; nothing is handled before
    /// [`App::run_until`].
    ///
    /// # Errors
    /// [`Error::Setting`] for whatever cannot work, before anything connects.
    pub fn build(self) -> Result<App> {
        check::service(&self.name)?;
        let group = self.group.unwrap_or_else(|| self.name.clone());
        check::group(&group)?;
        if self.max_concurrent_tasks == 0 {
            return Err(Error::setting("max_concurrent_tasks", "must be at least 1"));
        }
        if self.max_concurrent_pipelines == 0 {
            return Err(Error::setting("max_concurrent_pipelines", "must be at least 1"));
        }
        if self.topics.is_empty() && self.answers.is_empty() {
            return Err(Error::setting("listen", "there is no topic to listen to, and no answer to wait for"));
        }
        let answers = self.answers.iter().chain(&self.piped);
        for (topic, event) in answers {
            check::topic(topic)?;
            check::non_empty("answers", event)?;
        }
        let routes = self.registrations.build(&self.topics, self.form.clone())?;
        let consumer = self.consumer.for_single_records()?.in_group(&group);
        let connection = consumer.connection()?;
        let counts = Counts::default();
        let responses = Responses::new(self.answers, self.piped, self.cache, counts.clone());
        let topics = responses.topics();
        let answers = (!topics.is_empty()).then(|| consumer.sibling(&format!("{group}-answers")).topics(topics));
        let main = (!self.topics.is_empty()).then(|| consumer.topics(self.topics));
        let producer = Producer::builder(&self.name, &self.brokers)
            .for_python()
            .config(connection)
            .config(self.producer)
            .build()?;
        let id = self.id.unwrap_or_else(|| Uuid::new_v4().to_string());
        let shared = Arc::new(Shared { app: self.name, app_id: id, producer, form: self.form, responses });
        let emitter = Emitter::new(Arc::clone(&shared));
        let options = Options {
            max_concurrent_tasks: self.max_concurrent_tasks,
            max_concurrent_pipelines: self.max_concurrent_pipelines,
            drain: self.drain,
            in_order: false,
            gate: self.gate,
        };
        let main = main.map(ConsumerBuilder::build).transpose()?;
        let health = main.as_ref().map(Consumer::health);
        let answers = answers.map(ConsumerBuilder::build).transpose()?;
        let router = Arc::new(routes);
        let engine = main.map(|consumer| Engine::new(consumer, options, emitter.clone(), router, counts.clone()));
        Ok(App::new(shared, engine, answers, counts, health))
    }
}

impl fmt::Debug for AppBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppBuilder")
            .field("name", &self.name)
            .field("topics", &self.topics)
            .field("consumer", &self.consumer)
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}
