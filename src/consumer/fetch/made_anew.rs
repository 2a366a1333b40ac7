//! Topics that were made anew, and partitions that wait to know whether theirs was.

use std::collections::BTreeSet;
use std::time::Instant;

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::consumer::fetch::{Fetch, is_of_topic};
use crate::consumer::lanes::Lane;
use crate::consumer::ledger::PartitionId;
use crate::consumer::topic_ids;
use crate::native::TopicId;
use crate::refusal::{Refusal, RefusalKind};

impl Fetch {
    pub(super) fn ask_topic_ids(&mut self) {
        let is_awaited = self.lanes.out_of_place().any(|lane| lane.awaits_id.is_some());
        let interval = if is_awaited { topic_ids::SHORT_INTERVAL } else { topic_ids::INTERVAL };
        if !self.topic_ids.is_due(Instant::now(), interval) {
            return;
        }
        // The refused ones, too: an answer tells that they are so no more.
        let refusals = self.refusals().all();
        let refused = refusals.iter().filter(|refusal| refusal.kind == RefusalKind::Topic);
        let refused = refused.filter_map(|refusal| refusal.subject.as_deref());
        let topics: BTreeSet<_> = self.lanes.topics().chain(refused).collect();
        if !topics.is_empty() {
            self.reader.ask_topic_ids(topics.into_iter());
            self.topic_ids.asked();
        }
    }

    /// What was delivered of the topic is void, and its partitions are read from the start.
    pub(super) fn made_anew(&mut self, topic: &str) {
        log::warn!("topic {topic} was deleted and made anew: it is read from its start");
        // What is committed would skip records of the new log.
        self.commit_began = None;
        let mut state = self.link.lock();
        // Those too whose revocation is under way.
        state.ledger.made_anew(topic);
        for lane in self.lanes.of_topic(topic) {
            state.stopped.retain(|(id, ..)| *id != lane.id);
            lane.restart(state.ledger.epoch(lane.id).unwrap_or(lane.epoch), 0);
        }
    }

    pub(super) fn topics_answered(&mut self, topics: Vec<(String, std::result::Result<TopicId, Code>)>) {
        let mut ids = Vec::new();
        for (topic, answer) in topics {
            match answer {
                Ok(id) => ids.push((topic, id)),
                // Nothing else tells it again: a partition that may not be read is not read.
                Err(code) => {
                    if let Some(refusal) = Refusal::of_right(code, &topic) {
                        self.refusals().met(refusal);
                    }
                }
            }
        }
        if !ids.is_empty() {
            // Of a topic that is assigned the question is whether it can be read.
            let is_told = |refusal: &Refusal| ids.iter().any(|(topic, _)| is_of_topic(refusal, topic));
            let is_ours = |refusal: &Refusal| self.lanes.topics().any(|topic| is_of_topic(refusal, topic));
            self.let_in(|refusal| is_told(refusal) && !is_ours(refusal));
            self.exile_answered();
        }
        if !self.topic_ids.is_outdated() {
            for (topic, _) in &ids {
                self.lanes.of_topic(topic).for_each(|lane| lane.awaits_id = None);
            }
            let untold = |lane: &mut Lane| Some((lane.id, lane.id_untold()?));
            let untold: Vec<_> = self.lanes.out_of_place().filter_map(untold).collect();
            if !untold.is_empty() {
                self.rewind(untold, "librdkafka went back to there, and nobody tells whether the topic is the same");
            }
        }
        for topic in self.topic_ids.answered(ids, Instant::now()) {
            self.made_anew(&topic);
        }
    }

    /// Partitions start again at these offsets: what was delivered of them is void.
    pub(super) fn rewind(&mut self, partitions: Vec<(PartitionId, i64)>, why: &str) {
        self.commit_began = None;
        let mut state = self.link.lock();
        let mut told = Vec::new();
        for (id, offset) in partitions {
            told.push((state.ledger.name(id).clone(), offset, state.ledger.next_expected(id)));
            state.ledger.rewound(id, offset);
            if let (Some(lane), Some(epoch)) = (self.lanes.get_mut(id), state.ledger.epoch(id)) {
                lane.restart(epoch, offset);
            }
        }
        drop(state);
        for (name, offset, expected) in told {
            let (topic, partition, expected) = (&*name.topic, name.partition, expected.unwrap_or_default());
            log::warn!("{topic}:{partition} starts again at {offset}, {expected} was expected: {why}");
        }
    }
}
