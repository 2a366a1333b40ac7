//! From the messages of a call to records that librdkafka takes.

use std::cell::Cell;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rdkafka::error::KafkaError;
use serde::Serialize;
use smallvec::SmallVec;

use super::delivery::{Entry, Tracker, is_full};
use crate::envelope::pack_into;
use crate::error::{Error, Result};
use crate::fault::Fault;
use crate::message::{Message, Oversize, check_header_names, wire_size};
use crate::native::Outgoing;
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
    messages: &'a [Message<T>],
    buffer: Buffer,
    written: SmallVec<[Written; 1]>,
    injected: Injected,
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
        topic: &str,
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
        topic: &str,
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
        Ok(Self { messages, buffer, written, injected, submitted })
    }
}

impl<T> Sending<'_, T> {
    pub(super) fn len(&self) -> usize {
        self.written.len()
    }

    /// A record to give to librdkafka.
    pub(super) fn record(&self, index: usize) -> Outgoing<'_, impl Iterator<Item = (&str, Option<&[u8]>)> + Clone> {
        let Written { value, partition, timestamp, .. } = &self.written[index];
        let message = &self.messages[self.submitted.places[index]];
        Outgoing {
            partition: *partition,
            key: message.key(),
            value: Some(&self.buffer[value.clone()]),
            headers: message.headers(self.injected.of(message.carried())),
            timestamp: *timestamp,
        }
    }

    /// What goes with it.
    pub(super) fn entry(&self, index: usize) -> Box<Entry> {
        Entry::new(&self.submitted.tracker, index)
    }

    /// Librdkafka did not take this record. Says whether it may have the next: that must not overtake one that found no
    /// room, and is refused with it.
    #[must_use]
    pub(super) fn refused(&self, index: usize, error: &KafkaError) -> bool {
        let is_full = is_full(error);
        let end = if is_full { self.len() } else { index + 1 };
        for index in index..end {
            self.submitted.tracker.refuse(index, error.clone());
        }
        !is_full
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
