//! The batches that wait for a free handler.

use std::collections::VecDeque;
use std::time::Instant;

use crate::message::arena::{Arena, Source};

/// So many batches may wait. With one alone, the thread that fills and the thread that handles
/// wait for each other in turns, because a scheduler lets a woken thread wait for a millisecond and more.
pub(super) const READY_BATCHES: usize = 8;
/// The same by bytes: large batches last long enough by themselves.
const READY_BYTES: usize = 2 << 20;

/// A batch that waits. Never empty.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) arena: Arena,
    /// It takes no more records: it has reached a limit.
    pub(super) is_full: bool,
    /// When its first record came.
    pub(super) since: Instant,
}

/// All but the last are full.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue(VecDeque<Ready>);

impl ReadyQueue {
    pub(super) fn first(&self) -> Option<&Ready> {
        self.0.front()
    }

    #[cfg(any(feature = "app", feature = "export", feature = "stream"))]
    pub(super) fn first_mut(&mut self) -> Option<&mut Ready> {
        self.0.front_mut()
    }

    /// The first one, where it is as wanted.
    pub(super) fn pop_if(&mut self, is_wanted: impl FnOnce(&Ready) -> bool) -> Option<Ready> {
        self.0.front().is_some_and(is_wanted).then(|| self.0.pop_front()).flatten()
    }

    /// The one that takes more records. Who takes records has it while adding some.
    pub(super) fn pop_open(&mut self) -> Option<Ready> {
        self.0.back().is_some_and(|ready| !ready.is_full).then(|| self.0.pop_back()).flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether another one is to be filled, of so many at most.
    pub(super) fn has_room(&self, most: usize) -> bool {
        let bytes: usize = self.0.iter().map(|ready| ready.arena.bytes()).sum();
        self.0.len() < most && bytes < READY_BYTES
    }

    pub(super) fn push(&mut self, ready: Ready) {
        self.0.push_back(ready);
    }

    /// Drops the records of sources that `keep` refuses.
    pub(super) fn retain(&mut self, keep: impl Fn(&Source) -> bool) {
        self.0.retain_mut(|ready| {
            ready.arena.retain(&keep);
            !ready.arena.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::arena::NewRecord;

    fn ready(partition: i32, bytes: usize, is_full: bool) -> Ready {
        let mut arena = Arena::default();
        let source = arena.source_index(|_| false, || Source { topic: "t".into(), partition, tag: 0 });
        let value = vec![0; bytes];
        arena.push(source, &NewRecord { value: Some(&value), ..NewRecord::default() }, |_| {});
        Ready { arena, is_full, since: Instant::now() }
    }

    fn partition(ready: &Ready) -> i32 {
        ready.arena.source(&ready.arena.records()[0]).partition
    }

    #[test]
    fn only_the_last_one_takes_more_and_the_first_is_handed_over() {
        let mut queue = ReadyQueue::default();
        assert!(queue.pop_open().is_none() && queue.pop_if(|_| true).is_none());
        queue.push(ready(0, 1, true));
        assert!(queue.pop_open().is_none());
        queue.push(ready(1, 1, false));
        let open = queue.pop_open().unwrap();
        assert_eq!(partition(&open), 1);
        queue.push(open);
        assert!(queue.pop_if(|ready| !ready.is_full).is_none(), "the one before it comes first");
        assert_eq!(queue.pop_if(|ready| ready.is_full).as_ref().map(partition), Some(0));
        assert_eq!(queue.first().map(partition), Some(1));
    }

    #[test]
    fn a_few_batches_wait_or_one_that_is_large() {
        let mut queue = ReadyQueue::default();
        for partition in 0..8 {
            assert!(queue.has_room(READY_BATCHES));
            queue.push(ready(partition, 1_000, true));
        }
        assert!(!queue.has_room(READY_BATCHES));
        let mut queue = ReadyQueue::default();
        queue.push(ready(0, READY_BYTES, true));
        assert!(!queue.has_room(READY_BATCHES));
    }

    #[test]
    fn a_partition_that_goes_away_takes_its_batches_with_it() {
        let mut queue = ReadyQueue::default();
        (0..3).for_each(|partition| queue.push(ready(partition, 1, true)));
        queue.retain(|source| source.partition != 1);
        assert_eq!(queue.0.iter().map(partition).collect::<Vec<_>>(), [0, 2]);
    }
}
