//! Partitions that come and go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::consumer::COMMIT_DEADLINE;
use crate::consumer::context::{Rebalance, answer};
use crate::consumer::fetch::{Fetch, is_of_topic};
use crate::consumer::lanes::Lane;
use crate::consumer::ledger::{Ledger, PartitionId};
use crate::consumer::progress::Progress;
use crate::message::arena::Source;
use crate::refusal::{Refusal, RefusalKind};

/// How long a revocation waits once all handlers wait for answers: who is to give them may be waiting for it.
pub(super) const ANSWERS: Duration = Duration::from_secs(1);

impl Fetch {
    pub(super) fn assigned(&mut self, partitions: &TopicPartitionList, rebalance: &Rebalance) {
        log::debug!("assigned {partitions:?}");
        self.options.sight.meter.assigned();
        let elements = partitions.elements();
        // A group that refuses some topic without its name assigns nothing meanwhile.
        let is_assigned = |refusal: &Refusal| {
            let is_named = elements.iter().any(|element| is_of_topic(refusal, element.topic()));
            is_named || refusal.is_of_some_topic() && !elements.is_empty()
        };
        self.let_in(|refusal| refusal.kind == RefusalKind::Group || is_assigned(refusal));
        // Before librdkafka starts to fetch, so before any commit of ours.
        let committed = self.committed(elements.iter().map(|element| (element.topic(), element.partition())));
        if !elements.is_empty() {
            self.exile = None;
        }
        let now = Instant::now();
        let mut left_paused = TopicPartitionList::new();
        {
            let mut state = self.link.lock();
            for element in &elements {
                let (topic, partition) = (element.topic(), element.partition());
                self.reader.forward(topic, partition);
                let id = state.ledger.id(topic, partition);
                state.ledger.assigned(id);
                let Some(epoch) = state.ledger.epoch(id) else { continue };
                let topic = Arc::clone(&state.ledger.name(id).topic);
                if self.left_paused.remove(&id) {
                    left_paused.add_partition(&topic, partition);
                }
                let (_, high) = self.reader.watermarks(&topic, partition);
                self.lanes.insert(Lane::new(id, epoch, topic, partition, Progress::new(now, high)));
            }
        }
        self.measure_lanes();
        self.starts_after(&committed);
        self.topic_ids.hurry();
        if let Err(error) = answer(self.reader.consumer(), rebalance) {
            self.fail(error.into());
        }
        self.resume(&left_paused);
    }

    pub(super) fn revoked(&mut self, partitions: &TopicPartitionList, rebalance: &Rebalance) {
        let lost = self.reader.consumer().assignment_lost();
        log::debug!("{} {partitions:?}", if lost { "lost" } else { "revoked" });
        self.options.sight.meter.revoked(lost);
        let (mut ids, mut away) = (Vec::new(), Vec::new());
        for element in partitions.elements() {
            let Some(lane) = self.lanes.remove(element.topic(), element.partition()) else { continue };
            ids.push(lane.id);
            if lane.is_paused {
                self.left_paused.insert(lane.id);
            }
            if lane.is_away {
                away.push((Arc::clone(&lane.topic), lane.partition));
            }
            if lane.progress.is_stalled() {
                log::info!("{}:{} is no longer stalled: it goes to another consumer", lane.topic, lane.partition);
            }
        }
        if lost {
            self.exiled(partitions);
        }
        self.drop_records_of(&ids);
        {
            let mut state = self.link.lock();
            (state.revoking, state.is_told) = (Some(ids.clone()), false);
        }
        self.link.wake_caller();
        if !lost {
            let deadline = Instant::now() + self.options.drain_budget;
            self.wait_for_batch_in_hand(&ids, deadline);
            if let Err(error) = self.confirm(deadline.min(Instant::now() + COMMIT_DEADLINE)) {
                log::warn!("on revocation {error}");
            }
        }
        {
            let mut state = self.link.lock();
            state.revoking = None;
            state.stopped.retain(|(id, ..)| !ids.contains(id));
            state.stalls.retain(|stalled| !ids.contains(&stalled.id));
            for id in ids {
                if state.ledger.revoked(id) {
                    state.unconfirmed_losses += 1;
                }
            }
        }
        self.link.wake_caller();
        let consumer = self.reader.consumer();
        let answered = match away.is_empty() {
            true => answer(consumer, rebalance),
            // librdkafka refuses to give up what it does not have.
            false => answer(consumer, &Rebalance::Revoke(without(partitions, &away))),
        };
        if let Err(error) = answered {
            self.fail(error.into());
        }
    }

    /// Forgets what was taken and not handed over of these partitions.
    pub(super) fn drop_records_of(&mut self, ids: &[PartitionId]) {
        let keep = |source: &Source| !ids.contains(&Ledger::from_tag(source.tag).0);
        self.carry.retain(keep);
        self.link.lock().ready.retain(keep);
    }

    pub(super) fn wait_for_batch_in_hand(&mut self, ids: &[PartitionId], deadline: Instant) {
        // Since nothing has been held but by those who wait.
        let mut answers = None;
        loop {
            let (holds, waits, flows) = {
                let state = self.link.lock();
                (state.holds(ids), state.waits_for_others(ids), state.flows)
            };
            let until = match (holds, waits) {
                (true, _) => {
                    // Who begins to wait after that has as long as any other.
                    answers = None;
                    deadline
                }
                (false, true) => *answers.get_or_insert_with(|| deadline.min(Instant::now() + ANSWERS)),
                (false, false) => return,
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let what = if holds { "what is in hand is not done" } else { "what waits for an answer has none" };
                log::warn!("{what} in time, and its partitions go: others handle it too");
                return;
            }
            if flows {
                // The answer may have to come from here.
                self.take();
            }
            let patience = self.patience();
            self.link.bell.wait(left.min(patience));
            // Earlier batches go on being committed meanwhile.
            self.serve_membership();
            self.serve_replies();
            self.commit();
        }
    }
}

/// The list less these partitions.
fn without(partitions: &TopicPartitionList, less: &[(Arc<str>, i32)]) -> TopicPartitionList {
    let mut rest = TopicPartitionList::new();
    for element in partitions.elements() {
        if !less.iter().any(|(topic, partition)| **topic == *element.topic() && *partition == element.partition()) {
            rest.add_partition(element.topic(), element.partition());
        }
    }
    rest
}
