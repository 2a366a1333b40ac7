//! The owned partitions, as the fetch thread sees them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use crate::consumer::ledger::{Epoch, PartitionId};
use crate::consumer::progress::Progress;
use crate::consumer::topic_ids::TopicIds;
use crate::metrics::PartitionMeter;

/// An owned partition.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) id: PartitionId,
    pub(super) epoch: Epoch,
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    /// The offset after the last record taken.
    pub(super) next: Option<i64>,
    /// That record's leader epoch.
    pub(super) leader_epoch: Option<i32>,
    /// The last `next` that was sought because something else came.
    doubted: Option<i64>,
    /// The last `next` that was sought because what stands before it came again.
    misled: Option<i64>,
    /// To be sought there before anything more is taken: an offset, or one of librdkafka's logical ones.
    pub(super) seek: Option<i64>,
    /// The leader epoch of the record before: librdkafka then asks whether the log still has that.
    pub(super) seek_epoch: Option<i32>,
    /// Not before this.
    pub(super) seek_at: Option<Instant>,
    /// Nor before its topic is known to be the same one still.
    pub(super) awaits_id: Option<AwaitsId>,
    /// Nothing is fetched, because too much is delivered beyond the watermark.
    pub(super) is_paused: bool,
    pub(super) progress: Progress,
    pub(super) start: Start,
    /// When it may be given to librdkafka anew, and how often that was done without progress since.
    pub(super) reassign_at: Option<Instant>,
    pub(super) reassigned: u32,
    /// librdkafka took the partition away for a reassignment and did not take it back.
    pub(super) is_away: bool,
    pub(super) meter: PartitionMeter,
}

/// So many questions for a topic's id may stay without it.
const MOST_QUESTIONS: u32 = 3;

/// A seek that waits for the topic's id.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct AwaitsId {
    /// The offset that came instead of the next one.
    came: i64,
    unanswered: u32,
}

/// Where the reading of a partition began, until that is compared with where it should have.
#[derive(Debug, Default)]
pub(super) struct Start {
    pub(super) committed: Option<i64>,
    pub(super) first: Option<i64>,
    /// The leader epoch of the record before `committed`.
    pub(super) committed_epoch: Option<i32>,
    pub(super) is_checked: bool,
    /// The first record for which it was sought in such a way that librdkafka looked whether the log lost its end, and how
    /// often that was done.
    looked_at: Option<i64>,
    looks: u32,
}

/// So many times a start is looked at: librdkafka may skip once more, for which see [`Lane::doubts`].
const MOST_LOOKS: u32 = 3;

impl Start {
    /// Where it has to be read from again, before this first record counts: another leader wrote it than the one before
    /// what is committed. If the log lost its end to that one's election, and has outgrown what it was since, some records
    /// would be skipped. librdkafka looks for that at a seek, and not at a start.
    pub(super) fn look_from(&mut self, offset: i64, leader_epoch: Option<i32>) -> Option<(i64, i32)> {
        let (committed, before) = self.committed.zip(self.committed_epoch)?;
        let is_new = self.looked_at != Some(offset) && self.looks < MOST_LOOKS;
        let is_due = is_new && !self.is_checked && committed <= offset && before < leader_epoch?;
        if is_due {
            self.looked_at = Some(offset);
            self.looks += 1;
        }
        is_due.then_some((committed, before))
    }
}

impl Lane {
    pub(super) fn new(id: PartitionId, epoch: Epoch, topic: Arc<str>, partition: i32, progress: Progress) -> Self {
        Self {
            id,
            epoch,
            topic,
            partition,
            next: None,
            leader_epoch: None,
            doubted: None,
            misled: None,
            seek: None,
            seek_epoch: None,
            seek_at: None,
            awaits_id: None,
            is_paused: false,
            progress,
            start: Start::default(),
            reassign_at: None,
            reassigned: 0,
            is_away: false,
            meter: PartitionMeter::default(),
        }
    }

    /// Whether the next record has to be sought once, because this one came instead, and by another leader.
    ///
    /// Compaction and transactions leave such gaps. So does librdkafka 2.12 where a leader's epoch rises while it has
    /// records that nobody took: two updates of the metadata in a row, and a fetch that was under way, make it take the end
    /// of the old epoch for the log's end, throw those records away and go on after them
    /// (`rd_kafka_toppar_handle_OffsetForLeaderEpoch` compares with a position that changed since it asked). Where more
    /// was taken already it goes back instead, see [`Lane::is_misled`].
    pub(super) fn doubts(&mut self, offset: i64, leader_epoch: Option<i32>) -> bool {
        let is_gap = self.next.is_some_and(|next| next < offset);
        let is_doubtful = is_gap && self.leader_epoch < leader_epoch && self.doubted != self.next;
        if is_doubtful {
            let (topic, partition) = (&self.topic, self.partition);
            log::debug!("{topic}:{partition}: {offset} came instead of {:?}, which is sought once", self.next);
            (self.doubted, self.seek) = (self.next, self.next);
        }
        is_doubtful
    }

