use super::*;
use crate::message::arena::{Arena, NewRecord, Source};
use crate::message::record::Parts;

fn record(partition: i32, key: Option<&[u8]>) -> Record {
    let mut arena = Arena::default();
    let source = arena.source_index(|_| false, || Source { topic: "t".into(), partition, tag: partition as u64 });
    arena.push(source, &NewRecord { key, value: Some(b"value"), ..NewRecord::default() }, |_| {});
    Parts::of(&arena, &arena.records()[0]).share()
}

fn handler() -> Tasks {
    Tasks { first: 0, handlers: 1, pipelines: 0 }
}

/// The jobs that may begin now, by the order in which they were added.
fn begun(schedule: &mut Schedule) -> Vec<usize> {
    std::iter::from_fn(|| schedule.pop(Kind::Handler)).map(|unit| unit.job).collect()
}

#[test]
fn one_key_of_one_partition_is_a_lane() {
    let mut schedule = Schedule::new(false, false);
    for (partition, key) in [(0, Some("a")), (0, Some("a")), (0, Some("b")), (1, Some("a")), (0, Some("a"))] {
        schedule.push(record(partition, key.map(str::as_bytes)), handler());
    }
    assert_eq!(begun(&mut schedule), [0, 2, 3]);
    schedule.remove(2);
    assert_eq!(begun(&mut schedule), [] as [usize; 0], "nothing waits behind `b`");
    schedule.remove(0);
    assert_eq!(begun(&mut schedule), [1]);
    // Places of jobs that are done with are used again.
    schedule.push(record(0, Some(b"a")), handler());
    schedule.remove(1);
    assert_eq!(begun(&mut schedule), [4]);
    schedule.remove(4);
    assert_eq!(begun(&mut schedule), [0]);
    schedule.remove(0);
    schedule.push(record(0, Some(b"a")), handler());
    assert_eq!(begun(&mut schedule), [0], "an empty lane is no lane");
}

#[test]
fn without_a_key_nothing_waits_and_in_order_a_partition_does() {
    let mut schedule = Schedule::new(false, false);
    (0..3).for_each(|_| schedule.push(record(0, None), handler()));
    assert_eq!(begun(&mut schedule), [0, 1, 2]);
    let mut schedule = Schedule::new(true, false);
    for (partition, key) in [(0, None), (0, Some(&b"a"[..])), (1, None), (0, Some(b"b"))] {
        schedule.push(record(partition, key), handler());
    }
    assert_eq!(begun(&mut schedule), [0, 2]);
    schedule.remove(0);
    assert_eq!(begun(&mut schedule), [1]);
}

#[test]
fn a_job_ends_with_its_last_task() {
    let mut schedule = Schedule::new(false, true);
    schedule.push(record(0, None), Tasks { pipelines: 1, ..handler() });
    let gate = schedule.pop(Kind::Handler).unwrap();
    assert!(schedule.is_gate(gate) && !schedule.is_ready(Kind::Handler) && !schedule.is_ready(Kind::Pipeline));
    schedule.open_gate(gate.job);
    let (one, two) = (schedule.pop(Kind::Handler).unwrap(), schedule.pop(Kind::Pipeline).unwrap());
    schedule.again(two);
    assert_eq!(schedule.pop(Kind::Pipeline), Some(two), "again as what it is");
    assert!(!schedule.ended(two) && schedule.ended(one));

    schedule.push(record(0, None), handler());
    let gate = schedule.pop(Kind::Handler).unwrap();
    assert!(schedule.ended(gate), "behind a gate that stays shut nothing begins");
}

#[test]
fn there_is_room_for_so_many_records_and_so_many_bytes() {
    let mut schedule = Schedule::new(false, false);
    let before = schedule.room();
    schedule.push(record(0, None), handler());
    assert_eq!(schedule.room(), before - 1);
    schedule.bytes = MOST_BYTES;
    assert_eq!(schedule.room(), 0);
    schedule.bytes = record(0, None).size();
    schedule.remove(0);
    assert_eq!((schedule.room(), schedule.bytes), (before, 0));
}
