//! rdkafka's callbacks into this crate.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::ProducerContext;

use super::delivery::{Delivery, Entry, Failure};
use super::reports::Reports;
use crate::bootstrap::Bootstrap;
use crate::client;
use crate::fault::Fault;
use crate::metrics::{ProducerMeter, Statistics};
use crate::native;
use crate::refusal::{Refusal, RefusalKind};
use crate::sync::lock;

#[derive(Default)]
pub(crate) struct Context {
    /// Records without a delivery report.
    outstanding: AtomicUsize,
    /// Failures that nobody asked for.
    unclaimed: AtomicU64,
    /// Who waits for room in the queue is woken when `outstanding` falls below this. 0: nobody waits.
    wanted: AtomicUsize,
    room: (Mutex<()>, Condvar),
    #[cfg(feature = "tokio")]
    async_room: tokio::sync::Notify,
    pub(super) reports: Arc<Reports>,
    /// Failures by refusals that `trouble` has not heard of yet.
    unmet: AtomicUsize,
    pub(super) trouble: client::Trouble,
    pub(super) bootstrap: Bootstrap,
    pub(super) meter: ProducerMeter,
    pub(super) statistics: Statistics,
}

impl Context {
    pub(super) fn new(meter: ProducerMeter) -> Self {
        Self { statistics: meter.statistics(), meter, ..Self::default() }
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::SeqCst)
    }

    pub(super) fn unclaimed(&self) -> u64 {
        self.unclaimed.load(Ordering::Relaxed)
    }

    /// To be called before a record is given to librdkafka, whose report may come at once.
    pub(super) fn enqueued(&self) {
        self.outstanding.fetch_add(1, Ordering::SeqCst);
    }

    /// A record has its report, or was not taken.
    pub(super) fn settled(&self) {
        let left = self.outstanding.fetch_sub(1, Ordering::SeqCst) - 1;
        if left < self.wanted.load(Ordering::SeqCst) && self.wanted.swap(0, Ordering::SeqCst) > 0 {
            drop(lock(&self.room.0));
            self.room.1.notify_all();
            #[cfg(feature = "tokio")]
            self.act(|context| context.async_room.notify_waiters());
        }
    }

    /// Does what runs foreign code, on the thread that may.
    fn act(&self, act: impl FnOnce(&Self) + Send + 'static) {
        if let Some(act) = self.reports.leave(act) {
            client::guarded(|| act(self));
        }
    }

    /// [`Reports::stand_back`].
    pub(super) fn stand_back(&self, at_most: Duration) -> Option<Duration> {
        self.reports.stand_back(at_most, |later| later(self))
    }

    /// Waits until about half of the queue is free, but not for long: librdkafka counts a record until all of its
    /// request were reported, so only another try tells.
    pub(super) fn wait_for_room(&self) {
        let guard = lock(&self.room.0);
        let slice = self.want_room();
        drop(self.room.1.wait_timeout(guard, slice));
    }

    /// The same without blocking the thread.
    #[cfg(feature = "tokio")]
    pub(super) async fn room(&self) {
        let notified = self.async_room.notified();
        let _ = tokio::time::timeout(self.want_room(), notified).await;
    }

    /// Asks to be woken, and says how long to wait for that.
    fn want_room(&self) -> Duration {
        let outstanding = self.outstanding();
        self.wanted.fetch_max(outstanding / 2 + 1, Ordering::SeqCst);
        Duration::from_millis(if outstanding == 0 { 1 } else { 10 })
    }

    /// A failure that nobody will ask for.
    pub(super) fn lament(&self, Failure { error, possibly_persisted }: &Failure) {
        self.unclaimed.fetch_add(1, Ordering::Relaxed);
        let doubt = if *possibly_persisted { ", it may stand in the log all the same" } else { "" };
        client::guarded(|| {
            let text = format!("a record nobody waited for was not acknowledged{doubt}: {error}");
            if let Some(repeated) = client::repeats(&text) {
                log::error!("{text}{repeated}");
            }
        });
    }
}

/// What `client_context!` does, but on the thread that may.
impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        let (facility, text) = (facility.to_owned(), text.to_owned());
        self.act(move |_| client::log(level, &facility, &text));
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let json = statistics.to_vec();
        self.act(move |context| client::statistics(&json, Some(&context.statistics)));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = reason.to_owned();
        self.act(move |context| {
            context.trouble.hear(&error, &reason);
            context.bootstrap.hear(&error);
        });
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Entry>;

    fn delivery(&self, result: &DeliveryResult<'_>, entry: Box<Entry>) {
        self.settled();
        match result {
            Ok(message) => {
                if self.unmet.load(Ordering::SeqCst) > 0
                    || self.trouble.refusals.has(|refusal| lets_in(message.topic(), refusal))
                {
                    let topic = message.topic().to_owned();
                    self.act(move |context| context.let_in(&topic));
                }
                let delivery = Delivery { partition: message.partition(), offset: message.offset().max(-1) };
                let _ = entry.tracker.settle(entry.index, Ok(delivery), |waker| self.act(|_| waker.wake()));
                // A recorder is foreign code, and may panic.
                client::guarded(|| self.meter.reported(|| message.topic(), None));
            }
            Err((error, message)) => {
                let (topic, error) = (message.topic().to_owned(), error.clone());
                let failure = Failure { error, possibly_persisted: native::possibly_persisted(message) };
                let right = failure.error.rdkafka_error_code().and_then(|code| Refusal::of_right(code, &topic));
                let refusal = right.filter(|refusal| refusal.kind == RefusalKind::Topic);
                self.unmet.fetch_add(refusal.is_some().into(), Ordering::SeqCst);
                self.act(move |context| context.failed(*entry, &topic, failure, refusal));
            }
        }
    }
}

/// Whether this refusal may be over once a record of the topic is acknowledged.
fn lets_in(topic: &str, refusal: &Refusal) -> bool {
    match refusal.kind {
        RefusalKind::Topic => refusal.subject.as_deref() == Some(topic),
        kind => kind.is_of_connection(),
    }
}

impl Context {
    /// A record of this topic was acknowledged.
    fn let_in(&self, topic: &str) {
        self.trouble.refusals.answered();
        self.trouble.refusals.over(|refusal| refusal.kind == RefusalKind::Topic && lets_in(topic, refusal));
    }

    fn failed(&self, Entry { tracker, index }: Entry, topic: &str, failure: Failure, refusal: Option<Refusal>) {
        let code = failure.error.rdkafka_error_code();
        if code == Some(Code::MessageTimedOut) {
            self.bootstrap.fear();
        }
        if let Some(refusal) = refusal {
            self.trouble.refusals.met(refusal);
            self.unmet.fetch_sub(1, Ordering::SeqCst);
        }
        if let Some(failure) = tracker.settle(index, Err(Box::new(failure)), |waker| client::guarded(|| waker.wake())) {
            self.lament(&failure);
        }
        client::guarded(|| self.meter.reported(|| topic, Some(Fault::Code(code))));
    }
}
