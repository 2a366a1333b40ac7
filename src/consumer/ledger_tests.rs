//! The ledger against a model that keeps every record, in random interleavings.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;

/// What may happen to one of three partitions. Small offsets, so that interleavings meet.
#[derive(Clone, Debug)]
enum Step {
    Assign(usize),
    /// Deliver a record, after a gap of so many offsets.
    Deliver(usize, i64),
    /// Complete so many records from the n-th delivered one on, in the current epoch or the one so many before.
    Complete {
        partition: usize,
        nth: usize,
        count: usize,
        epochs_ago: usize,
    },
    Rewind(usize, i64),
    Revoke(usize),
    Send,
    /// Answer the commit in flight; the mask says for which partitions it succeeded.
    Answer(u8),
    /// An answer that belongs to no commit in flight.
    StrayAnswer(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let partition = 0..3usize;
    prop_oneof![
        1 => partition.clone().prop_map(Step::Assign),
        6 => (partition.clone(), prop_oneof![4 => Just(0i64), 1 => 1..4i64]).prop_map(|(p, gap)| Step::Deliver(p, gap)),
        6 => (partition.clone(), 0..6usize, 1..4usize, prop_oneof![5 => Just(0usize), 1 => 1..3usize])
            .prop_map(|(partition, nth, count, epochs_ago)| Step::Complete { partition, nth, count, epochs_ago }),
        1 => (partition.clone(), 0..5i64).prop_map(|(p, offset)| Step::Rewind(p, offset)),
        1 => partition.prop_map(Step::Revoke),
        4 => Just(Step::Send),
        4 => any::<u8>().prop_map(Step::Answer),
        1 => (0..3u64).prop_map(Step::StrayAnswer),
    ]
}

/// One partition as somebody would keep it who has all the time in the world.
#[derive(Default)]
struct Model {
    owned: bool,
    /// Every record delivered in this epoch, and whether it is completed.
    records: BTreeMap<i64, bool>,
    next: i64,
    /// What the ledger expects, and where this epoch was rewound to.
    expected: Option<i64>,
    rewound_to: Option<i64>,
    leader_epoch: i32,
    confirmed: Option<i64>,
    last_sent: Option<i64>,
    epochs: Vec<Epoch>,
    /// Records delivered in epochs that are over, by epoch.
    old: Vec<BTreeSet<i64>>,
}

impl Model {
    fn close_epoch(&mut self) {
        self.old.push(std::mem::take(&mut self.records).into_keys().collect());
        (self.confirmed, self.last_sent) = (None, None);
        (self.expected, self.rewound_to) = (None, None);
    }

    /// How far delivery is beyond the first record that is not completed.
    fn window(&self) -> u64 {
        let first_open = self.records.iter().find(|(_, done)| !**done).map(|(offset, _)| *offset);
        first_open.map_or(0, |open| (self.next - open) as u64)
    }

