//! Topics that come and go with the filters that name them, while records flow and members join and leave.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kafka_envelope::Stopper;
use kafka_envelope::export::{DataClient, FilterClient};

use crate::support::exports::{FilterTopic, numbers, produce_json};
use crate::support::{
    PATIENCE, TestTopic, committed, create_topic_with, delete_topic, eventually, group, keep_logs, logged,
    shared_broker, unique,
};

/// A client on a thread of its own, that stores what it sent to the test.
struct Member {
    stopper: Stopper,
    thread: JoinHandle<()>,
}

/// What a member got: who, and the topic, the partition and the number.
type Got = (usize, (String, i32, u64));

impl Member {
    fn join(who: usize, group: &str, filters: &FilterClient, config: &[(&str, &str)], sender: Sender<Got>) -> Self {
        let is_classic = !config.contains(&("group.protocol", "consumer"));
        let short = [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500")];
        let short = short.into_iter().filter(|_| is_classic);
        let builder = DataClient::builder(group, shared_broker(), filters).config(short);
        let mut data = builder.config(config.iter().copied()).start().unwrap();
        let stopper = data.stopper();
        let work = move || {
            while !data.is_stopped() {
                if let Some(exports) = data.get_exports_batch(PATIENCE, 20).unwrap() {
                    numbers(&exports).into_iter().for_each(|number| sender.send((who, number)).unwrap());
                    data.store_offsets().unwrap();
                }
            }
            data.close(PATIENCE).unwrap();
        };
        Self { stopper, thread: thread::spawn(work) }
    }

    fn leave(self) {
        self.stopper.stop();
        self.thread.join().unwrap();
    }
}

/// The numbers of each partition, which come in order, each once.
struct Log {
    seen: Receiver<Got>,
    next: BTreeMap<(String, i32), u64>,
    by_member: BTreeMap<usize, u64>,
}

impl Log {
    fn new() -> (Sender<Got>, Self) {
        let (sender, seen) = channel();
        (sender, Self { seen, next: BTreeMap::new(), by_member: BTreeMap::new() })
    }

    fn take(&mut self, what: &str) {
        let (who, (topic, partition, number)) =
            self.seen.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what}: {:?}", self.next));
        let next = self.next.entry((topic.clone(), partition)).or_default();
        assert_eq!(number, *next, "{topic}:{partition}, {what}");
        *next += 1;
        *self.by_member.entry(who).or_default() += 1;
    }

    /// Waits until all numbers below this came of the partition.
    fn follow(&mut self, topic: &str, partition: i32, end: u64, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.next.get(&(topic.to_owned(), partition)).copied().unwrap_or_default() < end {
            assert!(Instant::now() < deadline, "{what}: only others come, {:?}", self.next);
            self.take(what);
        }
    }

    /// Waits until a member got so many more.
    fn follow_member(&mut self, who: usize, records: u64) {
        let before = self.by_member.get(&who).copied().unwrap_or_default();
        while self.by_member.get(&who).copied().unwrap_or_default() < before + records {
            self.take("a member gets its share");
        }
    }

    fn at(&self, topic: &str) -> u64 {
        self.next.get(&(topic.to_owned(), 0)).copied().unwrap_or_default()
    }
}

/// Puts numbers into a partition until it is told to end.
struct Stream {
    end: Sender<()>,
    thread: JoinHandle<u64>,
}

impl Stream {
    fn start(topic: &str, partition: i32) -> Self {
        let (end, ended) = channel();
        let topic = topic.to_owned();
        let work = move || {
            let mut next = 0;
            // Also where the test has failed.
            while ended.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout) {
                produce_json(&topic, partition, next..next + 25);
                next += 25;
            }
            next
        };
        Self { end, thread: thread::spawn(work) }
    }

    /// How many there were.
    fn end(self) -> u64 {
        self.end.send(()).unwrap();
        self.thread.join().unwrap()
    }
}

