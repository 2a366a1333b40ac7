//! A subscription that changes while it runs.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;

use crate::consumer::fetch::{Fetch, QUIET};

/// Between two changes: each is a rebalance of the whole group.
const PAUSE: Duration = Duration::from_secs(1);

/// What is subscribed to by [`Fetch::subscribe`].
#[derive(Debug, Default)]
pub(super) struct Topics {
    current: Vec<String>,
    /// No change before this.
    not_before: Option<Instant>,
}

impl Fetch {
    /// Subscribes to the topics that are wanted now, where they are others than before.
    pub(super) fn subscribe(&mut self) {
        if self.topics.not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.topics.not_before = None;
        let Some(wanted) = self.link.lock().wanted_topics.take() else { return };
        let is_hidden = |topic: &String| self.options.hidden.as_ref().is_some_and(|hidden| hidden.contains(topic));
        let (hidden, topics): (Vec<_>, Vec<_>) = wanted.iter().cloned().partition(is_hidden);
        if topics == self.topics.current {
            return;
        }
        if !hidden.is_empty() {
            log::warn!("{hidden:?} are not read, because dead letters go there: they would come back");
        }
        let consumer = self.reader.consumer();
        let subscribed = match topics.is_empty() {
            true => {
                consumer.unsubscribe();
                Ok(())
            }
            false => consumer.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>()),
        };
        self.topics.not_before = Some(Instant::now() + PAUSE);
        match subscribed {
            Ok(()) => {
                log::info!("reads {topics:?} from now on");
                self.topics.current = topics;
            }
            Err(error) => {
                log::warn!("{topics:?} cannot be subscribed to, which is tried again in {PAUSE:?}: {error}");
                // Unless others are wanted by now.
                self.link.lock().wanted_topics.get_or_insert(wanted);
            }
        }
    }

    /// How long until a change can be made that has to wait.
    pub(super) fn topics_patience(&self) -> Duration {
        let at = self.topics.not_before.filter(|_| !self.watch.is_overdue());
        at.map_or(QUIET, |at| at.saturating_duration_since(Instant::now()))
    }
}