    /// Whether the next record has to be sought once more, because one before it came that is not newer.
    ///
    /// So it is where librdkafka went back by mistake: to the end of an epoch, see [`Lane::doubts`], or, as a soak met twice
    /// just after its services had joined, to the log's start. Where the log was cut off, what comes instead is of a later
    /// epoch than all that was taken; the seek tells the epoch, and leads there. The log of a topic made anew begins with
    /// low epochs again: so the topic's id is waited for.
    pub(super) fn is_misled(&mut self, ids: &mut TopicIds, offset: i64, leader_epoch: Option<i32>) -> bool {
        let is_before = self.next.is_some_and(|next| offset < next);
        let is_known = leader_epoch.is_some() && leader_epoch <= self.leader_epoch;
        let is_misled = is_before && is_known && self.misled != self.next && ids.knows(&self.topic);
        if is_misled {
            let (topic, partition) = (&self.topic, self.partition);
            log::debug!("{topic}:{partition}: {offset} comes again instead of {:?}, which is sought once", self.next);
            (self.misled, self.seek, self.seek_epoch) = (self.next, self.next, self.leader_epoch);
            self.awaits_id = Some(AwaitsId { came: offset, unanswered: 0 });
            ids.hurry();
        }
        is_misled
    }

    /// A question for the ids of topics was answered without this one's. Returns where it goes on if it has waited for long
    /// enough: at what came, whatever that repeats.
    pub(super) fn id_untold(&mut self) -> Option<i64> {
        let awaits = self.awaits_id.as_mut()?;
        awaits.unanswered += 1;
        (awaits.unanswered >= MOST_QUESTIONS).then_some(awaits.came)
    }

    /// It need not be sought any more. Where the seek was to look whether the log lost its end, the next start does.
    pub(super) fn stay(&mut self) {
        if self.seek_epoch.is_some() {
            self.start.looked_at = None;
        }
        (self.seek, self.seek_epoch, self.seek_at, self.awaits_id) = (None, None, None, None);
    }

    /// What was taken is void, and it is read from this offset on.
    pub(super) fn restart(&mut self, epoch: Epoch, offset: i64) {
        self.stay();
        (self.epoch, self.next, self.seek) = (epoch, None, Some(offset));
        self.start.is_checked = true;
    }

    /// The offset from which to read on; none where that is the committed one.
    pub(super) fn read_from(&self) -> Option<i64> {
        self.seek.or(self.next)
    }
}

/// Found by name once for a run of records, by id for each of them.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    ids: HashMap<Arc<str>, BTreeMap<i32, PartitionId>>,
    lanes: Vec<Option<Lane>>,
}

impl Lanes {
    pub(super) fn insert(&mut self, lane: Lane) {
        let index = lane.id.index();
        self.ids.entry(Arc::clone(&lane.topic)).or_default().insert(lane.partition, lane.id);
        self.lanes.resize_with(self.lanes.len().max(index + 1), || None);
        self.lanes[index] = Some(lane);
    }

    pub(super) fn find(&self, topic: &str, partition: i32) -> Option<PartitionId> {
        self.ids.get(topic)?.get(&partition).copied()
    }

    pub(super) fn get_mut(&mut self, id: PartitionId) -> Option<&mut Lane> {
        self.lanes.get_mut(id.index())?.as_mut()
    }

    pub(super) fn named(&mut self, topic: &str, partition: i32) -> Option<&mut Lane> {
        self.find(topic, partition).and_then(|id| self.get_mut(id))
    }

    pub(super) fn remove(&mut self, topic: &str, partition: i32) -> Option<Lane> {
        let id = self.ids.get_mut(topic)?.remove(&partition)?;
        self.lanes.get_mut(id.index())?.take()
    }

    /// The topics of which a partition is owned.
    pub(super) fn topics(&self) -> impl Iterator<Item = &str> {
        self.ids.iter().filter(|(_, partitions)| !partitions.is_empty()).map(|(topic, _)| &**topic)
    }

    pub(super) fn of_topic<'a>(&'a mut self, topic: &'a str) -> impl Iterator<Item = &'a mut Lane> {
        self.lanes.iter_mut().flatten().filter(move |lane| &*lane.topic == topic)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.lanes.iter_mut().flatten()
    }

