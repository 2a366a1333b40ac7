//! Sending messages, with every record's delivery report checked.
//!
//! [`Producer::produce`] and [`Producer::produce_batch`] wait for the acknowledgements. [`Producer::send`] hands a
//! message over and returns; [`Pending::wait`] tells what became of it, and [`Producer::flush`] waits for all that were
//! sent. With the feature `tokio`, `produce_async` and `produce_batch_async` wait as futures.
//!
//! ```
//! use kafka_envelope::{Message, Producer, Ref};
//! # let broker = kafka_envelope::testing::EmbeddedBroker::start()?;
//! # let brokers = broker.bootstrap_servers();
//!
//! let producer = Producer::new("billing", brokers)?;
//!
//! // One message. Waits until the broker has it.
//! let delivery = producer.produce("invoices", &Message::new("paid").id("order-7").caused_by(Ref::new("orders", 0, 3)))?;
//! println!("partition {}, offset {}", delivery.partition, delivery.offset);
//!
//! // A batch: all acknowledged, or an error that says which messages were not.
//! let batch: Vec<_> = (0..100).map(|number| Message::new(number)).collect();
//! let report = producer.produce_batch("numbers", &batch)?;
//! assert_eq!(report.deliveries.len(), 100);
//!
//! // Without waiting for each.
//! let pending = producer.send("numbers", &Message::new(7))?;
//! pending.wait()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod builder;
mod context;
mod delivery;
mod flusher;
#[cfg(feature = "tokio")]
mod futures;
mod raw;
mod reports;
mod sending;
#[cfg(test)]
mod tests;
mod threads;
mod topics;
mod transactional;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, Producer as _};
use serde::Serialize;

use crate::client;
use crate::error::{Error, Result};
use crate::message::{Message, Oversize};
use crate::metrics::Timer;
use crate::native::{self, Outgoing};
use crate::otel::{Injected, Span, Tracing};
use crate::refusal::Refusal;
use context::Context;
use delivery::{Claim, Entry, Failure, Tracker, is_full, not_delivered};
use flusher::{Flusher, Request};
use reports::Expected;
use sending::{Sending, Submitted};
use threads::Threads;
use topics::{Topic, Topics};

pub use builder::ProducerBuilder;
pub use delivery::{Delivery, Pending, Report};
pub(crate) use raw::RawRecord;
pub(crate) use sending::Writer;

/// How long the last clone of a [`Producer`] waits at its end for what is still on its way.
pub const FLUSH_ON_DROP: Duration = Duration::from_secs(5);

pub(crate) type Client = BaseProducer<Context>;

/// Sends messages to Kafka.
///
/// Clones share one client with its threads, connections and queue; any number of threads may use it at once. By
/// default snappy, `acks=all` and idempotent: an acknowledged record is on every in-sync replica, and retries neither
/// repeat nor reorder records. [`settings::producer_defaults`](crate::settings::producer_defaults) lists all defaults.
///
/// - Whoever sends faster than the brokers take waits: a full queue is no error, unless it stays full for
///   `delivery.timeout.ms`.
/// - A message that is larger than `message.max.bytes` is refused before anything of its batch is sent, or left out
///   and reported, see [`Oversize`].
/// - The end of the last clone waits up to [`FLUSH_ON_DROP`] for what is on its way, then gives up the rest, logs how
///   many records that were, and lets go of the client.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

impl Producer {
    /// A producer with the default settings, for the service of this name. It connects in the background.
    ///
    /// # Errors
    /// As [`ProducerBuilder::build`].
    pub fn new(service: &str, brokers: &str) -> Result<Self> {
        Self::builder(service, brokers).build()
    }

    /// Builds a producer for the service of this name, which becomes part of every message's history. `brokers` are
    /// `host:port`, with commas between.
    pub fn builder(service: &str, brokers: &str) -> ProducerBuilder {
        ProducerBuilder::new(service, brokers)
    }

