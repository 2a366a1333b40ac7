//! From the messages of a call to records that librdkafka takes.

use std::cell::Cell;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rdkafka::error::KafkaError;
use serde::Serialize;
use smallvec::SmallVec;

use super::NativeRecord;
use super::delivery::{Entry, Failure, Tracker, is_full};
use super::raw::RawRecord;
use crate::envelope::pack_into;
use crate::error::{Error, Result};
use crate::fault::Fault;
use crate::message::{Message, Oversize, check_header_names, wire_size};
use crate::otel::{Injected, Span, Tracing};

/// A buffer that held a huge batch is given back to the allocator down to this size.
pub(super) const KEEP_BYTES: usize = 4 << 20;

/// What a producer makes of every message.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(super) service: String,
    /// `message.max.bytes`.
    pub(crate) limit: usize,
}

/// A message that stands in a buffer.
pub(crate) struct Written {
    pub(crate) value: Range<usize>,
    pub(crate) partition: Option<i32>,
    pub(crate) timestamp: Option<i64>,
    /// What librdkafka compares to `message.max.bytes`.
    pub(crate) bytes: usize,
}

impl Writer {
    /// Writes a message at the buffer's end, checked but for its size.
    pub(crate) fn write<T: Serialize>(
        &self,
        buffer: &mut Vec<u8>,
        at: DateTime<Utc>,
        message: &Message<T>,
        injected: &Injected,
    ) -> Result<Written> {
        let (partition, timestamp) = (message.checked_partition()?, message.checked_timestamp()?);
        let headers = message.headers(injected.of(message.carried()));
        check_header_names(headers.clone().map(|(name, _)| name))?;
        let start = buffer.len();
        pack_into(buffer, &self.service, at, &message.payload, &message.refs)?;
        let value = start..buffer.len();
        let bytes = wire_size(message.key(), value.len(), headers);
        Ok(Written { value, partition, timestamp, bytes })
    }
}

/// The messages of one call, all of them written before the first is sent.
pub(super) struct Sending<'a, T> {
    topic: &'a str,
    messages: &'a [Message<T>],
    buffer: Buffer,
    written: SmallVec<[Written; 1]>,
    injected: Injected,
    /// How many of them were handed out.
    taken: usize,
    pub(super) submitted: Submitted,
}

/// Messages that were given to librdkafka.
pub(super) struct Submitted {
    pub(super) tracker: Arc<Tracker>,
    /// The tracker's records by their places in the batch.
    pub(super) places: SmallVec<[usize; 1]>,
    pub(super) skipped: Vec<usize>,
}

impl<'a, T: Serialize> Sending<'a, T> {
    pub(super) fn new(
        writer: &Writer,
        topic: &'a str,
        messages: &'a [Message<T>],
        oversize: Oversize,
        tracing: &Tracing,
    ) -> Result<Self> {
        let count = Some(messages.len()).filter(|count| *count != 1);
        let (mut span, injected) = tracing.send(Some(topic), count, messages.iter().map(Message::carried));
        Self::write(writer, topic, messages, oversize, injected, &mut span)
            .inspect_err(|error| span.failed(Fault::Error(error)))
    }

    fn write(
        writer: &Writer,
        topic: &'a str,
        messages: &'a [Message<T>],
        oversize: Oversize,
        injected: Injected,
        span: &mut Span,
    ) -> Result<Self> {
        let mut buffer = Buffer::take();
        let at = Utc::now();
        let mut written = SmallVec::with_capacity(messages.len());
        let (mut places, mut skipped) = (SmallVec::with_capacity(messages.len()), Vec::new());
        for (place, message) in messages.iter().enumerate() {
            let one = writer.write(&mut buffer, at, message, &injected)?;
            let (bytes, limit) = (one.bytes, writer.limit);
            if bytes <= limit {
                written.push(one);
                places.push(place);
                continue;
            }
            if oversize == Oversize::Refuse {
                return Err(Error::Oversize { index: place, bytes, limit });
            }
            log::error!(
                "message {place} of a batch for {topic} is skipped: {bytes} bytes, `message.max.bytes` allows {limit}"
            );
            buffer.truncate(one.value.start);
            skipped.push(place);
        }
        let tracker = Tracker::new(written.len(), std::mem::take(span));
        let submitted = Submitted { tracker, places, skipped };
        Ok(Self { topic, messages, buffer, written, injected, taken: 0, submitted })
    }
}

impl<T> Sending<'_, T> {
    /// The next record to give to librdkafka. What became of that is to be told before the next.
    pub(super) fn next(&mut self) -> Option<NativeRecord<'_>> {
        let index = self.taken;
        let Written { value, partition, timestamp, .. } = self.written.get(index)?;
        let message = self.messages.get(*self.submitted.places.get(index)?)?;
        self.taken += 1;
        let record = RawRecord {
            topic: self.topic,
            partition: *partition,
            key: message.key(),
            value: self.buffer.get(value.clone()),
            headers: message.headers(self.injected.of(message.carried())),
            trace: None,
            timestamp: *timestamp,
        };
        Some(record.native(Entry::new(&self.submitted.tracker, index), None))
    }

    /// Librdkafka did not take the record that was handed out last.
    pub(super) fn refused(&mut self, error: KafkaError) {
        let mut refused = self.taken - 1..self.taken;
        if is_full(&error) {
            // What follows must not overtake it.
            self.taken = self.written.len();
            refused.end = self.taken;
        }
        for index in refused {
            let _ = self.submitted.tracker.settle(index, Err(Failure::not_sent(error.clone())));
        }
    }
}

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// This thread's buffer, lent until the drop. A payload whose `Serialize` comes back here gets one of its own.
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    pub(super) fn take() -> Self {
        Self(BUFFER.try_with(Cell::take).unwrap_or_default())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.0.clear();
        self.0.shrink_to(KEEP_BYTES);
        // Fails only while the thread ends.
        let _ = BUFFER.try_with(|kept| kept.set(std::mem::take(&mut self.0)));
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}
