//! The batch consumer: its builder, its loop and its end.
//!
//! Two threads share the work. [`fetch`] serves the Kafka consumer. The caller's thread, in [`Consumer::process`] and
//! [`Consumer::run`], decodes and handles; so a handler need not be `Send`. Some batches are ready while one is handled; where
//! none is, the caller's thread takes the next from Kafka's client itself.

mod attempt;
mod builder;
mod context;
mod dead_letters;
mod desk;
mod exactly_once;
mod fetch;
#[cfg(any(feature = "app", feature = "stream"))]
mod flow;
mod hand;
mod health;
mod lanes;
mod ledger;
mod link;
mod membership;
mod policy;
mod progress;
#[cfg(feature = "export")]
mod pull;
mod ready;
#[cfg(feature = "tokio")]
mod run_async;
mod sight;
#[cfg(feature = "signal")]
mod signal;
#[cfg(feature = "export")]
mod subscription;
#[cfg(any(feature = "app", feature = "export", feature = "stream"))]
mod take;
mod taker;
mod topic_ids;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use serde::de::DeserializeOwned;

#[cfg(feature = "export")]
pub(crate) use attempt::Portion;
pub(crate) use attempt::{Failed, attempt, attempt_with};
pub use builder::ConsumerBuilder;
pub(crate) use exactly_once::{Outcome, Transactions};
#[cfg(feature = "stream")]
pub(crate) use flow::Flow;
#[cfg(any(feature = "app", feature = "stream"))]
pub(crate) use flow::{After, Policies, Tally};
pub use health::{Health, OffsetReset, Stall, StallCause};
pub(crate) use membership::Membership;
pub use policy::{Backoff, Commit, GiveUp, OnError, OnUndecodable};
#[cfg(any(feature = "app", feature = "stream"))]
pub(crate) use run_async::caught;
#[cfg(feature = "app")]
pub(crate) use sight::Observed;
#[cfg(any(feature = "app", feature = "stream"))]
pub(crate) use sight::Sight;

use crate::consumer::attempt::Attempt;
use crate::consumer::context::Context;
use crate::consumer::desk::{Desk, Handed, Hold, Letter, Next};
use crate::consumer::fetch::Fetch;
use crate::consumer::link::{Link, Look, State};
use crate::envelope::BatchRef;
use crate::error::{Error, HandlerError, Result};
use crate::heap;
use crate::message::{Batch, RawBatch, decode_raw};
use crate::native::Reader;

/// How long a revocation, the end of a run and [`Consumer::process`] wait for the answer to a commit.
const COMMIT_DEADLINE: Duration = Duration::from_secs(5);
/// How long dropping a consumer may take.
const DROP_DEADLINE: Duration = Duration::from_secs(5);
/// Longer than anybody waits; an instant so far away can still be computed.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How often a guide is asked while nothing comes.
const GUIDE_LOOK: Duration = Duration::from_secs(1);

type Guide = Box<dyn Fn() -> Option<Error> + Send>;

/// What [`Consumer::process`] did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Done {
    /// The topics, partitions and offsets of the batch.
    pub reference: BatchRef,
    /// Its records, tombstones, empty values and those given up included.
    pub records: usize,
    /// Those of its records that were skipped.
    pub skipped: usize,
    /// Those of its records that became dead letters.
    pub dead_lettered: usize,
    /// Whether the commit was confirmed. `false` where partitions of the batch went to another consumer first: it may
    /// get the batch again.
    pub committed: bool,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Batches handled.
    pub batches: u64,
    /// Their records, tombstones, empty values and those given up included.
    pub records: u64,
    /// Those of the records that were skipped: by [`GiveUp::Skip`] or [`OnUndecodable::Skip`].
    pub skipped: u64,
    /// Those of the records that became dead letters: by [`GiveUp::DeadLetter`] or [`OnUndecodable::DeadLetter`].
    pub dead_lettered: u64,
}

/// Stops a consumer from anywhere, its handler included.
#[derive(Clone)]
pub struct Stopper(Arc<Link>);

impl Stopper {
    /// The batch in hand is finished and committed, then `run` or `process` returns. For good: later calls return at
    /// once.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl fmt::Debug for Stopper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopper").field("stopped", &self.0.is_stopped()).finish()
    }
}

