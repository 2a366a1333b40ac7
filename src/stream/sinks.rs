//! Where agents send what they have made.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};

/// Something that agents send to, by its id: [`KafkaSink`](crate::stream::KafkaSink),
/// [`RedisSink`](crate::stream::RedisSink), or one's own.
pub trait Sink: Send + Sync + 'static {
    /// The connection's id.
    fn id(&self) -> &str;

    /// The worker has ended: what is on its way is to arrive within this time.
    ///
    /// # Errors
    /// Some of it has not.
    fn close(&self, timeout: Duration) -> impl Future<Output = Result<()>> + Send;
}

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A sink, whatever its type.
pub(super) trait AnySink: Send + Sync + 'static {
    fn id(&self) -> &str;

    fn close(&self, timeout: Duration) -> BoxFuture<'_, Result<()>>;

    fn as_any(&self) -> &dyn Any;
}

impl<S: Sink> AnySink for S {
    fn id(&self) -> &str {
        Sink::id(self)
    }

    fn close(&self, timeout: Duration) -> BoxFuture<'_, Result<()>> {
        Box::pin(Sink::close(self, timeout))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The sinks of a worker, for its agents. Cheap to clone.
#[derive(Clone, Default)]
pub struct Sinks(Arc<HashMap<String, Box<dyn AnySink>>>);

impl Sinks {
    /// # Errors
    /// [`Error::Setting`]: two with one id, or one without.
    pub(super) fn new(sinks: Vec<Box<dyn AnySink>>) -> Result<Self> {
        let mut all = HashMap::new();
        for sink in sinks {
            let id = sink.id().to_owned();
            if id.is_empty() {
                return Err(Error::setting("sink", "the id is empty"));
            }
            if all.contains_key(&id) {
                return Err(Error::setting("sink", format!("there are two of the id `{id}`")));
            }
            all.insert(id, sink);
        }
        Ok(Self(Arc::new(all)))
    }

    /// The sink with this id.
    ///
    /// # Errors
    /// [`Error::Setting`]: there is none, or it is of another type.
    pub fn get<S: Sink>(&self, id: &str) -> Result<&S> {
        let sink = self.0.get(id).ok_or_else(|| Error::setting("sink", format!("there is none of the id `{id}`")))?;
        // Of the sink itself, not of the box.
        let sink = (**sink).as_any().downcast_ref();
        sink.ok_or_else(|| Error::setting("sink", format!("the one of the id `{id}` is of another kind")))
    }

    pub(super) async fn close(&self, timeout: Duration) -> Result<()> {
        let mut outcome = Ok(());
        for sink in self.0.values() {
            outcome = crate::consumer::first_of(outcome, (**sink).close(timeout).await);
        }
        outcome
    }
}

impl fmt::Debug for Sinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
