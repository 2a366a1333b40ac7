//! Reads the topics that responses come from, beside everything else: a response never waits for a handler.

use std::fmt::Display;
use std::str;
use std::sync::Arc;

use crate::app::emitter::{EVENT_ID, Shared};
use crate::app::form::Form;
use crate::app::json;
use crate::app::read::{Said, read};
use crate::app::record::Parts;
use crate::app::responses::{BATCH, Response, Responses};
use crate::app::task::Route;
use crate::consumer::Consumer;
use crate::error::Result;

/// Gives every response to whoever waits for it, until the consumer is stopped.
///
/// # Errors
/// Those of the consumer.
pub(super) async fn run(consumer: &mut Consumer, shared: Arc<Shared>) -> Result<()> {
    let Shared { form, responses, .. } = &*shared;
    while let Some(arena) = consumer.pull_async(BATCH).await? {
        let records = arena.records().iter().map(|record| Parts::of(arena, record));
        let found = records.filter_map(|parts| response(form, responses, &parts));
        let keep = found.filter_map(|response| responses.arrived(response)).collect();
        responses.keep(keep).await;
        consumer.all_done()?;
    }
    Ok(())
}

/// What a record says, where it is a response. Others, whose events are none, are somebody else's.
fn response(form: &Form, responses: &Responses, parts: &Parts) -> Option<Response> {
    let unreadable = |reason: &dyn Display| {
        responses.count_unreadable();
        log::warn!("{} is no response: {reason}", parts.place());
    };
    let Said { event, message, .. } = match read(form, parts) {
        Ok(said) => said,
        Err(Route::NoEvent(reason)) => {
            unreadable(&reason);
            return None;
        }
        Err(Route::Unreadable(error)) => {
            unreadable(&error);
            return None;
        }
        // A tombstone.
        Err(_) => return None,
    };
    if !responses.is_answer(parts.topic(), &event) {
        return None;
    }
    let Some(event_id) = parts.headers().get(EVENT_ID).and_then(|id| str::from_utf8(id).ok()) else {
        unreadable(&"it has no header `event_id` that is a text");
        return None;
    };
    let message = message.within(parts.value().unwrap_or_default());
    let kept = responses.has_cache().then(|| json::recode(&String::from_utf8_lossy(message))).transpose();
    let kept = kept.unwrap_or_else(|error| {
        log::warn!("{} cannot be kept for other replicas: {error}", parts.place());
        None
    });
    Some(Response {
        topic: parts.topic().to_owned(),
        event: event.into_owned(),
        event_id: event_id.to_owned(),
        message: message.to_vec(),
        timestamp: parts.timestamp(),
        kept,
    })
}
