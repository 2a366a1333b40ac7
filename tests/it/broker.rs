//! What the other scenarios stand on: the broker they run on, and the helpers that look at it.

use std::time::Duration;

use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::support::{
    Broker, Cluster, PATIENCE, TestTopic, committed, consume_all, create_topic, create_topic_with, delete_topic,
    eventually, kafka, produce_raw, produce_raw_batch, shared_broker, unique,
};

/// Records come back as they were produced, tombstones and empty values told apart, and a group that never committed has no offset.
#[test]
fn records_come_back_as_they_were_produced() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 2);

    assert_eq!(produce_raw(broker, &topic, 0, Some(b"k"), Some(b"v")), 0);
    let offsets =
        produce_raw_batch(broker, &topic, [(1, None, Some("")), (0, Some("k"), None), (1, Some("k"), Some("last"))]);
    assert_eq!(offsets, [0, 1, 1]);

    let records = consume_all(broker, &topic);
    let seen: Vec<_> = records.iter().map(|r| (r.partition(), r.offset(), r.key(), r.payload())).collect();
    type Bytes = Option<&'static [u8]>;
    let expected: [(i32, i64, Bytes, Bytes); 4] = [
        (0, 0, Some(b"k"), Some(b"v")),
        (0, 1, Some(b"k"), None),
        (1, 0, None, Some(b"")),
        (1, 1, Some(b"k"), Some(b"last")),
    ];
    assert_eq!(seen, expected);
    assert_eq!(committed(broker, &unique("group"), &topic, 0), None);
}

/// A topic can be deleted and made anew under its name, and starts at 0 again.
#[test]
fn a_topic_can_be_made_anew() {
    let broker = shared_broker();
    let topic = create_topic(broker, 1);
    produce_raw(broker, &topic, 0, None, Some(b"old"));

    delete_topic(broker, &topic);
    create_topic_with(broker, &topic, 1, &[]);

    assert!(consume_all(broker, &topic).is_empty());
    assert_eq!(produce_raw(broker, &topic, 0, None, Some(b"new")), 0);
    delete_topic(broker, &topic);
}

/// What was acknowledged outlives a broker that is killed, and one that is frozen answers again, at the same address.
#[test]
fn a_killed_broker_comes_back_with_its_records() {
    let mut broker = Broker::start();
    let bootstrap = broker.bootstrap().to_owned();
    let topic = create_topic(&bootstrap, 1);
    produce_raw(&bootstrap, &topic, 0, None, Some(b"kept"));

    broker.kill();
    broker.restart();
    assert_eq!(broker.bootstrap(), bootstrap);
    let records = consume_all(&bootstrap, &topic);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].payload(), Some(&b"kept"[..]));

    let pid = broker.pid();
    broker.freeze();
    std::thread::scope(|scope| {
        let produced = scope.spawn(|| produce_raw(&bootstrap, &topic, 0, None, Some(b"more")));
        assert!(!answers_within(&bootstrap, Duration::from_millis(500)));
        broker.thaw();
        assert_eq!(produced.join().unwrap(), 1);
    });
    assert_eq!(broker.pid(), pid);

    broker.stop();
    broker.restart();
    assert_eq!(consume_all(&bootstrap, &topic).len(), 2);
}

/// Three brokers go on without one of them, be it killed, stopped or frozen, and take it back.
#[test]
fn a_cluster_goes_on_without_a_node() {
    let mut cluster = Cluster::start();
    let bootstrap = cluster.bootstrap();
    let topic = create_topic(&bootstrap, 1);
    let mut next = 0;
    let mut produce = || {
        next += 1;
        assert_eq!(produce_raw(&bootstrap, &topic, 0, None, Some(b"kept")), next - 1);
    };
    produce();
    for end in [Broker::kill, Broker::stop, |broker: &mut Broker| broker.freeze()] {
        let leader = cluster.leader(&topic, 0).unwrap();
        end(cluster.node(leader));
        let other = eventually(PATIENCE, "another leads", || cluster.leader(&topic, 0).filter(|now| *now != leader));
        assert!(cluster.nodes().any(|node| node == other));
        produce();
        match cluster.node(leader).is_running() {
            true => cluster.node(leader).thaw(),
            false => cluster.node(leader).restart(),
        }
        cluster.until_in_sync();
        assert_eq!(cluster.in_sync(&topic, 0).unwrap().len(), 3);
    }
    assert_eq!(consume_all(&bootstrap, &topic).len(), 4);
}

fn answers_within(bootstrap: &str, time: Duration) -> bool {
    let client: BaseConsumer = kafka::client(bootstrap).create().unwrap();
    client.fetch_metadata(None, time).is_ok()
}
