use std::sync::Arc;

use super::*;
use crate::consumer::desk;
use crate::consumer::link::Wakes;
use crate::consumer::policy::{Commit, OnError, OnUndecodable};
use crate::consumer::ready::Ready;
use crate::consumer::take::BATCH;
use crate::message::arena::{NewRecord, Source};

/// A desk without Kafka: the fetch thread's part is played by the test.
struct Scene {
    link: Link,
    desk: Desk,
}

impl Scene {
    fn new(linger: Duration, max_batches: usize) -> Self {
        let options = desk::Options {
            linger,
            idle_timeout: None,
            commit: Commit::Overlapped { max_batches },
            on_error: OnError::default(),
            on_undecodable: OnUndecodable::default(),
            dead_letters: None,
            sight: Default::default(),
        };
        let scene = Self { link: Link::default(), desk: Desk::new(options) };
        for partition in 0..2 {
            let mut state = scene.link.lock();
            let id = state.ledger.id("t", partition);
            state.ledger.assigned(id);
        }
        scene
    }

    /// Adds these offsets of both partitions to the batch that is ready, in turns.
    fn fetch(&self, offsets: std::ops::Range<i64>) {
        let mut state = self.link.lock();
        let mut arena = state.ready.pop_open().map(|ready| ready.arena).unwrap_or_default();
        for offset in offsets {
            for partition in 0..2 {
                let id = state.ledger.id("t", partition);
                let tag = Ledger::tag(id, state.ledger.epoch(id).unwrap());
                let make = || Source { topic: Arc::from("t"), partition, tag };
                let source = arena.source_index(|found| found == tag, make);
                arena.push(source, &NewRecord { offset, value: Some(b"v"), ..NewRecord::default() }, |_| {});
                state.ledger.delivered(id, offset, None);
            }
        }
        state.ready.push(Ready { arena, is_full: false, since: Instant::now() });
    }

    /// What can be taken right now.
    fn pull(&mut self, limit: usize) -> Option<String> {
        match self.desk.pull(&self.link, &mut self.link.lock(), limit, Instant::now()) {
            Look::Done(Ok(is_some)) => is_some.then(|| self.desk.handed().reference().to_string()),
            Look::Done(Err(error)) => panic!("{error}"),
            Look::Wait(_) => panic!("its time is over"),
        }
    }

    /// What is to be committed, by partition, and then is.
    fn commit(&self) -> Vec<(i32, i64)> {
        let mut state = self.link.lock();
        let Some(commit) = state.ledger.take_commit() else { return Vec::new() };
        state.ledger.answered(commit.sequence, |_| true);
        state.confirmed = state.handled;
        let name = |offset: &crate::consumer::ledger::CommitOffset| state.ledger.name(offset.id).partition;
        commit.offsets.iter().map(|offset| (name(offset), offset.next_offset)).collect()
    }

    fn holds(&self, partition: i32) -> bool {
        let mut state = self.link.lock();
        let id = state.ledger.id("t", partition);
        state.holds(&[id])
    }
}

#[test]
fn records_are_taken_from_the_front_and_the_rest_is_filled_up() {
    let mut scene = Scene::new(Duration::ZERO, 32);
    assert_eq!(scene.pull(1), None);
    scene.fetch(0..3);
    scene.link.lock().wakes = Wakes { done: false, ready_below: 1 };
    assert_eq!(scene.pull(3).as_deref(), Some("t[0=0:2,1=0:1]"));
    assert!(!scene.link.lock().rings, "some of the batch is left");
    scene.fetch(3..4);
    assert_eq!(scene.pull(4).as_deref(), Some("t[0=2:4,1=1:3]"));
    assert_eq!(scene.pull(4).as_deref(), Some("t[1=3:4]"));
    assert!(scene.link.lock().rings, "the fetch thread is not told of room");
    assert_eq!(scene.pull(4), None);
}

