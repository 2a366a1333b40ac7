//! JSON envelopes over Apache Kafka.

pub mod envelope;
mod error;

pub use envelope::{BatchRef, Envelope, History, Latencies, Ref, Stage, pack, pack_into, stage_latencies, unpack};
pub use error::{Error, HandlerError, Result};
pub use rdkafka;
