//! Where agents send what they have made.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::consumer::{Backoff, caught, first_of};
use crate::error::{Error, Result, panic_text};
use crate::message::Record;
use crate::stream::attempts::{ATTEMPT, Attempts};
use crate::trace_context::TraceContext;

/// How much longer than it may a sink's end is waited for.
const GRACE: Duration = Duration::from_millis(100);
/// How long one attempt of a sink to connect may take that does not keep to its time.
const PATIENCE: Duration = ATTEMPT.saturating_mul(10);

/// Something that agents send to, by its id: a [`KafkaSink`](crate::stream::KafkaSink), a `RedisSink` (feature `redis`),
/// or one's own, which [`Sinks::get`] finds.
///
/// An agent waits until the sink has what it sends: what came of a record may be committed once the agent returned `Ok`.
///
/// ```
/// use std::sync::Mutex;
/// use std::time::Duration;
///
/// use kafka_envelope::stream::{Agent, Sink, Sinks, Worker};
/// use kafka_envelope::{Error, HandlerError};
///
/// /// Keeps the sum.
/// struct Total(Mutex<u64>);
///
/// impl Sink for Total {
///     fn id(&self) -> &str {
///         "total"
///     }
///
///     async fn close(&self, _: Duration) -> Result<(), Error> {
///         Ok(())
///     }
/// }
///
/// async fn add(reading: u64, sinks: Sinks) -> Result<Option<()>, HandlerError> {
///     let total = sinks.get::<Total>("total")?;
///     *total.0.lock().map_err(|_| "the sum is lost")? += reading;
///     Ok(None)
/// }
///
/// let worker = Worker::builder("readings", "localhost:9092", "adding")
///     .sink(Total(Mutex::default()))
///     .agent(Agent::new("add", add))
///     .build()?;
/// # Ok::<(), Error>(())
/// ```
pub trait Sink: Send + Sync + 'static {
    /// The connection's id.
    fn id(&self) -> &str;

    /// Connects, before anything is read. It is called again after an error that [is retriable](Error::is_retriable), see
    /// [`WorkerBuilder::connect_backoff`](crate::stream::WorkerBuilder::connect_backoff). Unless it is said otherwise there
    /// is nothing to connect.
    ///
    /// # Errors
    /// It did not get there within this time, or cannot. A sink that has not answered after ten times as long ends the
    /// worker.
    fn connect(&self, timeout: Duration) -> impl Future<Output = Result<()>> + Send {
        let _ = timeout;
        async { Ok(()) }
    }

    /// The agents have ended: what is on its way is to arrive within this time, after which the worker waits no longer.
    /// What agents returned `Ok` for is committed before: it is not to wait for this.
    ///
    /// # Errors
    /// Some of it has not.
    fn close(&self, timeout: Duration) -> impl Future<Output = Result<()>> + Send;
}

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A sink, whatever its type.
pub(super) trait AnySink: Send + Sync + 'static {
    fn id(&self) -> &str;

    fn connect(&self, timeout: Duration) -> BoxFuture<'_, Result<()>>;

    fn close(&self, timeout: Duration) -> BoxFuture<'_, Result<()>>;

    fn as_any(&self) -> &dyn Any;
}

impl<S: Sink> AnySink for S {
    fn id(&self) -> &str {
        Sink::id(self)
    }

    fn connect(&self, timeout: Duration) -> BoxFuture<'_, Result<()>> {
        Box::pin(Sink::connect(self, timeout))
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
pub struct Sinks {
    all: Arc<Vec<Box<dyn AnySink>>>,
    /// Of what the agent makes what it sends.
    made_of: Option<Record>,
}

impl Sinks {
    /// # Errors
    /// [`Error::Setting`]: two with one id, or one without.
    pub(super) fn new(sinks: Vec<Box<dyn AnySink>>) -> Result<Self> {
        for (index, sink) in sinks.iter().enumerate() {
            let id = sink.id();
            check_id(id)?;
            if sinks[..index].iter().any(|other| other.id() == id) {
                return Err(Error::setting("sink", format!("there are two of the id `{id}`")));
            }
        }
        Ok(Self { all: Arc::new(sinks), made_of: None })
    }

