//! How an engine ends, and clients whose end would block.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::app::engine::Engine;
use crate::consumer::{Consumer, first_of};
use crate::error::{Error, Result};

/// How long the end waits for tasks that were given up to be dropped.
const ABORT: Duration = Duration::from_millis(500);
/// How long the client's end may take.
pub(in crate::app) const CLOSE: Duration = Duration::from_secs(5);

impl Engine {
    /// What is being handled is finished, but no longer than for the drain's time.
    pub(super) async fn finish(&mut self) -> Result<()> {
        self.schedule.clear();
        self.retries.clear();
        let deadline = Instant::now() + self.drain;
        let mut outcome = Ok(());
        while let Ok(Some(ended)) = timeout_at(deadline, self.running.join_next()).await {
            let settled = self.settle_all(ended);
            // Nothing begins any more.
            self.schedule.clear();
            self.retries.clear();
            self.tell();
            outcome = first_of(outcome, settled);
        }
        if !self.running.is_empty() {
            let (left, drain) = (self.running.len(), self.drain);
            log::warn!("{left} tasks are given up, which did not end within {drain:?}: their records come again");
            self.running.abort_all();
            // One that blocks its thread, or panics in a drop, has no end that could be waited for.
            let ended = async { while self.running.join_next().await.is_some() {} };
            let _ = timeout(ABORT, ended).await;
        }
        outcome
    }

    /// What is done is committed, and the consumer leaves its group.
    pub(super) async fn close(&mut self) -> Result<()> {
        self.tell();
        let Some(mut consumer) = self.consumer.0.take() else { return Ok(()) };
        let confirmed = consumer.confirm_async(true).await;
        first_of(confirmed, on_thread(move || consumer.close(CLOSE)).await)
    }
}

/// A consumer whose end does not block the thread that drops it.
pub(in crate::app) struct Owned(pub(in crate::app) Option<Consumer>);

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(consumer) = self.0.take() {
            // Without a thread it has to block here.
            let _ = std::thread::Builder::new().name("kafka-envelope close".into()).spawn(move || drop(consumer));
        }
    }
}

/// Runs on a thread of its own: those of the runtime that may block may all be taken, by handlers that never end.
pub(in crate::app) async fn on_thread(end: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let (sender, ended) = oneshot::channel();
    let work = move || drop(sender.send(end()));
    std::thread::Builder::new()
        .name("kafka-envelope end".into())
        .spawn(work)
        .map_err(|error| Error::Closed(format!("no thread could be started: {error}")))?;
    ended.await.unwrap_or_else(|_| Err(Error::Closed("the end of a client panicked".into())))
}
