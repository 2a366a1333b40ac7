//! Which offset may be committed: a pure state machine without clock, threads or Kafka.
//!
//! Per partition it knows which records were delivered and which of them are completed. The *watermark* is the next
//! offset after the longest completed prefix; it is what gets committed. Completions come in any order.
//!
//! An *epoch* is one ownership of a partition, from its assignment to its revocation or to a rewind. Whatever is said
//! about an older epoch is ignored, so a handler that finishes late cannot speak for records it no longer owns.
//!
//! At most one commit is in flight, because of two the older can land last. A commit is never lower than one before it
//! in the same epoch, and only a rewind (a topic made anew) opens an epoch whose commits start lower.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// A topic's partition. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TopicPartition {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
}

/// A partition's place in its [`Ledger`], so that the hot path compares a number instead of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PartitionId(u32);

impl PartitionId {
    /// Ids are counted from 0, so they may index a table.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// One ownership of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(u32);

/// What one commit says of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommitOffset {
    pub(crate) id: PartitionId,
    pub(crate) epoch: Epoch,
    pub(crate) next_offset: i64,
    /// The leader epoch of the last record before `next_offset`, so that the broker can tell a truncated log.
    pub(crate) leader_epoch: Option<i32>,
}

/// A commit to send. Its `sequence` comes back with the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) sequence: u64,
    pub(crate) offsets: Vec<CommitOffset>,
}

#[derive(Clone, Debug)]
struct Partition {
    name: TopicPartition,
    epoch: Epoch,
    owned: bool,
    /// The offset after the last delivered record.
    next_expected: Option<i64>,
    /// Nothing at or below this is worth a commit: the first delivered offset, then what was confirmed. After a rewind
    /// it stands just below where the log starts again.
    floor: Option<i64>,
    /// Delivered and not completed, in order, runs without gaps.
    uncompleted: VecDeque<Range<i64>>,
    /// From which offset on the records carry which leader epoch; what the watermark passed is forgotten.
    leader_epochs: VecDeque<(i64, Option<i32>)>,
}

impl Partition {
    fn reset(&mut self, owned: bool) {
        self.epoch = Epoch(self.epoch.0.wrapping_add(1));
        self.owned = owned;
        self.next_expected = None;
        self.floor = None;
        self.uncompleted.clear();
        self.leader_epochs.clear();
    }

    fn completed(&mut self, epoch: Epoch, offsets: Range<i64>) {
        if !self.owned || self.epoch != epoch || offsets.is_empty() {
            return;
        }
        let runs = &mut self.uncompleted;
        let first = runs.partition_point(|run| run.end <= offsets.start);
        let mut index = first;
        while let Some(run) = runs.get_mut(index).filter(|run| run.start < offsets.end) {
            match (run.start < offsets.start, run.end > offsets.end) {
                (false, false) => {
                    runs.remove(index);
                }
                (true, false) => {
                    run.end = offsets.start;
                    index += 1;
                }
                (false, true) => {
                    run.start = offsets.end;
                    index += 1;
                }
                (true, true) => {
                    let rest = offsets.end..run.end;
                    run.end = offsets.start;
                    runs.insert(index + 1, rest);
                    break;
                }
            }
        }
        if let Some(watermark) = self.watermark() {
            while self.leader_epochs.get(1).is_some_and(|(from, _)| *from < watermark) {
                self.leader_epochs.pop_front();
            }
        }
    }

    fn watermark(&self) -> Option<i64> {
        self.uncompleted.front().map(|run| run.start).or(self.next_expected)
    }

    /// The watermark, where it is worth a commit.
    fn committable(&self) -> Option<i64> {
        self.watermark().filter(|&offset| self.owned && self.floor.is_some_and(|floor| offset > floor))
    }

    /// The watermark as part of a commit, where it is worth one.
    fn commit_offset(&self, id: PartitionId) -> Option<CommitOffset> {
        let next_offset = self.committable()?;
        Some(CommitOffset { id, epoch: self.epoch, next_offset, leader_epoch: self.leader_epoch_before(next_offset) })
    }

    fn leader_epoch_before(&self, next_offset: i64) -> Option<i32> {
        self.leader_epochs.iter().rev().find(|(from, _)| *from < next_offset).and_then(|(_, epoch)| *epoch)
    }
}