/// How often a topic was taken away, for which logs are kept.
fn revocations(topic: &str) -> usize {
    logged(&["revoked", topic]).len()
}

/// Waits until a topic is given up. What is read of it before, while no filter names it, has no result.
fn await_revocation_after(before: usize, topic: &str) {
    eventually(PATIENCE, "the topic is given up", || (revocations(topic) > before).then_some(()));
}

/// One topic flows all the time. Another comes, goes and comes again, and goes on where it was left; a third is named
/// before it exists.
fn come_and_go(config: &[(&str, &str)]) {
    keep_logs();
    let (broker, group) = (shared_broker(), group());
    let (steady, other, late) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1), unique("late"));
    let filters = FilterTopic::of(&[&steady]);
    let stream = Stream::start(&steady, 0);
    let (sender, mut log) = Log::new();
    let member = Member::join(0, &group, &filters.client(), config, sender);
    log.follow(&steady, 0, 25, "the first topic");

    for round in 1..=3 {
        produce_json(&other, 0, (round - 1) * 100..round * 100);
        filters.put(&other);
        log.follow(&other, 0, round * 100, "the other topic comes");
        eventually(PATIENCE, "what came is committed", || {
            (committed(broker, &group, &other, 0) == Some(round as i64 * 100)).then_some(())
        });
        let before = revocations(&other);
        filters.delete(&other);
        await_revocation_after(before, &other);
        let upto = log.at(&steady) + 100;
        log.follow(&steady, 0, upto, "the first topic flows on");
    }
    filters.put(&late);
    let upto = log.at(&steady) + 50;
    log.follow(&steady, 0, upto, "the first topic flows on beside one that does not exist");
    create_topic_with(broker, &late, 1, &[]);
    produce_json(&late, 0, 0..10);
    log.follow(&late, 0, 10, "the late topic");

    let end = stream.end();
    log.follow(&steady, 0, end, "the end of the first topic");
    eventually(PATIENCE, "all is committed", || {
        (committed(broker, &group, &steady, 0) == Some(end as i64)).then_some(())
    });
    // Nobody needs any topic: the client leaves its group, and comes back.
    let before = revocations(&steady);
    [&*steady, &late].iter().for_each(|topic| filters.delete(topic));
    await_revocation_after(before, &steady);
    produce_json(&steady, 0, end..end + 10);
    filters.put(&steady);
    log.follow(&steady, 0, end + 10, "after a time without topics");
    member.leave();
    assert!(log.seen.try_recv().is_err(), "more came");
    assert_eq!(committed(broker, &group, &steady, 0), Some(end as i64 + 10));
    delete_topic(broker, &late);
}

/// With a cooperative strategy what stays is not even touched.
#[test]
fn sources_come_and_go() {
    keep_logs();
    let steady = TestTopic::new(shared_broker(), 1);
    let other = TestTopic::new(shared_broker(), 1);
    let filters = FilterTopic::of(&[&steady]);
    let (sender, mut log) = Log::new();
    let member = Member::join(0, &group(), &filters.client(), &[], sender);
    let stream = Stream::start(&steady, 0);
    log.follow(&steady, 0, 25, "the first topic");
    produce_json(&other, 0, 0..10);
    filters.put(&other);
    log.follow(&other, 0, 10, "the other topic");
    filters.delete(&other);
    await_revocation_after(0, &other);
    let upto = log.at(&steady) + 50;
    log.follow(&steady, 0, upto, "the first topic flows on");
    assert_eq!(revocations(&steady), 0);
    let end = stream.end();
    log.follow(&steady, 0, end, "the end");
    member.leave();
    come_and_go(&[]);
}

