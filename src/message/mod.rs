//! Messages: [`Message`] to send, [`Received`] from Kafka, and the [`Batch`] a handler gets.

pub(crate) mod arena;
mod batch;
mod outgoing;
#[cfg(any(feature = "app", feature = "stream"))]
pub(crate) mod record;

pub use arena::TimestampType;
pub use batch::{Batch, Headers, RawBatch, Received};
pub use outgoing::{Cause, Message, Oversize};
#[cfg(any(feature = "app", feature = "stream"))]
pub use record::Record;

pub(crate) use batch::{Unreadable, decode, decode_raw};
pub(crate) use outgoing::{check_header_names, wire_size};
#[cfg(feature = "app")]
pub(crate) use outgoing::{check_partition, check_timestamp};
