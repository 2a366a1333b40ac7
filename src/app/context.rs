//! What a handler gets beside its message.

use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::emitter::Emitter;
use crate::app::event::Event;
use crate::app::record::Record;
use crate::app::slot::Slot;
use crate::error::Result;
use crate::message::Headers;
use crate::producer::Delivery;

/// What a handler gets beside its message: the record that it came in, and an [`Emitter`] that knows of it. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct Context {
    emitter: Emitter,
    handled: Arc<Handled>,
}

/// What is being handled.
#[derive(Debug)]
pub(super) struct Handled {
    pub(super) record: Record,
    pub(super) slot: Slot,
    pub(super) attempt: u32,
    pub(super) pipeline: Option<Arc<str>>,
    /// The answers that were taken from the cache or came directly, each with its question's `event_id`: a later wait with the same id must not get them
    /// again.
    pub(super) answered: Mutex<Vec<(String, Vec<u8>)>>,
}

impl Handled {
    pub(super) fn new(record: Record, slot: Slot, attempt: u32, pipeline: Option<Arc<str>>) -> Self {
        Self { record, slot, attempt, pipeline, answered: Mutex::default() }
    }
}

impl Context {
    /// The handling has ended, even if somebody keeps this.
    pub(super) fn end(&self) {
        self.handled.slot.end();
    }

    pub(super) fn new(emitter: &Emitter, handled: Handled) -> Self {
        let handled = Arc::new(handled);
        Self { emitter: emitter.during(&handled), handled }
    }

    /// The record that is handled.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.handled.record
    }

    /// The record's headers, in order.
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        self.handled.record.headers()
    }

    /// Which attempt it is to handle the record: 1, and more where the handler failed on it before.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.handled.attempt
    }

    /// The name of the pipeline that the record goes through.
    #[must_use]
    pub fn pipeline(&self) -> Option<&str> {
        self.handled.pipeline.as_deref()
    }

    /// Answers the record that is handled.
    pub fn respond<T: Serialize>(
        &self,
        topic: &str,
        event: Event<T>,
    ) -> impl Future<Output = Result<Delivery>> + Send + use<'_, T> {
        let _ = (topic, event);
        async { todo!() }
    }

    /// Pipes a message on.
    pub fn pipe<T: Serialize>(
        &self,
        topic: &str,
        event: &str,
        message: &T,
    ) -> impl Future<Output = Result<Delivery>> + Send + use<'_, T> {
        let _ = (topic, event, message);
        async { todo!() }
    }

    /// Pipes a message on and waits for the response.
    pub fn pipe_and_wait<R: DeserializeOwned, T: Serialize>(
        &self,
        topic: &str,
        event: &str,
        answer: (&str, &str),
        message: &T,
        timeout: Duration,
    ) -> impl Future<Output = Result<R>> + Send + use<'_, R, T> {
        let _ = (topic, event, answer, message, timeout);
        async { todo!() }
    }
}

impl Deref for Context {
    type Target = Emitter;

    fn deref(&self) -> &Emitter {
        &self.emitter
    }
}
