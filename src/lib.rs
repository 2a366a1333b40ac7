//! JSON envelopes over Apache Kafka.

mod client;
mod consumer;
pub mod envelope;
mod error;
pub mod low_level;
mod message;
mod native;
pub mod producer;
pub mod settings;
pub mod testing;

pub use consumer::{Commit, Consumer, ConsumerBuilder, Done, Stopper, Summary};
pub use envelope::{BatchRef, Envelope, History, Latencies, Ref, Stage, pack, pack_into, stage_latencies, unpack};
pub use error::{Error, HandlerError, Result};
pub use message::{Batch, Headers, Message, Oversize, RawBatch, Received};
pub use producer::{Delivery, Pending, Producer, ProducerBuilder, Report};
pub use rdkafka;
