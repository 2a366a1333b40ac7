//! Commits: one in flight at a time, of everything that is completed, and again where it failed.

use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::client;
use crate::consumer::fetch::{Fetch, is_of_topic};
use crate::error::Result;
use crate::fault::Fault;
use crate::native::{self, CommitReply};
use crate::refusal::{Refusal, RefusalKind, advice};

/// A commit that failed is sent again after this long, then twice as long, and so on up to the second, which is less
/// than anybody waits for a commit.
const FIRST_COMMIT_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_COMMIT_PAUSE: Duration = Duration::from_secs(1);

/// While nobody waits for them, commits begin no sooner after each other: at a trickle of records each would be a request of
/// its own, and brokers write all of them down, beside the records that they hand on meanwhile.
pub(super) const COMMIT_PACE: Duration = Duration::from_millis(200);

/// Partitions that a broker has answered for so long, and nothing else, that it does not know are gone: their topic was
/// deleted. Of some among others librdkafka does not ask again by itself, so a count of answers would say little.
const GONE_AFTER: Duration = Duration::from_secs(1);

impl Fetch {
    /// Commits everything that is completed and waits for the answers, but not beyond the deadline.
    pub(super) fn confirm(&mut self, deadline: Instant) -> Result<()> {
        // Whatever failed before, somebody waits now.
        self.commit_not_before = None;
        loop {
            self.serve_membership();
            self.serve_replies();
            self.commit_at_once();
            let state = self.link.lock();
            if state.ledger.in_flight().is_none() && !state.ledger.has_committable() {
                return Ok(());
            }
            // A client that is beyond use commits nothing more.
            if Instant::now() >= deadline || state.fatal.is_some() {
                return Err(state.not_committed());
            }
            drop(state);
            let patience = self.patience();
            self.link.bell.wait(patience.min(deadline.saturating_duration_since(Instant::now())));
        }
    }

    /// Commits what is completed, in its time.
    pub(super) fn commit(&mut self) {
        let due = self.commit_began.map(|began| began + COMMIT_PACE).filter(|due| Instant::now() < *due);
        // One that failed has pauses of its own.
        if due.is_some() && self.commit_failures == 0 && self.link.lock().commits_can_wait {
            self.commit_due = due;
        } else {
            self.commit_at_once();
        }
    }

    fn commit_at_once(&mut self) {
        self.commit_due = None;
        if self.commit_not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.commit_not_before = None;
        let mut state = self.link.lock();
        let Some(commit) = state.ledger.take_commit() else {
            if state.ledger.in_flight().is_none() {
                self.unknown_since = None;
                if state.confirmed < state.handled || state.is_left_out {
                    // What was handled needs no commit any more: its partitions went away.
                    state.confirmed = state.handled;
                    state.is_left_out = false;
                    self.link.wake_caller();
                }
            }
            return;
        };
        state.sent = state.handled;
        let names: Vec<_> = commit.offsets.iter().map(|offset| state.ledger.name(offset.id).clone()).collect();
        let processed = std::mem::take(&mut state.processed);
        drop(state);
        self.commit_began = Some(Instant::now());
        self.commit_begins(&names, processed);
        let offsets = commit.offsets.iter().zip(&names).map(|(offset, name)| native::Offset {
            topic: &name.topic,
            partition: name.partition,
            next_offset: offset.next_offset,
            leader_epoch: offset.leader_epoch,
        });
        if let Err(code) = self.reader.commit(offsets, commit.sequence) {
            self.link.lock().ledger.answered(commit.sequence, |_| false);
            self.commit_failed(code);
        }
    }

    pub(super) fn commit_answered(&mut self, reply: &CommitReply) {
        let failed = |topic: &str, partition: i32| {
            let own = reply.partitions.iter().find(|(name, number, _)| name == topic && *number == partition);
            own.is_none_or(|(_, _, error)| error.is_some())
        };
        let error = reply.error.or_else(|| reply.partitions.iter().find_map(|(_, _, error)| *error));
        // What nobody can commit must not hold back what was handled of other topics. The ledger keeps it, so that a
        // revocation, or the topic made anew, has its say.
        let mut errors = reply.partitions.iter().filter_map(|(.., error)| *error).chain(reply.error);
        let is_unknown = error.is_some() && errors.all(|code| code == Code::UnknownTopicOrPartition);
        let is_gone = is_unknown && self.unknown_since.is_some_and(|since| since.elapsed() >= GONE_AFTER);
        let known = {
            let mut state = self.link.lock();
            // Where the whole commit failed, what it says of single partitions is not to be relied on.
            let known = state
                .ledger
                .answered(reply.sequence, |name| reply.error.is_none() && !failed(&name.topic, name.partition));
            if known && (error.is_none() || is_gone) {
                state.confirmed = state.sent;
                state.commit_error = None;
                state.is_left_out = is_gone;
                state.unconfirmed_losses += u64::from(is_gone);
            }
            known
        };
        if !known {
            log::error!("an answer to commit {}, which is not in flight, is ignored", reply.sequence);
        } else {
            self.unknown_since = if is_unknown { self.unknown_since.or_else(|| Some(Instant::now())) } else { None };
            if error.is_none() {
                let is_committed =
                    |refusal: &Refusal| reply.partitions.iter().any(|(topic, ..)| is_of_topic(refusal, topic));
                self.let_in(|refusal| refusal.kind == RefusalKind::Group || is_committed(refusal));
                self.commit_failures = 0;
                self.commit_not_before = None;
                self.commit_ended(None);
            }
        }
        for (topic, _, code) in &reply.partitions {
            let refusal = code.and_then(|code| Refusal::of_right(code, topic));
            if let Some(refusal) = refusal.filter(|refusal| refusal.kind == RefusalKind::Topic) {
                self.refusals().met(refusal);
            }
        }
        if let Some(code) = error.filter(|_| known) {
            self.commit_failed(code);
        }
        self.link.wake_caller();
    }

    /// Whatever the error, the commit may or may not stand. While the partitions are ours the watermark is sent again;
    /// where they are not, a revocation says so.
    pub(super) fn commit_failed(&mut self, code: Code) {
        let pause = FIRST_COMMIT_PAUSE.saturating_mul(1 << self.commit_failures.min(10)).min(LONGEST_COMMIT_PAUSE);
        self.commit_failures += 1;
        self.commit_ended(Some(Fault::Code(Some(code))));
        self.commit_not_before = Some(Instant::now() + pause);
        let advice = advice(Some(code)).map(|advice| format!("; {advice}")).unwrap_or_default();
        self.link.lock().commit_error = Some(format!("{code}{advice}"));
        let text = format!("commit failed and is sent again: {code}");
        if let Some(repeated) = client::repeats(&text) {
            log::warn!("{text}{repeated}");
        }
        if let Some(refusal) =
            Refusal::of_right(code, &self.options.group).filter(|refusal| refusal.kind == RefusalKind::Group)
        {
            self.refusals().met(refusal);
        }
        if matches!(code, Code::Fatal | Code::FencedInstanceId | Code::Fenced) {
            self.client_error(KafkaError::MessageConsumptionFatal(code));
        }
    }
}