#[test]
fn a_batch_waits_until_it_has_as_many_as_are_asked_for() {
    let mut scene = Scene::new(Duration::from_secs(3600), 32);
    scene.fetch(0..2);
    assert_eq!(scene.pull(5), None);
    assert_eq!(scene.pull(3).as_deref(), Some("t[0=0:2,1=0:1]"));
    assert_eq!(scene.pull(3), None, "the rest waits for more");
    scene.fetch(2..3);
    assert_eq!(scene.pull(3).as_deref(), Some("t[0=2:3,1=1:3]"));
    scene.fetch(3..4);
    scene.link.lock().ready.first_mut().unwrap().is_full = true;
    assert_eq!(scene.pull(3).as_deref(), Some("t[0=3:4,1=3:4]"));
}

#[test]
fn nothing_is_committed_before_it_is_done_and_nothing_that_was_not_taken() {
    let mut scene = Scene::new(Duration::ZERO, 32);
    scene.fetch(0..4);
    scene.pull(2);
    scene.pull(2);
    assert!(scene.holds(0) && scene.holds(1));
    assert_eq!(scene.commit(), []);
    scene.link.lock().all_done();
    assert!(!scene.holds(0) && !scene.holds(1));
    assert_eq!(scene.commit(), [(0, 2), (1, 2)]);
    scene.link.lock().all_done();
    assert_eq!(scene.commit(), [], "said twice");
}

#[test]
fn records_may_be_done_in_any_order() {
    let mut scene = Scene::new(Duration::ZERO, 32);
    scene.fetch(0..4);
    scene.pull(8);
    let id = scene.link.lock().ledger.id("t", 0);
    let done = |offsets| {
        let mut state = scene.link.lock();
        let epoch = state.ledger.epoch(id).unwrap();
        state.ledger.completed(id, epoch, offsets);
    };
    done(1..4);
    assert_eq!(scene.commit(), []);
    assert!(scene.holds(0), "the first is out");
    done(0..1);
    assert!(!scene.holds(0) && scene.holds(1));
    assert_eq!(scene.commit(), [(0, 4)]);
}

#[test]
fn what_is_done_of_a_partition_that_went_away_counts_for_nothing() {
    let mut scene = Scene::new(Duration::ZERO, 32);
    scene.fetch(0..3);
    scene.pull(4);
    {
        let mut state = scene.link.lock();
        let id = state.ledger.id("t", 0);
        state.ledger.revoked(id);
        state.ready.retain(|source| source.partition != 0);
        // And comes back, from where it is committed.
        state.ledger.assigned(id);
    }
    assert!(!scene.holds(0) && scene.holds(1));
    assert_eq!(scene.pull(9).as_deref(), Some("t[1=2:3]"));
    scene.link.lock().all_done();
    assert_eq!(scene.commit(), [(1, 3)]);
    scene.fetch(0..2);
    assert_eq!(scene.pull(2).as_deref(), Some("t[0=0:1,1=0:1]"), "from its own start");
}

#[test]
fn nothing_is_taken_while_partitions_go_away_or_too_much_is_unconfirmed() {
    let mut scene = Scene::new(Duration::ZERO, 1);
    scene.fetch(0..2_000);
    scene.link.lock().revoking = Some(Vec::new());
    assert_eq!(scene.pull(2), None);
    scene.link.lock().revoking = None;
    for _ in 0..BATCH / 2 {
        assert!(scene.pull(2).is_some());
        scene.link.lock().all_done();
    }
    assert_eq!(scene.pull(2), None, "as many as a batch are unconfirmed");
    assert!(scene.pull(BATCH + 1).is_some(), "and less than this one");
    scene.link.lock().all_done();
    assert_eq!(scene.pull(BATCH + 1), None);
    scene.commit();
    assert!(scene.pull(2).is_some());
    scene.link.stop();
    assert_eq!(scene.pull(2), None);
}

#[test]
fn who_has_no_room_gets_nothing_but_the_end() {
    let mut scene = Scene::new(Duration::ZERO, 1);
    scene.fetch(0..3);
    assert_eq!(scene.pull(0), None);
    assert_eq!(scene.pull(6).as_deref(), Some("t[0=0:3,1=0:3]"));
    scene.fetch(3..4);
    scene.link.stop();
    let look = scene.desk.take_ready(&scene.link, &mut scene.link.lock(), 0, Instant::now() + Duration::from_secs(60));
    assert!(matches!(look, Look::Done(Ok(None))));
}
