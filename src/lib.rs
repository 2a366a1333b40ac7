//! JSON envelopes over Apache Kafka.

mod consumer;
pub mod envelope;
mod error;
mod native;

pub use error::{Error, HandlerError, Result};
pub use rdkafka;
