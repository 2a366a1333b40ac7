//! JSON envelopes over Apache Kafka.

mod consumer;
pub mod envelope;
mod error;

pub use error::{Error, HandlerError, Result};
pub use rdkafka;
