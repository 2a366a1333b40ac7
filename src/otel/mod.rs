//! Spans, by OpenTelemetry's conventions for messaging (<https://opentelemetry.io/docs/specs/semconv/messaging/>), with the
//! feature `otel`; without it, things of the same names that do nothing.
//!
//! | span | kind | when |
//! |---|---|---|
//! | `poll` | client | from the wait for a batch to its hand-over |
//! | `process` | consumer | an attempt to handle a batch, an event, or an agent's call |
//! | `commit` | client | from a commit to its answer |
//! | `send` | producer | from a call to the last acknowledgement of its records |

#[cfg(not(feature = "otel"))]
mod off;
#[cfg(feature = "otel")]
mod on;
#[cfg(feature = "otel")]
mod sending;
#[cfg(feature = "otel")]
mod spans;

#[cfg(not(feature = "otel"))]
pub(crate) use off::*;
#[cfg(feature = "otel")]
pub(crate) use on::*;
#[cfg(feature = "otel")]
pub(crate) use sending::*;
#[cfg(feature = "otel")]
pub(crate) use spans::*;
