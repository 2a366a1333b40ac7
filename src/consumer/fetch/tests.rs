//! The fetch thread's turns, one by one, on an embedded broker.

use std::collections::BTreeMap;

use super::commits::COMMIT_PACE;
use super::rebalance::ANSWERS;
use super::watch::Restart;
use super::*;
use crate::consumer::lanes::Lane;
use crate::consumer::link::{Begun, Look};
use crate::message::Message;
use crate::native::TopicId;
use crate::producer::Producer;
use crate::settings::Settings;
use crate::testing::EmbeddedBroker;

const PARTITIONS: i32 = 3;
const RECORDS: i64 = 4_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn broker() -> EmbeddedBroker {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", PARTITIONS).unwrap();
    let producer = Producer::new("test", broker.bootstrap_servers()).unwrap();
    let messages: Vec<_> = (0..RECORDS * i64::from(PARTITIONS))
        .map(|number| Message::new(number).partition((number % i64::from(PARTITIONS)) as i32))
        .collect();
    producer.produce_batch("t", &messages).unwrap();
    broker
}

/// Ends its client also where the test fails. Nobody waits for that: librdkafka can lose a question that comes while its
/// group ends, and then never returns.
struct Ending(Option<Fetch>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(fetch) = self.0.take() {
            end(fetch);
        }
    }
}

fn end(fetch: Fetch) {
    fetch.reader.consumer().context().close();
    std::thread::spawn(move || drop(fetch));
}

impl std::ops::Deref for Ending {
    type Target = Fetch;

    fn deref(&self) -> &Fetch {
        self.0.as_ref().unwrap()
    }
}

impl std::ops::DerefMut for Ending {
    fn deref_mut(&mut self) -> &mut Fetch {
        self.0.as_mut().unwrap()
    }
}

fn fetch(broker: &EmbeddedBroker, strategy: &str) -> Ending {
    let managed = [("bootstrap.servers", broker.bootstrap_servers()), ("group.id", "g")];
    // Small fetches, so that a reassignment finds some under way.
    let settings = Settings::consumer().client_id("test").map([
        ("partition.assignment.strategy", strategy),
        ("fetch.message.max.bytes", "1000"),
        ("queued.min.messages", "200"),
    ]);
    let client = settings.resolve(&managed).unwrap().create(Context::default()).unwrap();
    let link = Arc::new(Link::default());
    let (bell, records) = (Arc::clone(&link), Arc::clone(&link));
    let reader = Reader::new(client, move || records.records_came(), move || bell.bell.ring()).unwrap();
    reader.consumer().subscribe(&["t"]).unwrap();
    let options = Options {
        batch_size: 50,
        batch_bytes: 1 << 20,
        drain_budget: Duration::from_secs(1),
        max_poll_interval: Duration::from_secs(300),
        stall_timeout: PATIENCE * 2,
        handler_timeout: None,
        max_window: 1_000_000,
        group: "g".into(),
        sight: Default::default(),
        #[cfg(feature = "stream")]
        late_topics: Vec::new(),
        committed_only: true,
        resets_to_end: false,
        hidden: None,
    };
    Ending(Some(Fetch::new(reader, link, options)))
}

impl Fetch {
    fn all(&self) -> Vec<PartitionId> {
        self.lanes.iter().map(|lane| lane.id).collect()
    }

    /// One turn, and the batch that is ready after it, with what came: (partition, offset).
    fn batch(&mut self) -> Option<(Arena, Vec<(i32, i64)>)> {
        self.turn();
        let ready = self.link.lock().ready.pop_if(|_| true);
        let Some(ready) = ready else {
            self.link.bell.wait(Duration::from_millis(5));
            return None;
        };
        let records = ready.arena.records().iter();
        let seen = records.map(|record| (ready.arena.source(record).partition, record.offset)).collect();
        Some((ready.arena, seen))
    }
}

