//! The thread that has the Kafka consumer: it takes records, answers rebalances and sends commits.
//!
//! It never waits but for its bell, in a revocation for the batch in hand, and while a caller takes records in its place.

pub(super) mod commits;
mod made_anew;
mod measure;
#[cfg(feature = "stream")]
mod reach;
mod rebalance;
mod records;
mod renewal;
mod resets;
mod shared;
mod topics;
mod watch;
mod window;

use std::any::Any;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::consumer::context::{Context, Rebalance, answer};
use crate::consumer::dead_letters::LetterTopics;
use crate::consumer::fetch::measure::CommitSight;
pub(super) use crate::consumer::fetch::renewal::Make;
use crate::consumer::fetch::renewal::{Bystander, Exile};
use crate::consumer::fetch::resets::Gap;
pub(super) use crate::consumer::fetch::shared::Shared;
use crate::consumer::fetch::topics::Topics;
use crate::consumer::fetch::watch::{Restart, Watch};
use crate::consumer::lanes::Lanes;
use crate::consumer::ledger::PartitionId;
use crate::consumer::link::{Link, Question, Wakes};
use crate::consumer::membership::Membership;
use crate::consumer::ready::READY_BATCHES;
use crate::consumer::sight::Sight;
use crate::consumer::topic_ids::TopicIds;
use crate::error::{Error, Result, panic_text};
use crate::message::arena::Arena;
use crate::native::{Reader, Reply};
use crate::refusal::{Refusal, RefusalKind, Standing};

/// How long a quiet consumer sleeps at most, to serve what rings no bell.
const QUIET: Duration = Duration::from_secs(1);
/// How long until a seek is tried again that came before the partition is being fetched.
const SEEK_PAUSE: Duration = Duration::from_millis(100);

/// What the builder says to the fetch thread.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) batch_size: usize,
    pub(super) batch_bytes: usize,
    pub(super) drain_budget: Duration,
    pub(super) max_poll_interval: Duration,
    pub(super) stall_timeout: Duration,
    pub(super) handler_timeout: Option<Duration>,
    pub(super) max_window: u64,
    pub(super) group: String,
    pub(super) sight: Sight,
    /// What is subscribed to once a broker was reached.
    #[cfg(feature = "stream")]
    pub(super) late_topics: Vec<String>,
    /// `isolation.level=read_committed`
    pub(super) committed_only: bool,
    /// `auto.offset.reset=latest`
    pub(super) resets_to_end: bool,
    /// Topics that are not read, whatever is subscribed to.
    pub(super) hidden: Option<LetterTopics>,
}

impl Options {
    /// So many batches may wait: no more than leave a partition unpaused whose handler keeps up.
    fn ready_batches(&self) -> usize {
        let batches = usize::try_from(self.max_window).unwrap_or(usize::MAX) / self.batch_size;
        // One is being handled.
        batches.saturating_sub(1).clamp(1, READY_BATCHES)
    }
}

pub(super) struct Fetch {
    reader: Reader<Context>,
    link: Arc<Link>,
    options: Options,
    lanes: Lanes,
    topic_ids: TopicIds,
    /// Records beyond `batch_bytes`, which start the next batch.
    carry: Arena,
    /// What one round took, to be told to the ledger under its lock at once.
    round: Vec<(PartitionId, i64, Option<i32>)>,
    /// Where records of one round came at another offset than the expected one.
    gaps: Vec<Gap>,
    /// Whether the last turn took all that librdkafka had.
    is_drained: bool,
    watch: Watch,
    topics: Topics,
    /// Partitions of which it was said that nothing is committed.
    told_bare: HashSet<PartitionId>,
    /// Partitions that were paused when they went away: librdkafka keeps that until their next assignment.
    left_paused: HashSet<PartitionId>,
    /// Commits that failed in a row, and when the next may be sent.
    commit_failures: u32,
    /// Since when the broker answers that it does not know what is committed.
    unknown_since: Option<Instant>,
    commit_not_before: Option<Instant>,
    /// When the last one was sent, and until when the next, if there is one, is put off because nobody waits for it.
    /// Since when the next commit is to come in its time. None: it goes at once.
    commit_began: Option<Instant>,
    commit_due: Option<Instant>,
    commit_sight: CommitSight,
    exile: Option<Exile>,
    bystander: Bystander,
    make: Option<Make>,
}

