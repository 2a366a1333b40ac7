use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::*;
use crate::consumer::link::Wakes;
use crate::consumer::policy::Backoff;
use crate::consumer::ready::{READY_BATCHES, Ready};
use crate::message::arena::{NewRecord, Source};

const PARTITIONS: i32 = 3;

/// An engine without Kafka: the fetch thread's part is played by the test.
struct Scene {
    link: Link,
    desk: Desk,
    /// The next offset to read in each partition; it is owned where it is here.
    positions: BTreeMap<i32, i64>,
    committed: BTreeMap<i32, i64>,
    /// The records that are handled, or given up.
    finished: BTreeSet<(i32, i64)>,
}

impl Scene {
    fn new(on_error: OnError, on_undecodable: OnUndecodable) -> Self {
        let options = Options {
            linger: Duration::ZERO,
            idle_timeout: Some(Duration::ZERO),
            commit: Commit::default(),
            on_error,
            on_undecodable,
            dead_letters: None,
            sight: Default::default(),
        };
        let committed = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
        let (link, desk) = (Link::default(), Desk::new(options));
        Self { link, desk, positions: BTreeMap::new(), committed, finished: BTreeSet::new() }
    }

    fn assign(&mut self, partition: i32) {
        if !self.positions.contains_key(&partition) {
            self.positions.insert(partition, self.committed[&partition]);
            let mut state = self.link.lock();
            let id = state.ledger.id("t", partition);
            state.ledger.assigned(id);
        }
    }

    fn revoke(&mut self, partition: i32) -> TestCaseResult {
        self.commit()?;
        if self.positions.remove(&partition).is_some() {
            let mut state = self.link.lock();
            let id = state.ledger.id("t", partition);
            state.ledger.revoked(id);
            state.ready.retain(|source| source.partition != partition);
        }
        Ok(())
    }

    /// Makes a batch ready of so many records of each owned partition.
    fn fetch(&mut self, records: i64) {
        let mut state = self.link.lock();
        if !state.ready.has_room(READY_BATCHES) || self.positions.is_empty() {
            return;
        }
        let mut arena = Arena::default();
        for (partition, position) in &mut self.positions {
            let id = state.ledger.id("t", *partition);
            let Some(epoch) = state.ledger.epoch(id) else { continue };
            let tag = Ledger::tag(id, epoch);
            let make = || Source { topic: Arc::from("t"), partition: *partition, tag };
            let source = arena.source_index(|found| found == tag, make);
            for offset in *position..*position + records {
                arena.push(source, &NewRecord { offset, value: Some(b"v"), ..NewRecord::default() }, |_| {});
                state.ledger.delivered(id, offset, None);
            }
            *position += records;
        }
        state.ready.push(Ready { arena, is_full: true, since: Instant::now() });
    }

    /// What is committed was finished, all of it.
    fn commit(&mut self) -> TestCaseResult {
        let mut state = self.link.lock();
        let Some(commit) = state.ledger.take_commit() else { return Ok(()) };
        for offset in &commit.offsets {
            let partition = state.ledger.name(offset.id).partition;
            let before = self.committed.insert(partition, offset.next_offset).unwrap_or_default();
            for unfinished in before..offset.next_offset {
                prop_assert!(self.finished.contains(&(partition, unfinished)), "{partition}:{unfinished} is committed");
            }
        }
        state.ledger.answered(commit.sequence, |_| true);
        state.confirmed = state.handled;
        Ok(())
    }

    /// The records handed over, and whether there are any.
    fn hand_over(&mut self) -> Option<Vec<(i32, i64)>> {
        let mut state = self.link.lock();
        let look = self.desk.next(&self.link, &mut state);
        let look = match look {
            Look::Done(Ok(Handed::Gone)) => self.desk.next(&self.link, &mut state),
            other => other,
        };
        let Look::Done(Ok(Handed::Records)) = look else { return None };
        let arena = self.desk.handed();
        let is_current = |record| state.ledger.is_current(arena.source(record).tag);
        assert!(arena.records().iter().all(is_current), "records of a partition that went away are handed over");
        Some(arena.records().iter().map(|record| (arena.source(record).partition, record.offset)).collect())
    }

