//! What a producer measures.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

use ::metrics::{Counter, Histogram, Label, counter, gauge, histogram};

use crate::error::Result;
use crate::fault::Fault;
use crate::metrics::names::{self, CLIENT, ERROR_TYPE, OPERATION, OPERATION_TYPE, SYSTEM, TOPIC};
use crate::metrics::share::Share;
use crate::metrics::{Statistics, Timer, with};
use crate::sync::lock;

/// What the time of a call says of it.
const SEND: [(&str, &str); 2] = [(OPERATION, "send"), (OPERATION_TYPE, "send")];

/// The handles of a producer. By default it measures nothing.
#[derive(Default)]
pub(crate) struct ProducerMeter(Option<Handles>);

struct Handles {
    labels: Vec<Label>,
    send: Histogram,
    state: Mutex<State>,
}

struct State {
    in_flight: Share,
    topics: Vec<Topic>,
    /// Where in them the last report belonged: reports come in runs of one topic.
    last: usize,
}

/// Reports of one topic, of one kind.
struct Topic {
    name: String,
    failed: Option<Cow<'static, str>>,
    sent: Counter,
    /// Not told yet.
    reports: u64,
}

impl ProducerMeter {
    pub(crate) fn new(client: &str) -> Self {
        names::describe();
        let labels = with(&[], &[(SYSTEM, "kafka"), (CLIENT, client)]);
        let in_flight = Share::of(gauge!(names::IN_FLIGHT, with(&labels, &[(OPERATION, "send")])));
        let send = histogram!(names::OPERATION_DURATION, with(&labels, &SEND));
        let state = Mutex::new(State { in_flight, topics: Vec::new(), last: 0 });
        Self(Some(Handles { labels, send, state }))
    }

    /// What the client says of itself.
    pub(crate) fn statistics(&self) -> Statistics {
        self.0.as_ref().map_or_else(Statistics::default, |handles| Statistics::new(&handles.labels, false))
    }

    /// A record has its delivery report. Told with the next [`ProducerMeter::tell`].
    pub(crate) fn reported<'a>(&self, topic: impl FnOnce() -> &'a str, failed: Option<Fault<'_>>) {
        let Some(handles) = &self.0 else { return };
        let topic = topic();
        let failed = failed.map(Fault::kind);
        let mut state = handles.lock();
        let State { topics, last, .. } = &mut *state;
        let is_it = |known: &Topic| known.name == topic && known.failed == failed;
        if !topics.get(*last).is_some_and(is_it) {
            *last = topics.iter().position(is_it).unwrap_or_else(|| {
                let mut labels = with(&handles.labels, &[(OPERATION, "send"), (TOPIC, topic)]);
                labels.extend(failed.clone().map(|kind| Label::new(ERROR_TYPE, kind)));
                let sent = counter!(names::SENT, labels);
                topics.push(Topic { name: topic.to_owned(), failed: failed.clone(), sent, reports: 0 });
                topics.len() - 1
            });
        }
        topics[*last].reports += 1;
    }

    /// Tells what has been reported, and how many records have no report.
    pub(crate) fn tell(&self, outstanding: usize) {
        let Some(handles) = &self.0 else { return };
        let mut state = handles.lock();
        state.in_flight.set(outstanding as u64);
        for topic in state.topics.iter_mut().filter(|topic| topic.reports > 0) {
            topic.sent.increment(std::mem::take(&mut topic.reports));
        }
    }

    /// A call that sends and waits has ended.
    pub(crate) fn sent<T>(&self, began: Timer, outcome: &Result<T>) {
        let Some(handles) = &self.0 else { return };
        match outcome {
            Ok(_) => handles.send.record(began.took()),
            Err(error) => {
                let labels = with(&with(&handles.labels, &SEND), &[(ERROR_TYPE, &Fault::Error(error).kind())]);
                histogram!(names::OPERATION_DURATION, labels).record(began.took());
            }
        }
    }
}

impl Handles {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for ProducerMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerMeter").finish_non_exhaustive()
    }
}