/// Given to librdkafka anew again and again while it is read: nothing is skipped or comes twice.
#[test]
fn reassigned_where_it_stands_a_partition_goes_on_exactly_there() {
    for strategy in ["cooperative-sticky", "range,roundrobin"] {
        let broker = broker();
        let mut fetch = fetch(&broker, strategy);
        let deadline = Instant::now() + PATIENCE;
        let mut next: BTreeMap<i32, i64> = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
        let (mut batches, mut reassigned) = (0, 0);
        while next.values().any(|next| *next < RECORDS) {
            assert!(Instant::now() < deadline, "{next:?} with {strategy} after {reassigned} reassignments");
            let Some((arena, seen)) = fetch.batch() else { continue };
            for (partition, offset) in seen {
                let next = next.get_mut(&partition).unwrap();
                assert_eq!(offset, *next, "partition {partition} with {strategy}");
                *next += 1;
            }
            let mut state = fetch.link.lock();
            state.complete(&arena, arena.len());
            state.recycle(arena);
            drop(state);
            batches += 1;
            if batches % 3 == 0 {
                let ids = fetch.all();
                reassigned += u32::from(fetch.reassign(&ids[batches / 3 % ids.len()..], Restart::Next));
            }
        }
        assert!(reassigned > 10, "{reassigned} with {strategy}");
        fetch.confirm(deadline).unwrap();
    }
}

#[test]
fn reassigned_from_the_committed_offset_a_partition_comes_again_from_there() {
    for strategy in ["cooperative-sticky", "range,roundrobin"] {
        let broker = broker();
        let mut fetch = fetch(&broker, strategy);
        let deadline = Instant::now() + PATIENCE;
        let mut next: BTreeMap<i32, i64> = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
        let mut committed = next.clone();
        let mut batches = 0;
        while next.values().any(|next| *next < RECORDS) {
            assert!(Instant::now() < deadline, "{next:?} with {strategy}");
            let Some((arena, seen)) = fetch.batch() else { continue };
            for (partition, offset) in seen {
                let next = next.get_mut(&partition).unwrap();
                assert_eq!(offset, *next, "partition {partition} with {strategy}");
                *next += 1;
            }
            batches += 1;
            if batches % 10 == 9 {
                // This one is given up, and with it what was taken after it.
                let ids = fetch.all();
                fetch.confirm(deadline).unwrap();
                if fetch.reassign(&ids, Restart::Committed) {
                    next.clone_from(&committed);
                    let mut sources = arena.ranges(arena.len()).map(|(source, _)| source.tag);
                    let stale = sources.all(|tag| !fetch.link.lock().ledger.is_current(tag));
                    assert!(stale, "what is said of it would count");
                    continue;
                }
            }
            let mut state = fetch.link.lock();
            state.complete(&arena, arena.len());
            state.recycle(arena);
            drop(state);
            committed.clone_from(&next);
        }
        assert!(batches > 20, "{batches} with {strategy}");
        fetch.confirm(deadline).unwrap();
    }
}

/// With all there was taken only librdkafka can have more; else half of what waits must go first.
#[test]
fn it_is_woken_for_room_while_there_is_more() {
    let broker = broker();
    let mut fetch = fetch(&broker, "range");
    let deadline = Instant::now() + PATIENCE;
    // All that may wait, and more in librdkafka's queue.
    while fetch.is_drained || fetch.link.lock().ready.len() < READY_BATCHES {
        assert!(Instant::now() < deadline);
        fetch.link.bell.wait(Duration::from_millis(5));
        fetch.turn();
    }
    fetch.wake_for();
    assert_eq!(fetch.link.lock().wakes.ready_below, READY_BATCHES / 2 + 1);
    while !fetch.is_drained {
        assert!(Instant::now() < deadline);
        fetch.batch();
    }
    fetch.wake_for();
    assert_eq!(fetch.link.lock().wakes.ready_below, 0);
}

/// What a full batch has no room for is there to fill the next, whatever librdkafka has.
#[test]
fn with_all_there_was_taken_nothing_is_carried() {
    let broker = broker();
    let mut fetch = fetch(&broker, "range");
    // A few records each.
    fetch.options.batch_bytes = 400;
    let deadline = Instant::now() + PATIENCE;
    let (mut records, mut carried) = (0, 0);
    while records < RECORDS * i64::from(PARTITIONS) {
        assert!(Instant::now() < deadline, "{records}");
        records += fetch.batch().map_or(0, |(_, seen)| seen.len() as i64);
        carried += usize::from(!fetch.carry.is_empty());
        assert!(!fetch.is_drained || fetch.carry.is_empty(), "after {records} records");
    }
    assert!(carried > 10, "{carried}");
}

