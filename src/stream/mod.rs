//! Stream workers: a topic's messages through a chain of agents, and from there to sinks.

mod agent;
mod builder;
mod feed;
mod kafka_sink;
mod origin;
mod read;
#[cfg(feature = "redis")]
mod redis_sink;
mod sinks;
mod stage;
mod worker;

pub use agent::Agent;
pub use builder::WorkerBuilder;
pub use kafka_sink::{Kafka, KafkaSink};
pub use read::Whole;
#[cfg(feature = "redis")]
pub use redis_sink::{Redis, RedisSink};
pub use sinks::{Sink, Sinks};
pub use worker::Worker;