/// Many changes in a row are few rebalances.
#[test]
fn many_changes_make_few_rebalances() {
    keep_logs();
    let topics: Vec<_> = (0..30).map(|_| unique("many")).collect();
    let last = TestTopic::new(shared_broker(), 1);
    produce_json(&last, 0, 0..1);
    let filters = FilterTopic::of(&[&topics[0]]);
    let (sender, mut log) = Log::new();
    let start = Instant::now();
    let member = Member::join(0, &group(), &filters.client(), &[], sender);
    topics[1..].iter().for_each(|topic| filters.put(topic));
    filters.put(&last);
    log.follow(&last, 0, 1, "the last topic");
    let changes = logged(&["from now on", &topics[0]]).len() as u64;
    assert!(changes <= start.elapsed().as_secs() + 1, "{changes} in {:?}", start.elapsed());
    member.leave();
}

/// The same where every change takes all partitions away.
#[test]
fn sources_come_and_go_in_an_eager_group() {
    come_and_go(&[("partition.assignment.strategy", "range")]);
}

/// The same where the broker assigns.
#[test]
fn sources_come_and_go_in_a_group_of_the_new_protocol() {
    come_and_go(&[("group.protocol", "consumer")]);
}

/// Clients of one group share the partitions, and hand them over with everything that was stored.
fn share(config: &[(&str, &str)]) {
    const PARTITIONS: i32 = 4;
    let (topic, group) = (TestTopic::new(shared_broker(), PARTITIONS), group());
    let filters = FilterTopic::of(&[&topic]);
    let streams: Vec<_> = (0..PARTITIONS).map(|partition| Stream::start(&topic, partition)).collect();
    let (sender, mut log) = Log::new();
    let first = Member::join(1, &group, &filters.client(), config, sender.clone());
    log.follow_member(1, 200);
    let second = Member::join(2, &group, &filters.client(), config, sender);
    log.follow_member(2, 200);
    log.follow_member(1, 200);
    first.leave();
    log.follow_member(2, 500);
    for (partition, stream) in (0..).zip(streams) {
        let end = stream.end();
        log.follow(&topic, partition, end, "the end");
    }
    second.leave();
    assert!(log.seen.try_recv().is_err(), "more came");
}

#[test]
fn clients_of_one_group_share_their_sources() {
    share(&[]);
}

#[test]
fn clients_of_one_eager_group_share_their_sources() {
    share(&[("partition.assignment.strategy", "range")]);
}

#[test]
fn clients_of_one_group_of_the_new_protocol_share_their_sources() {
    share(&[("group.protocol", "consumer")]);
}

/// A partition that is taken away waits for what was handed out of it: once that is stored, the next member gets none
/// of it.
#[test]
fn a_partition_waits_for_what_is_not_stored() {
    keep_logs();
    let (topic, group) = (TestTopic::new(shared_broker(), 2), group());
    let filters = FilterTopic::of(&[&topic]);
    (0..2).for_each(|partition| produce_json(&topic, partition, 0..10));
    let builder = DataClient::builder(&group, shared_broker(), &filters.client()).handle_offsets(true);
    let mut first = builder.config([("heartbeat.interval.ms", "500")]).start().unwrap();
    let mut taken = Vec::new();
    while taken.len() < 20 {
        taken.extend(numbers(&first.get_exports_batch(PATIENCE, 20).unwrap().expect("nothing came")));
    }
    let (sender, mut log) = Log::new();
    let second = Member::join(2, &group, &filters.client(), &[], sender);
    await_revocation_after(0, &topic);
    (0..2).for_each(|partition| produce_json(&topic, partition, 10..11));
    assert!(first.get_exports(Duration::ZERO).unwrap().is_none(), "nothing comes meanwhile");
    (0..2).for_each(|partition| assert_eq!(committed(shared_broker(), &group, &topic, partition), None));
    first.store_offsets().unwrap();
    first.close(PATIENCE).unwrap();
    log.next = (0..2).map(|partition| ((topic.to_string(), partition), 10)).collect();
    (0..2).for_each(|partition| log.follow(&topic, partition, 11, "the new ones alone"));
    second.leave();
}