/// It sleeps while a batch is taken, and is to notice in time that this batch's handler does not return.
#[test]
fn it_sleeps_no_longer_than_a_handler_may_take_that_begins_meanwhile() {
    let broker = broker();
    let mut fetch = fetch(&broker, "range");
    let timeout = Duration::from_millis(30);
    assert!(fetch.patience() > timeout);
    fetch.link.lock().handler_timeout = Some(timeout);
    assert!(fetch.patience() <= timeout + Duration::from_millis(1));
}

/// Ends as [`Ending`] does.
struct AtTheEnd(Shared);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        if let Some(fetch) = self.0.taken() {
            end(fetch);
        }
    }
}

/// Read to its end, and shared with the callers of this test, where no fetch thread is at work.
fn shared_at_the_end(broker: &EmbeddedBroker) -> (AtTheEnd, Arc<Link>) {
    let mut fetch = fetch(broker, "range");
    let deadline = Instant::now() + PATIENCE;
    let mut records = 0;
    while records < RECORDS * i64::from(PARTITIONS) {
        assert!(Instant::now() < deadline, "{records}");
        let Some((arena, seen)) = fetch.batch() else { continue };
        records += seen.len() as i64;
        fetch.link.lock().complete(&arena, arena.len());
    }
    fetch.turn();
    assert!(fetch.is_drained);
    let link = Arc::clone(&fetch.link);
    link.bell.wait(Duration::ZERO);
    (AtTheEnd(Shared::new(fetch.0.take().unwrap())), link)
}

#[test]
fn a_caller_that_waits_takes_records_itself() {
    let broker = broker();
    let (ending, link) = shared_at_the_end(&broker);
    let shared = &ending.0;
    let producer = Producer::new("test", broker.bootstrap_servers()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    for number in 0..3 {
        let sending = std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                while !link.is_waited_for_records() {
                    std::thread::yield_now();
                }
                producer.produce("t", &Message::new(number).partition(0)).unwrap()
            });
            let taken = link.wait_for_records(
                |state| match state.ready.pop_if(|_| true) {
                    None if Instant::now() < deadline => Look::Wait(Some(deadline)),
                    taken => Look::Done(taken),
                },
                || shared.take(),
            );
            assert_eq!(taken.unwrap().arena.records()[0].offset, RECORDS + number);
            sending.join()
        });
        sending.unwrap();
    }
}

#[test]
fn the_fetch_thread_is_told_of_what_a_caller_leaves() {
    let broker = broker();
    let (ending, link) = shared_at_the_end(&broker);
    let shared = &ending.0;
    shared.while_at_work(|fetch| {
        assert!(fetch.take_alone(), "nothing is left");
        let id = fetch.lanes.iter_mut().next().unwrap().id;
        fetch.lanes.get_mut(id).unwrap().seek = Some(0);
        assert!(!fetch.take_alone(), "a partition is to be sought");
        fetch.lanes.get_mut(id).unwrap().seek = None;
        fetch.options.max_window = 0;
        link.lock().ledger.delivered(id, RECORDS, None);
        assert!(!fetch.take_alone(), "a partition is paused");
        link.bell.wait(Duration::ZERO);
        std::thread::scope(|scope| scope.spawn(|| shared.take()).join().unwrap());
    });
    let began = Instant::now();
    link.bell.wait(PATIENCE);
    assert!(began.elapsed() < PATIENCE, "it was at work, and may not look again");
}

/// Of more than a batch the rest is the fetch thread's.
#[test]
fn a_caller_takes_one_batch_at_a_time() {
    let broker = broker();
    let mut fetch = fetch(&broker, "range");
    let deadline = Instant::now() + PATIENCE;
    while fetch.is_drained {
        assert!(Instant::now() < deadline);
        fetch.turn();
    }
    let waiting = fetch.link.lock().ready.len();
    while fetch.link.lock().ready.pop_if(|_| true).is_some() {}
    assert!(waiting > 1 && !fetch.take_alone());
    assert_eq!(fetch.link.lock().ready.len(), 1);
}

/// What a panic on the caller's thread, as of a logger, left half done is not gone on with.
#[test]
fn a_panic_of_a_caller_that_takes_ends_the_consumer() {
    let broker = broker();
    let (ending, link) = shared_at_the_end(&broker);
    let shared = &ending.0;
    shared.while_at_work(|fetch| fetch.options.batch_size = 0);
    shared.take();
    shared.while_at_work(|fetch| fetch.options.batch_size = 50);
    let (done, ended) = std::sync::mpsc::sync_channel(2);
    let fetch_thread = shared.clone();
    std::thread::spawn(move || fetch_thread.run(&done));
    let error = ended.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert!(matches!(&error, Error::Closed(reason) if reason.contains("divide by zero")), "{error}");
    assert!(link.lock().take_failure().is_some(), "the caller is told");
}

