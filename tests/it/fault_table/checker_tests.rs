//! The checker says what is wrong with a history, and nothing of one that is right.

use super::checker::{Evidence, Seen, Verdict};
use super::history::{Line, Micros, Offsets, What};

fn assigned(at: Micros) -> Line {
    Line { at, what: What::Assigned { partitions: vec![0] } }
}

fn handled(at: Micros, offsets: Offsets) -> Line {
    Line { at, what: What::Handled { began: at, records: vec![(0, offsets)] } }
}

fn seen(told: Micros, offset: i64) -> Seen {
    Seen { asked: told - 1, told, partition: 0, offset }
}

/// Ten records, two services one after the other; the second gets two of the records again.
fn good() -> Evidence {
    Evidence {
        log: (0..10).map(|offset| (0, offset)).collect(),
        acknowledged: (0..10).map(|offset| (0, offset)).collect(),
        services: vec![
            vec![assigned(1), handled(10, (0, 2)), handled(20, (3, 5))],
            vec![assigned(30), handled(40, (4, 6)), handled(50, (7, 9))],
        ],
        unplaced: 0,
        committed: vec![seen(5, 0), seen(15, 3), seen(29, 4), seen(45, 7), seen(60, 10)],
        accepted: None,
    }
}

fn check(spoil: impl FnOnce(&mut Evidence)) -> Verdict {
    let mut evidence = good();
    spoil(&mut evidence);
    evidence.check()
}

#[test]
fn a_good_history_has_no_faults() {
    let verdict = good().check();
    assert_eq!(verdict, Verdict { records: 10, duplicates: 2, longest_stall: 20, ..Verdict::default() });
    assert!(verdict.faults().is_empty());
}

/// Gaps in the log, as transactions leave them, are none in what is handled.
#[test]
fn offsets_without_a_record_are_no_loss() {
    let verdict = check(|evidence| {
        evidence.log.retain(|(_, offset)| *offset != 8);
        evidence.acknowledged.retain(|(_, offset)| *offset != 8);
        evidence.services[1].pop();
        evidence.services[1].extend([handled(50, (7, 7)), handled(51, (9, 9))]);
    });
    assert!(verdict.faults().is_empty(), "{verdict:?}");
}

#[test]
fn a_record_that_nobody_handled_is_lost() {
    let verdict = check(|evidence| {
        evidence.services[1].pop();
        evidence.services[1].extend([handled(50, (7, 7)), handled(51, (9, 9))]);
    });
    assert_eq!(verdict.lost, [(0, 8)]);
    assert_eq!(verdict.skipped, [(0, 8)]);
    assert_eq!(verdict.early, [((0, 8), 10)]);
    assert_eq!(verdict.faults().len(), 3);
}

#[test]
fn an_acknowledged_record_that_the_log_does_not_have_is_lost() {
    let verdict = check(|evidence| evidence.acknowledged.push((0, 10)));
    assert_eq!(verdict.lost, [(0, 10)]);
}

/// A retry that finds its record in the log is not told where.
#[test]
fn an_acknowledged_record_without_a_place_is_lost_where_the_log_has_too_few() {
    let spoil = |evidence: &mut Evidence| {
        evidence.acknowledged.truncate(8);
        evidence.unplaced = 2;
    };
    assert_eq!(check(spoil).unfound, 0);
    let verdict = check(|evidence| {
        spoil(evidence);
        evidence.unplaced += 1;
    });
    assert_eq!((verdict.unfound, verdict.faults().len()), (1, 1));
}

/// Handled in the end, but a kill in between would have lost it.
#[test]
fn a_record_that_is_left_out_for_a_while_is_skipped() {
    let verdict = check(|evidence| {
        evidence.services[0] = vec![assigned(1), handled(10, (0, 1)), handled(20, (3, 5)), handled(25, (2, 2))];
        evidence.committed.remove(1);
    });
    assert_eq!(verdict.skipped, [(0, 2)]);
    assert_eq!(verdict.disordered, [(0, 2)]);
    assert!(verdict.lost.is_empty() && verdict.early.is_empty(), "{verdict:?}");
}

