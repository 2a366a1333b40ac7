//! A record as it goes to Kafka.

use crate::native::Outgoing;
use crate::trace_context::{Carried, TraceContext};

/// A record's parts as they shall stand in the log. A header's name may come more than once, and its value may be null.
#[derive(Clone, Debug)]
pub(crate) struct RawRecord<'a, H> {
    pub(crate) topic: &'a str,
    /// None: by the key, any where that is null.
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// Names without a NUL byte.
    pub(crate) headers: H,
    /// That of what caused it.
    pub(crate) trace: Option<&'a TraceContext>,
    /// In milliseconds, after 0; else the time of sending.
    pub(crate) timestamp: Option<i64>,
}

impl<'a, H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone> RawRecord<'a, H> {
    /// What it says of a trace by itself.
    pub(super) fn carried(&self) -> Carried<'a> {
        Carried::of(self.headers.clone(), self.trace)
    }

    /// With the headers of this trace context after its own.
    pub(super) fn outgoing<'t>(
        self,
        trace: Option<&'t TraceContext>,
    ) -> Outgoing<'t, impl Iterator<Item = (&'t str, Option<&'t [u8]>)> + Clone>
    where
        'a: 't,
        H: 't,
    {
        let shorter = |header: H::Item| -> (&'t str, Option<&'t [u8]>) { header };
        Outgoing {
            partition: self.partition,
            key: self.key,
            value: self.value,
            headers: self.headers.map(shorter).chain(TraceContext::headers(trace)),
            timestamp: self.timestamp,
        }
    }
}