    /// The offset after the longest completed prefix, where there is one that is not confirmed.
    fn committable(&self) -> Option<i64> {
        let first_open = self.records.iter().find(|(_, done)| !**done).map(|(offset, _)| *offset);
        let any_done_before = self.records.range(..first_open.unwrap_or(i64::MAX)).next_back();
        let watermark = match (any_done_before, first_open) {
            (None, Some(open)) if self.rewound_to.is_some() => open,
            (None, None) => self.rewound_to?,
            (None, Some(_)) => return None,
            (Some(_), Some(open)) => open,
            (Some((last, _)), None) => last + 1,
        };
        (self.owned && self.confirmed.is_none_or(|confirmed| watermark > confirmed)).then_some(watermark)
    }
}

fn drive(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut ledger = Ledger::default();
    let ids = [ledger.id("a", 0), ledger.id("a", 1), ledger.id("b", 0)];
    let mut models: [Model; 3] = Default::default();
    let mut in_flight: Option<(u64, Vec<(usize, usize, i64)>)> = None;

    for step in steps {
        match step {
            Step::Assign(p) => {
                let model = &mut models[p];
                model.close_epoch();
                ledger.assigned(ids[p]);
                model.owned = true;
                model.next = 7;
                model.epochs.push(ledger.epoch(ids[p]).unwrap());
            }
            Step::Deliver(p, gap) => {
                let model = &mut models[p];
                let offset = model.next + gap;
                if gap == 3 {
                    model.leader_epoch += 1;
                }
                prop_assert_eq!(ledger.delivered(ids[p], offset, Some(model.leader_epoch)), model.owned);
                if model.owned {
                    prop_assert!(!ledger.delivered(ids[p], offset, Some(model.leader_epoch)), "taken twice");
                    model.records.insert(offset, false);
                    model.next = offset + 1;
                    model.expected = Some(offset + 1);
                }
            }
            Step::Complete { partition: p, nth, count, epochs_ago } => {
                let model = &mut models[p];
                let Some(index) = model.epochs.len().checked_sub(1 + epochs_ago) else { continue };
                let epoch = model.epochs[index];
                let current = epochs_ago == 0 && model.owned;
                let known: Vec<i64> = if current {
                    model.records.keys().copied().collect()
                } else {
                    model.old.iter().flatten().copied().collect()
                };
                let chosen: Vec<i64> = known.into_iter().skip(nth).take(count).collect();
                let (Some(first), Some(last)) = (chosen.first(), chosen.last()) else { continue };
                ledger.completed(ids[p], epoch, *first..last + 1);
                if current {
                    for offset in chosen {
                        model.records.insert(offset, true);
                    }
                }
            }
            Step::Rewind(p, offset) => {
                let model = &mut models[p];
                ledger.rewound(ids[p], offset);
                if model.owned && model.expected != Some(offset) {
                    model.close_epoch();
                    model.next = offset;
                    model.expected = Some(offset);
                    model.rewound_to = Some(offset);
                    model.epochs.push(ledger.epoch(ids[p]).unwrap());
                }
            }
            Step::Revoke(p) => {
                let model = &mut models[p];
                prop_assert_eq!(ledger.revoked(ids[p]), model.committable().is_some());
                model.close_epoch();
                model.owned = false;
                prop_assert_eq!(ledger.epoch(ids[p]), None);
            }
            Step::Send => {
                let expected: Vec<_> = (0..3).filter_map(|p| Some((p, models[p].committable()?))).collect();
                prop_assert_eq!(ledger.has_committable(), !expected.is_empty());
                let commit = ledger.take_commit();
                if in_flight.is_some() {
                    prop_assert_eq!(commit, None, "two in flight");
                    continue;
                }
                let Some(commit) = commit else {
                    prop_assert!(expected.is_empty());
                    continue;
                };
                let mut sent = Vec::new();
                for (offset, (p, next_offset)) in commit.offsets.iter().zip(&expected) {
                    prop_assert_eq!((offset.id, offset.next_offset), (ids[*p], *next_offset));
                    let model = &mut models[*p];
                    prop_assert_eq!(Some(&offset.epoch), model.epochs.last());
                    prop_assert!(model.records.range(..next_offset).all(|(_, done)| *done), "passes an open record");
                    prop_assert!(model.last_sent.is_none_or(|last| *next_offset >= last), "goes back");
                    model.last_sent = Some(*next_offset);
                    sent.push((*p, model.epochs.len(), *next_offset));
                }
                prop_assert_eq!(commit.offsets.len(), expected.len());
                in_flight = Some((commit.sequence, sent));
            }
            Step::Answer(mask) => {
                let Some((sequence, sent)) = in_flight.take() else { continue };
                let names: Vec<_> = ids.iter().map(|id| ledger.name(*id).clone()).collect();
                let confirmed = |p: usize| mask & (1 << p) != 0;
                let answered = ledger
                    .answered(sequence, |name| names.iter().position(|known| known == name).is_some_and(confirmed));
                prop_assert!(answered);
                for (p, epochs, next_offset) in sent {
                    let model = &mut models[p];
                    if confirmed(p) && model.owned && model.epochs.len() == epochs {
                        model.confirmed = Some(next_offset);
                    }
                }
            }
            Step::StrayAnswer(ago) => {
                let sequence = in_flight.as_ref().map_or(1_000, |(sequence, _)| sequence + 1 + ago);
                prop_assert!(!ledger.answered(sequence, |_| true), "an unknown answer freed the slot");
                prop_assert_eq!(ledger.in_flight().map(|c| c.sequence), in_flight.as_ref().map(|(s, _)| *s));
            }
        }
        for (id, model) in ids.iter().zip(&models) {
            prop_assert_eq!(ledger.window(*id), model.window());
            prop_assert_eq!(ledger.is_open(*id), model.window() > 0);
        }
    }
    Ok(())
}

/// A million interleavings, each up to 24 steps, always the same ones; half of them on each of two threads.
#[test]
fn a_commit_never_passes_goes_back_or_speaks_for_another_epoch() {
    let half = |seed| {
        let config = Config { cases: 500_000, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::XorShift, &[seed; 16]));
        runner.run(&prop::collection::vec(step(), 0..24), drive).unwrap();
    };
    thread::scope(|scope| {
        scope.spawn(|| half(1));
        half(2);
    });
}

