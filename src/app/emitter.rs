//! Sends events.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::app::context::Handled;
use crate::app::event::Event;
use crate::app::form::Form;
use crate::app::outgoing::{Missing, Outgoing};
use crate::app::responses::{Responses, Wanted};
use crate::error::{Error, Result};
use crate::producer::{Delivery, Producer};
use crate::sync::lock;

/// The header that says to which question an answer belongs.
pub(super) const EVENT_ID: &str = "event_id";

/// Sends events, from anywhere. Cheap to clone.
///
/// An event's payload is written as JSON the way Python's `json.dumps` does it. On the topics that
/// [`AppBuilder::envelopes`](crate::app::AppBuilder::envelopes) names it becomes an envelope's item; sent by a handler's
/// [`Context`](crate::app::Context), the envelope refers to the record that is handled.
///
/// What a handler sends takes the trace context of its record along, the headers `traceparent` and `tracestate`, where
/// the record has one and the event is given none.
///
/// The payload is written when a function is called, not when its future is first polled: the future holds the record
/// alone, and can go to another thread even where the payload cannot. Nothing is sent before the future is polled. A
/// future that is dropped does not take back what was sent.
#[derive(Clone)]
pub struct Emitter {
    shared: Arc<Shared>,
    handled: Option<Arc<Handled>>,
}

/// What all emitters of an app share.
pub(super) struct Shared {
    pub(super) app: String,
    pub(super) app_id: String,
    pub(super) producer: Producer,
    pub(super) form: Form,
    pub(super) responses: Responses,
}

/// A question on its way out.
pub(super) struct Question {
    pub(super) record: Outgoing,
    pub(super) event_id: String,
    pub(super) wanted: Wanted,
}

