//! librdkafka's transactional calls, each within a deadline.
//!
//! Not all of them keep their timeout: `send_offsets_to_transaction` waits for its answer as long as that takes, with a
//! frozen broker for `socket.timeout.ms`, and for ever in some states. So a thread makes them, and who waits for it can
//! give up.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};

use crate::client;
use crate::error::Result;
use crate::producer::Client;

/// The most that one call may take before it is made again.
const CALL: Duration = Duration::from_secs(10);

/// What a call that keeps its timeout may take beyond it.
const GRACE: Duration = Duration::from_secs(1);

/// Between two tries that failed at once.
const PAUSE: Duration = Duration::from_millis(20);

type Job = Box<dyn FnOnce(&Client) + Send>;

/// The thread that makes a client's calls. It ends with this, or when the call in hand does.
pub(super) struct Calls {
    jobs: Sender<Job>,
}

/// Why a call failed. The order of the checks is librdkafka's: fatal, abortable, retriable, else fatal.
#[derive(Debug)]
pub(super) enum Failed {
    /// The client is beyond use.
    Fatal(KafkaError),
    /// The transaction has to be aborted, the client goes on.
    Abortable(KafkaError),
    /// Not done by the deadline: what librdkafka said last.
    Late(KafkaError),
    /// No answer at all: the call is still under way, and what comes of it nobody will hear.
    Stuck(KafkaError),
}

impl Failed {
    fn of(error: KafkaError) -> Result<KafkaError, Self> {
        let KafkaError::Transaction(transaction) = &error else { return Err(Self::Fatal(error)) };
        if transaction.is_fatal() {
            Err(Self::Fatal(error))
        } else if transaction.txn_requires_abort() {
            Err(Self::Abortable(error))
        } else if transaction.is_retriable() {
            Ok(error)
        } else {
            Err(Self::Fatal(error))
        }
    }

    pub(super) fn into_error(self) -> KafkaError {
        match self {
            Self::Fatal(error) | Self::Abortable(error) | Self::Late(error) | Self::Stuck(error) => error,
        }
    }
}

impl Calls {
    pub(super) fn start(client: &Arc<Client>) -> Result<Self> {
        let (jobs, taken): (Sender<Job>, Receiver<Job>) = channel();
        let client = Arc::clone(client);
        let body = move || {
            for job in taken {
                client::guarded(|| job(&client));
            }
        };
        let spawned = thread::Builder::new().name("kafka-envelope-transaction".to_owned()).spawn(body);
        spawned.map_err(|error| KafkaError::ClientCreation(format!("cannot start a thread: {error}")))?;
        Ok(Self { jobs })
    }

    /// Makes a call, again while librdkafka says that it may be, until the deadline.
    pub(super) fn make(
        &self,
        deadline: Instant,
        call: impl Fn(&Client, Duration) -> KafkaResult<()> + Send + 'static,
    ) -> Result<(), Failed> {
        let (answer, answered) = channel();
        let job: Job = Box::new(move |client| {
            // Nobody may wait any more.
            let _ = answer.send(repeat(deadline, |timeout| call(client, timeout)));
        });
        let stuck = || Failed::Stuck(KafkaError::Global(Code::OperationTimedOut));
        self.jobs.send(job).map_err(|_| stuck())?;
        let left = deadline.saturating_duration_since(Instant::now());
        answered.recv_timeout(left + GRACE).unwrap_or_else(|_| Err(stuck()))
    }
}

fn repeat(deadline: Instant, call: impl Fn(Duration) -> KafkaResult<()>) -> Result<(), Failed> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Err(error) = call(left.min(CALL)) else { return Ok(()) };
        let error = Failed::of(error)?;
        if deadline.saturating_duration_since(Instant::now()) <= PAUSE {
            return Err(Failed::Late(error));
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_error_of_a_transaction_is_fatal() {
        let tried = std::cell::Cell::new(0);
        let failed = repeat(Instant::now() + CALL, |_| {
            tried.set(tried.get() + 1);
            Err(KafkaError::Flush(Code::OperationTimedOut))
        });
        assert!(matches!(failed, Err(Failed::Fatal(_))) && tried.get() == 1, "{failed:?}");
    }
}