impl Fetch {
    pub(super) fn new(reader: Reader<Context>, link: Arc<Link>, options: Options) -> Self {
        Self {
            reader,
            link,
            options,
            lanes: Lanes::default(),
            topic_ids: TopicIds::default(),
            carry: Arena::default(),
            round: Vec::new(),
            gaps: Vec::new(),
            is_drained: true,
            watch: Watch::new(),
            topics: Topics::default(),
            told_bare: HashSet::new(),
            left_paused: HashSet::new(),
            commit_failures: 0,
            unknown_since: None,
            commit_not_before: None,
            commit_began: None,
            commit_due: None,
            commit_sight: CommitSight::default(),
            exile: None,
            bystander: Bystander::default(),
            make: None,
        }
    }

    /// With `make` the client is replaced where it cannot find its group any more.
    pub(super) fn renewing(self, make: Make) -> Self {
        Self { make: Some(make), ..self }
    }

    /// A turn. Goes on after so long, or when the bell rings; ends where the consumer is being closed, with whether the
    /// last commit was confirmed.
    fn work(&mut self) -> ControlFlow<Result<()>, Duration> {
        let closing = {
            let mut state = self.link.lock();
            // Whatever changes from here on may have been looked at already.
            state.wakes = Wakes::default();
            state.closing
        };
        if let Some(deadline) = closing {
            // What was wrong with it ends with it.
            self.options.sight.meter.health(true, 0);
            return ControlFlow::Break(self.confirm(deadline));
        }
        self.turn();
        let patience = self.patience().min(self.watch.patience(Instant::now())).min(self.topics_patience());
        self.wake_for();
        ControlFlow::Continue(patience)
    }

    /// Not ours: a logger of the user's, most likely.
    fn panicked(&self, panic: &(dyn Any + Send)) -> Error {
        let panicked = || Error::Closed(format!("the consumer's fetch thread panicked: {}", panic_text(panic)));
        self.link.lock().failure = Some(panicked());
        // A rebalance may have been left without an answer, for which the client's end would wait.
        let consumer = self.reader.consumer();
        if let Ok(assignment) = consumer.assignment() {
            let _ = answer(consumer, &Rebalance::Revoke(assignment));
        }
        self.options.sight.meter.health(false, 0);
        panicked()
    }

    /// Reports whether the last commit was confirmed, and ends the client. A frozen broker can keep the client from ending:
    /// who waits for `done` does so with a deadline.
    fn end(mut self, confirmed: Result<()>, done: &SyncSender<Result<()>>) {
        // Nothing is owned any more, and the client's end may take long.
        self.measure_end();
        // Before the client ends, which may take long.
        self.link.lock().ended = true;
        self.link.wake_caller();
        // The receiver may have given up.
        let _ = done.send(confirmed);
        self.reader.consumer().context().close();
        drop(self.reader);
        let _ = done.send(Ok(()));
    }

    fn turn(&mut self) {
        if self.is_overdue() {
            // Asks nothing of librdkafka that would count as polling.
            self.serve_membership();
            self.look();
            return;
        }
        self.serve_events();
        self.measure_lag();
        self.serve_replies();
        self.serve_membership();
        self.serve_restart();
        self.serve_exile();
        self.subscribe();
        self.ask_topic_ids();
        #[cfg(feature = "stream")]
        self.serve_reach();
        for _ in 0..READY_BATCHES {
            let is_more = self.take();
            self.seek();
            // After each batch, so that it is in time.
            self.hold_back();
            if !is_more {
                break;
            }
        }
        self.commit();
        self.look();
    }

    /// How long there is nothing to do unless the bell rings.
    fn patience(&mut self) -> Duration {
        // While the handler is overdue nothing is committed or sought.
        let is_overdue = self.watch.is_overdue();
        let commit = self.commit_not_before.max(self.commit_due).filter(|_| !is_overdue);
        let commit = commit.map(|at| at.saturating_duration_since(Instant::now()));
        let seek = self.lanes.out_of_place().next().filter(|_| !is_overdue).map(|_| SEEK_PAUSE);
        // A third: polling late by one turn must not cost the membership.
        #[cfg(feature = "stream")]
        let reach = self.reach_patience();
        #[cfg(not(feature = "stream"))]
        let reach = None;
        [commit, seek, self.handler_patience(), reach, Some(self.options.max_poll_interval / 3)]
            .into_iter()
            .flatten()
            .fold(QUIET, Duration::min)
    }

