//! What can be said of a worker before it runs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::consumer::{Backoff, Consumer, ConsumerBuilder};
use crate::error::{Error, HandlerError, Result};
use crate::message::Record;
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
pub(super) type Start = Box<dyn FnOnce(Arc<Shared>) -> BoxFuture<()> + Send>;

/// How long the end waits for what is on its way.
const DRAIN: Duration = Duration::from_secs(30);

/// Builds a [`Worker`]; see [`Worker::builder`]. `Next` is what the next agent gets.
#[must_use = "a builder does nothing until `build`"]
pub struct WorkerBuilder<Next> {
    plan: Plan,
    open: Receiver<Next>,
}

/// What was said so far, whatever the next agent gets.
struct Plan {
    topic: String,
    brokers: String,
    consumer: ConsumerBuilder,
    feed: Box<dyn Feed>,
    agents: Vec<Start>,
    /// How many elements all their batches hold.
    kept_back: usize,
    sinks: Vec<Box<dyn AnySink>>,
    backoff: Backoff,
    drain: Duration,
    error: Option<Error>,
}

impl<In: DeserializeOwned + Send + 'static> WorkerBuilder<In> {
    pub(super) fn new(topic: &str, brokers: &str, group: &str) -> Self {
        let (feed, open) = feed(read::elements(false));
        let plan = Plan {
            topic: topic.to_owned(),
            brokers: brokers.to_owned(),
            consumer: Consumer::builder(group, brokers, group),
            feed,
            agents: Vec::new(),
            kept_back: 0,
            sinks: Vec::new(),
            backoff: AT_START,
            drain: DRAIN,
            error: None,
        };
        Self { plan, open }
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
    /// What the first agent gets is what this makes of a record, one by one. Records whose value is null or empty do not come
    /// here.
    pub fn deserialize_with<T: Send + 'static>(
        self,
        read: impl Fn(&Record) -> Result<Vec<T>, HandlerError> + Send + 'static,
    ) -> WorkerBuilder<T> {
        self.read(read::own(read))
    }

    fn read<T: Send + 'static>(self, read: Read<T>) -> WorkerBuilder<T> {
        let Self { mut plan, .. } = self;
        if !plan.agents.is_empty() {
            plan.refuse(Error::setting("agent", "how records are read is said before the first one"));
        }
        let (feed, open) = feed(read);
        WorkerBuilder { plan: Plan { feed, ..plan }, open }
    }

    /// Adds an agent, which gets what the one before gives.
    ///
    /// ```
    /// # use kafka_envelope::stream::{Agent, Worker};
    /// # let brokers = "localhost:9092";
    /// let half = Agent::new("half", async |number: u64, _| Ok(Some(number as f64 / 2.0)));
    /// let floor = Agent::new("floor", async |number: f64, _| Ok(Some(number.floor())));
    /// Worker::builder("numbers", brokers, "halving").agent(half).agent(floor).build()?;
    /// # Ok::<(), kafka_envelope::Error>(())
    /// ```
    ///
    /// One that takes what that does not give does not compile:
    ///
    /// ```compile_fail,E0308
    /// # use kafka_envelope::stream::{Agent, Worker};
    /// # let brokers = "localhost:9092";
    /// let half = Agent::new("half", async |number: u64, _| Ok(Some(number as f64 / 2.0)));
    /// let floor = Agent::new("floor", async |number: u64, _| Ok(Some(number)));
    /// Worker::builder("numbers", brokers, "halving").agent(half).agent(floor).build()?;
    /// # Ok::<(), kafka_envelope::Error>(())
    /// ```
    pub fn agent<Out: Send + 'static>(self, agent: Agent<Next, Out>) -> WorkerBuilder<Out> {
        let Self { mut plan, open } = self;
        if let Err(error) = agent.check() {
            plan.refuse(error);
        }
        plan.kept_back = plan.kept_back.saturating_add(agent.keeps_back());
        let (sender, next) = queue();
        plan.agents.push(Box::new(move |shared| Box::pin(stage::run(agent, open, sender, shared))));
        WorkerBuilder { plan, open: next }
    }

    /// Adds a sink, for all agents.
    pub fn sink(mut self, sink: impl Sink) -> Self {
        self.plan.sinks.push(Box::new(sink));
        self
    }

    /// librdkafka properties over the defaults, the properties file and the environment. Any map or list of pairs; of
    /// several calls the later wins.
    pub fn config<K: Into<String>, V: Into<String>>(mut self, entries: impl IntoIterator<Item = (K, V)>) -> Self {
        self.plan.consumer = self.plan.consumer.config(entries);
        self
    }

    /// Says more of the consumer: what becomes of failures ([`ConsumerBuilder::on_error`], but for its attempts, which
    /// [`Agent::retry`] says; [`ConsumerBuilder::on_undecodable`]), and how records are read and committed.
    pub fn consumer(mut self, say: impl FnOnce(ConsumerBuilder) -> ConsumerBuilder) -> Self {
        self.plan.consumer = say(self.plan.consumer);
        self
    }

    /// How often and after which pauses brokers and sinks are tried that do not answer at the worker's start: 10 times, in
    /// about 45 seconds, unless set. Later outages are waited out.
    pub fn connect_backoff(mut self, backoff: Backoff) -> Self {
        self.plan.backoff = backoff;
        self
    }

    /// How long the worker's end waits for what is on its way, 30 seconds unless set.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.plan.drain = timeout;
        self
    }

    /// Checks everything, and starts the consumer's client. It joins its group once the worker runs.
    ///
    /// # Errors
    /// [`Error::Setting`] for whatever cannot work, before anything connects; but a pattern in the topic's place that
    /// librdkafka cannot read is an error of [`Worker::run_until`].
    pub fn build(self) -> Result<Worker> {
        let Self { plan, open } = self;
        let Plan { topic, brokers, consumer, feed, mut agents, kept_back, sinks, backoff, drain, error } = plan;
        if let Some(error) = error {
            return Err(error);
        }
        if agents.is_empty() {
            return Err(Error::setting("agent", "there is none"));
        }
        agents.push(Box::new(move |_| Box::pin(stage::last(open))));
        backoff.check("connect_backoff")?;
        let sinks = Sinks::new(sinks)?;
        let consumer = consumer
            .for_single_records()?
            .for_one_attempt()?
            .keeping_back(kept_back)
            .joining_late()
            .topics([topic])
            .build()?;
        Ok(Worker { brokers, consumer, feed, agents, sinks, backoff, drain })
    }
}

impl Plan {
    /// The first error is the one that `build` tells.
    fn refuse(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }
}

fn feed<T: Send + 'static>(read: Read<T>) -> (Box<dyn Feed>, Receiver<T>) {
    let (sender, open) = queue();
    (Box::new(Typed::new(sender, read)), open)
}

impl<Next> fmt::Debug for WorkerBuilder<Next> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("topic", &self.plan.topic)
            .field("consumer", &self.plan.consumer)
            .field("agents", &self.plan.agents.len())
            .finish_non_exhaustive()
    }
}
