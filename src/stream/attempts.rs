//! Attempts at a server that may be on its way up.

use std::fmt::Display;
use std::time::Duration;

use crate::consumer::Backoff;
use crate::error::{Error, Result};

/// What came of the attempts so far.
pub(super) struct Attempts<W> {
    /// At what.
    what: W,
    backoff: Backoff,
    failures: u32,
}

impl<W: Display> Attempts<W> {
    pub(super) fn new(what: W, backoff: Backoff) -> Self {
        Self { what, backoff, failures: 0 }
    }

    /// Waits for the next one, after this error.
    ///
    /// # Errors
    /// The error itself: another attempt would not help, or there were enough.
    pub(super) async fn again(&mut self, error: Error) -> Result<()> {
        self.failures += 1;
        let Self { what, backoff, failures } = self;
        if *failures >= backoff.attempts || !error.is_retriable() {
            return Err(error);
        }
        let pause = backoff.pause(*failures);
        log::warn!("{what}: attempt {failures} of {}, again in {pause:?}: {error}", backoff.attempts);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// How long one may take.
pub(super) const ATTEMPT: Duration = Duration::from_secs(1);

/// Those at the start of a worker: ten in about 45 seconds, the time of the attempts included.
pub(super) const AT_START: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_secs(10), factor: 2.0, jitter: 0.2, attempts: 10 };