/// Reads topics as a member of a group, in batches whose offsets are committed only after the handler returned `Ok`.
///
/// ```
/// # use kafka_envelope::testing::EmbeddedBroker;
/// use kafka_envelope::{Batch, Consumer, Message, Producer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = EmbeddedBroker::start()?;
/// # broker.create_topic("orders", 1)?;
/// # let brokers = broker.bootstrap_servers();
/// let producer = Producer::new("shop", brokers)?;
/// producer.produce("orders", &Message::new(3u32))?;
///
/// let mut consumer = Consumer::builder("billing", brokers, "billing-group").topics(["orders"]).build()?;
/// let stopper = consumer.stopper();
/// let mut total = 0;
/// let summary = consumer.run(|batch: &Batch<u32>| {
///     total += batch.iter().map(|order| order.payload).sum::<u32>();
///     stopper.stop();
///     Ok(())
/// })?;
/// assert_eq!((total, summary.records), (3, 1));
/// # Ok(())
/// # }
/// ```
///
/// # Failures
/// Unless [`ConsumerBuilder::on_error`] or [`ConsumerBuilder::on_undecodable`] says otherwise, the first failure ends
/// `process` or `run` with its error, and nothing of the batch is committed but what [`HandlerError::at`] says is done.
/// The next call hands over the same batch first, as far as its partitions are still this consumer's. A handler that
/// panics has failed.
///
/// # End
/// [`Consumer::close`] says what went wrong; dropping does the same within 5 seconds, and logs. With a broker that does
/// not answer, the underlying client cannot be ended: it is left behind then, to the end of the process.
pub struct Consumer {
    link: Arc<Link>,
    fetch: fetch::Shared,
    desk: Desk,
    /// Only records of committed transactions are read.
    reads_committed: bool,
    /// `auto.offset.reset` says the log's end.
    starts_at_end: bool,
    /// Whether the last transaction was committed is not known.
    is_unsettled: bool,
    /// Why somebody has failed without whom there is nothing to consume.
    guide: Option<Guide>,
    /// Two answers of the fetch thread: the last commit, and that the client has ended. None once closed.
    done: Option<Receiver<Result<()>>>,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("stopped", &self.link.is_stopped()).finish_non_exhaustive()
    }
}

impl Consumer {
    /// A builder for a consumer of this service, on these brokers, as a member of this group.
    ///
    /// `brokers` is a comma-separated list of `host:port`.
    pub fn builder(service: &str, brokers: &str, group: &str) -> ConsumerBuilder {
        ConsumerBuilder::new(service, brokers, group)
    }