    pub(super) fn out_of_place(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.lanes.iter_mut().flatten().filter(|lane| lane.seek.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::ledger::Ledger;
    use crate::native::TopicId;

    #[test]
    fn a_start_is_looked_at_once_and_only_where_the_leader_changed() {
        let start = || Start { committed: Some(10), committed_epoch: Some(3), ..Start::default() };
        assert_eq!(start().look_from(10, Some(3)), None, "the same leader");
        assert_eq!(start().look_from(10, None), None, "a broker that tells no epochs");
        assert_eq!(start().look_from(7, Some(4)), None, "it starts lower anyhow");
        assert_eq!(Start { committed_epoch: None, ..start() }.look_from(10, Some(4)), None);
        assert_eq!(Start::default().look_from(0, Some(4)), None, "nothing is committed");
        let mut changed = start();
        assert_eq!(changed.look_from(12, Some(4)), Some((10, 3)));
        assert_eq!(changed.look_from(12, Some(4)), None, "it is what the log has");
        assert!(changed.look_from(10, Some(4)).is_some() && changed.look_from(12, Some(4)).is_some());
        assert_eq!(changed.look_from(10, Some(4)), None, "not for ever");
    }

    #[test]
    fn a_gap_is_doubted_once_and_only_where_the_leader_changed() {
        let mut ledger = Ledger::default();
        let id = ledger.id("t", 0);
        ledger.assigned(id);
        let mut lane = Lane::new(id, ledger.epoch(id).unwrap(), "t".into(), 0, Progress::new(Instant::now(), None));
        assert!(!lane.doubts(5, Some(4)), "a start");
        (lane.next, lane.leader_epoch) = (Some(10), Some(3));
        assert!(!lane.doubts(10, Some(4)) && !lane.doubts(12, Some(3)) && !lane.doubts(12, None));
        assert!(lane.doubts(12, Some(4)));
        assert_eq!(lane.seek, Some(10));
        assert!(!lane.doubts(12, Some(4)), "that is what the log has");
        (lane.next, lane.leader_epoch) = (Some(20), Some(4));
        assert!(lane.doubts(30, Some(5)));
    }

    #[test]
    fn what_comes_again_is_passed_once_and_only_where_no_later_leader_wrote_it() {
        let mut ledger = Ledger::default();
        let id = ledger.id("t", 0);
        ledger.assigned(id);
        let mut lane = Lane::new(id, ledger.epoch(id).unwrap(), "t".into(), 0, Progress::new(Instant::now(), None));
        let mut ids = TopicIds::default();
        (lane.next, lane.leader_epoch) = (Some(10), Some(3));
        assert!(!lane.is_misled(&mut ids, 5, Some(3)), "nobody could tell whether the topic is another");
        lane.next = None;
        ids.answered(vec![("t".to_owned(), TopicId(0, 1))], Instant::now());
        assert!(!lane.is_misled(&mut ids, 5, Some(3)), "a start");
        (lane.next, lane.leader_epoch) = (Some(10), Some(3));
        assert!(!lane.is_misled(&mut ids, 10, Some(3)), "the next one");
        assert!(!lane.is_misled(&mut ids, 9, Some(4)), "the log lost its end, and has another");
        assert!(!lane.is_misled(&mut ids, 9, None), "nobody knows");
        assert!(lane.is_misled(&mut ids, 5, Some(2)));
        assert_eq!((lane.seek, lane.seek_epoch), (Some(10), Some(3)));
        assert_eq!(lane.awaits_id.map(|awaits| awaits.came), Some(5), "the topic may be another");
        assert!(ids.is_outdated(), "what is asked from now on tells");
        assert!(!lane.is_misled(&mut ids, 5, Some(2)), "that is what the log has");
        (lane.next, lane.leader_epoch) = (Some(20), Some(4));
        assert!(lane.is_misled(&mut ids, 0, Some(0)));
        lane.stay();
        assert_eq!(lane.awaits_id, None);
        (lane.next, lane.leader_epoch) = (Some(30), None);
        assert!(!lane.is_misled(&mut ids, 9, Some(4)), "nobody knows");
    }

    #[test]
    fn a_look_that_was_not_made_leaves_no_epoch_to_the_next_seek() {
        let mut ledger = Ledger::default();
        let id = ledger.id("t", 0);
        ledger.assigned(id);
        let progress = Progress::new(Instant::now(), None);
        let mut lane = Lane::new(id, ledger.epoch(id).unwrap(), "t".into(), 0, progress);
        lane.start = Start { committed: Some(10), committed_epoch: Some(3), ..Start::default() };
        let (from, epoch) = lane.start.look_from(12, Some(4)).unwrap();
        (lane.seek, lane.seek_epoch) = (Some(from), Some(epoch));
        lane.stay();
        assert_eq!((lane.seek, lane.seek_epoch), (None, None));
        assert_eq!(lane.start.look_from(12, Some(4)), Some((10, 3)), "it is still to be made");
    }
}