/// While nobody waits for them, commits are put off, and those who wait end that.
#[test]
fn commits_are_put_off_while_nobody_waits() {
    let broker = broker();
    let mut fetch = fetch(&broker, "range");
    let deadline = Instant::now() + PATIENCE;
    let complete_one = |fetch: &mut Fetch| loop {
        assert!(Instant::now() < deadline);
        let Some((arena, _)) = fetch.batch() else { continue };
        let mut state = fetch.link.lock();
        state.complete(&arena, arena.len());
        state.commits_can_wait = true;
        return;
    };
    let is_in_flight = |fetch: &Fetch| fetch.link.lock().ledger.in_flight().is_some();
    let answer = |fetch: &mut Fetch| {
        while is_in_flight(fetch) {
            assert!(Instant::now() < deadline);
            fetch.link.bell.wait(Duration::from_millis(1));
            fetch.serve_replies();
        }
    };
    let wakes = |fetch: &Fetch| {
        fetch.wake_for();
        fetch.link.lock().wakes
    };
    complete_one(&mut fetch);
    assert!(wakes(&fetch).done, "nothing is under way, so what is done is to be committed at once");
    fetch.commit();
    assert!(is_in_flight(&fetch), "the first one was put off");
    assert!(!wakes(&fetch).done, "its answer wakes");
    fetch.lane().is_paused = true;
    assert!(wakes(&fetch).done, "it is resumed when enough is done");
    fetch.lane().is_paused = false;
    fetch.link.lock().restart = Question::Asked;
    assert!(wakes(&fetch).done, "somebody waits for it");
    {
        let mut state = fetch.link.lock();
        state.restart = Question::None;
        (state.handler_timeout, state.held_since) = (Some(PATIENCE), Instant::now().checked_sub(PATIENCE * 2));
    }
    assert!(fetch.is_overdue() && wakes(&fetch).done, "polling goes on once the handler returns");
    fetch.link.lock().held_since = None;
    assert!(!fetch.is_overdue() && !wakes(&fetch).done);
    answer(&mut fetch);
    assert!(wakes(&fetch).done);

    complete_one(&mut fetch);
    // As if it had just begun, however long the answer took.
    let began = Instant::now() + PATIENCE;
    fetch.commit_began = Some(began);
    fetch.commit();
    assert!(!is_in_flight(&fetch) && fetch.commit_due > Some(began), "{:?}", fetch.commit_due);
    assert!(!wakes(&fetch).done, "its time comes by itself");
    fetch.link.await_commits();
    fetch.commit();
    assert!(is_in_flight(&fetch) && fetch.commit_due.is_none(), "somebody waits");
    answer(&mut fetch);

    // Its time comes, and the thread does not sleep beyond it.
    complete_one(&mut fetch);
    let began = Instant::now();
    fetch.commit_began = Some(began);
    loop {
        fetch.commit();
        let Some(due) = fetch.commit_due else { break };
        let left = due.saturating_duration_since(Instant::now());
        assert!(fetch.patience() <= left && Instant::now() < deadline, "{left:?}");
        fetch.link.bell.wait(left);
    }
    assert!(is_in_flight(&fetch) && began.elapsed() >= COMMIT_PACE, "{:?}", began.elapsed());
    answer(&mut fetch);

    complete_one(&mut fetch);
    fetch.commit_began = Some(Instant::now() + PATIENCE);
    let id = fetch.lane().id;
    fetch.rewind(vec![(id, 0)], "");
    fetch.commit();
    assert!(is_in_flight(&fetch), "what is committed would skip records of the new log");
    answer(&mut fetch);

    complete_one(&mut fetch);
    fetch.commit_began = Some(Instant::now() + PATIENCE);
    fetch.commit();
    assert!(!wakes(&fetch).done);
    fetch.link.lock().closing = Some(deadline);
    assert!(matches!(fetch.work(), ControlFlow::Break(Ok(()))));
    assert!(fetch.link.lock().wakes.done, "while it does not sleep it may have looked already");
    assert!(!fetch.link.lock().ledger.has_committable(), "the end does not wait for a commit's time");
}

