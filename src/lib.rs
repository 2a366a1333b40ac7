//! JSON envelopes over Apache Kafka.

pub mod envelope;
mod error;

pub use error::{Error, HandlerError, Result};
pub use rdkafka;
