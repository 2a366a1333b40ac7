//! From an outbox and offsets to a committed transaction, or to what is known of it.

use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::Producer as _;

use super::calls::Failed;
use super::{Session, TransactionalProducer};
use crate::consumer::Membership;
use crate::error::{Error, TransactionOutcome as Outcome, is_group_fencing};

/// How long one try to take over a `transactional.id` may take: a run looks between two whether it was stopped.
const INIT: Duration = Duration::from_secs(5);

/// How long an abort may take. After that a new client ends the transaction.
const ABORT: Duration = Duration::from_secs(10);

/// Why a transaction's outputs and offsets are not committed, or may not be.
#[derive(Debug)]
pub(crate) enum TransactionFailure {
    /// Nothing of it counts. The same outbox may be committed again.
    Aborted { error: Box<Error>, cause: Cause },
    /// It may be committed. Before anything else: [`TransactionalProducer::ready`], then the committed offsets.
    Unknown(Box<Error>),
    /// Another producer has this id: the run is over.
    Fenced(Box<Error>),
}

/// Why a transaction was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The group does not take offsets from this member as it was: the records that it still has need new metadata.
    Group,
    /// The outputs or offsets themselves are not taken, so the next try fails the same way.
    Refused,
    /// No transaction of this service would be taken, whatever is in it: a right is missing, or a setting is wrong.
    Denied,
    /// An outage, or a client that had to be replaced.
    Passing,
}

/// A step that failed, before `commit_transaction` was called.
struct Broken {
    step: &'static str,
    failed: Failed,
    /// Records that failed, which may be why.
    records: Option<Box<Error>>,
}

impl TransactionalProducer {
    /// Takes over the `transactional.id`, unless that is done: what an earlier client left open is committed or aborted
    /// afterwards, and the committed offsets say which.
    ///
    /// To be called before a run reads its position, and after [`TransactionFailure::Unknown`].
    pub(crate) fn ready(&mut self) -> Result<(), TransactionFailure> {
        let deadline = Instant::now() + INIT.min(self.limit);
        if self.session.is_none() {
            let started = Session::start(&self.builder);
            let failure = |error| TransactionFailure::Aborted { error: Box::new(error), cause: Cause::Passing };
            self.session = Some(started.map_err(failure)?);
        }
        let Some(session) = self.session.as_mut().filter(|session| !session.initialised) else { return Ok(()) };
        let initialised = session.calls.make(deadline, |client, timeout| client.init_transactions(timeout));
        match initialised {
            Ok(()) => {
                session.initialised = true;
                Ok(())
            }
            // The same client goes on with it at the next call.
            Err(Failed::Late(error)) => {
                let error = self.error("init_transactions", Outcome::Aborted, error);
                Err(TransactionFailure::Aborted { error, cause: Cause::Passing })
            }
            Err(failed) => Err(self.broken(Broken { step: "init_transactions", failed, records: None })),
        }
    }

    /// Commits what is in the outbox and the offsets in one transaction. Takes at most twice `LIMIT`, for the taking
    /// over and for itself, and the time of an abort.
    pub(crate) fn commit(
        &mut self,
        offsets: &TopicPartitionList,
        member: &Membership,
    ) -> Result<(), TransactionFailure> {
        if self.staged.records().len() == 0 && offsets.count() == 0 {
            return Ok(());
        }
        self.ready()?;
        let Some(session) = &self.session else {
            let failed = Failed::Late(KafkaError::Canceled);
            return Err(self.broken(Broken { step: "init_transactions", failed, records: None }));
        };
        let deadline = Instant::now() + self.limit;
        if let Err(broken) = self.write(session, deadline, offsets, member) {
            return Err(self.broken(broken));
        }
        match session.calls.make(deadline, |client, timeout| client.commit_transaction(timeout)) {
            Ok(()) => Ok(()),
            // From here on the broker may have been told to commit. An abort that works would not say that it was not:
            // it may be one that only raises the epoch.
            Err(failed) => {
                let outcome = if is_fenced(session, &failed) { Outcome::Fenced } else { Outcome::Unknown };
                let error = self.error("commit_transaction", outcome, failed.into_error());
                if outcome == Outcome::Fenced {
                    return Err(TransactionFailure::Fenced(error));
                }
                self.discard();
                Err(TransactionFailure::Unknown(error))
            }
        }
    }

