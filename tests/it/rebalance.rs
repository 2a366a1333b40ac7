//! Several processes of one group that come and go while records flow: nothing is lost, skipped or handled twice.

use std::collections::BTreeMap;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use kafka_envelope::{Batch, Commit};
use serde::{Deserialize, Serialize};

use crate::support::{
    PATIENCE, TestTopic, Worker, committed, consumer, emit, eventually, group, produce_numbers, shared_broker,
};

const MEMBER: &str = "rebalance::member";
const PARTITIONS: i32 = 6;

#[derive(Serialize, Deserialize)]
struct Member {
    bootstrap: String,
    group: String,
    topic: String,
    config: Vec<(String, String)>,
}

/// What a member handled: the partition and offsets of each run of records in a batch.
type Handled = Vec<(i32, i64)>;

/// Handles batches until a signal stops it, and emits what was in them. Not a test by itself.
#[test]
fn member() {
    let Some(Member { bootstrap, group, topic, config }) = Worker::arguments(MEMBER) else { return };
    let builder = consumer(&bootstrap, &group, &topic).config(config).batch_size(20).idle_timeout(Duration::MAX);
    let builder = builder.drain_budget(Duration::from_secs(5)).commit(Commit::Overlapped { max_batches: 64 });
    let mut consumer = builder.build().unwrap();
    consumer.stop_on_signals().unwrap();
    let run = consumer.run(|batch: &Batch<u64>| {
        let handled: Handled = batch.iter().map(|record| (record.partition(), record.offset())).collect();
        // So slow that every change finds a batch in hand.
        std::thread::park_timeout(Duration::from_millis(20));
        emit(&handled);
        Ok(())
    });
    match run {
        Ok(_) => consumer.close(Duration::from_secs(10)).unwrap(),
        // The other one of two with the same instance id.
        Err(error) => assert!(error.is_fatal(), "{error}"),
    }
}

/// A group under load.
struct Scenario {
    topic: TestTopic,
    group: String,
    config: Vec<(String, String)>,
    /// In each partition.
    records: u64,
    /// How often each record was handled, by partition and offset.
    handled: BTreeMap<(i32, i64), u32>,
    /// Who handled a partition last, and up to where.
    owners: BTreeMap<i32, (u32, i64)>,
    /// Which members handled what.
    by_member: BTreeMap<u32, usize>,
}

