//! Who waits for which response.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::app::cache::AnyCache;
use crate::app::counts::{Count, Counts};
use crate::consumer::caught;
use crate::error::{HandlerError, panic_text};
use crate::sync::lock;

/// So many responses are read at once.
pub(super) const BATCH: usize = 256;

/// So long a response is kept.
const EXPIRY: Duration = Duration::from_secs(30);

/// So long a cache may take to keep one.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pauses between two looks into the cache.
const PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Nobody waits for an older response any more: it comes from a topic that is read from its beginning.
const OLD: TimeDelta = TimeDelta::minutes(5);

/// So many questions without an answer are remembered.
const REMEMBERED: usize = 10_000;

/// So many responses go to the cache at once: all that are read at once, so that these wait for it once.
const SETS: usize = BATCH;

/// Who waits for which response.
pub(super) struct Responses {
    /// Of each topic the events that are responses, and whether they are to anybody: else only pipelines wait for them.
    answers: HashMap<String, HashMap<String, bool>>,
    cache: Option<Arc<dyn AnyCache>>,
    state: Mutex<State>,
    counts: Counts,
}

#[derive(Default)]
struct State {
    /// Who waits for the answer to a question, by its `event_id`, the longest first.
    waiting: HashMap<String, Vec<Waiting>>,
    numbers: u64,
    unanswered: Unanswered,
}

struct Waiting {
    number: u64,
    wanted: Wanted,
    answer: oneshot::Sender<Response>,
}

/// Which responses somebody waits for.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// Any that is one to anybody.
    Any,
    /// This event. Its name stands in the message, or in the record's key.
    Event { topic: String, event: String, is_in_message: bool },
}

/// A response from Kafka.
#[derive(Clone, Debug)]
pub(super) struct Response {
    pub(super) topic: String,
    pub(super) event: String,
    pub(super) event_id: String,
    pub(super) message: Vec<u8>,
    /// As a cache keeps it. None where it is not kept.
    pub(super) kept: Option<Vec<u8>>,
}

/// An answer to a question.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) message: Vec<u8>,
    /// As a cache keeps it. None where there is no cache.
    pub(super) kept: Option<Vec<u8>>,
}

/// What is to be kept in the cache.
#[derive(Debug)]
pub(super) struct Keep {
    event_id: String,
    value: Vec<u8>,
}

impl Keep {
    /// Its bytes, and what it takes beside them, roughly.
    pub(super) fn size(&self) -> usize {
        self.value.len() + 4_096
    }
}

impl Responses {
    /// `answers`: the topics and events that are responses to anybody who waits; `piped`: those that only pipelines wait
    /// for.
    pub(super) fn new(
        answers: Vec<(String, String)>,
        piped: Vec<(String, String)>,
        cache: Option<Arc<dyn AnyCache>>,
        counts: Counts,
    ) -> Self {
        let mut known: HashMap<String, HashMap<String, bool>> = HashMap::new();
        for (topic, event) in piped {
            known.entry(topic).or_default().insert(event, false);
        }
        for (topic, event) in answers {
            known.entry(topic).or_default().insert(event, true);
        }
        Self { answers: known, cache, state: Mutex::default(), counts }
    }

    /// The topics from which responses come.
    pub(super) fn topics(&self) -> Vec<String> {
        let mut topics: Vec<_> = self.answers.keys().cloned().collect();
        topics.sort();
        topics
    }

    /// Whether this event is a response.
    pub(super) fn is_answer(&self, topic: &str, event: &str) -> bool {
        self.answers.get(topic).is_some_and(|events| events.contains_key(event))
    }

    /// Whether it is one to anybody.
    fn is_for_all(&self, response: &Response) -> bool {
        self.answers.get(&response.topic).and_then(|events| events.get(&response.event)).copied().unwrap_or_default()
    }

    /// Whether questions that are no pipeline's can be answered.
    pub(super) fn is_asking(&self) -> bool {
        self.answers.values().any(|events| events.values().any(|is_for_all| *is_for_all))
    }

    /// Whether a response of this time is kept for other replicas.
    pub(super) fn keeps(&self, millis: Option<i64>) -> bool {
        let is_old = millis.is_some_and(|millis| millis < (Utc::now() - OLD).timestamp_millis());
        self.cache.is_some() && !is_old
    }

    /// A record of these topics could not be read.
    pub(super) fn count_unreadable(&self) {
        self.counts.add(Count::UnreadableResponse);
    }