/// See the module's own words.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    ids: HashMap<TopicPartition, PartitionId>,
    partitions: Vec<Partition>,
    sequence: u64,
    in_flight: Option<Commit>,
}

impl Ledger {
    /// The partition's id, made at the first call; ids are never reused.
    pub(crate) fn id(&mut self, topic: &str, partition: i32) -> PartitionId {
        let name = TopicPartition { topic: topic.into(), partition };
        if let Some(id) = self.ids.get(&name) {
            return *id;
        }
        let id = PartitionId(u32::try_from(self.partitions.len()).unwrap_or(u32::MAX));
        self.ids.insert(name.clone(), id);
        self.partitions.push(Partition {
            name,
            epoch: Epoch(0),
            owned: false,
            next_expected: None,
            floor: None,
            uncompleted: VecDeque::new(),
            leader_epochs: VecDeque::new(),
        });
        id
    }

    pub(crate) fn name(&self, id: PartitionId) -> &TopicPartition {
        &self.partition(id).name
    }

    fn partition(&self, id: PartitionId) -> &Partition {
        &self.partitions[id.index()]
    }

    fn partition_mut(&mut self, id: PartitionId) -> &mut Partition {
        &mut self.partitions[id.index()]
    }

    /// An ownership as one number, for [`Source::tag`](crate::message::arena::Source).
    pub(crate) fn tag(id: PartitionId, epoch: Epoch) -> u64 {
        u64::from(id.0) << 32 | u64::from(epoch.0)
    }

    /// The reverse of [`Ledger::tag`].
    pub(crate) fn from_tag(tag: u64) -> (PartitionId, Epoch) {
        (PartitionId((tag >> 32) as u32), Epoch(tag as u32))
    }

    /// Whether this ownership is still the one in force.
    pub(crate) fn is_current(&self, tag: u64) -> bool {
        let (id, epoch) = Self::from_tag(tag);
        self.epoch(id) == Some(epoch)
    }

    /// The epoch in force, where the partition is owned.
    pub(crate) fn epoch(&self, id: PartitionId) -> Option<Epoch> {
        let partition = self.partition(id);
        partition.owned.then_some(partition.epoch)
    }

    /// The offset that the next record must have at least.
    pub(crate) fn next_expected(&self, id: PartitionId) -> Option<i64> {
        self.partition(id).next_expected
    }

    /// What is committed in this ownership, or where it began before that.
    pub(crate) fn floor(&self, id: PartitionId) -> Option<i64> {
        self.partition(id).floor
    }

    /// The offset after the longest completed prefix.
    pub(crate) fn watermark(&self, id: PartitionId) -> Option<i64> {
        self.partition(id).watermark()
    }

    /// Whether delivered records are not completed.
    pub(crate) fn is_open(&self, id: PartitionId) -> bool {
        !self.partition(id).uncompleted.is_empty()
    }

    /// How many offsets were delivered beyond the watermark: as long as the record there is not completed, no commit
    /// covers them.
    pub(crate) fn window(&self, id: PartitionId) -> u64 {
        let partition = self.partition(id);
        let (next, watermark) = (partition.next_expected, partition.watermark());
        next.zip(watermark).map_or(0, |(next, watermark)| u64::try_from(next - watermark).unwrap_or(0))
    }

    /// The partition is ours from now on, and nothing of it was delivered yet.
    pub(crate) fn assigned(&mut self, id: PartitionId) {
        self.partition_mut(id).reset(true);
    }

    /// A record was taken. `false`, and nothing noted, where the partition is not owned or the record stands below the
    /// next expected offset: then the log was made anew or read again, see [`Ledger::rewound`].
    pub(crate) fn delivered(&mut self, id: PartitionId, offset: i64, leader_epoch: Option<i32>) -> bool {
        let partition = self.partition_mut(id);
        if !partition.owned || partition.next_expected.is_some_and(|next| offset < next) {
            return false;
        }
        partition.floor.get_or_insert(offset);
        match partition.uncompleted.back_mut() {
            Some(run) if run.end == offset => run.end = offset + 1,
            _ => partition.uncompleted.push_back(offset..offset + 1),
        }
        if partition.leader_epochs.back().is_none_or(|(_, last)| *last != leader_epoch) {
            partition.leader_epochs.push_back((offset, leader_epoch));
        }
        partition.next_expected = Some(offset + 1);
        true
    }

