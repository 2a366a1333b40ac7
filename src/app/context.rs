//! What a handler gets beside its message.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::app::emitter::{EVENT_ID, Emitter, Question};
use crate::app::event::Event;
use crate::app::outgoing::{Missing, Outgoing};
use crate::app::responses::Wanted;
use crate::app::slot::Slot;
use crate::error::{Error, Result};
use crate::message::Headers;
use crate::message::record::Record;
use crate::producer::Delivery;
use crate::sync::lock;
use crate::trace_context::is_name as is_trace_header;

/// What a handler gets beside its message: the record that it came in, and an [`Emitter`] that knows of it. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct Context {
    emitter: Emitter,
    handled: Arc<Handled>,
}

/// What is being handled.
pub(super) struct Handled {
    pub(super) record: Record,
    pub(super) slot: Slot,
    pub(super) attempt: u32,
    pub(super) pipeline: Option<Arc<str>>,
    /// The answers to questions with the record's `event_id` that came so far, as a cache keeps them: a later wait must
    /// not get them again.
    pub(super) answered: Mutex<Vec<Vec<u8>>>,
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

    /// Answers the record that is handled: as [`Emitter::emit`], with the record's `event_id` after the event's own
    /// headers, so that whoever asked knows the answer. A record without an `event_id` is no question; then it is an
    /// event like any other.
    ///
    /// # Errors
    /// As [`Emitter::emit`].
    pub fn respond<T: Serialize>(
        &self,
        topic: &str,
        mut event: Event<T>,
    ) -> impl Future<Output = Result<Delivery>> + Send + use<'_, T> {
        if let Some(event_id) = self.handled.record.event_id() {
            event = event.header(EVENT_ID, event_id);
        }
        self.emitter.emit(topic, event)
    }

    /// Sends a message on, under this event's name. What [`Pipeline::pipe`](crate::app::Pipeline::pipe) does.
    ///
    /// The `event_id` is that of the record, else a fresh one. The record's other headers go along; of those that come
    /// more than once, the last. Its key does not. With [`key_as_event`](crate::app::AppBuilder::key_as_event) the name
    /// is the key, and the `event_id` is the only header, beside a trace context where the record has one.
    ///
    /// # Errors
    /// As [`Emitter::emit`].
    pub fn pipe<T: Serialize>(
        &self,
        topic: &str,
        event: &str,
        message: &T,
    ) -> impl Future<Output = Result<Delivery>> + Send + use<'_, T> {
        let piped = self.piped(topic, event, message);
        async move { self.emitter.send(&piped?.0).await }
    }

    /// Sends a message on, as [`Context::pipe`] does, and waits for the response: the event of the topic that `answer`
    /// names, with the same `event_id`.
    ///
    /// That has to be one of the app's answers: a pipeline declares them
    /// ([`Pipeline::custom`](crate::app::Pipeline::custom)), or the app does
    /// ([`AppBuilder::answers`](crate::app::AppBuilder::answers)).
    ///
    /// # Errors
    /// As [`Emitter::emit_with_response`].
    pub fn pipe_and_wait<R: DeserializeOwned, T: Serialize>(
        &self,
        topic: &str,
        event: &str,
        answer: (&str, &str),
        message: &T,
        timeout: Duration,
    ) -> impl Future<Output = Result<R>> + Send + use<'_, R, T> {
        let question = self.question(topic, event, answer, message);
        async move { self.emitter.ask(question?, timeout).await }
    }

    fn question<T: Serialize>(&self, topic: &str, event: &str, answer: (&str, &str), message: &T) -> Result<Question> {
        let (from, named) = answer;
        if !self.emitter.responses().is_answer(from, named) {
            let reason =
                format!("event `{named}` of topic `{from}` is none, so that it could not be known as a response");
            return Err(Error::setting("answers", reason));
        }
        let (record, event_id) = self.piped(topic, event, message)?;
        let is_in_message = !self.emitter.is_key_event();
        let wanted = Wanted::Event { topic: from.to_owned(), event: named.to_owned(), is_in_message };
        Ok(Question { record, event_id, wanted })
    }

    /// A message to be sent on, and its `event_id`.
    fn piped<T: Serialize>(&self, topic: &str, event: &str, message: &T) -> Result<(Outgoing, String)> {
        let record = &self.handled.record;
        // An empty one would be that of every other record that has an empty one.
        let event_id = record.event_id().filter(|id| !id.is_empty());
        let event_id = event_id.map_or_else(|| Uuid::new_v4().to_string(), ToOwned::to_owned);
        let mut event = Event::new(event, message);
        let incoming = (!self.emitter.is_key_event()).then(|| record.headers());
        let id = (EVENT_ID, Some(event_id.as_bytes()));
        let mut places: HashMap<&str, usize> = HashMap::new();
        // Its trace context goes along with whatever it is that a handler sends.
        let incoming = incoming.iter().flat_map(Headers::iter).filter(|(name, _)| !is_trace_header(name));
        for (name, value) in incoming.chain([id]) {
            let value = value.map(<[u8]>::to_vec);
            match places.get(name).and_then(|place| event.headers.get_mut(*place)) {
                Some(header) => header.1 = value,
                None => {
                    places.insert(name, event.headers.len());
                    event.headers.push((name.to_owned(), value));
                }
            }
        }
        Ok((self.emitter.outgoing(topic, event, &Missing::Last)?, event_id))
    }
}

impl Handled {
    /// Whether this cached value was taken as an answer before.
    pub(super) fn is_taken(&self, event_id: &str, value: &[u8]) -> bool {
        self.record.event_id() == Some(event_id) && lock(&self.answered).iter().any(|answer| answer == value)
    }
}

/// Without the answers: they have no place in a log.
impl fmt::Debug for Handled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handled")
            .field("record", &self.record)
            .field("attempt", &self.attempt)
            .field("pipeline", &self.pipeline)
            .finish_non_exhaustive()
    }
}

impl Deref for Context {
    type Target = Emitter;

    fn deref(&self) -> &Emitter {
        &self.emitter
    }
}