    /// Sends one message and waits for its acknowledgement, without waiting for more messages to share the request.
    ///
    /// # Errors
    /// - [`Error::NotDelivered`]: no acknowledgement within `delivery.timeout.ms`, the broker refused the record, or the
    ///   topic is not found within `topic.metadata.propagation.max.ms` (30 s).
    /// - [`Error::Oversize`], whatever the builder's [`Oversize`] says; [`Error::Encode`], [`Error::Limit`]: the message
    ///   cannot be written.
    /// - [`Error::Setting`]: the topic's name, the partition, the timestamp or a header's name cannot be used.
    /// - [`Error::Kafka`], fatal: the producer is beyond use since an earlier error.
    pub fn produce<T: Serialize>(&self, topic: &str, message: &Message<T>) -> Result<Delivery> {
        let timer = Timer::start();
        let sent = self.send(topic, message).and_then(Pending::wait);
        self.inner.measure(timer, sent)
    }

    /// Sends a batch and waits until all of it is acknowledged.
    ///
    /// The whole batch is written as JSON and checked before the first record is sent. Records of one partition stand in
    /// the log in the batch's order. A record that cannot be sent, to a partition that does not exist for one, fails
    /// alone: the others are sent all the same.
    ///
    /// # Errors
    /// - [`Error::NotDelivered`] names every record that was not acknowledged, and those among them that may stand in the
    ///   log all the same. The rest of the batch is delivered. What was skipped as oversize is among the failed.
    /// - [`Error::Oversize`], unless the builder's [`Oversize`] says to skip; [`Error::Encode`], [`Error::Limit`],
    ///   [`Error::Setting`] as for [`Producer::produce`]: nothing of the batch was sent.
    /// - [`Error::Kafka`], fatal: the producer is beyond use since an earlier error.
    pub fn produce_batch<T: Serialize>(&self, topic: &str, messages: &[Message<T>]) -> Result<Report> {
        let (inner, timer) = (&self.inner, Timer::start());
        let sent = inner.submit(topic, messages, inner.oversize).and_then(|submitted| {
            inner.wait(&submitted.tracker)?;
            inner.report(messages.len(), submitted)
        });
        inner.measure(timer, sent)
    }

    /// Hands a message to the client and returns. Waits only while the queue is full.
    ///
    /// Who sends many without waiting also takes delivery reports in between, which else a thread of the producer does.
    /// Of foreign code only a metrics recorder is called then: what wakes futures and logs is left to that thread.
    ///
    /// # Errors
    /// As [`Producer::produce`], but for what is only known later: that [`Pending::wait`] says.
    pub fn send<T: Serialize>(&self, topic: &str, message: &Message<T>) -> Result<Pending> {
        let one = std::slice::from_ref(message);
        let Submitted { tracker, .. } = self.inner.submit(topic, one, Oversize::Refuse)?;
        self.inner.sent();
        Ok(self.pending(Claim::new(tracker, self.inner.client.context())))
    }