    /// All delivered records with these offsets are done. Ignored for an epoch that is over.
    pub(crate) fn completed(&mut self, id: PartitionId, epoch: Epoch, offsets: Range<i64>) {
        self.partition_mut(id).completed(epoch, offsets);
    }

    /// What there would be to commit of this partition once these offsets are done. None for an epoch that is over.
    pub(crate) fn committable_after(&self, id: PartitionId, epoch: Epoch, offsets: Range<i64>) -> Option<CommitOffset> {
        let mut partition = self.partition(id).clone();
        if partition.epoch != epoch {
            return None;
        }
        partition.completed(epoch, offsets);
        partition.commit_offset(id)
    }

    /// This is committed. A transaction does so without [`Ledger::take_commit`].
    pub(crate) fn committed(&mut self, offset: &CommitOffset) {
        let partition = self.partition_mut(offset.id);
        if partition.owned && partition.epoch == offset.epoch {
            partition.floor = partition.floor.max(Some(offset.next_offset));
        }
    }

    /// The log starts again at `offset`: the topic was made anew. What was delivered before is void, and the next commit
    /// may be lower than the last; it is sent at once, since the old one would skip records of the new log. Nothing
    /// happens where `offset` is the expected one.
    pub(crate) fn rewound(&mut self, id: PartitionId, offset: i64) {
        let partition = self.partition_mut(id);
        if partition.owned && partition.next_expected != Some(offset) {
            partition.reset(true);
            partition.next_expected = Some(offset);
            partition.floor = Some(offset - 1);
        }
    }

    /// All owned partitions of this topic start again at 0.
    pub(crate) fn made_anew(&mut self, topic: &str) {
        for index in (0u32..).take(self.partitions.len()) {
            if &*self.name(PartitionId(index)).topic == topic {
                self.rewound(PartitionId(index), 0);
            }
        }
    }

    /// The partition is no longer ours. Returns whether completed records of it stay without a confirmed commit.
    pub(crate) fn revoked(&mut self, id: PartitionId) -> bool {
        let partition = self.partition_mut(id);
        let unconfirmed = partition.committable().is_some();
        if partition.owned {
            partition.reset(false);
        }
        unconfirmed
    }

    /// Whether anything is completed that no confirmed commit covers.
    pub(crate) fn has_committable(&self) -> bool {
        self.partitions.iter().any(|partition| partition.committable().is_some())
    }

    /// Per partition the offsets that are completed and not covered by a confirmed commit.
    pub(crate) fn unconfirmed(&self) -> impl Iterator<Item = (&TopicPartition, Range<i64>)> + '_ {
        self.partitions
            .iter()
            .filter_map(|partition| Some((&partition.name, partition.floor?..partition.committable()?)))
    }

    pub(crate) fn in_flight(&self) -> Option<&Commit> {
        self.in_flight.as_ref()
    }

    /// The next commit to send, of everything completed and not confirmed. None while one is in flight.
    pub(crate) fn take_commit(&mut self) -> Option<Commit> {
        if self.in_flight.is_some() {
            return None;
        }
        let offsets: Vec<_> = (0u32..)
            .zip(&self.partitions)
            .filter_map(|(index, partition)| partition.commit_offset(PartitionId(index)))
            .collect();
        if offsets.is_empty() {
            return None;
        }
        self.sequence += 1;
        let commit = Commit { sequence: self.sequence, offsets };
        self.in_flight = Some(commit.clone());
        Some(commit)
    }

    /// The broker's answer to the commit with this sequence; `confirmed` says of which partitions it was a success.
    /// All others are unknown: their watermark is sent again. False where no such commit is in flight.
    pub(crate) fn answered(&mut self, sequence: u64, confirmed: impl Fn(&TopicPartition) -> bool) -> bool {
        let Some(commit) = self.in_flight.take_if(|commit| commit.sequence == sequence) else {
            return false;
        };
        for offset in commit.offsets {
            if confirmed(self.name(offset.id)) {
                self.committed(&offset);
            }
        }
        true
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
