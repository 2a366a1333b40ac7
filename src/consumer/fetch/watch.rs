//! The watch over partitions that stand still, and over a handler that does not return.
//!
//! librdkafka leaves a partition unread for ever where one question for its committed offset failed (#5586). Such a
//! partition, and any other that stands still for the broker, is given to it anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer as _, RebalanceProtocol};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::consumer::fetch::{Fetch, is_of_topic};
use crate::consumer::ledger::PartitionId;
use crate::consumer::link::Stalled;
use crate::consumer::progress::{Look, Progress, StallCause, Verdict};
use crate::consumer::topic_ids;

/// How often progress is looked at, at most and at least.
const SHORTEST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// After an error of the client, partitions that were never read are given to librdkafka anew after this long, then
/// twice as long, and so on.
const FIRST_START_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_START_PAUSE: Duration = Duration::from_secs(30);
/// How long until a reassignment is tried again that came at the wrong moment.
const REASSIGN_PAUSE: Duration = Duration::from_secs(1);
/// A reassignment throws away what was half fetched; so where it did not help, the next one comes later and later.
const LONGEST_REASSIGN_PAUSE: Duration = Duration::from_secs(600);

/// From where a partition is read that is given to librdkafka anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::consumer) enum Restart {
    /// Where it stands. What is taken stays valid, and the epoch with it.
    Next,
    /// What the group has committed. What was taken since counts for nothing, and comes again.
    Committed,
}

/// What the watch remembers between its looks.
#[derive(Debug)]
pub(super) struct Watch {
    next_look: Instant,
    /// When partitions that were never read are to be given to librdkafka anew.
    start_at: Option<Instant>,
    start_pause: Duration,
    /// The batch that is overdue was reported.
    is_overdue: bool,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self { next_look: Instant::now(), start_at: None, start_pause: FIRST_START_PAUSE, is_overdue: false }
    }

    /// An error of the client: the question for committed offsets may have failed.
    pub(super) fn client_failed(&mut self) {
        self.start_at.get_or_insert_with(|| Instant::now() + self.start_pause);
    }

    /// Whether the handler was overdue when it was last looked at.
    pub(super) fn is_overdue(&self) -> bool {
        self.is_overdue
    }

    /// How long until the next look.
    pub(super) fn patience(&self, now: Instant) -> Duration {
        self.next_look.saturating_duration_since(now)
    }
}

/// A question that other answers overtook for so long gets none.
const UNANSWERED: Duration = Duration::from_secs(30);

impl Fetch {
    /// Whether the handler has worked for longer than it may. Then nothing of librdkafka is polled, so that the group
    /// goes on without this member.
    pub(super) fn is_overdue(&mut self) -> bool {
        let state = self.link.lock();
        let overdue = state.handler_overdue();
        let was_overdue = std::mem::replace(&mut self.watch.is_overdue, overdue.is_some());
        if overdue.is_some() && !was_overdue {
            let partitions: Vec<_> = state.in_hand().map(|name| format!("{}:{}", name.topic, name.partition)).collect();
            let timeout = state.handler_timeout.unwrap_or_default();
            drop(state);
            log::error!(
                "the handler has not returned within {timeout:?} and holds {}: polling stops, and the group goes on \
                 without this consumer after {:?}",
                partitions.join(", "),
                self.options.max_poll_interval
            );
        } else if was_overdue && overdue.is_none() {
            drop(state);
            log::info!("the handler that was overdue has returned: polling goes on");
        }
        overdue.is_some()
    }

    /// How long until the handler is overdue, where it can be: one that does not work yet may begin now.
    pub(super) fn handler_patience(&self) -> Option<Duration> {
        let state = self.link.lock();
        let worked = state.held_since.map_or(Duration::ZERO, |since| since.elapsed());
        let left = state.handler_timeout?.checked_sub(worked)?;
        // A moment later it is.
        Some(left + Duration::from_millis(1))
    }