    /// The attempt came to this. What is finished by it is noted.
    fn settle(&mut self, handed: &[(i32, i64)], outcome: Result<(), Failed>) {
        let done = outcome.as_ref().map_or_else(|failed| failed.done, |()| handed.len());
        self.finished.extend(&handed[..done]);
        let unreadable: Vec<_> = match &outcome {
            Err(Failed { cause: Cause::Unreadable(unreadable), .. }) => unreadable.iter().map(|(at, _)| *at).collect(),
            _ => Vec::new(),
        };
        let before = self.desk.summary.skipped;
        let _hold = Hold(&self.link);
        assert!(!matches!(self.desk.settle(&self.link, outcome, Processing::default()).unwrap(), Next::Bury(_)));
        let skipped = (self.desk.summary.skipped - before) as usize;
        if skipped == unreadable.len() && skipped > 0 {
            self.finished.extend(unreadable.iter().map(|at| handed[*at]));
        } else if skipped > 0 {
            // Given up for the handler: these are gone from what is left.
            let left: BTreeSet<_> = self.desk.hand.iter().flat_map(|hand| places(&hand.arena)).collect();
            self.finished.extend(handed.iter().filter(|record| !left.contains(record)));
        }
    }
}

/// The records among those handed over next.
fn places(arena: &Arena) -> Vec<(i32, i64)> {
    arena.records().iter().map(|record| (arena.source(record).partition, record.offset)).collect()
}

fn failed(done: usize, at: Option<usize>) -> Result<(), Failed> {
    Err(Failed { done, cause: Cause::Handler { at, seen: None, source: "no".into() } })
}

#[derive(Clone, Debug)]
enum Step {
    Assign(i32),
    Revoke(i32),
    /// Also while the handler works.
    RevokeInHand(i32),
    Fetch(i64),
    Succeed,
    Fail,
    FailAt(usize),
    Unreadable(usize),
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..PARTITIONS).prop_map(Step::Assign),
        1 => (0..PARTITIONS).prop_map(Step::Revoke),
        1 => (0..PARTITIONS).prop_map(Step::RevokeInHand),
        4 => (1..6i64).prop_map(Step::Fetch),
        4 => Just(Step::Succeed),
        3 => Just(Step::Fail),
        2 => (0..9usize).prop_map(Step::FailAt),
        1 => (0..9usize).prop_map(Step::Unreadable),
        3 => Just(Step::Commit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever handlers answer and rebalances take: nothing is committed that was neither handled nor given up, and of
    /// one ownership nothing is handled after something behind it.
    #[test]
    fn nothing_is_committed_that_is_not_done(
        steps in proptest::collection::vec(step(), 1..120),
        bisect: bool,
    ) {
        let none = Backoff { first: Duration::ZERO, attempts: 2, ..Backoff::default() };
        let on_error = OnError::retry(none).then(GiveUp::Skip).bisect(bisect);
        let mut scene = Scene::new(on_error, OnUndecodable::Skip);
        for partition in 0..PARTITIONS {
            scene.assign(partition);
        }
        let undecodable = || Error::setting("test", "cannot be read");
        for step in steps {
            match step {
                Step::Assign(partition) => scene.assign(partition),
                Step::Revoke(partition) => scene.revoke(partition)?,
                Step::Fetch(records) => scene.fetch(records),
                Step::Commit => scene.commit()?,
                Step::RevokeInHand(partition) => {
                    let Some(handed) = scene.hand_over() else { continue };
                    scene.revoke(partition)?;
                    scene.assign(partition);
                    // Its late answer counts for what is still owned as it was.
                    let before = scene.finished.clone();
                    scene.settle(&handed, Ok(()));
                    let lost = handed.iter().filter(|(of, _)| *of == partition).copied().collect::<BTreeSet<_>>();
                    scene.finished.retain(|record| !lost.contains(record) || before.contains(record));
                }
                Step::Succeed | Step::Fail | Step::FailAt(_) | Step::Unreadable(_) => {
                    let Some(handed) = scene.hand_over() else { continue };
                    prop_assert!(!handed.is_empty());
                    let sorted = handed.windows(2).all(|two| two[0].0 != two[1].0 || two[0].1 < two[1].1);
                    prop_assert!(sorted, "{handed:?}");
                    let outcome = match step {
                        Step::Succeed => Ok(()),
                        Step::FailAt(at) if at < handed.len() => failed(at, Some(at)),
                        Step::Unreadable(at) if at < handed.len() => {
                            Err(Failed { done: 0, cause: Cause::Unreadable(vec![(at, undecodable())]) })
                        }
                        _ => failed(0, None),
                    };
                    scene.settle(&handed, outcome);
                }
            }
        }
        // Whatever happened, what is owned can be brought to its end, also where some records never work.
        let mut calls = 0;
        while let Some(handed) = scene.hand_over() {
            calls += 1;
            prop_assert!(calls < 1_000, "no end with {handed:?}");
            let is_bad = handed.iter().any(|(_, offset)| offset % 5 == 3);
            scene.settle(&handed, if is_bad { failed(0, None) } else { Ok(()) });
            scene.commit()?;
        }
        scene.commit()?;
        for (partition, position) in scene.positions.clone() {
            prop_assert_eq!(scene.committed[&partition], position, "partition {}", partition);
        }
    }
}