    /// Starts the fetch thread. `client` makes one, now and where it has to be replaced.
    fn start(
        client: impl Fn() -> Result<rdkafka::consumer::BaseConsumer<Context>> + Send + 'static,
        topics: &[String],
        options: fetch::Options,
        desk: desk::Options,
    ) -> Result<Self> {
        let (reads_committed, starts_at_end) = (options.committed_only, options.resets_to_end);
        let link = Arc::new(Link::default());
        link.lock().handler_timeout = options.handler_timeout;
        let made_for = Arc::clone(&link);
        let make = move || {
            let client = client()?;
            made_for.lock().refusals = client.context().trouble.refusals.clone();
            let (bell, records) = (Arc::clone(&made_for), Arc::clone(&made_for));
            Reader::new(client, move || records.records_came(), move || bell.bell.ring())
                .ok_or_else(|| Error::Closed("librdkafka gave no queue".into()))
        };
        heap::keep_what_is_freed();
        let reader = make()?;
        if !topics.is_empty() {
            reader.consumer().subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        let (sender, done) = mpsc::sync_channel(2);
        let fetch = Fetch::new(reader, Arc::clone(&link), options).renewing(Box::new(make));
        let fetch = fetch::Shared::new(fetch);
        let at_work = fetch.clone();
        thread::Builder::new()
            .name("kafka-envelope fetch".into())
            .spawn(move || at_work.run(&sender))
            .map_err(|error| Error::Closed(format!("no thread could be started: {error}")))?;
        Ok(Self {
            link,
            fetch,
            desk: Desk::new(desk),
            reads_committed,
            starts_at_end,
            is_unsettled: false,
            guide: None,
            done: Some(done),
        })
    }

    /// Waits for one batch, hands it to `handler`, and waits until its offsets are committed.
    ///
    /// `None`: the consumer was stopped, or nothing came within `idle_timeout` where one is set.
    ///
    /// # Errors
    /// [`Error::Handler`] and [`Error::Undecodable`] as said under [Failures](#failures), [`Error::DeadLetter`] where a
    /// record is to be given up and its dead letter cannot be written, [`Error::NotCommitted`] where the handled batch
    /// could not be committed within 5 seconds (it is committed with the next one, or handed over again after a restart),
    /// [`Error::Refused`] where nothing came within `idle_timeout` because brokers refuse this client, [`Error::Partition`] and [`Error::Kafka`] where Kafka itself cannot go on.
    pub fn process<T, F>(&mut self, mut handler: F) -> Result<Option<Done>>
    where
        T: DeserializeOwned,
        F: FnMut(&Batch<'_, T>) -> Result<(), HandlerError>,
    {
        self.process_one(&mut |arena| attempt(arena, |batch: &Batch<'_, T>| handler(batch)))
    }

    /// Handles batch after batch until the consumer is stopped, or until nothing came within `idle_timeout` where one
    /// is set. The last commit is confirmed before it returns.
    ///
    /// # Errors
    /// As [`Consumer::process`].
    pub fn run<T, F>(&mut self, mut handler: F) -> Result<Summary>
    where
        T: DeserializeOwned,
        F: FnMut(&Batch<'_, T>) -> Result<(), HandlerError>,
    {
        self.run_all(&mut |arena| attempt(arena, |batch: &Batch<'_, T>| handler(batch)))
    }

    /// As [`Consumer::run`], with payloads that [`Received::decode`](crate::Received::decode) reads into types that
    /// borrow from the record.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), kafka_envelope::Error> {
    /// use std::borrow::Cow;
    ///
    /// use kafka_envelope::{Consumer, RawBatch};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Reading<'a> {
    ///     // An escaped text cannot be borrowed as `&str`.
    ///     #[serde(borrow)]
    ///     sensor: Cow<'a, str>,
    ///     value: f64,
    /// }
    ///
    /// let mut consumer = Consumer::builder("meter", "localhost:9092", "meter").topics(["readings"]).build()?;
    /// consumer.run_raw(|batch: &RawBatch| {
    ///     for record in batch {
    ///         let reading: Reading = record.decode()?;
    ///         println!("{}: {}", reading.sensor, reading.value);
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Consumer::process`].
    pub fn run_raw<F>(&mut self, mut handler: F) -> Result<Summary>
    where
        F: FnMut(&RawBatch<'_>) -> Result<(), HandlerError>,
    {
        self.run_all(&mut |arena| attempt_with(arena, decode_raw, |batch: &RawBatch<'_>| handler(batch)))
    }

    /// Stops this consumer from elsewhere.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.link))
    }

    /// This consumer's health, to be asked from elsewhere.
    #[must_use]
    pub fn health(&self) -> Health {
        Health(Arc::clone(&self.link))
    }

    /// Leaves the group and ends the client, within this time.
    ///
    /// # Errors
    /// [`Error::NotCommitted`] where handled records could not be committed, [`Error::Closed`] where the client did not
    /// end in time and is left to the end of the process.
    pub fn close(mut self, deadline: Duration) -> Result<()> {
        self.end(deadline)
    }

    fn process_one(&mut self, attempt: &mut Attempt<'_>) -> Result<Option<Done>> {
        self.restart_where_unsettled()?;
        loop {
            match self.poll()? {
                Handed::Records => break,
                Handed::Gone => {}
                Handed::Nothing => return Ok(None),
            }
        }
        let reference = self.desk.reference();
        let losses = self.link.lock().unconfirmed_losses;
        self.desk.summary = Summary::default();
        let handled = self.handle(attempt);
        // Also of the part that is done of a batch that failed.
        let confirmed = self.confirm(false);
        if !first_of(handled, confirmed)? {
            return Ok(None);
        }
        let Summary { records, skipped, dead_lettered, .. } = self.desk.summary;
        let committed = self.link.lock().unconfirmed_losses == losses;
        let [records, skipped, dead_lettered] = [records, skipped, dead_lettered].map(|count| count as usize);
        Ok(Some(Done { reference, records, skipped, dead_lettered, committed }))
    }

    /// As [`Consumer::run`].
    pub(crate) fn run_all(&mut self, attempt: &mut Attempt<'_>) -> Result<Summary> {
        self.restart_where_unsettled()?;
        self.desk.summary = Summary::default();
        let outcome = loop {
            let handled = match self.poll() {
                Ok(Handed::Records) => self.handle(attempt),
                Ok(Handed::Gone) => Ok(true),
                Ok(Handed::Nothing) => Ok(false),
                Err(error) => Err(error),
            };
            match handled {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        first_of(outcome, self.confirm(true))?;
        Ok(self.desk.summary)
    }

    /// Waits for a batch.
    fn poll(&mut self) -> Result<Handed> {
        let (polling, next) = (self.desk.options.sight.tracing.polling(), self.next());
        self.desk.polled(polling, &next);
        next
    }

    /// Waits for records to hand over.
    fn next(&mut self) -> Result<Handed> {
        self.wait_for(Desk::next)
    }

    /// Waits for something of the desk's, as long as the guide has not failed.
    fn wait_for<R>(&mut self, mut look: impl FnMut(&mut Desk, &Link, &mut State) -> Look<Result<R>>) -> Result<R> {
        let Self { link, fetch, desk, guide, .. } = self;
        loop {
            let until = match guide {
                Some(failure) => match failure() {
                    Some(error) if !link.is_stopped() => return Err(error),
                    _ => Some(Instant::now() + GUIDE_LOOK),
                },
                None => None,
            };
            let look = |state: &mut State| match look(desk, link, state) {
                Look::Done(result) => Look::Done(Some(result)),
                Look::Wait(_) if until.is_some_and(|until| until <= Instant::now()) => Look::Done(None),
                Look::Wait(at) => Look::Wait(at.into_iter().chain(until).min()),
            };
            let seen = link.wait_for_records(look, || fetch.take());
            if let Some(result) = seen {
                return result;
            }
        }
    }

    /// Hands the batch in hand over until nothing is left of it. False: stopped before that.
    fn handle(&mut self, attempt: &mut Attempt<'_>) -> Result<bool> {
        loop {
            {
                let Self { link, desk, .. } = self;
                let _hold = Hold(link);
                let (outcome, processing) = desk.attempt(&mut *attempt);
                let next = desk.settle(link, outcome, processing)?;
                if matches!(bury(desk, link, next)?, Next::Finished) {
                    return Ok(true);
                }
            }
            match self.next()? {
                Handed::Records => {}
                Handed::Gone => return Ok(true),
                Handed::Nothing => return Ok(false),
            }
        }
    }

    /// Waits until everything handled is committed, or is no longer ours to commit.
    fn confirm(&self, is_last: bool) -> Result<()> {
        let deadline = Instant::now() + COMMIT_DEADLINE;
        self.link.await_commits();
        self.link.wait_for(|state| state.confirm_by(deadline, is_last))
    }

    fn end(&mut self, timeout: Duration) -> Result<()> {
        let Some(done) = self.done.take() else { return Ok(()) };
        let timeout = timeout.min(FOR_EVER);
        let deadline = Instant::now() + timeout;
        // The client's own end needs a share of the time.
        self.link.lock().closing = Some(Instant::now() + timeout.mul_f32(0.7));
        self.link.stop();
        self.link.bell.ring();
        let wait = || done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let confirmed = match wait() {
            Ok(confirmed) => confirmed,
            Err(RecvTimeoutError::Timeout) => return Err(left_behind(timeout)),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Closed("the consumer's fetch thread has ended".into()));
            }
        };
        match wait() {
            Err(RecvTimeoutError::Timeout) => confirmed.and(Err(left_behind(timeout))),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => confirmed,
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if let Err(error) = self.end(DROP_DEADLINE) {
            log::warn!("on drop, {error}");
        }
    }
}

/// Waits for dead letters, where there are some to be written.
fn bury(desk: &mut Desk, link: &Link, next: Next) -> Result<Next> {
    let Next::Bury(letters) = next else { return Ok(next) };
    let wait = |letter: Letter| (letter.place, letter.pending.wait());
    desk.buried(link, letters.into_iter().map(wait).collect())
}

fn left_behind(timeout: Duration) -> Error {
    Error::Closed(format!(
        "the consumer's Kafka client did not end within {timeout:?}, as with a broker that does not answer; it is left to the end \
         of the process"
    ))
}

/// What went wrong first; what went wrong because of it is logged.
pub(crate) fn first_of<T>(handled: Result<T>, confirmed: Result<()>) -> Result<T> {
    match (handled, confirmed) {
        (Err(error), Err(other)) => {
            log::warn!("after a failure, {other}");
            Err(error)
        }
        (handled, confirmed) => confirmed.and(handled),
    }
}
