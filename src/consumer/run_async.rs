//! Handlers that are async: the same engine, driven by a task instead of a thread.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use serde::de::DeserializeOwned;

use crate::consumer::attempt::{Failed, decoded, panicked, refused};
use crate::consumer::desk::{Handed, Hold, Next};
use crate::consumer::{COMMIT_DEADLINE, Consumer, Summary, first_of};
use crate::error::{HandlerError, Result};
use crate::message::Batch;
use crate::message::arena::Arena;

impl Consumer {
    /// As [`Consumer::run`], with an async handler: its thread is free for other tasks while it waits. Needs tokio, with
    /// its time driver.
    ///
    /// ```
    /// # use kafka_envelope::testing::EmbeddedBroker;
    /// use std::time::Duration;
    ///
    /// use kafka_envelope::{Batch, Consumer, Message, Producer};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = EmbeddedBroker::start()?;
    /// # broker.create_topic("orders", 1)?;
    /// # let brokers = broker.bootstrap_servers().to_owned();
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    /// # runtime.block_on(async move {
    /// let producer = Producer::new("shop", &brokers)?;
    /// producer.send("orders", &Message::new(3u32))?.await?;
    ///
    /// let mut consumer = Consumer::builder("billing", &brokers, "billing-group").topics(["orders"]).build()?;
    /// let stopper = consumer.stopper();
    /// // `move`: a closure that captures by reference cannot be spawned.
    /// let service = async move |batch: &Batch<u32>| {
    ///     for order in batch.iter() {
    ///         tokio::time::sleep(Duration::from_millis(order.payload.into())).await;
    ///     }
    ///     stopper.stop();
    ///     Ok(())
    /// };
    /// let summary = consumer.run_async(service).await?;
    /// assert_eq!(summary.records, 1);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Cancellation
    /// Dropping the future drops the handler's where it stands, and commits nothing of its batch; the next run hands it
    /// over first. To end a run after the batch in hand, use [`Consumer::stopper`] or [`Consumer::run_async_until`].
    ///
    /// The consumer's own end blocks: [`Consumer::close`] belongs on a thread that may, as
    /// `tokio::task::spawn_blocking` has them, and so does dropping it.
    ///
    /// # Errors
    /// As [`Consumer::process`].
    pub async fn run_async<T, F>(&mut self, mut handler: F) -> Result<Summary>
    where
        T: DeserializeOwned,
        F: AsyncFnMut(&Batch<'_, T>) -> Result<(), HandlerError>,
    {
        if self.is_unsettled && !self.link.is_stopped() {
            self.link.restart_from_committed_async().await?;
            self.is_unsettled = false;
        }
        self.desk.summary = Summary::default();
        let outcome = loop {
            let (polling, next) = (self.desk.options.sight.tracing.polling(), self.next_async().await);
            self.desk.polled(polling, &next);
            let handled = match next {
                Ok(Handed::Records) => self.handle_async(&mut handler).await,
                Ok(Handed::Gone) => Ok(true),
                Ok(Handed::Nothing) => Ok(false),
                Err(error) => Err(error),
            };
            match handled {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
            yield_now().await;
        };
        first_of(outcome, self.confirm_async(true).await)?;
        Ok(self.desk.summary)
    }

    /// As [`Consumer::run_async`], until `shutdown` is ready: then the batch in hand is finished and committed. For good,
    /// as [`Stopper::stop`](crate::Stopper::stop).
    ///
    /// # Errors
    /// As [`Consumer::process`].
    pub async fn run_async_until<T, F>(&mut self, handler: F, shutdown: impl Future<Output = ()>) -> Result<Summary>
    where
        T: DeserializeOwned,
        F: AsyncFnMut(&Batch<'_, T>) -> Result<(), HandlerError>,
    {
        let stopper = self.stopper();
        let mut run = pin!(self.run_async(handler));
        let mut shutdown = pin!(Some(shutdown));
        poll_fn(|task| {
            if shutdown.as_mut().as_pin_mut().is_some_and(|shutdown| shutdown.poll(task).is_ready()) {
                shutdown.set(None);
                stopper.stop();
            }
            run.as_mut().poll(task)
        })
        .await
    }

    async fn next_async(&mut self) -> Result<Handed> {
        let Self { link, desk, .. } = self;
        link.wait_for_async(|state| desk.next(link, state)).await
    }

    /// As [`Consumer::handle`].
    async fn handle_async<T, F>(&mut self, handler: &mut F) -> Result<bool>
    where
        T: DeserializeOwned,
        F: AsyncFnMut(&Batch<'_, T>) -> Result<(), HandlerError>,
    {
        loop {
            {
                let Self { link, desk, .. } = self;
                let _hold = Hold(link);
                let observed = desk.observe();
                let outcome = observed.during(attempt_async(desk.handed(), handler)).await;
                let processing = desk.observed(observed, &outcome);
                let mut next = desk.settle(link, outcome, processing)?;
                if let Next::Bury(letters) = next {
                    let mut outcomes = Vec::with_capacity(letters.len());
                    for letter in letters {
                        outcomes.push((letter.place, letter.pending.await));
                    }
                    next = desk.buried(link, outcomes)?;
                }
                if matches!(next, Next::Finished) {
                    return Ok(true);
                }
            }
            match self.next_async().await? {
                Handed::Records => {}
                Handed::Gone => return Ok(true),
                Handed::Nothing => return Ok(false),
            }
        }
    }

    pub(crate) async fn confirm_async(&mut self, is_last: bool) -> Result<()> {
        let deadline = Instant::now() + COMMIT_DEADLINE;
        self.link.await_commits();
        self.link.wait_for_async(|state| state.confirm_by(deadline, is_last)).await
    }
}

/// As [`attempt`](super::attempt::attempt).
async fn attempt_async<T, F>(arena: &Arena, handler: &mut F) -> Result<(), Failed>
where
    T: DeserializeOwned,
    F: AsyncFnMut(&Batch<'_, T>) -> Result<(), HandlerError>,
{
    let batch = catch_unwind(|| decoded::<T>(arena)).unwrap_or_else(|panic| Err(panicked(&*panic, None)))?;
    if batch.is_empty() {
        return Ok(());
    }
    // In a future of its own, so that a handler that panics before it is one is caught, too.
    match caught(async { handler(&batch).await }).await {
        Ok(answer) => answer.map_err(|error| refused(&batch, error, arena)),
        Err(panic) => Err(panicked(&*panic, None)),
    }
}

/// A future whose panic is its outcome.
pub(crate) async fn caught<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    poll_fn(|task| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(task))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// Lets other tasks run, where batches never cease to be there.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|task| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        task.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
