//! An app that runs.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::app::answers;
use crate::app::builder::AppBuilder;
use crate::app::counts::Counts;
use crate::app::emitter::{Emitter, Shared};
use crate::app::engine::{CLOSE, Engine, Owned, on_thread};
use crate::consumer::{Consumer, Health, Stopper, first_of};
use crate::error::{Error, Result};

/// How long the end waits for events that nobody waits for.
const FLUSH: Duration = Duration::from_secs(5);

/// A service that handles events: handlers and pipelines by an event's name, and responses to its own questions.
#[must_use = "an app does nothing until `run_until`"]
pub struct App {
    shared: Arc<Shared>,
    /// None, where no topic is listened to.
    engine: Option<Engine>,
    /// Reads responses, where there are any to wait for.
    answers: Owned,
    counts: Counts,
    health: Option<Health>,
}

impl App {
    /// A builder for an app of this name, on these brokers: `host:port`, with commas between.
    pub fn builder(name: &str, brokers: &str) -> AppBuilder {
        AppBuilder::new(name, brokers)
    }

    pub(super) fn new(
        shared: Arc<Shared>,
        engine: Option<Engine>,
        answers: Option<Consumer>,
        counts: Counts,
        health: Option<Health>,
    ) -> Self {
        Self { shared, engine, answers: Owned(answers), counts, health }
    }

    /// Sends events from outside of handlers. Responses reach it while the app runs.
    #[must_use]
    pub fn emitter(&self) -> Emitter {
        Emitter::new(Arc::clone(&self.shared))
    }

    /// What this app has done so far, to be asked while it runs.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// The health of the app's consumer, to be asked while it runs. `None` where it listens to no topic.
    #[must_use]
    pub fn health(&self) -> Option<Health> {
        self.health.clone()
    }

    /// Handles events until `shutdown` is ready, [`shutdown_signal`](crate::shutdown_signal) for one, or something fails
    /// for good. Then nothing more begins; what is being handled is finished within
    /// [`drain_timeout`](AppBuilder::drain_timeout), what is done is committed, and what was sent is flushed.
    ///
    /// Dropping the future ends the app at once: what is being handled is dropped where it stands, and comes again.
    ///
    /// # Errors
    /// The first failure that the policies do not let pass: [`Error::Handler`], [`Error::Undecodable`],
    /// [`Error::DeadLetter`]; [`Error::Partition`] and [`Error::Kafka`] where Kafka itself cannot go on;
    /// [`Error::NotCommitted`] and [`Error::Closed`] where the end did not go well.
    pub async fn run_until(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let Self { shared, engine, mut answers, .. } = self;
        let mut reading = answers.0.take().map(|consumer| Reading::start(consumer, &shared));
        let ended = {
            // Without its responses the app cannot go on.
            let until = async {
                match &mut reading {
                    None => shutdown.await,
                    Some(reading) => tokio::select! {
                        () = shutdown => {}
                        () = reading.ended() => {}
                    },
                }
            };
            match engine {
                Some(engine) => engine.run_until(until).await,
                None => {
                    until.await;
                    Ok(())
                }
            }
        };
        let read = match reading {
            Some(reading) => reading.stop().await,
            None => Ok(()),
        };
        let producer = shared.producer.clone();
        let flushed = on_thread(move || producer.flush(FLUSH)).await;
        first_of(first_of(ended, read), flushed)
    }
}

/// The task that reads responses.
struct Reading {
    task: Option<JoinHandle<Result<()>>>,
    outcome: Result<()>,
    stopper: Stopper,
}

impl Reading {
    fn start(consumer: Consumer, shared: &Arc<Shared>) -> Self {
        let stopper = consumer.stopper();
        let shared = Arc::clone(shared);
        let mut consumer = Owned(Some(consumer));
        let task = tokio::spawn(async move {
            let read = match &mut consumer.0 {
                Some(consumer) => answers::run(consumer, shared).await,
                None => Ok(()),
            };
            match consumer.0.take() {
                Some(consumer) => first_of(read, on_thread(move || consumer.close(CLOSE)).await),
                None => read,
            }
        });
        Self { task: Some(task), outcome: Ok(()), stopper }
    }

    /// Until it has failed.
    async fn ended(&mut self) {
        if let Some(task) = &mut self.task {
            let outcome = pin!(task).await;
            self.task = None;
            self.outcome = outcome
                .unwrap_or_else(|error| Err(Error::Closed(format!("the reader of responses has failed: {error}"))));
        }
    }

    async fn stop(mut self) -> Result<()> {
        self.stopper.stop();
        self.ended().await;
        std::mem::replace(&mut self.outcome, Ok(()))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // The task ends by itself: its consumer's end may block, which a drop must not.
        self.stopper.stop();
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("name", &self.shared.app).field("id", &self.shared.app_id).finish_non_exhaustive()
    }
}
