//! Records that the log no longer had when they should have been read.
//!
//! librdkafka resets such a position silently, as `auto.offset.reset` says. It shows as a gap before a record while the
//! log starts after the expected offset. A gap alone is no loss: compaction and transactions leave some.

use std::time::Duration;

use crate::consumer::fetch::Fetch;
use crate::consumer::lanes::Lane;
use crate::consumer::ledger::PartitionId;
use crate::consumer::progress::OffsetReset;
use crate::native::CommittedOffset;

/// How long an assignment waits to be told what is committed. librdkafka asks for the same before it fetches, so while
/// nobody answers nothing is missed.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(5);

/// A record that came at another offset than the expected one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    pub(super) id: PartitionId,
    pub(super) wanted: i64,
    pub(super) came: i64,
}

/// Where reading went on after a reset: at the log's start, or at its end. None: the log still has what was wanted, or
/// starts after what came all the same, which was fetched before its start moved.
fn reset_to(wanted: i64, came: i64, low: i64, resets_to_end: bool) -> Option<i64> {
    (wanted < low && low <= came).then_some(if resets_to_end { came } else { low })
}

impl Fetch {
    /// Looks whether records are lost in these gaps.
    pub(super) fn check_gaps(&self, gaps: impl IntoIterator<Item = Gap>) {
        let mut known: Option<(PartitionId, Option<i64>)> = None;
        for Gap { id, wanted, came } in gaps {
            let low = match known {
                Some((known, low)) if known == id => low,
                _ => {
                    let name = self.link.lock().ledger.name(id).clone();
                    self.reader.watermarks(&name.topic, name.partition).0
                }
            };
            known = Some((id, low));
            let resets_to_end = self.options.resets_to_end;
            if let Some(reset_to) = low.and_then(|low| reset_to(wanted, came, low, resets_to_end)) {
                self.report(id, wanted, reset_to);
            }
        }
    }

    fn report(&self, id: PartitionId, wanted: i64, reset_to: i64) {
        let name = self.link.lock().ledger.name(id).clone();
        let (topic, partition) = (name.topic.to_string(), name.partition);
        let lost = u64::try_from(reset_to - wanted).unwrap_or(0);
        log::error!(
            "{topic}:{partition} goes on at offset {reset_to} instead of {wanted}: the log no longer has the {lost} \
             records between, which are lost to this group"
        );
        self.link.lock().remember(OffsetReset { topic, partition, wanted, reset_to, lost });
    }

    /// What the group has committed for these partitions, as far as the broker tells in time.
    pub(super) fn committed<'a>(&self, partitions: impl Iterator<Item = (&'a str, i32)>) -> Vec<CommittedOffset> {
        // A client that is being closed starts nothing any more.
        let is_closing = self.link.lock().closing.is_some();
        let mut partitions = partitions.peekable();
        match is_closing || partitions.peek().is_none() {
            true => Vec::new(),
            false => self.reader.committed(partitions, COMMITTED_TIMEOUT),
        }
    }

    /// These partitions were assigned with this committed.
    pub(super) fn starts_after(&mut self, committed: &[CommittedOffset]) {
        let mut bare = Vec::new();
        for CommittedOffset { topic, partition, next_offset: offset, leader_epoch } in committed {
            let Some(lane) = self.lanes.named(topic, *partition) else { continue };
            // With nothing committed and `auto.offset.reset=latest`, only librdkafka knows where it starts.
            if offset.is_some() || !self.options.resets_to_end {
                lane.progress.committed(*offset);
            }
            (lane.start.committed, lane.start.committed_epoch) = (*offset, *leader_epoch);
            if offset.is_some() {
                self.told_bare.remove(&lane.id);
                continue;
            }
            lane.start.is_checked = true;
            if self.told_bare.insert(lane.id) {
                bare.push(format!("{topic}:{partition}"));
            }
        }
        if !bare.is_empty() {
            // A new group, a new partition, or commits that expired or were deleted: the broker tells no difference.
            let (level, from) = match self.options.resets_to_end {
                true => (log::Level::Warn, "from the end, and what stands before is not"),
                false => (log::Level::Info, "as `auto.offset.reset` says"),
            };
            let (group, bare) = (&self.options.group, bare.join(", "));
            log::log!(level, "group {group} has nothing committed of {bare}: it is read {from}");
        }
    }

    /// Compares where partitions began with where they should have, where that is known.
    pub(super) fn check_starts(&mut self) {
        let gap = |lane: &mut Lane| {
            let start = &mut lane.start;
            let (wanted, came) = start.committed.zip(start.first).filter(|_| !start.is_checked)?;
            start.is_checked = true;
            if came < wanted {
                log::warn!(
                    "{}:{} starts at {came}, {wanted} is committed: the log lost its end, or the topic was made anew",
                    lane.topic,
                    lane.partition
                );
            }
            Some(Gap { id: lane.id, wanted, came })
        };
        let gaps: Vec<_> = self.lanes.iter_mut().filter_map(gap).collect();
        self.check_gaps(gaps);
    }
}

#[cfg(test)]
mod tests {
    use super::reset_to;

    #[test]
    fn a_gap_is_a_loss_only_where_the_log_starts_after_what_was_wanted() {
        assert_eq!(reset_to(5, 20, 20, false), Some(20));
        assert_eq!(reset_to(5, 22, 20, false), Some(20), "the log's first record stands after its start");
        assert_eq!(reset_to(5, 40, 20, true), Some(40));
        assert_eq!(reset_to(5, 20, 5, false), None, "compacted");
        assert_eq!(reset_to(5, 20, 0, true), None);
        assert_eq!(reset_to(5, 20, 30, false), None, "fetched before the log was cut");
    }
}