impl Scenario {
    fn new(config: &[(&str, &str)], records: u64) -> Self {
        let topic = TestTopic::new(shared_broker(), PARTITIONS);
        let short = [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500")];
        let is_classic = !config.contains(&("group.protocol", "consumer"));
        let config = short.iter().filter(|_| is_classic).chain(config);
        let config = config.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let (handled, owners, by_member) = Default::default();
        let mut scenario = Self { topic, group: group(), config, records: 0, handled, owners, by_member };
        scenario.produce(records);
        scenario
    }

    fn join(&self, instance: Option<&str>) -> Worker {
        let mut config = self.config.clone();
        config.extend(instance.map(|id| ("group.instance.id".to_owned(), id.to_owned())));
        let bootstrap = shared_broker().to_owned();
        Worker::spawn(MEMBER, &Member { bootstrap, group: self.group.clone(), topic: self.topic.to_string(), config })
    }

    fn note(&mut self, member: u32, handled: Handled) {
        *self.by_member.entry(member).or_default() += handled.len();
        for (partition, offset) in handled {
            *self.handled.entry((partition, offset)).or_default() += 1;
            let last = self.owners.insert(partition, (member, offset));
            if let Some((owner, last)) = last.filter(|(owner, _)| *owner == member) {
                assert!(offset > last, "{partition}: {offset} after {last} by {owner}");
            }
        }
    }

    /// Takes what a member emits until it handled so many more records. Where it is silent there are more for all, since the
    /// others may have read what there was.
    fn follow(&mut self, member: &Worker, records: usize) {
        let handled_by = |scenario: &Self| scenario.by_member.get(&member.pid()).copied().unwrap_or_default();
        let wanted = handled_by(self) + records;
        let mut heard = Instant::now();
        while handled_by(self) < wanted {
            match member.try_next(Duration::from_secs(1)) {
                Ok(handled) => {
                    heard = Instant::now();
                    self.note(member.pid(), handled);
                }
                Err(error) => {
                    let is_patient = error == RecvTimeoutError::Timeout && heard.elapsed() < PATIENCE;
                    assert!(is_patient, "{} is silent; last were {:?}", member.pid(), self.owners);
                    self.produce(200);
                }
            }
        }
    }

    fn produce(&mut self, records: u64) {
        for partition in 0..PARTITIONS {
            produce_numbers(shared_broker(), &self.topic, partition, self.records..self.records + records);
        }
        self.records += records;
    }

    /// Lets a member leave in good order.
    fn leave(&mut self, mut member: Worker) {
        member.sigterm();
        assert!(member.wait(PATIENCE).success());
        for handled in member.rest() {
            self.note(member.pid(), handled);
        }
    }

    /// Waits until everything is committed.
    fn finish(&self) {
        let (broker, end) = (shared_broker(), Some(self.records as i64));
        eventually(PATIENCE, "all is committed", || {
            (0..PARTITIONS).all(|partition| committed(broker, &self.group, &self.topic, partition) == end).then_some(())
        });
    }

    /// All records were handled once, and all is committed.
    fn check(mut self, members: Vec<Worker>) {
        self.finish();
        for member in members {
            self.leave(member);
        }
        for partition in 0..PARTITIONS {
            for offset in 0..self.records as i64 {
                let times = self.handled.get(&(partition, offset)).copied().unwrap_or_default();
                assert_eq!(times, 1, "{partition}:{offset}");
            }
        }
    }
}

/// Three come, two go, one comes again, each while the others have a batch in hand.
fn come_and_go(config: &[(&str, &str)], records: u64) {
    let mut scenario = Scenario::new(config, records);
    let first = scenario.join(None);
    scenario.follow(&first, 100);
    let second = scenario.join(None);
    scenario.follow(&second, 100);
    let third = scenario.join(None);
    scenario.follow(&third, 100);
    scenario.leave(first);
    scenario.follow(&second, 100);
    scenario.leave(second);
    scenario.follow(&third, 100);
    let fourth = scenario.join(None);
    scenario.follow(&fourth, 100);
    scenario.check(vec![third, fourth]);
}

/// With cooperative assignment.
#[test]
fn members_come_and_go_cooperatively() {
    come_and_go(&[("partition.assignment.strategy", "cooperative-sticky")], 1_500);
}

/// With eager assignment.
#[test]
fn members_come_and_go_eagerly() {
    come_and_go(&[("partition.assignment.strategy", "range,roundrobin")], 1_500);
}

/// With the group protocol of KIP-848.
#[test]
fn members_come_and_go_with_the_consumer_protocol() {
    // Every change takes until the next heartbeat, which the broker asks for every 5 seconds.
    come_and_go(&[("group.protocol", "consumer")], 8_000);
}

/// A static member that is restarted within its session gets its partitions back, and the others keep theirs.
#[test]
fn a_static_member_comes_back_to_its_partitions() {
    for config in [("partition.assignment.strategy", "cooperative-sticky"), ("partition.assignment.strategy", "range")]
    {
        // Small fetches, so that partitions take turns.
        let turns = ("max.partition.fetch.bytes", "4096");
        let mut scenario = Scenario::new(&[config, turns, ("session.timeout.ms", "30000")], 2_000);
        let (first, second) = (scenario.join(Some("one")), scenario.join(Some("two")));
        scenario.follow(&first, 100);
        scenario.follow(&second, 100);
        let owned = |scenario: &Scenario, pid: u32| -> Vec<i32> {
            scenario.owners.iter().filter(|(_, (owner, _))| *owner == pid).map(|(partition, _)| *partition).collect()
        };
        let each_has_three = |scenario: &mut Scenario, members: &[&Worker]| {
            eventually(PATIENCE, "each works on its own", || {
                for member in members {
                    scenario.follow(member, 20);
                }
                members.iter().all(|member| owned(scenario, member.pid()).len() == 3).then_some(())
            });
        };
        each_has_three(&mut scenario, &[&first, &second]);
        let before = owned(&scenario, first.pid());
        scenario.leave(first);
        let first = scenario.join(Some("one"));
        let began = Instant::now();
        each_has_three(&mut scenario, &[&first]);
        assert!(began.elapsed() < Duration::from_secs(25), "it waited for its own session: {:?}", began.elapsed());
        assert_eq!(owned(&scenario, first.pid()), before, "{config:?}");
        scenario.check(vec![first, second]);
    }
}

/// Of two members with one instance id the older is told that it is fenced, and nothing is committed twice.
#[test]
fn a_fenced_instance_is_told() {
    let mut scenario = Scenario::new(&[], 1_500);
    let mut old = scenario.join(Some("one"));
    scenario.follow(&old, 100);
    let new = scenario.join(Some("one"));
    scenario.follow(&new, 100);
    assert!(old.wait(PATIENCE).success(), "it ended otherwise than by a fatal error");
    for handled in old.rest::<Handled>() {
        scenario.note(old.pid(), handled);
    }
    scenario.finish();
    scenario.leave(new);
    // What the old one could not commit any more came again: at most 64 batches and the one in hand.
    let repeated = scenario.handled.values().filter(|times| **times > 1).count();
    assert!(repeated <= 65 * 20, "{repeated} repeated");
    assert_eq!(scenario.handled.len() as u64, scenario.records * PARTITIONS as u64);
}