    /// Says what it is woken for, as long as it waits.
    fn wake_for(&self) {
        let mut state = self.link.lock();
        // The answer to the one under way wakes it, or the time of the one that is put off.
        let is_commit_ahead = state.ledger.in_flight().is_some() || self.commit_due.is_some();
        let is_paused = self.lanes.iter().any(|lane| lane.is_paused);
        let done = !is_commit_ahead || is_paused || self.watch.is_overdue() || state.restart.is_asked();
        // Half of the batches last until this thread has a processor. With nothing to fill more with, records wake who waits.
        let ready_below = if self.is_drained { 0 } else { self.options.ready_batches() / 2 + 1 };
        state.wakes = Wakes { done, ready_below };
    }

    fn fail(&self, error: Error) {
        self.link.lock().failure.get_or_insert(error);
        self.link.wake_caller();
    }

    /// What brokers refuse the client.
    fn refusals(&self) -> &Standing {
        &self.reader.consumer().context().trouble.refusals
    }

    /// Brokers answer, so they refuse no connection, and not what `granted` says.
    fn let_in(&self, granted: impl Fn(&Refusal) -> bool) {
        let refusals = self.refusals();
        refusals.answered();
        refusals.over(granted);
    }

    fn serve_events(&mut self) {
        loop {
            // At least once a turn: this is what tells librdkafka that the application lives.
            match self.reader.consumer().poll(Duration::ZERO) {
                Some(Err(error)) => self.client_error(error),
                // Not before an assignment forwarded its partition, so never; but never lost either.
                Some(Ok(message)) => {
                    use rdkafka::Message as _;
                    let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
                    log::error!("{topic}:{partition}:{offset} came on the wrong queue and is read again");
                    if let Some(lane) = self.lanes.named(topic, partition) {
                        lane.seek.get_or_insert(offset);
                    }
                    self.reader.forward(topic, partition);
                }
                None => {}
            }
            while let Some(rebalance) = self.reader.consumer().context().next_rebalance() {
                match &rebalance {
                    Rebalance::Assign(partitions) => self.assigned(partitions, &rebalance),
                    Rebalance::Revoke(partitions) => self.revoked(partitions, &rebalance),
                }
            }
            if self.reader.events() == 0 {
                break;
            }
        }
        let consumer = self.reader.consumer();
        consumer.context().bootstrap.serve(consumer.client());
    }

    /// Errors of the group or the whole client; `Context::error` has logged them. librdkafka goes on by itself after
    /// all but the fatal ones, and those that only another configuration can mend.
    fn client_error(&mut self, error: KafkaError) {
        let configured = [Code::InvalidSessionTimeout, Code::InconsistentGroupProtocol];
        let fatal = match (self.reader.consumer().client().fatal_error(), &error) {
            (Some((code, reason)), _) => {
                log::error!("the consumer cannot go on: {reason}");
                Some(code)
            }
            (None, KafkaError::MessageConsumptionFatal(code)) => Some(*code),
            _ => None,
        };
        if fatal.is_some() {
            self.link.lock().fatal = fatal;
            self.link.wake_caller();
        } else if error.rdkafka_error_code().is_some_and(|code| configured.contains(&code)) {
            self.fail(error.into());
        } else {
            self.watch.client_failed();
        }
    }

    /// Answers the caller's side in whose name it can commit. Everything that makes the caller's side wait serves this.
    fn serve_membership(&mut self) {
        if self.link.lock().membership.is_asked() {
            let membership = Membership::of(self.reader.consumer());
            self.link.lock().membership = Question::Answered(membership);
            self.link.wake_caller();
        }
    }

    fn serve_restart(&mut self) {
        let is_due = {
            let state = self.link.lock();
            // A commit that is under way could land after the question for what is committed.
            state.restart.is_asked() && state.ledger.in_flight().is_none() && !state.ledger.has_committable()
        };
        if is_due {
            let all: Vec<_> = self.lanes.iter().map(|lane| lane.id).collect();
            if all.is_empty() || self.reassign(&all, Restart::Committed) {
                self.link.lock().restart = Question::Answered(());
                self.link.wake_caller();
            }
        }
    }

    fn serve_replies(&mut self) {
        while let Some(reply) = self.reader.reply() {
            match reply {
                Reply::Commit(reply) => self.commit_answered(&reply),
                Reply::Topics(topics) => self.topics_answered(topics),
                Reply::Ends(ends) => self.ends_answered(&ends),
            }
        }
    }
}

/// Of a right on this topic.
fn is_of_topic(refusal: &Refusal, topic: &str) -> bool {
    refusal.kind == RefusalKind::Topic && refusal.subject.as_deref() == Some(topic)
}

#[cfg(test)]
mod tests;
