//! The filters of a topic, kept up to date by a thread of their own.

mod builder;
mod reading;
mod shared;
mod work;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::error::Error;
use crate::export::filters::Filters;
use shared::{Registration, Shared};

pub use builder::FilterClientBuilder;

/// How long dropping the last handle may take.
const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// Reads filters from a topic, from its beginning at every start, and goes on as they change.
///
/// A thread of its own reads; handles are cheap to clone. Nothing is committed, and no group is joined: all that the
/// client needs is the right to read the topic. A message that is bad is logged and skipped.
///
/// # Faults
/// Outages are outlasted, and the filters stay as they are meanwhile. Three things end the client: a panic in a callback,
/// a fatal error of librdkafka's, and, as long as it is not in sync, a topic that it has no right to read. Where that right
/// is taken away later, it is waited for.
///
/// A topic that does not exist yet is waited for, and so are new partitions. Where the topic is deleted and made anew,
/// its filters take the place of the old ones, all at once when it was read to its end. That shows by its offsets, or, if
/// it has outgrown the old ones, by its id within some 5 seconds; until then what is new counts as added to the old.
///
/// # End
/// [`FilterClient::stop`] ends the thread; so does dropping the last handle and the last data client or worker that
/// follows it. That may take 5 seconds.
#[derive(Clone)]
pub struct FilterClient(Arc<Handle>);

impl FilterClient {
    /// A builder for a client of this filter topic on these brokers, a comma-separated list of `host:port`.
    pub fn builder(topic: &str, brokers: &str) -> FilterClientBuilder {
        FilterClientBuilder::new(topic, brokers)
    }

    /// The filters as they are now. They stay as they are: ask again for newer ones.
    #[must_use]
    pub fn filters(&self) -> Arc<Filters> {
        self.0.shared.filters.load_full()
    }

    /// The topics that the filters name, sorted, each once.
    #[must_use]
    pub fn sources(&self) -> Vec<String> {
        self.0.shared.filters.load().sources()
    }

    /// A filter's `args`. `None`: no such filter; `Some(Value::Null)`: it has none.
    #[must_use]
    pub fn args(&self, id: &str) -> Option<Value> {
        self.0.shared.filters.load().args(id)
    }

    /// When filters last changed. None: they never did.
    #[must_use]
    pub fn last_update(&self) -> Option<DateTime<Utc>> {
        self.0.shared.status().last_update
    }

    /// How many messages of the filter topic were bad, and left out.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.0.shared.status().skipped
    }

    /// Whether all filters that stood in the topic at the start have been read. Once true it stays so.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        self.0.shared.status().is_in_sync
    }

    /// Whether the thread still reads.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.0.shared.status().has_ended
    }

    /// Ends the thread soon. The filters that were read stay.
    pub fn stop(&self) {
        self.0.shared.stop();
    }

    /// Waits for the thread's end; in one of the client's own callbacks it returns at once.
    pub fn join(&self) {
        self.0.shared.wait_for_end(None);
    }

    /// Follows the filters, and keeps the thread alive meanwhile.
    pub(super) fn follow(&self) -> Following {
        Following { registration: None, handle: Arc::clone(&self.0) }
    }
}

impl fmt::Debug for FilterClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterClient")
            .field("is_in_sync", &self.is_in_sync())
            .field("is_alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}

/// What all handles share. The thread has none, so it ends with the last.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
        if !self.shared.wait_for_end(Some(DROP_DEADLINE)) {
            log::error!("a filter client does not end within {DROP_DEADLINE:?}: left to itself");
        }
    }
}

/// Somebody who works with the filters while they change.
pub(super) struct Following {
    /// Before the handle, whose end may wait for the thread.
    registration: Option<Registration>,
    handle: Arc<Handle>,
}

impl Following {
    /// The filters as they are now. Never waits.
    pub(super) fn filters(&self) -> Guard<Arc<Filters>> {
        self.handle.shared.filters.load()
    }

    /// Calls with the sources: at once where the client is in sync, else once it is, and whenever they change after
    /// that. One call at a time, in order, none after this is dropped. A call must not come back to the client.
    pub(super) fn on_sources(&mut self, call: impl Fn(&[String]) + Send + Sync + 'static) {
        self.registration = Some(Registration::new(&self.handle.shared, Box::new(call)));
    }

    /// Why the client ended, where it ended by an error, or before there was anything to follow.
    pub(super) fn failure(&self) -> Option<Error> {
        let status = self.handle.shared.status();
        let is_early = status.has_ended && !status.is_in_sync;
        let early = || is_early.then(|| "the filter client was stopped before it was in sync".to_owned());
        status.failure.clone().or_else(early).map(Error::Closed)
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Following").finish_non_exhaustive()
    }
}
