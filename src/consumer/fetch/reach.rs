//! Whether a consumer's brokers answer at all.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;

use crate::consumer::Consumer;
use crate::consumer::fetch::Fetch;
use crate::consumer::link::{Look, Question};
use crate::error::{Error, Result};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);

impl Consumer {
    /// Waits until one of its brokers has answered, for so long, and then joins the group where it was built to do that
    /// late.
    ///
    /// # Errors
    /// [`Error::Unreachable`]: none has. [`Error::Kafka`] and [`Error::Closed`]: the client is beyond use.
    pub(crate) async fn reach(&mut self, brokers: &str, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        self.link.lock().connection = Question::Asked;
        self.link.bell.ring();
        let looked = self.link.wait_for_async(|state| match (state.connection.take(), state.beyond_use()) {
            (Some(()), _) => Look::Done(Ok(())),
            (None, Some(error)) => Look::Done(Err(error)),
            (None, None) if Instant::now() < deadline => Look::Wait(Some(deadline)),
            (None, None) => {
                let reason = state.trouble.clone().unwrap_or_else(|| format!("nothing came within {within:?}"));
                Look::Done(Err(Error::Unreachable { brokers: brokers.to_owned(), reason }))
            }
        });
        looked.await
    }
}

impl Fetch {
    pub(super) fn serve_reach(&mut self) {
        let consumer = self.reader.consumer();
        let is_asked = || self.link.lock().connection.is_asked();
        if !is_asked() || consumer.client().fetch_cluster_id(Duration::ZERO).is_none() {
            return;
        }
        let topics = std::mem::take(&mut self.options.late_topics);
        if !topics.is_empty() {
            let topics: Vec<_> = topics.iter().map(String::as_str).collect();
            if let Err(error) = consumer.subscribe(&topics) {
                self.fail(error.into());
            }
        }
        self.link.lock().connection = Question::Answered(());
        self.link.wake_caller();
    }

    /// How long there is nothing to look at.
    pub(super) fn reach_patience(&self) -> Option<Duration> {
        let mut state = self.link.lock();
        state.connection.is_asked().then(|| {
            state.trouble = self.reader.consumer().context().trouble.get();
            LOOK
        })
    }
}