#[test]
fn a_commit_before_the_handler_is_early() {
    let verdict = check(|evidence| evidence.committed[1] = seen(15, 4));
    assert_eq!(verdict.early, [((0, 3), 4)]);
}

#[test]
fn a_commit_that_goes_back_is_rewound() {
    let verdict = check(|evidence| evidence.committed.insert(4, seen(55, 5)));
    assert_eq!(verdict.rewound, [(0, 7, 5)]);
}

/// What the broker has forgotten comes again, as its log says: nobody committed it anew, whoever has the partition.
#[test]
fn an_answer_that_goes_back_is_no_commit_that_does() {
    let forget = |evidence: &mut Evidence| evidence.committed.splice(4..4, [seen(52, 5), seen(53, 6)]).for_each(drop);
    let verdict = check(forget);
    assert_eq!((verdict.rewound.len(), verdict.overlapping.len()), (1, 0), "{verdict:?}");
    let verdict = check(|evidence| {
        forget(evidence);
        evidence.accepted = Some([3, 4, 7, 10].map(|offset| (0, offset)).into());
    });
    assert_eq!((&verdict.rewound[..], &verdict.forgotten[..]), (&[][..], &[(0, 7, 5)][..]));
    assert!(verdict.faults().is_empty(), "{verdict:?}");
    let verdict = check(|evidence| {
        forget(evidence);
        evidence.accepted = Some([3, 4, 7, 5, 10].map(|offset| (0, offset)).into());
    });
    assert_eq!((&verdict.rewound[..], &verdict.forgotten[..]), (&[(0, 7, 5)][..], &[][..]));
}

#[test]
fn a_partition_that_stands_still_while_another_goes_on_is_seen() {
    let mut evidence = good();
    let other = |at| Line { at, what: What::Handled { began: at, records: vec![(1, (at as i64, at as i64))] } };
    evidence.services[1].insert(1, other(32));
    evidence.services[1].push(other(54));
    assert_eq!(evidence.longest_stall_of_a_partition(), 22);
    assert_eq!(evidence.check().longest_stall, 12);
}

/// A topic that is made anew is read from 0 again: once, where it is said, and not without.
#[test]
fn a_partition_that_starts_again_is_out_of_order_where_nobody_says_so() {
    let told = |at| Line { at, what: What::Logged { line: "topic t was deleted and made anew".into() } };
    let verdict = check(|evidence| evidence.services[1].extend([told(51), handled(52, (0, 3))]));
    assert!(verdict.faults().is_empty(), "{verdict:?}");
    let verdict = check(|evidence| evidence.services[1].push(handled(52, (0, 3))));
    assert_eq!(verdict.disordered, [(0, 0)]);
    let verdict = check(|evidence| evidence.services[1].extend([told(51), handled(52, (0, 3)), handled(53, (0, 3))]));
    assert_eq!(verdict.disordered, [(0, 0)]);
}

/// The first service commits what it handled after the partition has gone to the second.
#[test]
fn a_commit_of_who_lost_the_partition_overlaps() {
    let verdict = check(|evidence| evidence.committed = vec![seen(29, 4), seen(35, 6), seen(60, 10)]);
    assert!(verdict.overlapping.is_empty(), "it may have come right before: {verdict:?}");
    let verdict = check(|evidence| evidence.committed = vec![seen(29, 4), seen(33, 4), seen(35, 6), seen(60, 10)]);
    assert_eq!(verdict.overlapping, [(0, 6)]);
}

/// The second service commits dead letters: the last record that was handled is the first one's.
#[test]
fn a_commit_of_dead_letters_alone_tells_of_nobody() {
    let verdict = check(|evidence| {
        evidence.log.truncate(4);
        evidence.acknowledged.truncate(4);
        evidence.services = vec![vec![assigned(1), handled(10, (0, 3))], vec![assigned(30)]];
        evidence.committed = vec![seen(5, 0), seen(29, 4), seen(45, 7), seen(60, 10)];
    });
    assert!(verdict.faults().is_empty(), "{verdict:?}");
}