    /// Looks at the progress of every partition, now and then.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        if now < self.watch.next_look {
            return;
        }
        let timeout = self.options.stall_timeout;
        self.watch.next_look = now + (timeout / 8).clamp(SHORTEST_LOOK, LONGEST_LOOK);
        // Nothing is taken while the handler is overdue.
        let is_drained = self.is_drained && !self.watch.is_overdue;
        let (mut stalls, mut questions, mut news) = (Vec::new(), Vec::new(), Vec::new());
        let mut state = self.link.lock();
        for lane in self.lanes.iter_mut() {
            let (low, high) = self.reader.watermarks(&lane.topic, lane.partition);
            let look = Look {
                now,
                next: lane.next,
                watermark: state.ledger.watermark(lane.id),
                is_open: state.ledger.is_open(lane.id),
                is_drained,
                position: self.reader.position(&lane.topic, lane.partition),
                low,
                high,
            };
            let was_stalled = lane.progress.is_stalled();
            if !self.watch.is_overdue && lane.progress.ask(&look, timeout) {
                questions.push(lane.id);
            }
            let (id, since) = (lane.id, lane.progress.since());
            match lane.progress.judge(&look, timeout, self.options.committed_only) {
                Verdict::Stalled { cause, next_offset, backlog } => {
                    stalls.push(Stalled { id, next_offset, backlog, since, cause });
                    if !was_stalled {
                        news.push((id, Some((next_offset, backlog, now - since, cause))));
                    }
                    if cause == StallCause::Broker {
                        lane.reassign_at.get_or_insert(now);
                    }
                }
                Verdict::Fine => {
                    if was_stalled {
                        news.push((id, None));
                    }
                    if !lane.is_away {
                        (lane.reassign_at, lane.reassigned) = (None, 0);
                    }
                }
            }
        }
        let behind: Vec<_> = stalls.iter().map(|stall| Arc::clone(&state.ledger.name(stall.id).topic)).collect();
        let stalled = stalls.len();
        state.stalls = stalls;
        let is_healthy = state.is_healthy();
        let news: Vec<_> = news.into_iter().map(|(id, stall)| (state.ledger.name(id).clone(), stall)).collect();
        drop(state);
        self.options.sight.meter.health(is_healthy, stalled);
        // Where nothing waits to be read, nothing tells that it may be. What comes and may not be read is told again, and so is
        // a topic that may not be known.
        let age = timeout.max(topic_ids::INTERVAL).saturating_mul(2);
        self.refusals().over_since(age, |refusal| {
            let is_behind = behind.iter().any(|topic| is_of_topic(refusal, topic));
            !is_behind && self.lanes.topics().any(|topic| is_of_topic(refusal, topic))
        });
        for (name, stall) in news {
            let (topic, partition) = (name.topic, name.partition);
            match stall {
                None => log::info!("{topic}:{partition} is no longer stalled"),
                Some((next_offset, backlog, since, cause)) => {
                    let at = next_offset.map_or_else(|| "its start".into(), |offset| format!("offset {offset}"));
                    let whom = match cause {
                        StallCause::Broker => "the broker",
                        StallCause::Handler => "the handler",
                    };
                    log::warn!(
                        "{topic}:{partition} is stalled at {at} for {since:?}, with {backlog} offsets behind it: it \
                         waits for {whom}"
                    );
                }
            }
        }
        if !questions.is_empty() {
            let asked = self.lanes.iter().filter(|lane| questions.contains(&lane.id));
            let asked = asked.map(|lane| (&*lane.topic, lane.partition));
            self.reader.ask_ends(asked, self.options.committed_only);
        }
        if !self.watch.is_overdue {
            self.recover(now);
        }
    }

    pub(super) fn ends_answered(&mut self, ends: &[(String, i32, i64)]) {
        let now = Instant::now();
        for lane in self.lanes.iter_mut() {
            let end = ends.iter().find(|(topic, partition, _)| **topic == *lane.topic && *partition == lane.partition);
            // It may be the answer to a question for others.
            if end.is_some() || ends.is_empty() || lane.progress.has_asked_for(UNANSWERED, now) {
                lane.progress.answered(end.map(|(.., end)| *end), now);
            }
        }
    }

    /// Gives partitions to librdkafka anew that stand still for the broker, or may have been forgotten at their start.
    fn recover(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let is_start_due = is_due(self.watch.start_at);
        let mut ids = Vec::new();
        let mut is_unread = false;
        for lane in self.lanes.iter() {
            let (_, high) = self.reader.watermarks(&lane.topic, lane.partition);
            let unread = lane.read_from().is_none() && !lane.progress.has_fetched(high);
            is_unread |= unread;
            if is_due(lane.reassign_at) || (is_start_due && unread) {
                ids.push(lane.id);
            }
        }
        if !is_unread {
            self.watch.start_at = None;
            self.watch.start_pause = FIRST_START_PAUSE;
        }
        {
            // What cannot be read is not read by trying again: `run` says so.
            let state = self.link.lock();
            ids.retain(|id| !state.stopped.iter().any(|(stopped, ..)| stopped == id));
        }
        if ids.is_empty() {
            return;
        }
        let is_done = self.reassign(&ids, Restart::Next);
        if is_start_due && is_unread {
            self.watch.start_at = (!is_done).then(|| now + REASSIGN_PAUSE);
            self.watch.start_pause = (self.watch.start_pause * 2).min(LONGEST_START_PAUSE);
        }
        let pause = self.options.stall_timeout;
        for id in ids {
            if let Some(lane) = self.lanes.get_mut(id).filter(|lane| lane.reassign_at.is_some()) {
                let longer = pause.saturating_mul(1 << lane.reassigned.min(10));
                let wait = if is_done { longer.min(LONGEST_REASSIGN_PAUSE.max(pause)) } else { REASSIGN_PAUSE };
                lane.reassign_at = Some(now + wait);
                lane.reassigned += u32::from(is_done);
            }
        }
    }

    /// Takes these owned partitions away from librdkafka and gives them to it anew, in one go: whatever state its
    /// fetches were in, they start again. What it had fetched and not handed over it drops itself, as a version that is
    /// over, so nothing comes twice.
    ///
    /// With [`Restart::Next`] each goes on exactly where it stands: its epoch, the records taken and the commits stay
    /// valid. With [`Restart::Committed`] it goes on at the committed offset, in a new epoch: what was taken and not
    /// handed over is dropped here, and what a handler says of the rest counts for nothing. Whoever asks for that sees
    /// to it first that no commit of these partitions is under way.
    ///
    /// `false`: nothing was done, because the group rebalances or librdkafka refuses; to be tried again later. Not from
    /// within the answer to a rebalance. An eager group is given its whole assignment anew, all but `ids` as with
    /// [`Restart::Next`].
    pub(in crate::consumer) fn reassign(&mut self, ids: &[PartitionId], from: Restart) -> bool {
        let consumer = self.reader.consumer();
        // A rebalance that waits for its answer would take this for it. One that begins in this very moment still can;
        // the real answer follows it.
        if self.reader.events() > 0 || consumer.context().has_rebalance() || consumer.assignment_lost() {
            return false;
        }
        let is_cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let Ok(assigned) = consumer.assignment() else { return false };
        let chosen: Vec<_> = self.lanes.iter().filter(|lane| !is_cooperative || ids.contains(&lane.id)).collect();
        let (mut old, mut new) = (TopicPartitionList::new(), TopicPartitionList::new());
        for lane in &chosen {
            if assigned.find_partition(&lane.topic, lane.partition).is_some() {
                old.add_partition(&lane.topic, lane.partition);
            } else if !lane.is_away {
                return false;
            }
            let committed = from == Restart::Committed && ids.contains(&lane.id);
            let offset = lane.read_from().filter(|_| !committed).map_or(Offset::Invalid, Offset::from_raw);
            if new.add_partition_offset(&lane.topic, lane.partition, offset).is_err() {
                return false;
            }
        }
        let taken: KafkaResult<()> = match is_cooperative {
            true if old.count() == 0 => Ok(()),
            true => consumer.incremental_unassign(&old),
            false => consumer.unassign(),
        };
        if let Err(error) = taken {
            log::debug!("{ids:?} could not be taken back from librdkafka: {error}");
            return false;
        }
        // The stop of a fetch clears its forward. librdkafka has queued it by now, and answers this question after it.
        let _ = consumer.assignment();
        for lane in &chosen {
            self.reader.forward(&lane.topic, lane.partition);
        }
        let given = match is_cooperative {
            true => consumer.incremental_assign(&new),
            false => consumer.assign(&new),
        };
        let chosen: Vec<_> = chosen.iter().map(|lane| lane.id).collect();
        if from == Restart::Committed {
            self.forget(ids);
        }
        let retry = Instant::now() + REASSIGN_PAUSE;
        for id in chosen {
            let Some(lane) = self.lanes.get_mut(id) else { continue };
            lane.is_away = given.is_err();
            let (topic, partition) = (&lane.topic, lane.partition);
            match &given {
                Ok(()) => {
                    if ids.contains(&id) {
                        let at = lane.next.map_or_else(|| "the committed offset".into(), |next| next.to_string());
                        log::debug!("{topic}:{partition} is assigned anew, from {at}");
                    }
                    lane.stay();
                }
                Err(error) => {
                    lane.reassign_at = Some(retry);
                    log::warn!("{topic}:{partition} cannot be assigned anew, which is tried again: {error}");
                }
            }
        }
        given.is_ok()
    }

    /// What was taken of these partitions is void.
    fn forget(&mut self, ids: &[PartitionId]) {
        self.drop_records_of(ids);
        let mut state = self.link.lock();
        for lane in self.lanes.iter_mut().filter(|lane| ids.contains(&lane.id)) {
            state.ledger.assigned(lane.id);
            if let Some(epoch) = state.ledger.epoch(lane.id) {
                lane.epoch = epoch;
            }
            lane.next = None;
            lane.stay();
            lane.start.is_checked = true;
            // Nothing is known of it any more but where its log ended, which says nothing of this start.
            let (_, high) = self.reader.watermarks(&lane.topic, lane.partition);
            lane.progress = Progress::new(Instant::now(), high);
            (lane.reassign_at, lane.reassigned) = (None, 0);
        }
        drop(state);
        // Whether there is a backlog then only the committed offset tells.
        let asked = self.lanes.iter().filter(|lane| ids.contains(&lane.id));
        let committed = self.committed(asked.map(|lane| (&*lane.topic, lane.partition)));
        self.starts_after(&committed);
        // librdkafka asks for it, too, and that question can fail (#5586).
        self.watch.client_failed();
    }
}
