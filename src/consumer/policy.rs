//! When offsets are committed, what happens to a batch whose handler fails, and to a record that cannot be read.

use std::time::Duration;

use uuid::Uuid;

use crate::consumer::FOR_EVER;
use crate::error::{Error, Result};

/// When offsets are committed. Either way only after the handler returned `Ok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Every batch waits for the confirmation of its commit before the next is handed over, for as long as that takes. A
    /// crash repeats one batch.
    EachBatch,
    /// Commits go on beside the handling, one at a time; each carries all that was completed meanwhile. Those of a run
    /// begin 200 ms after each other at the soonest, while less than half of `max_batches` is unconfirmed and no call and
    /// no revocation waits for them.
    Overlapped {
        /// So many batches may be handled and not confirmed; then handling waits. A crash repeats at most these and the
        /// one in hand.
        max_batches: usize,
    },
}

impl Default for Commit {
    fn default() -> Self {
        Self::Overlapped { max_batches: 256 }
    }
}

/// What happens when the handler fails, by an error or a panic. By default the run stops.
///
/// ```
/// use std::time::Duration;
///
/// use kafka_envelope::{Backoff, Consumer, GiveUp, OnError};
///
/// // Up to 8 attempts, the first after 50 ms; then the records that still fail become dead letters.
/// let backoff = Backoff { first: Duration::from_millis(50), attempts: 8, ..Backoff::default() };
/// let builder = Consumer::builder("billing", "localhost:9092", "billing-group")
///     .topics(["orders"])
///     .on_error(OnError::retry(backoff).then(GiveUp::DeadLetter).bisect(true));
/// ```
///
/// # Attempts
/// A failed batch is handed over again from memory: nothing is fetched anew, and the consumer stays in its group. Failed
/// attempts are counted for each record. An error with an index ([`HandlerError::at`](crate::HandlerError::at)) counts
/// for the record at the index alone, and what stands before it is done; any other counts for all records that were
/// handed over. [`Batch::attempt`](crate::Batch::attempt) tells the handler. A record whose partition goes to another
/// consumer starts there from 1.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct OnError {
    pub(super) backoff: Backoff,
    pub(super) then: GiveUp,
    pub(super) bisect: bool,
}

impl OnError {
    /// The first failure ends the run with its error. The next run hands the batch over once more.
    pub fn stop() -> Self {
        Self::retry(Backoff { attempts: 1, ..Backoff::default() })
    }

    /// The batch is handed over again, up to [`Backoff::attempts`] times in all; then the run stops, unless
    /// [`OnError::then`] says otherwise.
    pub fn retry(backoff: Backoff) -> Self {
        Self { backoff, then: GiveUp::Stop, bisect: false }
    }

    /// What happens to records whose attempts are used up.
    pub fn then(mut self, give_up: GiveUp) -> Self {
        self.then = give_up;
        self
    }

    /// Whether a batch whose attempts are used up is halved, until those records stand alone that fail: only they are
    /// given up, the others are completed, in order.
    ///
    /// For k such records among n it takes at most 2k·log2(n) further calls of the handler, without pauses.
    /// Without it, or where the handler names the record ([`HandlerError::at`](crate::HandlerError::at)), nothing is
    /// halved.
    pub fn bisect(mut self, bisect: bool) -> Self {
        self.bisect = bisect;
        self
    }
}

impl Default for OnError {
    fn default() -> Self {
        Self::stop()
    }
}

/// What becomes of a record whose attempts are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GiveUp {
    /// The run ends with the error, and the record is not committed.
    #[default]
    Stop,
    /// It is logged as an error, counted ([`Summary::skipped`](crate::Summary::skipped)) and committed.
    Skip,
    /// It is written to the dead-letter topic, counted ([`Summary::dead_lettered`](crate::Summary::dead_lettered)), and
    /// committed once the topic has acknowledged it. Where it cannot be written, the run stops: nothing is lost.
    DeadLetter,
}

