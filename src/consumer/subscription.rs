//! A consumer whose topics somebody else chooses: they change while it runs, and that somebody can fail.

use std::fmt;
use std::sync::Arc;

use crate::consumer::Consumer;
use crate::consumer::link::Link;
use crate::error::Error;

/// Says which topics a consumer reads, from any thread.
#[derive(Clone)]
pub(crate) struct Subscription(Arc<Link>);

impl Subscription {
    /// From now on these topics are read, and no others; none of them: the consumer leaves its group. A topic that does
    /// not exist is read once it does.
    ///
    /// Takes effect at once, then at most once a second. The topics that stay are read on without a break where the
    /// group's protocol allows it.
    pub(crate) fn set(&self, topics: impl IntoIterator<Item = String>) {
        let mut topics: Vec<_> = topics.into_iter().collect();
        topics.sort();
        topics.dedup();
        self.0.lock().wanted_topics = Some(topics);
        self.0.bell.ring();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

impl Consumer {
    /// What this consumer reads, to be said from elsewhere: for one that was built without topics.
    pub(crate) fn subscription(&self) -> Subscription {
        Subscription(Arc::clone(&self.link))
    }

    /// Where this says that the one has failed who chooses the topics, it is the error of whoever waits for records.
    pub(crate) fn guided_by(&mut self, failure: impl Fn() -> Option<Error> + Send + 'static) {
        self.guide = Some(Box::new(failure));
    }
}