    /// Hands a record to the client as it is and returns. Waits only while the queue is full. What is too large
    /// [`Pending::wait`] says.
    pub(crate) fn send_raw<'a, H>(&self, record: RawRecord<'a, H>) -> Result<Pending>
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        let topic = self.inner.topics.get(record.topic)?;
        self.inner.usable()?;
        let (span, injected) = self.inner.trace(&record);
        let trace = injected.of(record.carried());
        let tracker = Tracker::new(1, span);
        let entry = Entry::new(&tracker, 0);
        if let Err(error) = self.inner.enqueue(&topic, &record.outgoing(trace), entry, self.inner.patience) {
            tracker.refuse(0, error);
        }
        self.inner.sent();
        Ok(self.pending(Claim::new(tracker, self.inner.client.context())))
    }

    fn pending(&self, claim: Claim) -> Pending {
        Pending::new(claim, Arc::downgrade(&self.inner))
    }

    /// Waits until every message that was sent by any clone has its delivery report, good or bad.
    ///
    /// # Errors
    /// [`Error::Kafka`] with a timeout where some are still on their way after `timeout`. They stay so. What became of a
    /// message its [`Pending`] says.
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        let start = Instant::now();
        let reports = &self.inner.client.context().reports;
        let _expected = reports.expect();
        native::flush(self.inner.client.client(), timeout).map_err(KafkaError::Flush)?;
        match reports.wait_done(timeout.saturating_sub(start.elapsed())) {
            true => Ok(()),
            false => Err(KafkaError::Flush(Code::OperationTimedOut).into()),
        }
    }

    /// What brokers refuse this producer: to let it in, a topic. A topic is refused until a message to it is acknowledged
    /// again, a connection until brokers have refused none for a while.
    ///
    /// Messages wait for that as for the end of any outage, up to `delivery.timeout.ms`.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        self.inner.client.context().trouble.refusals.first()
    }

    /// How many messages failed whose [`Pending`] was dropped before anybody asked it.
    #[must_use]
    pub fn unclaimed_failures(&self) -> u64 {
        self.inner.client.context().unclaimed()
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("service", &self.inner.writer.service)
            .field("outstanding", &self.inner.client.context().outstanding())
            .finish_non_exhaustive()
    }
}

/// What all clones share.
struct Inner {
    // The order matters: these are not the client's last owners, `threads` waits for that one.
    client: Arc<Client>,
    topics: Topics,
    writer: Writer,
    oversize: Oversize,
    /// How long a full queue is waited out: `delivery.timeout.ms`; none: for ever.
    patience: Option<Duration>,
    flusher: Arc<Flusher>,
    threads: Threads,
    tracing: Tracing,
}

/// After this time without room the linger ends of what fills the queue: that would only keep it full.
const FULL: Duration = Duration::from_millis(10);

/// So many events a sender takes at once, and leaves more to the thread.
const EVENTS: usize = 8;

/// A record that waits for room.
#[derive(Default)]
struct Waiting {
    since: Option<(Instant, Expected)>,
    request: Option<Request>,
}

impl Inner {
    /// Asked of librdkafka itself: its event comes after the reports of records that failed of it.
    fn is_fatal(&self) -> bool {
        native::is_fatal(self.client.client())
    }

    fn usable(&self) -> Result<()> {
        if !self.is_fatal() {
            return Ok(());
        }
        let Some((code, reason)) = self.client.client().fatal_error() else { return Ok(()) };
        if let Some(repeated) = client::repeats(&reason) {
            log::error!(
                "the producer of {} is beyond use, build a new one: {code}: {reason}{repeated}",
                self.writer.service
            );
        }
        Err(KafkaError::MessageProduction(Code::Fatal).into())
    }

