//! What can be said of a worker before it runs.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::consumer::{Backoff, Consumer, ConsumerBuilder};
use crate::error::{Error, HandlerError, Result};
use crate::stream::agent::Agent;
use crate::stream::attempts::AT_START;
use crate::stream::feed::{Feed, Typed};
use crate::stream::queue::{Receiver, queue};
use crate::stream::read::{self, Read, Whole};
use crate::stream::sinks::{AnySink, Sink, Sinks};
use crate::stream::stage::{self, Shared};
use crate::stream::worker::Worker;

type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

/// An agent that waits for what all share.
pub(super) type Start = Box<dyn FnOnce(Arc<Shared>) -> BoxFuture<Result<()>> + Send>;

/// How long the end waits for what is on its way.
const DRAIN: Duration = Duration::from_secs(30);

/// Builds a [`Worker`]; see [`Worker::builder`]. `Next` is what the next agent gets.
#[must_use = "a builder does nothing until `build`"]
pub struct WorkerBuilder<Next> {
    topic: String,
    brokers: String,
    consumer: ConsumerBuilder,
    feed: Box<dyn Feed>,
    open: Receiver<Next>,
    agents: Vec<Start>,
    sinks: Vec<Box<dyn AnySink>>,
    backoff: Backoff,
    drain: Duration,
    error: Option<Error>,
}

impl<In: DeserializeOwned + Send + 'static> WorkerBuilder<In> {
    pub(super) fn new(topic: &str, brokers: &str, group: &str) -> Self {
        let (feed, open) = feed(read::elements(false));
        Self {
            topic: topic.to_owned(),
            brokers: brokers.to_owned(),
            consumer: Consumer::builder(group, brokers, group),
            feed,
            open,
            agents: Vec::new(),
            sinks: Vec::new(),
            backoff: AT_START,
            drain: DRAIN,
            error: None,
        }
    }

    /// Records are envelopes, and what the first agent gets are the elements of their items.
    pub fn envelopes(self) -> Self {
        self.read(read::elements(true))
    }

    /// Records go in whole, with their metadata, instead of their elements one by one.
    pub fn whole(self) -> WorkerBuilder<Whole<In>> {
        self.read(read::whole(false))
    }

    /// As [`WorkerBuilder::whole`], with the items of envelopes.
    pub fn whole_envelopes(self) -> WorkerBuilder<Whole<In>> {
        self.read(read::whole(true))
    }
}

impl<Next: Send + 'static> WorkerBuilder<Next> {
    /// What the first agent gets is what this makes of a record's value.
    pub fn deserialize_with<T: Send + 'static>(
        self,
        read: impl Fn(&[u8]) -> Result<Vec<T>, HandlerError> + Send + 'static,
    ) -> WorkerBuilder<T> {
        self.read(read::own(read))
    }

    fn read<T: Send + 'static>(self, read: Read<T>) -> WorkerBuilder<T> {
        let Self { topic, brokers, consumer, agents, sinks, backoff, drain, mut error, .. } = self;
        if !agents.is_empty() {
            error =
                error.or_else(|| Some(Error::setting("agent", "how records are read is said before the first one")));
        }
        let (feed, open) = feed(read);
        WorkerBuilder { topic, brokers, consumer, feed, open, agents, sinks, backoff, drain, error }
    }

    /// Adds an agent, which gets what the one before gives.
    pub fn agent<Out: Send + 'static>(self, agent: Agent<Next, Out>) -> WorkerBuilder<Out> {
        let Self { topic, brokers, consumer, feed, open, mut agents, sinks, backoff, drain, error } = self;
        let error = error.or(agent.check().err());
        let (sender, next) = queue();
        agents.push(Box::new(move |shared| Box::pin(stage::run(agent, open, sender, shared))));
        WorkerBuilder { topic, brokers, consumer, feed, open: next, agents, sinks, backoff, drain, error }
    }

    /// Adds a sink, for all agents.
    pub fn sink(mut self, sink: impl Sink) -> Self {
        self.sinks.push(Box::new(sink));
        self
    }

    /// librdkafka properties over the defaults, the properties file and the environment. Any map or list of pairs; of
    /// several calls the later wins.
    pub fn config<K: Into<String>, V: Into<String>>(mut self, entries: impl IntoIterator<Item = (K, V)>) -> Self {
        self.consumer = self.consumer.config(entries);
        self
    }

    /// Says more of the consumer: what becomes of failures ([`ConsumerBuilder::on_error`], but for its attempts, which
    /// [`Agent::retry`] says; [`ConsumerBuilder::on_undecodable`]), and how records are read and committed.
    pub fn consumer(mut self, say: impl FnOnce(ConsumerBuilder) -> ConsumerBuilder) -> Self {
        self.consumer = say(self.consumer);
        self
    }

    /// How often and after which pauses brokers and sinks are tried that do not answer at the worker's start: 10 times, in
    /// about 45 seconds, unless set. Later outages are waited out.
    pub fn connect_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How long the worker's end waits for what is on its way, 30 seconds unless set.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain = timeout;
        self
    }

    /// Checks everything, then starts the consumer. It joins its group in the background.
    ///
    /// # Errors
    /// [`Error::Setting`] for whatever cannot work, before anything connects.
    pub fn build(self) -> Result<Worker> {
        let Self { topic, brokers, consumer, feed, open, mut agents, sinks, backoff, drain, error } = self;
        if let Some(error) = error {
            return Err(error);
        }
        if agents.is_empty() {
            return Err(Error::setting("agent", "there is none"));
        }
        agents.push(Box::new(move |_| {
            Box::pin(async {
                stage::last(open).await;
                Ok(())
            })
        }));
        backoff.check("connect_backoff")?;
        let sinks = Sinks::new(sinks)?;
        let consumer = consumer.for_single_records()?.for_one_attempt()?.topics([topic]).build()?;
        Ok(Worker { brokers, consumer, feed, agents, sinks, backoff, drain })
    }
}

fn feed<T: Send + 'static>(read: Read<T>) -> (Box<dyn Feed>, Receiver<T>) {
    let (sender, open) = queue();
    (Box::new(Typed { sender, read, waiting: VecDeque::new() }), open)
}

impl<Next> fmt::Debug for WorkerBuilder<Next> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("topic", &self.topic)
            .field("consumer", &self.consumer)
            .field("agents", &self.agents.len())
            .finish_non_exhaustive()
    }
}
