//! Batches whose outputs and offsets are committed in one transaction: the consumer's part of it.

use std::time::{Duration, Instant};

use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::consumer::attempt::{Cause, Failed};
use crate::consumer::desk::{Handed, Hold};
use crate::consumer::ledger::{CommitOffset, TopicPartition};
use crate::consumer::membership::Membership;
use crate::consumer::{COMMIT_DEADLINE, Consumer, Summary, bury, first_of};
use crate::error::{BoxError, Error, Result};
use crate::fault::Fault;
use crate::message::arena::Arena;

/// A handler whose outputs go into transactions.
pub(crate) trait Transactions {
    /// Hands the records over. The outputs of an earlier attempt are forgotten.
    fn attempt(&mut self, arena: &Arena) -> Result<(), Failed>;

    /// Commits the outputs of the last attempt together with these offsets.
    fn commit(&mut self, offsets: &TopicPartitionList, member: &Membership) -> Outcome;

    /// Sees to it that whatever was begun before has ended, well or not, in this process or an earlier one. An open
    /// transaction would hold back the group's offsets. `Committed`: it has; `Aborted`: not yet.
    fn settle(&mut self) -> Outcome;
}

/// Until the next try where transactions cannot begin.
const SETTLE_PAUSE: Duration = Duration::from_secs(1);

/// What became of a transaction.
#[derive(Debug)]
pub(crate) enum Outcome {
    Committed,
    /// It was aborted, for no fault of the handler's: the batch is handed over again.
    Aborted(Error),
    /// It was aborted because of what the handler wants to send.
    Refused(BoxError),
    /// Nobody knows. Once [`Transactions::settle`] has brought about an end, the group's offsets tell.
    Unknown(Error),
    /// It can do no more.
    Failed(Error),
}

impl Outcome {
    pub(super) fn fault(&self) -> Option<Fault<'_>> {
        match self {
            Self::Committed => None,
            Self::Aborted(error) | Self::Unknown(error) | Self::Failed(error) => Some(Fault::Error(error)),
            Self::Refused(error) => Some(error.downcast_ref().map_or(Fault::Handler(&**error), Fault::Error)),
        }
    }
}

impl Consumer {
    /// As [`Consumer::run`], with a commit in a transaction for every attempt that succeeds.
    pub(crate) fn run_transactions(&mut self, transactions: &mut impl Transactions) -> Result<Summary> {
        if !self.reads_committed {
            let reason = "has to be `read_committed`: else records of aborted transactions would be handled";
            return Err(Error::setting("isolation.level", reason));
        }
        if self.starts_at_end {
            let reason =
                "has to be `earliest`: with nothing committed yet, what a broken transaction had read would be skipped";
            return Err(Error::setting("auto.offset.reset", reason));
        }
        self.desk.summary = Summary::default();
        let outcome = loop {
            match self.transact(transactions) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // What was given up is committed without a transaction.
        first_of(outcome, self.confirm(true))?;
        Ok(self.desk.summary)
    }

    /// Where the end of the last transaction is not known, all that was taken is forgotten: the group's offsets tell.
    pub(super) fn restart_where_unsettled(&mut self) -> Result<()> {
        if self.is_unsettled && !self.link.is_stopped() {
            self.link.restart_from_committed()?;
            self.is_unsettled = false;
        }
        Ok(())
    }

    /// One attempt with the records that come next. False: there are none, the consumer was stopped or idle.
    fn transact(&mut self, transactions: &mut impl Transactions) -> Result<bool> {
        if self.link.is_stopped() {
            return Ok(false);
        }
        match transactions.settle() {
            Outcome::Committed => {}
            Outcome::Failed(error) => return Err(error),
            Outcome::Refused(error) => {
                return Err(error.downcast().map_or_else(|error| Error::Closed(error.to_string()), |error| *error));
            }
            Outcome::Aborted(error) | Outcome::Unknown(error) => {
                log::warn!("transactions cannot begin yet, again in {SETTLE_PAUSE:?}: {error}");
                return Ok(self.link.pause(SETTLE_PAUSE));
            }
        }
        self.restart_where_unsettled()?;
        match self.poll()? {
            Handed::Records => {}
            Handed::Gone => return Ok(true),
            Handed::Nothing => return Ok(false),
        }
        let Self { link, desk, is_unsettled, .. } = self;
        let _hold = Hold(link);
        // Commits without a transaction, of records that were given up. Beside a transaction one could land later, and
        // take the group's offsets back.
        let deadline = Instant::now() + COMMIT_DEADLINE;
        link.await_commits();
        if let Err(error) = link.wait_for(|state| state.quiet_by(deadline)) {
            if error.is_fatal() {
                return Err(error);
            }
            log::warn!("no transaction begins beside an open commit, again in {:?}: {error}", desk.pause());
            return Ok(true);
        }
        // Asked while the records are held, and before it is known that they are still ours: if one of their partitions
        // went away in between, the answer could be from a time when it is somebody else's.
        let Some(member) = link.membership()? else {
            desk.pause();
            return Ok(true);
        };
        let Some(offsets) = desk.offsets(&link.lock()) else { return Ok(true) };
        // What is done of an attempt that failed has lost its outputs.
        let (attempt, processing) = desk.attempt(|arena| transactions.attempt(arena));
        let mut attempt = attempt.map_err(|failed| Failed { done: 0, ..failed });
        if attempt.is_ok() {
            let offsets_list = list(&offsets)?;
            let outcome = desk.commit(&processing, || transactions.commit(&offsets_list, &member));
            match outcome {
                Outcome::Committed => desk.committed(link, &offsets),
                Outcome::Aborted(error) => {
                    let pause = desk.pause();
                    log::warn!("a transaction was aborted, its batch is handled again in {pause:?}: {error}");
                }
                Outcome::Refused(source) => {
                    attempt = Err(Failed { done: 0, cause: Cause::Handler { at: None, seen: None, source } });
                }
                Outcome::Unknown(error) => {
                    log::warn!("whether a transaction was committed the group's offsets will tell: {error}");
                    *is_unsettled = true;
                }
                Outcome::Failed(error) => {
                    // Somebody who took over may have completed it.
                    *is_unsettled = true;
                    return Err(error);
                }
            }
        }
        if attempt.is_err() {
            let next = desk.settle(link, attempt, processing)?;
            bury(desk, link, next)?;
        }
        Ok(true)
    }
}

fn list(offsets: &[(TopicPartition, CommitOffset)]) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (name, offset) in offsets {
        list.add_partition_offset(&name.topic, name.partition, Offset::Offset(offset.next_offset))?;
    }
    Ok(list)
}
