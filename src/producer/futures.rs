//! The producer's waiting calls as futures.

use std::future::poll_fn;
use std::sync::Arc;
#[cfg(feature = "stream")]
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
use serde::Serialize;

#[cfg(any(feature = "app", feature = "stream"))]
use super::RawRecord;
#[cfg(any(feature = "app", feature = "stream"))]
use super::delivery::Tracker;
use super::delivery::{Claim, Delivery, Entry, Report};
use super::sending::Submitted;
use super::topics::Topic;
use super::{Inner, Producer, Waiting};
#[cfg(any(feature = "app", feature = "stream"))]
use crate::error::Error;
use crate::error::Result;
#[cfg(any(feature = "app", feature = "stream"))]
use crate::fault::Fault;
#[cfg(any(feature = "app", feature = "stream"))]
use crate::message::wire_size;
use crate::message::{Message, Oversize};
use crate::metrics::Timer;
use crate::native::Outgoing;

/// How often a connection is looked for.
#[cfg(feature = "stream")]
const LOOK: Duration = Duration::from_millis(20);

impl Producer {
    /// [`Producer::produce`] as a future, on tokio with its timer.
    ///
    /// The message is written and checked when the future is first polled. A full queue is waited out without blocking
    /// the thread. Dropping the future does not take back a message that the client has: it is sent all the same, and if
    /// it then fails, that is logged and counted ([`Producer::unclaimed_failures`]).
    ///
    /// # Errors
    /// As [`Producer::produce`].
    pub async fn produce_async<T: Serialize>(&self, topic: &str, message: &Message<T>) -> Result<Delivery> {
        let (one, timer) = (std::slice::from_ref(message), Timer::start());
        let sent = async {
            let (_, claim) = self.inner.submit_async(topic, one, Oversize::Refuse).await?;
            let _request = self.inner.flusher.request();
            self.pending(claim).await
        };
        self.inner.measure(timer, sent.await)
    }

    /// [`Producer::produce_batch`] as a future, on tokio with its timer.
    ///
    /// The whole batch is written and checked when the future is first polled. A full queue is waited out without
    /// blocking the thread. Dropping the future does not take back what the client has by then: that is sent all the
    /// same, and what then fails is logged and counted ([`Producer::unclaimed_failures`]). What still waited for room in
    /// the queue is not sent.
    ///
    /// # Errors
    /// As [`Producer::produce_batch`].
    pub async fn produce_batch_async<T: Serialize>(&self, topic: &str, messages: &[Message<T>]) -> Result<Report> {
        let timer = Timer::start();
        let sent = async {
            let (submitted, claim) = self.inner.submit_async(topic, messages, self.inner.oversize).await?;
            let _request = self.inner.flusher.request();
            poll_fn(|task| claim.poll(task)).await;
            self.inner.report(messages.len(), submitted)
        };
        self.inner.measure(timer, sent.await)
    }

    /// Waits until one of its brokers has answered, for so long.
    ///
    /// # Errors
    /// [`Error::Unreachable`]: none has.
    #[cfg(feature = "stream")]
    pub(crate) async fn reach(&self, brokers: &str, within: Duration) -> Result<()> {
        let client = &self.inner.client;
        let reached = async {
            while client.client().fetch_cluster_id(Duration::ZERO).is_none() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(within, reached).await.map_err(|_| {
            let reason = client.context().trouble.get().unwrap_or_else(|| format!("nothing came within {within:?}"));
            Error::Unreachable { brokers: brokers.to_owned(), reason }
        })
    }

    /// Sends a record as it is, as [`Producer::produce_async`] sends a message.
    ///
    /// # Errors
    /// [`Error::Oversize`], before anything is sent; else as [`Producer::produce`].
    #[cfg(any(feature = "app", feature = "stream"))]
    pub(crate) async fn produce_raw_async<'a, H>(&self, record: RawRecord<'a, H>) -> Result<Delivery>
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        let timer = Timer::start();
        let sent = async {
            let topic = self.inner.topics.get(record.topic)?;
            self.inner.usable()?;
            let (mut span, injected) = self.inner.trace(&record);
            let trace = injected.of(record.carried());
            let record = record.outgoing(trace);
            let value = record.value.map_or(0, <[u8]>::len);
            let bytes = wire_size(record.key, value, record.headers.clone());
            let limit = self.inner.writer.limit;
            if bytes > limit {
                let error = Error::Oversize { index: 0, bytes, limit };
                span.failed(Fault::Error(&error));
                return Err(error);
            }
            let tracker = Tracker::new(1, span);
            let claim = Claim::new(Arc::clone(&tracker), self.inner.client.context());
            let entry = Entry::new(&tracker, 0);
            if let Err(error) = self.inner.enqueue_async(&topic, &record, entry).await {
                tracker.refuse(0, error);
            }
            let _request = self.inner.flusher.request();
            self.pending(claim).await
        };
        self.inner.measure(timer, sent.await)
    }
}

impl Inner {
    async fn submit_async<T: Serialize>(
        &self,
        topic: &str,
        messages: &[Message<T>],
        oversize: Oversize,
    ) -> Result<(Submitted, Claim)> {
        let (topic, sending) = self.begin(topic, messages, oversize)?;
        // From the first record on: the future may be dropped between two.
        let claim = Claim::new(Arc::clone(&sending.submitted.tracker), self.client.context());
        for index in 0..sending.len() {
            let given = self.enqueue_async(&topic, &sending.record(index), sending.entry(index)).await;
            if given.is_err_and(|error| !sending.refused(index, &error)) {
                break;
            }
        }
        Ok((sending.submitted, claim))
    }

    async fn enqueue_async<'a, H>(
        &self,
        topic: &Topic,
        record: &Outgoing<'a, H>,
        mut entry: Box<Entry>,
    ) -> Result<(), KafkaError>
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        let mut waiting = Waiting::default();
        while let Some(back) = self.offer(topic, record, entry, &mut waiting, self.patience)? {
            entry = back;
            self.client.context().room().await;
        }
        Ok(())
    }
}
