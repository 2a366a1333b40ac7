//! The thread that owns the Kafka consumer: it takes records, answers rebalances and sends commits.
//!
//! It never waits but for its bell, and in a revocation for the batch in hand. Errors of single partitions come between
//! the records; after one of them librdkafka's own position is off by it (librdkafka #4844), and at the next rebalance
//! records would be skipped. So such a partition is sought to its true next offset before anything more of it is taken.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::consumer::context::{Context, Rebalance, answer};
use crate::consumer::lanes::{Lane, Lanes};
use crate::consumer::ledger::{Ledger, PartitionId};
use crate::consumer::link::Link;
use crate::consumer::topic_ids::TopicIds;
use crate::consumer::{COMMIT_DEADLINE, panic_text};
use crate::error::{Error, Result};
use crate::message::arena::{Arena, NewRecord, Source, encode_header};
use crate::native::{self, CommitReply, Reader, Reply, Taken};

/// The most records taken at once, so that a huge `batch_size` needs no huge list of pointers.
const CHUNK: usize = 1_024;
/// How long a quiet consumer sleeps at most, to serve what rings no bell.
const QUIET: Duration = Duration::from_secs(1);
/// How long a seek may take. It is answered by librdkafka itself, without a broker.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long until a seek is tried again that came before the partition is being fetched.
const SEEK_PAUSE: Duration = Duration::from_millis(100);
/// A partition with an error is read on after this long, so that one that lasts is not met at the broker's speed.
const ERROR_PAUSE: Duration = Duration::from_millis(500);
/// A commit that failed is sent again after this long, then twice as long, and so on up to the second, which is less
/// than anybody waits for a commit.
const FIRST_COMMIT_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_COMMIT_PAUSE: Duration = Duration::from_secs(1);

/// What the builder says to the fetch thread.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) batch_size: usize,
    pub(super) batch_bytes: usize,
    pub(super) drain_budget: Duration,
    pub(super) max_poll_interval: Duration,
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
    /// Commits that failed in a row, and when the next may be sent.
    commit_failures: u32,
    commit_not_before: Option<Instant>,
}

/// An error that came in the place of a partition's records.
struct PartitionError {
    topic: String,
    partition: i32,
    offset: i64,
    code: Code,
    reason: String,
}

