use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::consumer::policy::{Backoff, GiveUp};
use crate::message::arena::NewRecord;

fn hand(records: usize) -> Hand {
    let mut arena = Arena::default();
    let source = arena.source_index(|_| false, || Source { topic: "t".into(), partition: 0, tag: 0 });
    for offset in 0..records as i64 {
        arena.push(source, &NewRecord { offset, value: Some(b"v"), ..NewRecord::default() }, |_| {});
    }
    Hand::new(arena)
}

fn policy(attempts: u32, bisect: bool) -> OnError {
    let backoff = Backoff { attempts, jitter: 0.0, ..Backoff::default() };
    OnError::retry(backoff).then(GiveUp::Skip).bisect(bisect)
}

/// What became of the records of a batch whose handler fails on the bad ones.
#[derive(Debug, Default)]
struct Course {
    completed: Vec<i64>,
    given_up: Vec<i64>,
    calls: usize,
    pauses: usize,
}

/// Handles a batch to its end. A handler that is `indexed` says on which record it failed.
fn course(records: usize, bad: &BTreeSet<i64>, indexed: bool, on_error: &OnError) -> Course {
    let (mut hand, mut course) = (hand(records), Course::default());
    while !hand.arena.is_empty() {
        course.calls += 1;
        assert!(course.calls <= 100 * records, "no end: {course:?}");
        let handed: Vec<_> = hand.arena.records().iter().map(|record| record.offset).collect();
        assert!(!handed.is_empty());
        let failing = handed.iter().position(|offset| bad.contains(offset));
        let done = failing.map_or(handed.len(), |at| if indexed { at } else { 0 });
        course.completed.extend(&handed[..done]);
        hand.done(done);
        if failing.is_some() {
            match hand.failed(indexed.then_some(0), None, on_error) {
                Verdict::Again(pause) => course.pauses += usize::from(pause.is_some()),
                Verdict::GiveUp(places) => {
                    let records = hand.arena.records();
                    course.given_up.extend(places.iter().map(|place| records[*place].offset));
                    hand.remove(&places);
                }
            }
        }
    }
    course
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Halving gives up exactly the bad records, completes the others in order, and takes at most 2k·log2(n) calls
    /// beside the attempts with the whole batch.
    #[test]
    fn halving_finds_exactly_the_bad_records(
        records in 1usize..300,
        bad in proptest::collection::btree_set(0i64..300, 0..12),
        attempts in 1u32..4,
    ) {
        let bad: BTreeSet<_> = bad.into_iter().filter(|offset| *offset < records as i64).collect();
        let course = course(records, &bad, false, &policy(attempts, true));
        prop_assert_eq!(&course.given_up, &bad.iter().copied().collect::<Vec<_>>());
        let good: Vec<_> = (0..records as i64).filter(|offset| !bad.contains(offset)).collect();
        prop_assert_eq!(&course.completed, &good);
        if bad.is_empty() || records == 1 {
            prop_assert!(course.calls <= attempts as usize);
        } else {
            let bound = 2.0 * bad.len() as f64 * (records as f64).log2();
            let calls = course.calls - attempts as usize;
            prop_assert!(calls as f64 <= bound, "{} calls, bound {}", calls, bound);
        }
        prop_assert_eq!(course.pauses, if bad.is_empty() { 0 } else { attempts as usize - 1 });
    }

    /// A handler that names the record needs no halving: each bad record takes its attempts.
    #[test]
    fn a_named_record_is_given_up_alone(
        bad in proptest::collection::btree_set(0i64..50, 0..6),
        attempts in 1u32..4,
        bisect: bool,
    ) {
        let course = course(50, &bad, true, &policy(attempts, bisect));
        prop_assert_eq!(&course.given_up, &bad.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(course.completed.len(), 50 - bad.len());
        prop_assert!(course.completed.is_sorted());
        prop_assert!(course.calls <= attempts as usize * bad.len() + 1);
    }
}

#[test]
fn small_batches_keep_to_the_bound() {
    for records in 2..=10usize {
        for mask in 1u32..1 << records {
            let bad: BTreeSet<_> = (0..records as i64).filter(|offset| mask & 1 << offset != 0).collect();
            let calls = course(records, &bad, false, &policy(1, true)).calls - 1;
            let bound = 2.0 * bad.len() as f64 * (records as f64).log2();
            assert!(calls as f64 <= bound, "{calls} calls for {bad:?} of {records}, bound {bound}");
        }
    }
}

#[test]
fn without_halving_all_that_failed_together_is_given_up_together() {
    let course = course(10, &BTreeSet::from([3]), false, &policy(3, false));
    assert_eq!((course.calls, course.pauses, course.given_up.len()), (3, 2, 10));
}

/// What was tried less often is not given up with the others.
#[test]
fn attempts_are_counted_for_each_record() {
    let (mut hand, on_error) = (hand(3), policy(2, false));
    assert!(matches!(hand.failed(Some(1), None, &on_error), Verdict::Again(Some(_))));
    assert_eq!(hand.failed(None, None, &on_error), Verdict::GiveUp(vec![1]));
    hand.remove(&[1]);
    let left: Vec<_> = hand.arena.records().iter().map(|record| (record.offset, record.failures)).collect();
    assert_eq!(left, [(0, 1), (2, 1)]);
    assert_eq!(hand.arena.attempt(), 2);
}

/// Records that went away end a search; what is left starts as a whole, with its own count.
#[test]
fn a_revocation_ends_a_search() {
    let (mut hand, on_error) = (hand(8), policy(1, true));
    assert_eq!(hand.failed(None, None, &on_error), Verdict::Again(None));
    assert_eq!(hand.arena.records().len(), 4);
    assert!(!hand.retain(|_| true));
    assert_eq!(hand.arena.records().len(), 4);
    assert!(hand.retain(|_| false));
    assert!(hand.arena.is_empty() && hand.arena.records().is_empty());
}

/// What went away once is asked for before every hand-over, and a search after it comes to its end as any other.
#[test]
fn a_search_after_a_revocation_comes_to_its_end() {
    for bad in 0..8 {
        let (mut hand, on_error) = (hand(8), policy(1, true));
        let gone = hand.arena.source_index(|_| false, || Source { topic: "t".into(), partition: 1, tag: 1 });
        hand.arena.push(gone, &NewRecord { offset: 0, value: Some(b"v"), ..NewRecord::default() }, |_| {});
        let keep = |source: &Source| source.partition == 0;
        assert!(hand.retain(keep));
        let (mut completed, mut given_up) = (Vec::new(), Vec::new());
        for call in 0.. {
            assert!(call <= 1 + 2 * 3, "{completed:?}, {given_up:?}");
            assert!(!hand.retain(keep));
            let handed: Vec<_> = hand.arena.records().iter().map(|record| record.offset).collect();
            if handed.contains(&bad) {
                if let Verdict::GiveUp(places) = hand.failed(None, None, &on_error) {
                    given_up.extend(places.iter().map(|place| handed[*place]));
                    hand.remove(&places);
                }
            } else {
                hand.done(handed.len());
                completed.extend(handed);
            }
            if hand.arena.is_empty() {
                break;
            }
        }
        assert_eq!((completed.len(), given_up), (7, vec![bad]));
    }
}

/// A handler does not see tombstones, so it cannot have failed on one: they are done with those around them.
#[test]
fn tombstones_are_never_to_blame() {
    for bisect in [true, false] {
        let (mut hand, on_error) = (hand(0), policy(1, bisect));
        let source = hand.arena.source_index(|_| false, || Source { topic: "t".into(), partition: 0, tag: 0 });
        for (offset, value) in [None, Some(&b"bad"[..]), Some(b""), None].into_iter().enumerate() {
            let record = NewRecord { offset: offset as i64, value, ..NewRecord::default() };
            hand.arena.push(source, &record, |_| {});
        }
        assert_eq!(hand.failed(None, None, &on_error), Verdict::GiveUp(vec![1]));
        hand.remove(&[1]);
        let left: Vec<_> = hand.arena.records().iter().map(|record| (record.offset, record.failures)).collect();
        assert_eq!(left, [(0, 0), (2, 0), (3, 0)]);
    }
}