    /// All of a transaction but the commit.
    fn write(
        &self,
        session: &Session,
        deadline: Instant,
        offsets: &TopicPartitionList,
        member: &Membership,
    ) -> Result<(), Broken> {
        let step = "begin_transaction";
        let begun = session.calls.make(deadline, |client, _| client.begin_transaction());
        begun.map_err(|failed| Broken { step, failed, records: None })?;

        let in_flight = session.producer.send_all(self.staged.records(), deadline);
        let reported = in_flight.wait_until(deadline);
        let records = in_flight.error().map(Box::new);
        let client = session.producer.client();
        let late = || {
            let fatal = client.client().fatal_error().map(|(code, _)| code);
            Failed::Abortable(KafkaError::MessageProduction(fatal.unwrap_or(Code::OperationTimedOut)))
        };
        if !reported || records.is_some() {
            return Err(Broken { step: "produce", failed: late(), records });
        }
        // Only now, though both could be under way at once: right after a commit the broker asks to come again, and
        // librdkafka does that sooner for records than for offsets. And if the transaction failed meanwhile, this says
        // why.
        if offsets.count() > 0 {
            let step = "send_offsets_to_transaction";
            let (offsets, group) = (offsets.clone(), member.metadata());
            let sent = session
                .calls
                .make(deadline, move |client, timeout| client.send_offsets_to_transaction(&offsets, &group, timeout));
            sent.map_err(|failed| Broken { step, failed, records: None })?;
        }
        // rdkafka's commit sleeps where librdkafka is not yet done with a record that is reported.
        if in_flight.purged() || !session.producer.settled_by(deadline) {
            return Err(Broken { step: "produce", failed: late(), records: None });
        }
        Ok(())
    }

    /// Ends a transaction of which nothing was committed.
    fn broken(&mut self, Broken { step, failed, records }: Broken) -> TransactionFailure {
        let fenced = self.session.as_ref().is_some_and(|session| is_fenced(session, &failed));
        if fenced {
            return TransactionFailure::Fenced(self.error(step, Outcome::Fenced, failed.into_error()));
        }
        let aborted = matches!(failed, Failed::Abortable(_)) && self.abort();
        // After a record that the broker refused librdkafka leaves a gap in the sequence, and the next transaction would
        // fail of that. One that could write nothing in time may never again: it can lose its brokers for good (see
        // `Bootstrap`), and once the transaction's coordinator was among them librdkafka does not even say so.
        if !aborted || step == "produce" {
            self.discard();
        }
        let source = failed.into_error();
        let cause = cause(&source);
        match records.filter(|_| !matches!(cause, Cause::Group | Cause::Denied)) {
            Some(error) if error.is_retriable() => TransactionFailure::Aborted { error, cause: Cause::Passing },
            Some(error) => TransactionFailure::Aborted { error, cause: Cause::Refused },
            None => TransactionFailure::Aborted { error: self.error(step, Outcome::Aborted, source), cause },
        }
    }

    /// False: the client cannot go on.
    fn abort(&self) -> bool {
        let Some(session) = &self.session else { return false };
        let aborted = session.calls.make(Instant::now() + ABORT, |client, timeout| client.abort_transaction(timeout));
        if let Err(failed) = &aborted {
            log::warn!("a transaction of {} cannot be aborted, a new client will: {failed:?}", self.id);
        }
        aborted.is_ok()
    }

    /// Lets go of the client. The next one ends what it left open.
    pub(super) fn discard(&mut self) {
        if let Some(Session { calls, producer, .. }) = self.session.take() {
            drop(calls);
            producer.discard();
        }
    }

    fn error(&self, step: &'static str, outcome: Outcome, source: KafkaError) -> Box<Error> {
        Box::new(Error::Transaction { transactional_id: self.id.as_str().into(), step, outcome, source })
    }
}

/// Whether another producer has taken over the id. Where the broker said so to a record, librdkafka tells by its fatal
/// error.
fn is_fenced(session: &Session, failed: &Failed) -> bool {
    let fencing = |code| matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch);
    let (Failed::Fatal(error) | Failed::Abortable(error) | Failed::Late(error) | Failed::Stuck(error)) = failed;
    error.rdkafka_error_code().is_some_and(fencing)
        || session.producer.client().client().fatal_error().is_some_and(|(code, _)| fencing(code))
}

fn cause(error: &KafkaError) -> Cause {
    if is_group_fencing(error) {
        return Cause::Group;
    }
    match error.rdkafka_error_code() {
        Some(Code::TopicAuthorizationFailed) => Cause::Refused,
        Some(
            Code::GroupAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::InvalidTransactionTimeout
            | Code::UnsupportedFeature,
        ) => Cause::Denied,
        _ => Cause::Passing,
    }
}