/// A batch that filled over several rounds has its partitions in turns; it is handed over by partition, and a transaction
/// commits the end of each once.
#[test]
fn a_transaction_commits_each_partition_once() {
    let mut scene = Scene::new(OnError::stop(), OnUndecodable::Stop);
    (0..2).for_each(|partition| scene.assign(partition));
    scene.fetch(2);
    let first = scene.link.lock().ready.pop_if(|_| true).unwrap().arena;
    scene.fetch(2);
    {
        let mut state = scene.link.lock();
        let mut both = first;
        both.refill(&mut state.ready.pop_if(|_| true).unwrap().arena, |_, _| true);
        state.ready.push(Ready { arena: both, is_full: true, since: Instant::now() });
    }
    let handed = scene.hand_over().unwrap();
    assert_eq!(handed, [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]);
    let offsets = scene.desk.offsets(&scene.link.lock()).unwrap();
    let offsets: Vec<_> = offsets.iter().map(|(name, offset)| (name.partition, offset.next_offset)).collect();
    assert_eq!(offsets, [(0, 4), (1, 4)]);
}

/// Commits may be put off as long as no batch would wait for one: not for the one in hand, nor at half of the most.
#[test]
fn commits_can_wait_while_much_may_be_unconfirmed() {
    for (commit, unconfirmed, can_wait) in [
        (Commit::EachBatch, 0, false),
        (Commit::Overlapped { max_batches: 1 }, 0, false),
        (Commit::Overlapped { max_batches: 2 }, 0, false),
        (Commit::Overlapped { max_batches: 3 }, 0, true),
        (Commit::Overlapped { max_batches: 3 }, 1, false),
        (Commit::Overlapped { max_batches: 256 }, 126, true),
        (Commit::Overlapped { max_batches: 256 }, 127, false),
        (Commit::Overlapped { max_batches: 256 }, 256, false),
    ] {
        let mut scene = Scene::new(OnError::stop(), OnUndecodable::Stop);
        scene.desk.options.commit = commit;
        for before in [false, true] {
            let mut state = scene.link.lock();
            (state.handled, state.commits_can_wait) = (unconfirmed, before);
            drop(state);
            scene.hand_over();
            let state = scene.link.lock();
            let case = format!("{commit:?} with {unconfirmed}, before {before}");
            assert_eq!(state.commits_can_wait, can_wait, "{case}");
            assert_eq!(state.rings, before && !can_wait, "who put one off is not told: {case}");
            drop(state);
            scene.link.lock().rings = false;
        }
    }
}

/// Whoever takes a batch tells the fetch thread when few enough are left, and not before.
#[test]
fn the_fetch_thread_is_told_of_room_that_it_waits_for() {
    let mut scene = Scene::new(OnError::stop(), OnUndecodable::Stop);
    scene.assign(0);
    for _ in 0..4 {
        scene.fetch(2);
    }
    scene.link.lock().wakes = Wakes { done: false, ready_below: 3 };
    // 3, 2, 1 and 0 are left.
    for rings in [false, true, true, true] {
        let handed = scene.hand_over().unwrap();
        assert_eq!(std::mem::take(&mut scene.link.lock().rings), rings);
        scene.settle(&handed, Ok(()));
    }
}
