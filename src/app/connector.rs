//! A producer and a listener without an app.
//!
//! ```
//! use kafka_envelope::app::connector::{self, ListenerConfig, ProducerConfig};
//! use kafka_envelope::app::{Event, Record};
//! use kafka_envelope::testing::EmbeddedBroker;
//! use kafka_envelope::HandlerError;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), kafka_envelope::Error> {
//! let broker = EmbeddedBroker::start()?;
//! broker.create_topic("orders", 1)?;
//!
//! let producer = connector::producer(ProducerConfig::new(broker.bootstrap_servers()))?;
//! producer.emit("orders", Event::new("order_placed", serde_json::json!({"sku": "apple"}))).await?;
//!
//! let (found, mut orders) = tokio::sync::mpsc::unbounded_channel();
//! let callback = move |record: Record| Ok::<(), HandlerError>(found.send(record)?);
//! let config = ListenerConfig::new(broker.bootstrap_servers(), "audit", ["orders"], callback);
//! let listener = connector::listener(config)?;
//! let stopper = listener.stopper();
//! let listening = tokio::spawn(listener.listen());
//!
//! let order = orders.recv().await.unwrap();
//! assert_eq!(order.value(), Some(&br#"{"event": "order_placed", "sku": "apple"}"#[..]));
//! stopper.stop();
//! listening.await.unwrap()
//! # }
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::app::callback::Callback;
use crate::app::context::Context;
use crate::app::counts::Counts;
use crate::app::emitter::{Emitter, Shared};
use crate::app::engine::{Engine, Options};
use crate::app::form::Form;
use crate::app::responses::Responses;
use crate::app::task::{BoxFuture, Kind, Route, Router, Task, Tasks};
use crate::consumer::{Consumer, ConsumerBuilder, Health, Stopper};
use crate::error::{Error, HandlerError, Result};
use crate::message::record::{Parts, Record};
use crate::producer::Producer;
use crate::settings::check;

/// What brokers see of a client that nobody gave a name.
const NAME: &str = "connector";
/// The most async callbacks at a time.
const CONCURRENT: usize = 100;
/// How long the end waits for callbacks.
const DRAIN: Duration = Duration::from_secs(30);

/// What [`producer`] makes a producer from.
#[derive(Clone)]
#[must_use]
pub struct ProducerConfig {
    brokers: String,
    name: String,
    config: Vec<(String, String)>,
}

impl ProducerConfig {
    /// A producer on these brokers: `host:port`, with commas between.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), name: NAME.into(), config: Vec::new() }
    }

    /// The client's name in the brokers' logs, `connector` unless set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// librdkafka properties over the defaults and the environment. `partitioner` and `compression.type` are those of
    /// [`AppBuilder::producer_config`](crate::app::AppBuilder::producer_config). Any map or list of pairs; of several calls
    /// the later wins.
    pub fn config<K: Into<String>, V: Into<String>>(mut self, entries: impl IntoIterator<Item = (K, V)>) -> Self {
        self.config.extend(entries.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }
}

/// Sizes instead of values: some are secret.
impl fmt::Debug for ProducerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerConfig")
            .field("brokers", &self.brokers)
            .field("name", &self.name)
            .field("properties", &self.config.len())
            .finish()
    }
}

/// A producer that sends events as plain JSON, without an app. It waits for no responses:
/// [`Emitter::emit_with_response`] is an error.
///
/// # Errors
/// [`Error::Setting`] for whatever cannot work, before anything connects; [`Error::Kafka`] where librdkafka or the
/// system cannot start a client.
pub fn producer(config: ProducerConfig) -> Result<Emitter> {
    let ProducerConfig { brokers, name, config } = config;
    let producer = Producer::builder(&name, &brokers).for_python().config(config).build()?;
    let responses = Responses::new(Vec::new(), Vec::new(), None, Counts::default());
    let app_id = Uuid::new_v4().to_string();
    Ok(Emitter::new(Arc::new(Shared { app: name, app_id, producer, form: Form::default(), responses })))
}

/// What [`listener`] makes a listener from.
#[must_use]
pub struct ListenerConfig {
    brokers: String,
    topics: Vec<String>,
    consumer: ConsumerBuilder,
    callback: Arc<dyn Task>,
    is_async: bool,
    limit: usize,
    drain: Duration,
}