    /// Writes and checks all messages of a call.
    fn begin<'a, T: Serialize>(
        &self,
        topic: &str,
        messages: &'a [Message<T>],
        oversize: Oversize,
    ) -> Result<(Arc<Topic>, Sending<'a, T>)> {
        let handle = self.topics.get(topic)?;
        self.usable()?;
        Ok((handle, Sending::new(&self.writer, topic, messages, oversize, &self.tracing)?))
    }

    /// Begins to send one record.
    fn trace<'a, H>(&self, record: &RawRecord<'a, H>) -> (Span, Injected)
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        self.tracing.send(Some(record.topic), None, std::iter::once(record.carried()))
    }

    /// Writes all messages, then gives all of them to librdkafka.
    fn submit<T: Serialize>(&self, topic: &str, messages: &[Message<T>], oversize: Oversize) -> Result<Submitted> {
        let (topic, sending) = self.begin(topic, messages, oversize)?;
        for index in 0..sending.len() {
            let given = self.enqueue(&topic, &sending.record(index), sending.entry(index), self.patience);
            if given.is_err_and(|error| !sending.refused(index, &error)) {
                break;
            }
        }
        Ok(sending.submitted)
    }

    /// Gives one record to librdkafka, which copies it. Waits while the queue is full, for ever without `patience`.
    fn enqueue<'a, H>(
        &self,
        topic: &Topic,
        record: &Outgoing<'a, H>,
        mut entry: Box<Entry>,
        patience: Option<Duration>,
    ) -> Result<(), KafkaError>
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        let mut waiting = Waiting::default();
        while let Some(back) = self.offer(topic, record, entry, &mut waiting, patience)? {
            entry = back;
            self.client.context().wait_for_room();
        }
        Ok(())
    }

    /// A message was sent that its sender does not wait for.
    fn sent(&self) {
        if self.tracing.is_on() {
            // The spans end with the reports, and exporters are foreign code.
            return;
        }
        self.client.context().reports.sent(|| {
            // What the thread calls may send, too. Each poll takes one event, of one request.
            !self.threads.is_poller()
                && (0..EVENTS).any(|_| {
                    self.client.poll(Duration::ZERO);
                    native::main_events(self.client.client()) == 0
                })
        });
    }

    /// Tries once, and gives the entry back while the queue is full.
    fn offer<'a, H>(
        &self,
        topic: &Topic,
        record: &Outgoing<'a, H>,
        entry: Box<Entry>,
        waiting: &mut Waiting,
        patience: Option<Duration>,
    ) -> Result<Option<Box<Entry>>, KafkaError>
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        let context = self.client.context();
        context.enqueued();
        let Err((code, back)) = topic.produce(record, entry) else { return Ok(None) };
        context.settled();
        let error = KafkaError::MessageProduction(code);
        if !is_full(&error) {
            return Err(error);
        }
        let (since, _) = waiting.since.get_or_insert_with(|| (Instant::now(), context.reports.expect()));
        let time = since.elapsed();
        if patience.is_some_and(|patience| time > patience) {
            return Err(error);
        }
        if time >= FULL {
            waiting.request.get_or_insert_with(|| self.flusher.request());
        }
        Ok(Some(back))
    }

    /// What became of the messages of a call. Only to be asked once that is known.
    fn report(&self, total: usize, Submitted { tracker, places, skipped }: Submitted) -> Result<Report> {
        let mut deliveries = Vec::with_capacity(places.len());
        let mut failures = Vec::new();
        for (place, outcome) in places.into_iter().zip(tracker.take()) {
            match outcome {
                Ok(delivery) => deliveries.push(delivery),
                Err(failure) => failures.push((place, failure)),
            }
        }
        if failures.is_empty() {
            return Ok(Report { deliveries, skipped });
        }
        let too_large = KafkaError::MessageProduction(Code::MessageSizeTooLarge);
        failures.extend(skipped.into_iter().map(|place| (place, Failure::not_sent(too_large.clone()))));
        Err(not_delivered(total, failures, self.is_fatal(), &self.client.context().trouble.refusals))
    }

    /// A call that sends and waits came to this.
    fn measure<T>(&self, timer: Timer, sent: Result<T>) -> Result<T> {
        self.client.context().meter.sent(timer, &sent);
        sent
    }

    /// Waits until every record has its report, and ends the linger for that.
    fn wait(&self, tracker: &Tracker) -> Result<()> {
        let _request = self.flusher.request();
        if tracker.wait(|| self.threads.poller_ended()) {
            return Ok(());
        }
        Err(Error::Closed("the thread that takes the producer's delivery reports has ended".to_owned()))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.threads.is_poller() {
            // Dropped by a waker: the reports that a flush waits for would be taken by nobody.
            client::guarded(|| {
                let left = self.client.context().outstanding();
                if left > 0 {
                    log::error!(
                        "the producer of {} ends on its own thread: {left} records are given up",
                        self.writer.service
                    );
                }
            });
        } else if native::flush(self.client.client(), FLUSH_ON_DROP).is_err() {
            let left = self.client.context().outstanding();
            client::guarded(|| {
                log::error!(
                    "the producer of {} ends with {left} records that were not acknowledged within {FLUSH_ON_DROP:?}: \
                     given up, those on their way may stand in the log all the same",
                    self.writer.service
                );
            });
        }
    }
}
