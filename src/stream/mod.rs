//! Stream workers: a topic's messages through a chain of agents, and from there to sinks.
//!
//! ```
//! use std::time::Duration;
//!
//! use kafka_envelope::HandlerError;
//! use kafka_envelope::stream::{Agent, KafkaSink, Sinks, Worker};
//! # use kafka_envelope::testing::EmbeddedBroker;
//!
//! async fn parse(line: String, _: Sinks) -> Result<Option<f64>, HandlerError> {
//!     Ok(line.parse().ok()) // what is no number goes no further
//! }
//!
//! async fn mean(numbers: Vec<f64>, _: Sinks) -> Result<Option<f64>, HandlerError> {
//!     Ok(Some(numbers.iter().sum::<f64>() / numbers.len() as f64))
//! }
//!
//! async fn store(mean: f64, sinks: Sinks) -> Result<Option<()>, HandlerError> {
//!     sinks.kafka("means").send("means", &mean).await?;
//!     Ok(None)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = EmbeddedBroker::start()?;
//! # let brokers = broker.bootstrap_servers();
//! # broker.create_topic("readings", 1)?;
//! # broker.create_topic("means", 1)?;
//! let worker = Worker::builder("readings", brokers, "means")
//!     .sink(KafkaSink::new("means", brokers)?)
//!     .agent(Agent::new("parse", parse))
//!     .agent(Agent::batched("mean", 100, mean).timeout(Duration::from_secs(15)))
//!     .agent(Agent::new("store", store))
//!     .build()?;
//! // A service runs until `kafka_envelope::shutdown_signal()`.
//! worker.run_until(async {}).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # The chain
//!
//! An [`Agent`] is a function of one element, or of a batch of them, and of the worker's [`Sinks`]. What it gives goes to
//! the next; `None` goes no further. A chain whose types do not fit does not compile. Agents work beside one another:
//! while one handles a batch its next one fills. Each handles its elements in order, so order holds within a partition,
//! unless [`Agent::concurrency`] lets several calls run at once. [`Agent::statistics`] logs which agent holds the others up.
//!
//! A record is a JSON list, whose elements go in one by one; of a map the keys do, of a text the characters. Or it goes in
//! whole ([`WorkerBuilder::whole`]), as an envelope ([`WorkerBuilder::envelopes`]), or by a deserializer of one's own
//! ([`WorkerBuilder::deserialize_with`]). [`Agent::atomic_send`] takes a batch apart again.
//!
//! A batch is released when it is full, when its [`timeout`](Agent::timeout) since its last element or its
//! [`max_age`](Agent::max_age) is over, when partitions go to another worker, and at the end.
//!
//! # Nothing is lost
//!
//! A record's offset is committed once every agent is done with all that came of it: with the elements it was split into,
//! and with the batches they are in. What waits in a batch comes again after a crash. All queues between agents hold so
//! much and no more; what does not fit stays in Kafka.
//!
//! An agent that fails, by an error or a panic, ends [`Worker::run_until`] with that error, unless the consumer's policy
//! ([`WorkerBuilder::consumer`], [`OnError`](crate::OnError)) skips the records of the element or makes dead letters of
//! them. [`Agent::retry`] calls it again before that. A sink that fails is an error of the agent that sent.

mod agent;
mod attempts;
mod builder;
mod calls;
mod feed;
mod gather;
mod kafka_sink;
mod origin;
mod queue;
mod read;
#[cfg(feature = "redis")]
mod redis_sink;
mod sinks;
mod stage;
mod statistics;
mod worker;

pub use crate::message::Record;
pub use agent::Agent;
pub use builder::WorkerBuilder;
pub use kafka_sink::{Kafka, KafkaSink};
pub use read::Whole;
#[cfg(feature = "redis")]
pub use redis_sink::{Redis, RedisSink};
pub use sinks::{Sink, Sinks};
pub use worker::Worker;