    /// The same for an agent that works on what came of this record.
    pub(super) fn made_of(&self, record: Option<Record>) -> Self {
        Self { all: Arc::clone(&self.all), made_of: record }
    }

    /// The trace context of the record that an agent works on.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        self.made_of.as_ref()?.trace()
    }

    /// The sink with this id.
    ///
    /// # Errors
    /// [`Error::Setting`]: there is none, or it is of another type.
    pub fn get<S: Sink>(&self, id: &str) -> Result<&S> {
        let sink = self.all.iter().find(|sink| sink.id() == id);
        let sink = sink.ok_or_else(|| Error::setting("sink", format!("there is none of the id `{id}`")))?;
        // Of the sink itself, not of the box.
        let sink = (**sink).as_any().downcast_ref();
        sink.ok_or_else(|| Error::setting("sink", format!("the one of the id `{id}` is of another kind")))
    }

    /// Connects one after the other.
    ///
    /// # Errors
    /// The last one of a sink's attempts.
    pub(super) async fn connect(&self, backoff: Backoff) -> Result<()> {
        for sink in self.all.iter() {
            let mut attempts = Attempts::new(SinkId(sink.id()), backoff);
            loop {
                // Of the sink itself, not of the box.
                let connected = match timeout(PATIENCE, caught((**sink).connect(ATTEMPT))).await {
                    Ok(Ok(connected)) => connected,
                    Ok(Err(panic)) => Err(panicked(sink.id(), &*panic)),
                    Err(_) => {
                        Err(Error::Closed(format!("the {} did not connect within {PATIENCE:?}", SinkId(sink.id()))))
                    }
                };
                match connected {
                    Ok(()) => break,
                    Err(error) => attempts.again(error).await?,
                }
            }
        }
        Ok(())
    }

    /// Closes all at once.
    pub(super) async fn close(&self, within: Duration) -> Result<()> {
        let mut closing = JoinSet::new();
        for index in 0..self.all.len() {
            let sinks = self.clone();
            closing.spawn(async move {
                let Some(sink) = sinks.all.get(index) else { return Ok(()) };
                // Its own time is up first.
                let closed = timeout(within + GRACE, caught((**sink).close(within))).await;
                match closed {
                    Ok(Ok(closed)) => closed,
                    Ok(Err(panic)) => Err(panicked(sink.id(), &*panic)),
                    Err(_) => Err(Error::Closed(format!("the sink `{}` did not close within {within:?}", sink.id()))),
                }
            });
        }
        let mut outcome = Ok(());
        while let Some(closed) = closing.join_next().await {
            outcome = first_of(
                outcome,
                closed.unwrap_or_else(|error| Err(Error::Closed(format!("a sink did not close: {error}")))),
            );
        }
        outcome
    }
}

/// In logs and errors.
pub(super) struct SinkId<'a>(pub(super) &'a str);

impl fmt::Display for SinkId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sink `{}`", self.0)
    }
}

fn panicked(id: &str, panic: &(dyn Any + Send)) -> Error {
    Error::Closed(format!("the sink `{id}` panicked: {}", panic_text(panic)))
}

pub(super) fn check_id(id: &str) -> Result<()> {
    if id.is_empty() { Err(Error::setting("sink", "the id is empty")) } else { Ok(()) }
}

impl fmt::Debug for Sinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.all.iter().map(|sink| sink.id())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Hanging;

    impl Sink for Hanging {
        fn id(&self) -> &str {
            "hanging"
        }

        async fn connect(&self, _: Duration) -> Result<()> {
            std::future::pending().await
        }

        async fn close(&self, _: Duration) -> Result<()> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_hangs_is_an_error() {
        let sinks = Sinks::new(vec![Box::new(Hanging)]).unwrap();
        let connected = timeout(Duration::from_secs(60), sinks.connect(Backoff::default())).await.expect("it ends");
        let text = connected.unwrap_err().to_string();
        assert_eq!(text, "cannot go on: the sink `hanging` did not connect within 10s");
        let closed = timeout(Duration::from_secs(60), sinks.close(Duration::from_secs(5))).await.expect("it ends");
        assert!(closed.unwrap_err().to_string().contains("did not close within 5s"));
    }
}