impl Emitter {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, handled: None }
    }

    pub(super) fn during(&self, handled: &Arc<Handled>) -> Self {
        Self { shared: Arc::clone(&self.shared), handled: Some(Arc::clone(handled)) }
    }

    /// The app's id.
    #[must_use]
    pub fn app_id(&self) -> &str {
        &self.shared.app_id
    }

    /// Sends an event and waits until it is acknowledged, without waiting for more events to share the request.
    ///
    /// # Errors
    /// - [`Error::NotDelivered`]: no acknowledgement within `delivery.timeout.ms`, the broker refused the record, or the
    ///   topic is not found.
    /// - [`Error::Encode`]: the payload cannot be written, or is no JSON object although the name has to go there.
    ///   [`Error::Oversize`], [`Error::Limit`]: it is too large.
    /// - [`Error::Setting`]: the topic, the event's name, its key, partition, timestamp or a header's name cannot be used;
    ///   the payload is null.
    /// - [`Error::Kafka`], fatal: the producer is beyond use since an earlier error.
    pub fn emit<T: Serialize>(
        &self,
        topic: &str,
        event: Event<T>,
    ) -> impl Future<Output = Result<Delivery>> + Send + use<'_, T> {
        let record = self.outgoing(topic, event, &Missing::First);
        async move { self.send(&record?).await }
    }

    /// Sends an event, with a header `event_id` of its own after the others, and waits for the response: an event of
    /// those that [`AppBuilder::answers`](crate::app::AppBuilder::answers) names, with the same `event_id` as its last.
    ///
    /// In a handler, the handler's place among those that run at once is free for others meanwhile.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use kafka_envelope::app::{Context, Event};
    /// # #[derive(serde::Serialize)]
    /// # struct Order { sku: String }
    /// # #[derive(serde::Deserialize)]
    /// # struct Stock { left: u32 }
    /// # async fn ask(order: Order, context: Context) -> Result<(), kafka_envelope::HandlerError> {
    /// let question = Event::new("reserve", &order).key(&order.sku);
    /// let stock: Stock = context.emit_with_response("stock", question, Duration::from_secs(3)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - [`Error::NoResponse`]: none came within `timeout`, the cache failed, or the response does not fit `R`. It names
    ///   topic and `event_id`.
    /// - [`Error::Setting`] of `answers`: the app has none, so nothing was sent.
    /// - All those of [`Emitter::emit`], at once.
    pub fn emit_with_response<R: DeserializeOwned, T: Serialize>(
        &self,
        topic: &str,
        event: Event<T>,
        timeout: Duration,
    ) -> impl Future<Output = Result<R>> + Send + use<'_, R, T> {
        let question = self.question(topic, event);
        async move { self.ask(question?, timeout).await }
    }

    fn question<T: Serialize>(&self, topic: &str, event: Event<T>) -> Result<Question> {
        if !self.shared.responses.is_asking() {
            return Err(Error::setting("answers", "the app has none, so that no response could be known as one"));
        }
        let mut record = self.outgoing(topic, event, &Missing::First)?;
        let event_id = Uuid::new_v4().to_string();
        record.headers.push((EVENT_ID.to_owned(), Some(event_id.clone().into_bytes())));
        Ok(Question { record, event_id, wanted: Wanted::Any })
    }

    pub(super) fn responses(&self) -> &Responses {
        &self.shared.responses
    }

    pub(super) fn is_key_event(&self) -> bool {
        self.shared.form.key_as_event
    }

    pub(super) fn outgoing<T: Serialize>(&self, topic: &str, event: Event<T>, missing: &Missing) -> Result<Outgoing> {
        let Shared { form, app, .. } = &*self.shared;
        let refs = || self.handled.iter().map(|handled| handled.record.reference()).collect();
        let mut record = Outgoing::new(form, app, topic, event, missing, refs)?;
        record.trace = self.handled.as_ref().and_then(|handled| handled.record.trace());
        Ok(record)
    }

    pub(super) async fn send(&self, record: &Outgoing) -> Result<Delivery> {
        self.shared.producer.produce_raw_async(record.record()).await
    }

    /// Sends a question and waits for its answer.
    pub(super) async fn ask<R: DeserializeOwned>(&self, question: Question, timeout: Duration) -> Result<R> {
        let waiting = tokio::time::timeout(timeout, self.answer(&question));
        let answer = match &self.handled {
            Some(handled) => handled.slot.lend(waiting).await,
            None => waiting.await,
        };
        let Question { record, event_id, wanted } = question;
        let failed = |reason| Error::NoResponse { topic: record.topic, event_id, reason };
        match answer {
            Ok(Ok(answer)) => serde_json::from_slice(&answer)
                .map_err(|error| failed(format!("the response does not fit the wanted type: {error}"))),
            Ok(Err(Failed::Sending(error))) => Err(error),
            Ok(Err(Failed::Waiting(reason))) => Err(failed(reason)),
            Err(_) => Err(failed(format!("{wanted} did not come within {timeout:?}"))),
        }
    }

    async fn answer(&self, question: &Question) -> Result<Vec<u8>, Failed> {
        // Before the question is out: its answer may be there at once.
        let responses = &self.shared.responses;
        let mut waiter = responses.wait(&question.event_id, &question.wanted);
        let is_taken =
            |value: &[u8]| self.handled.as_ref().is_some_and(|handled| handled.is_taken(&question.event_id, value));
        let answer = {
            let mut answer = pin!(waiter.answer(is_taken));
            let mut sending = pin!(self.send(&question.record));
            let mut is_sent = false;
            poll_fn(|task| {
                // First: an answer that is kept from an earlier attempt does not mean that nothing is asked.
                if !is_sent {
                    match sending.as_mut().poll(task) {
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Failed::Sending(error))),
                        Poll::Ready(Ok(_)) => is_sent = true,
                        Poll::Pending => {}
                    }
                }
                answer.as_mut().poll(task).map_err(|error| Failed::Waiting(error.to_string()))
            })
            .await?
        };
        if let (Some(kept), Some(handled)) = (answer.kept, &self.handled) {
            // No other question has an id that was made for this one.
            if handled.record.event_id() == Some(&question.event_id) {
                lock(&handled.answered).push(kept);
            }
        }
        Ok(answer.message)
    }
}

/// Why there is no answer.
enum Failed {
    Sending(Error),
    Waiting(String),
}

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emitter").field("app", &self.shared.app).finish_non_exhaustive()
    }
}
