//! What a consumer says of itself while it runs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use crate::consumer::progress::{OffsetReset, StallCause};

use crate::consumer::link::{Link, Stalled};
use crate::refusal::Refusal;

/// A partition that has a backlog and makes no progress, for longer than
/// [`stall_timeout`](crate::ConsumerBuilder::stall_timeout).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stall {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// The offset at which it stands. None: it was not read yet, and the group has nothing committed.
    pub next_offset: Option<i64>,
    /// How many offsets wait from there on.
    pub backlog: u64,
    /// For how long it has made no progress.
    pub since: Duration,
    /// What it waits for.
    pub cause: StallCause,
}

/// A consumer's health, from any thread, also while it runs and after its end.
///
/// ```
/// # use kafka_envelope::testing::EmbeddedBroker;
/// use kafka_envelope::{Consumer, Health};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = EmbeddedBroker::start()?;
/// # broker.create_topic("orders", 1)?;
/// # let brokers = broker.bootstrap_servers();
/// let consumer = Consumer::builder("billing", brokers, "billing-group").topics(["orders"]).build()?;
///
/// /// What a `/healthz` endpoint answers.
/// fn healthz(health: &Health) -> (u16, String) {
///     match health.is_healthy() {
///         true => (200, "ok".into()),
///         false => (503, format!("{health:?}")),
///     }
/// }
///
/// let health = consumer.health();
/// let endpoint = std::thread::spawn(move || healthz(&health));
/// assert_eq!(endpoint.join().unwrap().0, 200);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Health(pub(super) Arc<Link>);

impl Health {
    /// Whether the consumer does what it is there for: no partition stalls, brokers refuse nothing, the handler is not
    /// overdue, and the client lives.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.0.lock().is_healthy()
    }

    /// The partitions that stand still.
    #[must_use]
    pub fn stalls(&self) -> Vec<Stall> {
        let state = self.0.lock();
        let stall = |stalled: &Stalled| {
            let Stalled { id, next_offset, backlog, since, cause } = *stalled;
            let name = state.ledger.name(id);
            let (topic, partition, since) = (name.topic.to_string(), name.partition, since.elapsed());
            Stall { topic, partition, next_offset, backlog, since, cause }
        };
        state.stalls.iter().map(stall).collect()
    }

    /// What brokers refuse this consumer now: to let it in, its group, a topic. It goes on by itself once they grant it.
    #[must_use]
    pub fn refusals(&self) -> Vec<Refusal> {
        let refusals = self.0.lock().refusals.clone();
        refusals.all()
    }

    /// How long the handler has worked on its batch, where that is longer than
    /// [`handler_timeout`](crate::ConsumerBuilder::handler_timeout).
    #[must_use]
    pub fn handler_overdue(&self) -> Option<Duration> {
        self.0.lock().handler_overdue()
    }

    /// Records that were gone before they were read, the last 100 times that this happened.
    #[must_use]
    pub fn resets(&self) -> Vec<OffsetReset> {
        self.0.lock().resets.iter().cloned().collect()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("is_healthy", &self.is_healthy())
            .field("refusals", &self.refusals())
            .field("stalls", &self.stalls())
            .field("handler_overdue", &self.handler_overdue())
            .field("resets", &self.resets())
            .finish()
    }
}