    /// From now on a response to this question is the waiter's.
    pub(super) fn wait(&self, event_id: &str, wanted: &Wanted) -> Waiter<'_> {
        let (answer, arrives) = oneshot::channel();
        let mut state = lock(&self.state);
        state.numbers += 1;
        let number = state.numbers;
        let waiting = Waiting { number, wanted: wanted.clone(), answer };
        state.waiting.entry(event_id.to_owned()).or_default().push(waiting);
        drop(state);
        let (event_id, wanted) = (event_id.to_owned(), wanted.clone());
        Waiter { responses: self, event_id, wanted, number, arrives, is_answered: false }
    }

    /// A response came: wakes who waits for it. Answers what is to be kept of it then.
    pub(super) fn arrived(&self, response: Response) -> Option<Keep> {
        let keep = response.kept.clone().map(|value| Keep { event_id: response.event_id.clone(), value });
        if let Some(response) = self.give(response) {
            if self.cache.is_none() || lock(&self.state).unanswered.contains(&response.event_id) {
                self.counts.add(Count::LateResponse);
                let Response { topic, event, event_id, .. } = response;
                log::debug!("a response that nobody waits for: `{event}` of {topic}, event_id {event_id}");
            }
        }
        keep
    }

    /// Gives a response to who waits for it, else back.
    fn give(&self, mut response: Response) -> Option<Response> {
        let is_for_all = self.is_for_all(&response);
        loop {
            let mut state = lock(&self.state);
            let Some(waiting) = state.waiting.get_mut(&response.event_id) else { return Some(response) };
            let Some(place) = waiting.iter().position(|waiting| waiting.wanted.is(&response, is_for_all)) else {
                return Some(response);
            };
            let Waiting { answer, .. } = waiting.remove(place);
            if waiting.is_empty() {
                state.waiting.remove(&response.event_id);
            }
            drop(state);
            // Who is gone by now had another answer, or none in time.
            match answer.send(response) {
                Ok(()) => return None,
                Err(back) => response = back,
            }
        }
    }

    /// Keeps responses for other replicas. What cannot be kept is logged.
    pub(super) async fn keep(&self, responses: Vec<Keep>) {
        let Some(cache) = &self.cache else { return };
        for some in responses.chunks(SETS) {
            let mut sets: Vec<_> = some.iter().map(|keep| Some(Box::pin(set(&**cache, keep)))).collect();
            poll_fn(|task| {
                for set in &mut sets {
                    if set.as_mut().is_some_and(|running| running.as_mut().poll(task).is_ready()) {
                        *set = None;
                    }
                }
                if sets.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }
}

async fn set(cache: &dyn AnyCache, Keep { event_id, value }: &Keep) {
    let key = key(event_id);
    // In a future of its own, so that a cache that panics before it is one is caught, too.
    let setting = caught(async { cache.set(&key, value, EXPIRY).await });
    let reason = match tokio::time::timeout(PATIENCE, setting).await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(panic)) => format!("panicked: {}", panic_text(&*panic)),
        Err(_) => format!("no answer within {PATIENCE:?}"),
    };
    log::warn!("the response with event_id {event_id} cannot be kept for other replicas: {reason}");
}

/// The key under which a question's answer is kept.
fn key(event_id: &str) -> String {
    let hex = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0'));
    Sha256::digest(event_id.as_bytes()).iter().flat_map(hex).collect()
}

impl Wanted {
    fn is(&self, response: &Response, is_for_all: bool) -> bool {
        match self {
            Self::Any => is_for_all,
            Self::Event { topic, event, .. } => *topic == response.topic && *event == response.event,
        }
    }

    /// Whether it may be a cached value, of which the topic is not known, and the event only where it stands in it.
    fn may_be(&self, value: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Named {
            event: Option<String>,
        }
        match self {
            Self::Any | Self::Event { is_in_message: false, .. } => true,
            Self::Event { event, .. } => match serde_json::from_slice(value) {
                Ok(Named { event: Some(found) }) => found == *event,
                _ => true,
            },
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("it"),
            Self::Event { topic, event, .. } => write!(f, "`{event}` from `{topic}`"),
        }
    }
}

/// Waits for the answer to a question.
pub(super) struct Waiter<'a> {
    responses: &'a Responses,
    event_id: String,
    wanted: Wanted,
    number: u64,
    arrives: oneshot::Receiver<Response>,
    is_answered: bool,
}

impl Waiter<'_> {
    /// Waits until it is there, from Kafka or in the cache. A cached value that `is_taken` is none.
    ///
    /// # Errors
    /// That of the cache.
    pub(super) async fn answer(&mut self, is_taken: impl Fn(&[u8]) -> bool) -> Result<Answer, HandlerError> {
        let Self { responses, event_id, wanted, arrives, .. } = self;
        let mut cached = pin!(async {
            let Some(cache) = &responses.cache else { return std::future::pending().await };
            let key = key(event_id);
            let mut pause = PAUSE;
            loop {
                // In a future of its own, so that a cache that panics before it is one is caught, too.
                let value = match caught(async { cache.get(&key).await }).await {
                    Ok(Ok(value)) => value,
                    Ok(Err(error)) => return Err(format!("the cache failed: {error}").into()),
                    Err(panic) => return Err(format!("the cache panicked: {}", panic_text(&*panic)).into()),
                };
                if let Some(value) = value.filter(|value| wanted.may_be(value) && !is_taken(value)) {
                    return Ok::<_, HandlerError>(Answer { kept: Some(value.clone()), message: value });
                }
                sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        });
        let answer = poll_fn(|task| {
            // The sender stays where it is until it has sent.
            if let Poll::Ready(Ok(Response { message, kept, .. })) = pin!(&mut *arrives).poll(task) {
                return Poll::Ready(Ok(Answer { message, kept }));
            }
            cached.as_mut().poll(task)
        })
        .await;
        self.is_answered = answer.is_ok();
        answer
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.responses.state);
        let State { waiting, unanswered, .. } = &mut *state;
        if let Some(others) = waiting.get_mut(&self.event_id) {
            others.retain(|waiting| waiting.number != self.number);
            if others.is_empty() {
                waiting.remove(&self.event_id);
            }
        }
        if !self.is_answered {
            if self.responses.cache.is_some() {
                unanswered.note(std::mem::take(&mut self.event_id));
            }
            // It came in the moment in which the time was up.
            if self.arrives.try_recv().is_ok() {
                self.responses.counts.add(Count::LateResponse);
            }
        }
    }
}

/// The last questions of this process that got no answer in time.
#[derive(Default)]
struct Unanswered {
    ids: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Unanswered {
    fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    fn note(&mut self, id: String) {
        let id: Arc<str> = id.into();
        if !self.ids.insert(Arc::clone(&id)) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.ids.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
#[path = "responses_tests.rs"]
mod tests;
