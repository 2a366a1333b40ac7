//! What is to be done with a record.

use std::sync::Arc;

use crate::app::context::Context;
use crate::error::{HandlerError, Result};
use crate::message::record::{Parts, Record};

pub(super) type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// Which limit a task counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Handler,
    Pipeline,
}

/// A handler or a pipeline, whatever its types.
pub(super) trait Task: Send + Sync + 'static {
    fn kind(&self) -> Kind;

    /// The name of the pipeline.
    fn pipeline(&self) -> Option<&Arc<str>> {
        None
    }

    /// What cannot work about it.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting)
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Decodes the record's message and begins to handle it.
    ///
    /// # Errors
    /// The message does not fit the type that is handled.
    fn start(
        &self,
        record: &Record,
        context: Context,
    ) -> Result<BoxFuture<Result<(), HandlerError>>, serde_json::Error>;
}

/// What is registered for one event, as places among the router's tasks: handlers come first, then pipelines.
///
/// A record on its way carries this instead of the tasks: with thousands of events none of those is in a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tasks {
    pub(super) first: usize,
    pub(super) handlers: u16,
    pub(super) pipelines: u16,
}

impl Tasks {
    pub(super) fn len(self) -> usize {
        usize::from(self.handlers) + usize::from(self.pipelines)
    }

    pub(super) fn kind(self, index: usize) -> Kind {
        let handlers = usize::from(self.handlers);
        if (handlers..self.len()).contains(&index) { Kind::Pipeline } else { Kind::Handler }
    }
}

/// What there is to do with a record.
pub(super) enum Route {
    /// All of these, beside one another: never none.
    Tasks(Tasks),
    /// Nothing, and that is as it should be: a tombstone, an empty value.
    Nothing,
    /// Nothing: nobody is registered for its event.
    Unhandled,
    /// Nothing, since it says of no event: this is why. Logged and counted.
    NoEvent(&'static str),
    /// It cannot be read.
    Unreadable(serde_json::Error),
}

/// Says what there is to do with records.
pub(super) trait Router: Send + Sync + 'static {
    /// Also notes in `parts` where the message stands.
    fn route(&self, parts: &mut Parts) -> Route;

    /// The task at this place.
    fn task(&self, place: usize) -> Option<&dyn Task>;
}