#[test]
fn gaps_are_no_records() {
    let mut ledger = Ledger::default();
    let id = ledger.id("t", 0);
    ledger.assigned(id);
    let epoch = ledger.epoch(id).unwrap();
    for offset in [3, 4, 9] {
        assert!(ledger.delivered(id, offset, None));
    }
    ledger.completed(id, epoch, 4..5);
    assert_eq!(ledger.take_commit(), None, "3 is open");
    ledger.completed(id, epoch, 3..4);
    assert_eq!(ledger.take_commit().unwrap().offsets[0].next_offset, 9);
    ledger.completed(id, epoch, 9..10);
    assert!(ledger.answered(1, |_| true));
    assert_eq!(ledger.take_commit().unwrap().offsets[0].next_offset, 10);
}

#[test]
fn a_commit_carries_the_leader_epoch_of_its_last_record() {
    let mut ledger = Ledger::default();
    let id = ledger.id("t", 0);
    ledger.assigned(id);
    let epoch = ledger.epoch(id).unwrap();
    for (offset, leader_epoch) in [(0, 5), (1, 5), (2, 6), (3, 8)] {
        ledger.delivered(id, offset, Some(leader_epoch));
    }
    for (completed, leader_epoch) in [(0..2, 5), (2..3, 6), (3..4, 8)] {
        let next_offset = completed.end;
        ledger.completed(id, epoch, completed);
        let commit = ledger.take_commit().unwrap();
        assert_eq!((commit.offsets[0].next_offset, commit.offsets[0].leader_epoch), (next_offset, Some(leader_epoch)));
        assert!(ledger.answered(commit.sequence, |_| true));
    }
}

#[test]
fn a_failed_commit_is_sent_again_with_what_came_since() {
    let mut ledger = Ledger::default();
    let id = ledger.id("t", 0);
    ledger.assigned(id);
    let epoch = ledger.epoch(id).unwrap();
    ledger.delivered(id, 0, None);
    ledger.delivered(id, 1, None);
    ledger.completed(id, epoch, 0..1);
    let first = ledger.take_commit().unwrap();
    ledger.completed(id, epoch, 1..2);
    assert_eq!(ledger.take_commit(), None);
    assert!(ledger.answered(first.sequence, |_| false));
    assert!(!ledger.answered(first.sequence, |_| true), "answered twice");
    assert_eq!(ledger.take_commit().unwrap().offsets[0].next_offset, 2);
}
