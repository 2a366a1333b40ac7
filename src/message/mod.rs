//! Messages: [`Message`] to send, [`Received`] from Kafka, and the [`Batch`] a handler gets.

pub(crate) mod arena;
mod batch;

pub use batch::{Batch, Headers, RawBatch, Received};

pub(crate) use batch::decode;