/// What becomes of a record that is no envelope, or whose payload does not fit the handler's type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUndecodable {
    /// The run ends with [`Error::Undecodable`], before the handler sees anything of the batch.
    #[default]
    Stop,
    /// As [`GiveUp::Skip`]; the handler gets the rest of the batch.
    Skip,
    /// As [`GiveUp::DeadLetter`]; the handler gets the rest of the batch.
    DeadLetter,
}

/// How often and after which pauses a batch is handed over again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The pause after the first failure.
    pub first: Duration,
    /// The longest pause.
    pub max: Duration,
    /// How many times as long each pause is as the one before. At least 1.
    pub factor: f64,
    /// From 0 to 1: each pause is cut by a random part of itself up to this, so that the members of a group do not try
    /// in step.
    pub jitter: f64,
    /// How often a record may fail in all. At least 1.
    pub attempts: u32,
}

impl Default for Backoff {
    /// 7 attempts in about 6 seconds: pauses of 100 ms, 200 ms and so on up to 3.2 s, each cut by up to a fifth.
    fn default() -> Self {
        Self { first: Duration::from_millis(100), max: Duration::from_secs(30), factor: 2.0, jitter: 0.2, attempts: 7 }
    }
}

impl Backoff {
    pub(crate) fn check(&self, key: &str) -> Result<()> {
        let refuse = |what| Err(Error::setting(key, what));
        if self.attempts == 0 {
            return refuse("`attempts` must be at least 1");
        }
        if !(self.factor.is_finite() && self.factor >= 1.0) {
            return refuse("`factor` must be at least 1");
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return refuse("`jitter` must be from 0 to 1");
        }
        Ok(())
    }

    /// The pause after so many failures.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        // 53 random bits, as many as the number holds.
        let random = (Uuid::new_v4().as_u128() >> 75) as f64 / (1u64 << 53) as f64;
        self.pause_with(failures, random)
    }

    fn pause_with(&self, failures: u32, random: f64) -> Duration {
        if self.first.is_zero() {
            return Duration::ZERO;
        }
        let power = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.first.as_secs_f64() * self.factor.powi(power);
        let longest = self.max.min(FOR_EVER);
        let pause = Duration::try_from_secs_f64(seconds).map_or(longest, |pause| pause.min(longest));
        pause.mul_f64(1.0 - self.jitter * random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit() {
        let backoff = Backoff { max: Duration::from_secs(1), jitter: 0.5, ..Backoff::default() };
        let pauses = |random| [1, 2, 3, 4, 5, 1_000_000].map(|n| backoff.pause_with(n, random).as_millis());
        assert_eq!(pauses(0.0), [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(pauses(1.0), [50, 100, 200, 400, 500, 500]);
        for _ in 0..1_000 {
            let pause = backoff.pause(1).as_millis();
            assert!((50..=100).contains(&pause), "{pause}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert!(Backoff::default().check("on_error").is_ok());
        let refused = [
            Backoff { attempts: 0, ..Backoff::default() },
            Backoff { factor: 0.5, ..Backoff::default() },
            Backoff { factor: f64::NAN, ..Backoff::default() },
            Backoff { factor: f64::INFINITY, ..Backoff::default() },
            Backoff { jitter: 1.5, ..Backoff::default() },
            Backoff { jitter: f64::NAN, ..Backoff::default() },
        ];
        for backoff in refused {
            assert!(backoff.check("on_error").is_err(), "{backoff:?}");
        }
        // As long as can be is no panic.
        let endless = Backoff { first: Duration::MAX, max: Duration::MAX, ..Backoff::default() };
        assert_eq!(endless.pause_with(7, 0.0), FOR_EVER);
        let none = Backoff { first: Duration::ZERO, ..Backoff::default() };
        assert_eq!(none.pause_with(u32::MAX, 0.0), Duration::ZERO);
    }
}