impl ListenerConfig {
    /// Calls `callback` with every record of these topics, tombstones too, as a member of this group, which reads from
    /// its committed offsets on.
    ///
    /// An async callback is called for several records at a time, but in order for those of one key and partition. One
    /// that is not async is called, for each partition, with one record after the other, on a thread that may block.
    pub fn new<M: 'static, S: Into<String>>(
        brokers: &str,
        group: &str,
        topics: impl IntoIterator<Item = S>,
        callback: impl Callback<Record, M>,
    ) -> Self {
        let is_async = is_async(&callback);
        Self {
            brokers: brokers.to_owned(),
            topics: topics.into_iter().map(Into::into).collect(),
            consumer: Consumer::builder(NAME, brokers, group),
            callback: Arc::new(Called { callback: Arc::new(callback), marker: PhantomData }),
            is_async,
            limit: if is_async { CONCURRENT } else { 1 },
            drain: DRAIN,
        }
    }

    /// librdkafka properties over the defaults and the environment. Any map or list of pairs; of several calls the later
    /// wins.
    pub fn config<K: Into<String>, V: Into<String>>(mut self, entries: impl IntoIterator<Item = (K, V)>) -> Self {
        self.consumer = self.consumer.config(entries);
        self
    }

    /// Says more of the consumer, as [`AppBuilder::consumer`](crate::app::AppBuilder::consumer): what happens when the
    /// callback fails, for one. A record counts as a batch of its own. Topics, `idle_timeout` and `handler_timeout` are
    /// errors.
    pub fn consumer(mut self, say: impl FnOnce(ConsumerBuilder) -> ConsumerBuilder) -> Self {
        self.consumer = say(self.consumer);
        self
    }

    /// How many calls there may be at a time. Unless set, 100 of an async callback, and 1 of another.
    pub fn max_concurrent(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// How long the end waits for calls under way, 30 seconds unless set. What takes longer is given up, and its records
    /// come again.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain = timeout;
        self
    }
}

impl fmt::Debug for ListenerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerConfig")
            .field("brokers", &self.brokers)
            .field("topics", &self.topics)
            .field("is_async", &self.is_async)
            .finish_non_exhaustive()
    }
}

fn is_async<M, C: Callback<Record, M>>(_: &C) -> bool {
    C::IS_ASYNC
}

/// A listener, which connects and joins its group in the background.
///
/// # Errors
/// [`Error::Setting`] for whatever cannot work, before anything connects; [`Error::Kafka`] where librdkafka or the
/// system cannot start a client.
pub fn listener(config: ListenerConfig) -> Result<Listener> {
    let ListenerConfig { brokers, topics, consumer, callback, is_async, limit, drain } = config;
    if limit == 0 {
        return Err(Error::setting("max_concurrent", "must be at least 1"));
    }
    check::topics(&topics)?;
    // What a handler would send with. A callback has no use for it, and without a producer id it never asks for a connection.
    let sender = ProducerConfig::new(brokers).config(consumer.connection()?).config([("enable.idempotence", "false")]);
    let consumer = consumer.for_single_records()?.topics(topics).build()?;
    let (stopper, health, counts) = (consumer.stopper(), consumer.health(), Counts::default());
    let options =
        Options { max_concurrent_tasks: limit, max_concurrent_pipelines: 1, drain, in_order: !is_async, gate: None };
    let engine = Engine::new(consumer, options, producer(sender)?, Arc::new(Only(callback)), counts.clone());
    Ok(Listener { engine, stopper, health, counts })
}

/// Calls a function with every record of its topics. A record's offset is committed once its call has succeeded.
#[must_use = "a listener does nothing until `listen`"]
pub struct Listener {
    engine: Engine,
    stopper: Stopper,
    health: Health,
    counts: Counts,
}

impl Listener {
    /// Listens until [`Listener::stopper`] stops it or something fails for good. Then calls under way are finished, and
    /// what is done is committed.
    ///
    /// # Errors
    /// The first failure that the policies do not let pass: [`Error::Handler`] or [`Error::DeadLetter`];
    /// [`Error::Partition`] and [`Error::Kafka`] where Kafka itself cannot go on; [`Error::NotCommitted`] and
    /// [`Error::Closed`] where the end did not go well.
    pub async fn listen(self) -> Result<()> {
        self.engine.run_until(std::future::pending()).await
    }

    /// Stops the listener from elsewhere, the callback included.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// What the listener has done so far, to be asked while it listens.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// The health of the listener's consumer, to be asked while it listens.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("counts", &self.counts).finish_non_exhaustive()
    }
}

/// The same for every record.
struct Only(Arc<dyn Task>);

impl Router for Only {
    fn route(&self, _: &mut Parts) -> Route {
        Route::Tasks(Tasks { first: 0, handlers: 1, pipelines: 0 })
    }

    fn task(&self, _: usize) -> Option<&dyn Task> {
        Some(&*self.0)
    }
}

/// A callback as a task.
struct Called<M, C> {
    callback: Arc<C>,
    marker: PhantomData<fn() -> M>,
}

impl<M: 'static, C: Callback<Record, M>> Task for Called<M, C> {
    fn kind(&self) -> Kind {
        Kind::Handler
    }

    fn start(&self, record: &Record, _: Context) -> Result<BoxFuture<Result<(), HandlerError>>, serde_json::Error> {
        let (callback, record) = (Arc::clone(&self.callback), record.clone());
        Ok(Box::pin(async move { callback.call(record).await }))
    }
}