/// Handlers that ask late in a revocation are given as long for their answer as those that asked before it.
#[test]
fn a_revocation_gives_a_late_question_its_time() {
    let broker = broker();
    let mut fetch = fetch(&broker, "range");
    let link = Arc::clone(&fetch.link);
    let id = {
        let mut state = link.lock();
        let id = state.ledger.id("t", 0);
        state.ledger.assigned(id);
        let epoch = state.ledger.epoch(id).unwrap();
        state.begun.push(Begun { id, epoch, count: 1, lent: 0 });
        id
    };
    let handler = std::thread::spawn(move || {
        // Something else rings long before.
        std::thread::sleep(ANSWERS / 5);
        link.bell.ring();
        std::thread::sleep(ANSWERS * 9 / 10);
        link.lock().begun[0].lent = 1;
        link.bell.ring();
        std::thread::sleep(ANSWERS / 2);
        link.lock().begun.clear();
        link.bell.ring();
    });
    fetch.wait_for_batch_in_hand(&[id], Instant::now() + PATIENCE);
    assert!(fetch.link.lock().begun.is_empty(), "it went while its answer was on the way");
    handler.join().unwrap();
}

/// Partition 0 was read, then librdkafka went back to its start, while a question for the topic's id was on its way. The
/// embedded broker answers none.
fn led_back() -> (EmbeddedBroker, Ending, i64) {
    let broker = broker();
    let mut fetch = fetch(&broker, "range");
    let deadline = Instant::now() + PATIENCE;
    let next = loop {
        assert!(Instant::now() < deadline, "nothing was read");
        fetch.batch();
        if let Some(next) = fetch.lanes.named("t", 0).and_then(|lane| lane.next) {
            break next;
        }
    };
    fetch.topic_ids.answered(same_id(), Instant::now());
    fetch.topic_ids.asked();
    let Fetch { lanes, topic_ids, .. } = &mut *fetch;
    let lane = lanes.named("t", 0).unwrap();
    lane.leader_epoch = Some(0);
    assert!(lane.is_misled(topic_ids, 0, Some(0)));
    (broker, fetch, next)
}

fn same_id() -> Vec<(String, TopicId)> {
    vec![("t".to_owned(), TopicId(0, 1))]
}

impl Fetch {
    fn lane(&mut self) -> &mut Lane {
        self.lanes.named("t", 0).unwrap()
    }

    fn told(&mut self, answer: std::result::Result<TopicId, Code>) {
        self.topics_answered(vec![("t".to_owned(), answer)]);
        self.seek();
    }
}

#[test]
fn a_partition_that_was_led_back_waits_until_its_topic_is_known_to_be_the_same() {
    let (_broker, mut fetch, next) = led_back();
    fetch.told(Ok(TopicId(0, 1)));
    assert_eq!(fetch.lane().seek, Some(next), "it was asked before");
    fetch.topic_ids.asked();
    fetch.told(Err(Code::TopicAuthorizationFailed));
    assert_eq!(fetch.lane().seek, Some(next), "nobody told");
    fetch.topic_ids.asked();
    fetch.told(Ok(TopicId(0, 1)));
    let deadline = Instant::now() + PATIENCE;
    while fetch.lane().seek.is_some() {
        assert!(Instant::now() < deadline, "it is not sought");
        fetch.seek();
    }
    assert_eq!(fetch.lane().next, Some(next));
}

#[test]
fn where_the_topic_was_made_anew_it_is_read_from_its_start() {
    let (_broker, mut fetch, _) = led_back();
    fetch.topics_answered(vec![("t".to_owned(), Ok(TopicId(0, 2)))]);
    let lane = fetch.lane();
    assert_eq!((lane.next, lane.seek, lane.awaits_id), (None, Some(0), None));
}

#[test]
fn where_nobody_tells_it_goes_on_at_what_came() {
    let (_broker, mut fetch, _) = led_back();
    let id = fetch.lane().id;
    fetch.topics_answered(Vec::new());
    for _ in 0..3 {
        assert!(fetch.lane().awaits_id.is_some());
        fetch.topic_ids.asked();
        fetch.topics_answered(Vec::new());
    }
    assert_eq!((fetch.lane().next, fetch.lane().awaits_id), (None, None));
    assert_eq!(fetch.link.lock().ledger.next_expected(id), Some(0));
}