/// A run of records of one partition.
#[derive(Clone, Copy)]
struct Run {
    topic: usize,
    partition: i32,
    id: PartitionId,
    carried: bool,
    source: u32,
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
            commit_failures: 0,
            commit_not_before: None,
        }
    }

    /// Runs until the consumer is closed, then sends the last commit, reports whether it was confirmed, and ends the
    /// client. A frozen broker can keep the client from ending: who waits for `done` does so with a deadline.
    pub(super) fn run(mut self, done: &SyncSender<Result<()>>) {
        let confirmed = catch_unwind(AssertUnwindSafe(|| self.work())).unwrap_or_else(|panic| {
            // Not ours: a logger of the user's, most likely.
            let panicked = || Error::Closed(format!("its fetch thread panicked: {}", panic_text(&*panic)));
            self.link.lock().failure = Some(panicked());
            Err(panicked())
        });
        // Before the client ends, which may take long.
        self.link.lock().ended = true;
        self.link.wake_caller();
        // The receiver may have given up.
        let _ = done.send(confirmed);
        self.reader.consumer().context().close();
        drop(self.reader);
        let _ = done.send(Ok(()));
    }

    fn work(&mut self) -> Result<()> {
        let deadline = loop {
            if let Some(deadline) = self.link.lock().closing {
                break deadline;
            }
            self.turn();
            let patience = self.patience();
            self.link.bell.wait(patience);
        };
        self.confirm(deadline)
    }

    fn turn(&mut self) {
        self.serve_events();
        self.serve_replies();
        self.ask_topic_ids();
        self.take();
        self.seek();
        self.commit();
    }

    /// How long there is nothing to do unless the bell rings.
    fn patience(&mut self) -> Duration {
        let commit = self.commit_not_before.map(|at| at.saturating_duration_since(Instant::now()));
        // A third: polling late by one turn must not cost the membership.
        let seek = self.lanes.out_of_place().next().map(|_| SEEK_PAUSE);
        QUIET.min(self.options.max_poll_interval / 3).min(commit.unwrap_or(QUIET)).min(seek.unwrap_or(QUIET))
    }

    fn fail(&self, error: Error) {
        self.link.lock().failure.get_or_insert(error);
        self.link.wake_caller();
    }

    // ---- events: rebalances, and errors of the client

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
                return;
            }
        }
    }

    /// Errors of the group or the whole client; `Context::error` has logged them. librdkafka goes on by itself after
    /// all but the fatal ones, and those that only another configuration can mend.
    fn client_error(&self, error: KafkaError) {
        let configured = [Code::InvalidSessionTimeout, Code::InconsistentGroupProtocol];
        if let Some((code, reason)) = self.reader.consumer().client().fatal_error() {
            log::error!("the consumer cannot go on: {reason}");
            self.link.lock().fatal = Some(code);
            self.link.wake_caller();
        } else if let KafkaError::MessageConsumptionFatal(code) = error {
            self.link.lock().fatal = Some(code);
            self.link.wake_caller();
        } else if error.rdkafka_error_code().is_some_and(|code| configured.contains(&code)) {
            self.fail(error.into());
        }
    }

    fn assigned(&mut self, partitions: &TopicPartitionList, rebalance: &Rebalance) {
        log::debug!("assigned {partitions:?}");
        {
            let mut state = self.link.lock();
            for element in partitions.elements() {
                let (topic, partition) = (element.topic(), element.partition());
                self.reader.forward(topic, partition);
                let id = state.ledger.id(topic, partition);
                state.ledger.assigned(id);
                let Some(epoch) = state.ledger.epoch(id) else { continue };
                let topic = Arc::clone(&state.ledger.name(id).topic);
                self.lanes.insert(Lane::new(id, epoch, topic, partition));
            }
        }
        self.topic_ids.hurry();
        if let Err(error) = answer(self.reader.consumer(), rebalance) {
            self.fail(error.into());
        }
    }

    fn revoked(&mut self, partitions: &TopicPartitionList, rebalance: &Rebalance) {
        let lost = self.reader.consumer().assignment_lost();
        log::debug!("{} {partitions:?}", if lost { "lost" } else { "revoked" });
        let mut ids = Vec::new();
        for element in partitions.elements() {
            ids.extend(self.lanes.remove(element.topic(), element.partition()).map(|lane| lane.id));
        }
        self.drop_records_of(&ids);
        if !lost {
            let deadline = Instant::now() + self.options.drain_budget;
            self.wait_for_batch_in_hand(&ids, deadline);
            if let Err(error) = self.confirm(deadline.min(Instant::now() + COMMIT_DEADLINE)) {
                log::warn!("on revocation {error}");
            }
        }
        {
            let mut state = self.link.lock();
            state.stopped.retain(|(id, ..)| !ids.contains(id));
            for id in ids {
                if state.ledger.revoked(id) {
                    state.unconfirmed_losses += 1;
                }
            }
        }
        if let Err(error) = answer(self.reader.consumer(), rebalance) {
            self.fail(error.into());
        }
    }

    /// Forgets what was taken and not handed over of these partitions.
    fn drop_records_of(&mut self, ids: &[PartitionId]) {
        let keep = |source: &Source| !ids.contains(&Ledger::from_tag(source.tag).0);
        self.carry.retain(keep);
        let mut state = self.link.lock();
        if let Some(arena) = &mut state.ready {
            arena.retain(keep);
            if arena.is_empty() {
                state.ready_is_full = false;
                state.ready_since = None;
                if let Some(arena) = state.ready.take() {
                    state.recycle(arena);
                }
            }
        }
    }

    fn wait_for_batch_in_hand(&mut self, ids: &[PartitionId], deadline: Instant) {
        while self.link.lock().holds(ids) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let budget = self.options.drain_budget;
                log::warn!("the batch in hand is not done within the drain budget of {budget:?}: others handle it too");
                return;
            }
            self.link.bell.wait(left);
            // Earlier batches go on being committed meanwhile.
            self.serve_replies();
            self.commit();
        }
    }

    // ---- commits

    /// Commits everything that is completed and waits for the answers, but not beyond the deadline.
    fn confirm(&mut self, deadline: Instant) -> Result<()> {
        // Whatever failed before, somebody waits now.
        self.commit_not_before = None;
        loop {
            self.serve_replies();
            self.commit();
            let state = self.link.lock();
            if state.ledger.in_flight().is_none() && !state.ledger.has_committable() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(not_committed(&state.ledger, state.commit_error.as_deref()));
            }
            drop(state);
            let patience = self.patience();
            self.link.bell.wait(patience.min(deadline.saturating_duration_since(Instant::now())));
        }
    }

    fn commit(&mut self) {
        if self.commit_not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let mut state = self.link.lock();
        let Some(commit) = state.ledger.take_commit() else {
            if state.ledger.in_flight().is_none() && state.confirmed < state.handled {
                // What was handled needs no commit any more: its partitions went away.
                state.confirmed = state.handled;
                self.link.wake_caller();
            }
            return;
        };
        state.sent = state.handled;
        let names: Vec<_> = commit.offsets.iter().map(|offset| state.ledger.name(offset.id).clone()).collect();
        drop(state);
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

    fn serve_replies(&mut self) {
        while let Some(reply) = self.reader.reply() {
            match reply {
                Reply::Commit(reply) => self.commit_answered(&reply),
                Reply::Topics(ids) => {
                    for topic in self.topic_ids.answered(ids, Instant::now()) {
                        self.made_anew(&topic);
                    }
                }
            }
        }
    }

    fn commit_answered(&mut self, reply: &CommitReply) {
        let failed = |topic: &str, partition: i32| {
            let own = reply.partitions.iter().find(|(name, number, _)| name == topic && *number == partition);
            own.is_none_or(|(_, _, error)| error.is_some())
        };
        let error = reply.error.or_else(|| reply.partitions.iter().find_map(|(_, _, error)| *error));
        let known = {
            let mut state = self.link.lock();
            // Where the whole commit failed, what it says of single partitions is not to be relied on.
            let known = state
                .ledger
                .answered(reply.sequence, |name| reply.error.is_none() && !failed(&name.topic, name.partition));
            if known && error.is_none() {
                state.confirmed = state.sent;
                state.commit_error = None;
            }
            known
        };
        if !known {
            log::error!("an answer to commit {}, which is not in flight, is ignored", reply.sequence);
        } else if error.is_none() {
            self.commit_failures = 0;
            self.commit_not_before = None;
        }
        if let Some(code) = error.filter(|_| known) {
            self.commit_failed(code);
        }
        self.link.wake_caller();
    }

    /// Whatever the error, the commit may or may not stand. While the partitions are ours the watermark is sent again;
    /// where they are not, a revocation says so.
    fn commit_failed(&mut self, code: Code) {
        let pause = FIRST_COMMIT_PAUSE.saturating_mul(1 << self.commit_failures.min(10)).min(LONGEST_COMMIT_PAUSE);
        self.commit_failures += 1;
        self.commit_not_before = Some(Instant::now() + pause);
        self.link.lock().commit_error = Some(code.to_string());
        log::warn!("commit failed and is sent again in {pause:?}: {code}");
        if matches!(code, Code::Fatal | Code::FencedInstanceId | Code::Fenced) {
            self.client_error(KafkaError::MessageConsumptionFatal(code));
        }
    }

    // ---- records

    fn ask_topic_ids(&mut self) {
        if self.topic_ids.is_due(Instant::now()) && self.lanes.topics().next().is_some() {
            self.reader.ask_topic_ids(self.lanes.topics());
            self.topic_ids.asked();
        }
    }

    /// What was delivered of the topic is void, and its partitions are read from the start.
    fn made_anew(&mut self, topic: &str) {
        log::warn!("topic {topic} was deleted and made anew: it is read from its start");
        let mut state = self.link.lock();
        for lane in self.lanes.of_topic(topic) {
            state.ledger.rewound(lane.id, 0);
            if let Some(epoch) = state.ledger.epoch(lane.id) {
                lane.epoch = epoch;
            }
            (lane.next, lane.seek) = (None, Some(0));
        }
    }

    /// Puts partitions whose position is wrong right again.
    fn seek(&mut self) {
        let now = Instant::now();
        for lane in self.lanes.out_of_place().filter(|lane| lane.seek_at.is_none_or(|at| at <= now)) {
            let Some(offset) = lane.seek else { continue };
            let mut target = TopicPartitionList::new();
            let sought = target
                .add_partition_offset(&lane.topic, lane.partition, Offset::from_raw(offset))
                .and_then(|()| self.reader.consumer().seek_partitions(target, SEEK_TIMEOUT))
                .and_then(|sought| sought.elements().iter().try_for_each(|element| element.error()));
            match sought {
                Ok(()) => lane.seek = None,
                // Not being fetched yet, or not any more: a later turn tries again.
                Err(error) => log::debug!("seek of {}:{} to {offset}: {error}", lane.topic, lane.partition),
            }
        }
    }

    /// Fills the next batch, and hands it over.
    fn take(&mut self) {
        let (mut arena, since) = {
            let mut state = self.link.lock();
            if state.ready_is_full {
                return;
            }
            (state.ready.take().or_else(|| state.spare.pop()).unwrap_or_default(), state.ready_since.take())
        };
        let (most_records, most_bytes) = (self.options.batch_size, self.options.batch_bytes);
        arena.refill(&mut self.carry, |records, bytes| records <= most_records && bytes <= most_bytes);
        let mut errors = Vec::new();
        let is_full = loop {
            let room = self.options.batch_size.saturating_sub(arena.len());
            if room == 0 || arena.bytes() >= self.options.batch_bytes || !self.carry.is_empty() {
                break true;
            }
            let wanted = room.min(CHUNK);
            if self.take_round(&mut arena, wanted, &mut errors) < wanted {
                break false;
            }
        };
        let mut state = self.link.lock();
        if arena.is_empty() {
            state.recycle(arena);
        } else {
            state.ready = Some(arena);
            state.ready_is_full = is_full;
            state.ready_since = Some(since.unwrap_or_else(Instant::now));
            self.link.wake_caller();
        }
        drop(state);
        for error in errors {
            self.partition_error(error);
        }
    }

    /// Takes up to so many records. Returns how many entries the queue gave.
    fn take_round(&mut self, arena: &mut Arena, wanted: usize, errors: &mut Vec<PartitionError>) -> usize {
        let Self { reader, lanes, carry, round, options, link, .. } = self;
        // Where the last record belonged: records come in runs of one partition.
        let mut run: Option<Run> = None;
        let mut rewound = Vec::new();
        let count = reader.take(wanted, |taken| {
            let record = match taken {
                Taken::Record(record) => record,
                Taken::Error { topic, partition, offset, code, reason } => {
                    let topic = topic.unwrap_or_default();
                    if let Some(lane) = lanes.named(&topic, partition) {
                        // Where nothing was taken yet, the error stands where the next record would: at an offset, or
                        // at the beginning or the end where that could not be looked up.
                        let next = lane.next.unwrap_or(offset);
                        if code != Code::AutoOffsetReset && Offset::from_raw(next) != Offset::Invalid {
                            lane.seek.get_or_insert(next);
                            lane.seek_at = Some(Instant::now() + ERROR_PAUSE);
                        }
                    }
                    errors.push(PartitionError { topic, partition, offset, code, reason });
                    return;
                }
            };
            let (topic, partition, offset) = (record.topic_handle(), record.partition(), record.offset());
            let known = run.filter(|run| run.topic == topic && run.partition == partition);
            let id = known.map(|run| run.id).or_else(|| lanes.find(&record.topic(), partition));
            // Not ours any more, or read before a seek: it comes again, or to somebody else.
            let Some(lane) = id.and_then(|id| lanes.get_mut(id)).filter(|lane| lane.seek.is_none()) else { return };
            if lane.next.is_some_and(|next| offset < next) {
                lane.seek = Some(offset);
                rewound.push((lane.id, offset));
                return;
            }
            let too_much = !arena.is_empty() && arena.bytes() + record.len() > options.batch_bytes;
            let carried = too_much || !carry.is_empty();
            let target = if carried { &mut *carry } else { &mut *arena };
            let source = known.filter(|run| run.carried == carried).map_or_else(
                || {
                    let tag = Ledger::tag(lane.id, lane.epoch);
                    let make = || Source { topic: Arc::clone(&lane.topic), partition, tag };
                    target.source_index(|found| found == tag, make)
                },
                |run| run.source,
            );
            run = Some(Run { topic, partition, id: lane.id, carried, source });
            let new = NewRecord { offset, timestamp: record.timestamp(), key: record.key(), value: record.value() };
            target.push(source, &new, |bytes| {
                record.headers(|name, value| encode_header(bytes, name, value));
            });
            lane.next = Some(offset + 1);
            round.push((lane.id, offset, record.leader_epoch()));
        });
        if !round.is_empty() || !rewound.is_empty() {
            let mut state = link.lock();
            for (id, offset, leader_epoch) in round.drain(..) {
                state.ledger.delivered(id, offset, leader_epoch);
            }
            for (id, offset) in rewound {
                let name = state.ledger.name(id).clone();
                let expected = state.ledger.next_expected(id).unwrap_or_default();
                state.ledger.rewound(id, offset);
                let (topic, partition) = (&*name.topic, name.partition);
                log::warn!(
                    "{topic}:{partition} starts again at {offset}, {expected} was expected: the topic was made anew"
                );
                if let (Some(lane), Some(epoch)) = (lanes.get_mut(id), state.ledger.epoch(id)) {
                    lane.epoch = epoch;
                    lane.next = None;
                }
            }
        }
        count
    }

    /// librdkafka goes on by itself after most of these, and the partition is sought to where it was.
    fn partition_error(&mut self, error: PartitionError) {
        let PartitionError { topic, partition, offset, code, reason } = error;
        match code {
            Code::PartitionEOF => {}
            // The partition stands still until somebody decides: the log no longer has the offset and
            // `auto.offset.reset=error`, or what it has there cannot be read.
            Code::AutoOffsetReset | Code::BadMessage | Code::InvalidMessage | Code::BadCompression => {
                if let Some(id) = self.lanes.find(&topic, partition) {
                    self.link.lock().stopped.push((id, offset, code));
                    self.link.wake_caller();
                }
            }
            _ => {
                log::error!("{topic}:{partition} at offset {offset}: {reason}");
                self.client_error(KafkaError::MessageConsumption(code));
            }
        }
    }
}

/// What is handled and not known to be committed.
pub(super) fn not_committed(ledger: &Ledger, reason: Option<&str>) -> Error {
    let partitions =
        ledger.unconfirmed().map(|(name, offsets)| (&*name.topic, name.partition, offsets.start, offsets.end));
    Error::NotCommitted {
        partitions: crate::envelope::BatchRef::from_ranges(partitions).to_string(),
        reason: match reason {
            Some(reason) => format!("the broker's last answer was: {reason}"),
            None => "the broker did not answer in time".into(),
        },
    }
}
