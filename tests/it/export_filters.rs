//! Filters that a client reads from a topic.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use futures_executor::block_on;
use kafka_envelope::Ref;
use kafka_envelope::export::{FilterClient, FilterClientBuilder, Filters, Form};
use kafka_envelope::testing::{ApiKey, EmbeddedBroker, ErrorCode};
use rdkafka::admin::NewPartitions;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::{Value, json};

use crate::support::kafka::{admin, admin_options, client};
use crate::support::{
    Broker, PATIENCE, TestTopic, consume_all, create_topic_with, delete_topic, eventually, keep_logs, logged,
    produce_raw, produce_raw_batch, shared_broker, unique,
};

/// A delay after which nothing here is in sync.
const NEVER: Duration = Duration::from_secs(600);
/// Long before any test.
const OLD: u64 = 1_646_145_513;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Sync(bool),
    Put(String),
    Deleted(String),
}

use Event::{Deleted, Put, Sync};

/// A client that tells what it calls back.
fn watched(builder: FilterClientBuilder, delay: Duration) -> (FilterClientBuilder, Receiver<Event>) {
    let (sender, events) = channel();
    let [on_sync, on_put, on_delete] = [(); 3].map(|()| sender.clone());
    let builder = builder
        .config([("reconnect.backoff.ms", "20"), ("reconnect.backoff.max.ms", "200")])
        .on_sync(delay, move |error| on_sync.send(Sync(error)).unwrap())
        .on_put(move |id| on_put.send(Put(id.to_owned())).unwrap())
        .on_delete(move |id| on_delete.send(Deleted(id.to_owned())).unwrap());
    (builder, events)
}

fn start(bootstrap: &str, topic: &str) -> (FilterClient, Receiver<Event>) {
    let (builder, events) = watched(FilterClient::builder(topic, bootstrap), NEVER);
    (builder.start().unwrap(), events)
}

#[track_caller]
fn expect(events: &Receiver<Event>, expected: &[Event]) {
    for event in expected {
        let got = events.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("no {event:?}: {error}"));
        assert_eq!(got, *event);
    }
}

fn filter(id: &str) -> Value {
    json!({"id": id, "source": format!("from-{id}"), "mappings": {"a:data": "a"}, "args": {"of": id}})
}

fn message(method: &str, payload: &Value, timestamp: impl Into<Value>) -> String {
    json!({"method": method, "payload": payload, "timestamp": timestamp.into()}).to_string()
}

fn put(id: &str) -> String {
    message("put", &filter(id), OLD)
}

fn delete(id: &str) -> String {
    message("delete", &json!({"id": id}), OLD)
}

fn ids(names: impl IntoIterator<Item = impl ToString>) -> Vec<String> {
    names.into_iter().map(|name| name.to_string()).collect()
}

/// Writes messages without keys.
fn send(bootstrap: &str, topic: &str, partition: i32, messages: &[String]) {
    let record = |message: &String| (partition, None::<Vec<u8>>, Some(message.clone()));
    produce_raw_batch(bootstrap, topic, messages.iter().map(record));
}

/// Clients that began from the topic as it is, and one that read it all the time, come to the same.
#[test]
fn the_vectors_put_through_a_topic_give_the_same_filters() {
    let (broker, topic) = (shared_broker(), unique("vectors"));
    create_topic_with(broker, &topic, 1, &[]);
    let (early, early_events) = start(broker, &topic);
    expect(&early_events, &[Sync(false)]);
    let vectors: Vec<Value> = serde_json::from_str(include_str!("../data/filters/filters.json")).unwrap();
    let texts: Vec<_> = vectors.iter().map(ToString::to_string).collect();
    send(broker, &topic, 0, &texts);

    // What the messages make of filters without Kafka.
    let (mut expected, mut expected_events) = (Filters::default(), Vec::new());
    for vector in &vectors {
        let id = vector["payload"]["id"].as_str().unwrap_or_default().to_owned();
        match &vector["method"] {
            method if method == "delete" => {
                expected.delete(&id);
                expected_events.push(Deleted(id));
            }
            _ if expected.put(&vector["payload"].to_string()).is_ok() => expected_events.push(Put(id)),
            _ => {}
        }
    }
    assert!(!expected.is_empty());

    let (late, late_events) = start(broker, &topic);
    expect(&early_events, &expected_events);
    expect(&late_events, &expected_events);
    expect(&late_events, &[Sync(false)]);
    let data: Value = serde_json::from_str(include_str!("../data/filters/data.json")).unwrap();
    for client in [&early, &late] {
        assert_eq!(client.sources(), expected.sources());
        assert_eq!(client.args("export-1"), Some(json!({"arg": "test"})));
        assert_eq!(client.args("export-0"), None);
        let bad = vectors.len() - expected_events.len();
        assert_eq!((client.filters().len(), client.skipped()), (expected.len(), bad as u64));
        for (source, records) in data.as_object().unwrap() {
            for record in records.as_array().unwrap() {
                let export = |filters: &Filters| {
                    let record = record.to_string();
                    format!("{:?}", filters.export(Ref::new(&**source, 0, 0), record.as_bytes(), &Form::default()))
                };
                assert_eq!(export(&client.filters()), export(&expected), "{record}");
            }
        }
    }
    delete_topic(broker, &topic);
}

/// An empty topic is in sync at once, and what comes later is told one by one.
#[test]
fn an_empty_topic_is_in_sync() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 2);
    let (client, events) = start(broker, &topic);
    expect(&events, &[Sync(false)]);
    assert!(client.is_in_sync() && client.is_alive() && client.last_update().is_none());

    let before = client.filters();
    send(broker, &topic, 1, &[put("a")]);
    expect(&events, &[Put("a".into())]);
    assert_eq!(client.sources(), ["from-a"]);
    assert_eq!(client.args("a"), Some(json!({"of": "a"})));
    let put_at = client.last_update().unwrap();
    assert!(before.is_empty(), "a set of filters stays what it is");

    // An id that nobody has is told, and changes nothing.
    send(broker, &topic, 0, &[delete("b")]);
    expect(&events, &[Deleted("b".into())]);
    assert_eq!((client.last_update(), client.skipped()), (Some(put_at), 0));

    send(broker, &topic, 1, &[delete("a")]);
    expect(&events, &[Deleted("a".into())]);
    assert!(client.filters().is_empty() && client.args("a").is_none() && client.last_update() > Some(put_at));

    client.stop();
    client.join();
    assert!(!client.is_alive() && client.is_in_sync());
    assert!(events.recv().is_err(), "nothing is called after the end, and the callbacks are gone");
}

/// With old timestamps a client is in sync after the last message, with one from after its start it is with that.
#[test]
fn a_timestamp_from_after_the_start_is_in_sync_before_the_topics_end() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let names = ids(0..3_000);
    let messages: Vec<_> = names.iter().map(|id| put(id)).collect();
    send(broker, &topic, 0, &messages);
    let position = || {
        let (client, events) = start(broker, &topic);
        let mut seen = Vec::new();
        while seen.iter().filter(|event| matches!(event, Put(_))).count() < 3_000 || !seen.contains(&Sync(false)) {
            seen.push(events.recv_timeout(PATIENCE).unwrap());
        }
        assert_eq!(client.filters().len(), 3_000);
        seen.iter().position(|event| *event == Sync(false)).unwrap()
    };
    assert_eq!(position(), 3_000);

    let tomorrow = std::time::SystemTime::now() + Duration::from_secs(86_400);
    let tomorrow = tomorrow.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let topic = TestTopic::new(broker, 1);
    send(broker, &topic, 0, &[message("put", &filter("0"), tomorrow)]);
    send(broker, &topic, 0, &messages[1..]);
    let (client, events) = start(broker, &topic);
    eventually(PATIENCE, "in sync", || client.is_in_sync().then_some(()));
    expect(&events, &[Put("0".into())]);
    let position = events.iter().position(|event| event == Sync(false)).unwrap();
    assert!(position < 2_999, "{position}");
}

/// A topic that does not exist counts as in sync after the delay, and is read once it is made.
#[test]
fn a_topic_that_does_not_exist_is_waited_for() {
    let (broker, topic) = (shared_broker(), unique("late"));
    let (builder, events) = watched(FilterClient::builder(&topic, broker), NEVER);
    let waiting = builder.start().unwrap();
    let begin = Instant::now();
    let delay = Duration::from_secs(2);
    let (builder, delayed_events) = watched(FilterClient::builder(&topic, broker), delay);
    let delayed = builder.start().unwrap();
    expect(&delayed_events, &[Sync(false)]);
    assert!(begin.elapsed() >= delay && !waiting.is_in_sync());

    create_topic_with(broker, &topic, 2, &[]);
    send(broker, &topic, 1, &[put("a")]);
    expect(&events, &[Put("a".into()), Sync(false)]);
    expect(&delayed_events, &[Put("a".into())]);
    assert_eq!(delayed.sources(), ["from-a"]);
    delete_topic(broker, &topic);
}

/// A partition that cannot be read keeps a client from being in sync as long as messages come, and the delay after that.
#[test]
fn the_delay_counts_from_the_last_message() {
    let (broker, topic) = (EmbeddedBroker::with_brokers(2).unwrap(), unique("delay"));
    let servers = broker.bootstrap_servers();
    // Leaders are drawn by lot.
    broker.create_topic(&topic, 20).unwrap();
    let metadata = admin(servers).inner().fetch_metadata(Some(&topic), PATIENCE).unwrap();
    let led_by = |leader: i32| {
        let mut partitions = metadata.topics()[0].partitions().iter();
        partitions.find(|partition| partition.leader() == leader).unwrap().id()
    };
    let (down, is_up, is_down) = (2, led_by(1), led_by(2));
    broker.set_down(down).unwrap();

    let delay = Duration::from_secs(3);
    let (builder, events) = watched(FilterClient::builder(&topic, servers), delay);
    let client = builder.start().unwrap();
    send(servers, &topic, is_up, &[put("a")]);
    expect(&events, &[Put("a".into())]);
    let half = Instant::now() + delay / 2;
    eventually(PATIENCE, "half of the delay", || (Instant::now() >= half).then_some(()));
    let begin = Instant::now();
    send(servers, &topic, is_up, &[put("b")]);
    expect(&events, &[Put("b".into()), Sync(false)]);
    assert!(begin.elapsed() >= delay && client.is_in_sync());

    // What could not be read comes once it can.
    broker.set_up(down).unwrap();
    send(servers, &topic, is_down, &[put("c")]);
    expect(&events, &[Put("c".into())]);
}

/// Bad messages are logged with where they stand and not with what they hold, counted, and left out.
#[test]
fn bad_messages_are_skipped() {
    keep_logs();
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let twice = r#"{"method": "put", "payload": {"id": "c", "id": "c", "secret": 1}, "timestamp": 1}"#;
    let bad = [
        "secret".to_owned(),
        String::new(),
        twice.to_owned(),
        put("a"),
        message("merge", &filter("secret"), OLD),
        message("put", &Value::Null, OLD),
        message("put", &json!({"id": "secret"}), OLD),
        message("put", &json!({"id": "b", "source": "^secret", "mappings": {"a:data": "a"}}), OLD),
        message("put", &filter("secret"), 0),
        message("put", &filter("secret"), Value::Null),
        message("put", &filter("secret"), "2022-03-01"),
        message("delete", &json!({}), OLD),
    ];
    let mut records = vec![put("a")];
    records.extend(bad.iter().cloned());
    records.push(put("b"));
    let keyed = |value: &String| (0, Some("some-key"), Some(value.clone()));
    produce_raw_batch(broker, &topic, records.iter().map(keyed));
    let (client, events) = start(broker, &topic);
    expect(&events, &[Put("a".into()), Put("b".into()), Sync(false)]);
    assert_eq!((client.skipped(), client.filters().len()), (bad.len() as u64, 2));
    for offset in 1..=bad.len() {
        let record = format!(" {}:0:{offset}:some-key ", &*topic);
        let lines = logged(&["WARN", &record]);
        assert_eq!(lines.len(), 1, "{record} {lines:?}");
    }
    let secrets: Vec<_> = logged(&[&topic]).into_iter().filter(|line| line.contains("from-")).collect();
    assert!(secrets.is_empty(), "{secrets:?}");
}

#[test]
fn texts_are_timestamps_where_a_format_is_set() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let messages = [
        message("put", &filter("a"), "2022-03-01T14:38:33.25+0100"),
        message("put", &filter("b"), OLD),
        message("put", &filter("c"), "2022-03-01"),
    ];
    send(broker, &topic, 0, &messages);
    let builder = FilterClient::builder(&topic, broker).time_format("%Y-%m-%dT%H:%M:%S.%f%z").utc(false);
    let (builder, events) = watched(builder, NEVER);
    let client = builder.start().unwrap();
    expect(&events, &[Put("a".into()), Put("b".into()), Sync(false)]);
    assert_eq!(client.skipped(), 1);
}

/// What compaction leaves gives the same filters as the whole log did: the last message of a key, and tombstones.
#[test]
fn a_compacted_topic_gives_the_same_filters() {
    let broker = Broker::start_with(&[("log.cleaner.backoff.ms", "200")]);
    let (servers, topic) = (broker.bootstrap(), unique("compacted"));
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "100"),
    ];
    create_topic_with(servers, &topic, 1, &settings);
    let (whole, whole_events) = start(servers, &topic);
    expect(&whole_events, &[Sync(false)]);
    let produce = |id: &str, value: Option<&str>| {
        produce_raw(servers, &topic, 0, Some(id.as_bytes()), value.map(str::as_bytes));
    };
    for round in 0..10 {
        for id in ["kept", "deleted", "gone"] {
            if round > 0 {
                produce(id, Some(&delete(id)));
            }
            produce(id, Some(&put(id)));
        }
    }
    produce("deleted", Some(&delete("deleted")));
    produce("gone", None);
    eventually(PATIENCE, "the log is compacted", || {
        // Each time a segment that can be compacted.
        produce("other", Some(&delete("other")));
        let left = consume_all(servers, &topic);
        let has = |id: &str| left.iter().filter(|r| rdkafka::Message::key(*r) == Some(id.as_bytes())).count();
        (has("kept") == 1 && has("deleted") == 1 && has("gone") == 0).then_some(())
    });
    let (compacted, events) = start(servers, &topic);
    expect(&events, &[Put("kept".into()), Deleted("deleted".into())]);
    eventually(PATIENCE, "in sync", || compacted.is_in_sync().then_some(()));
    eventually(PATIENCE, "the whole log is read", || (whole.sources() == ["from-kept"]).then_some(()));
    assert_eq!(compacted.sources(), ["from-kept"]);
    assert_eq!((whole.skipped(), compacted.skipped()), (0, 0));
    // A tombstone that came, as opposed to one that was compacted away.
    assert!(whole_events.try_iter().any(|event| event == Deleted("gone".into())));
}

/// All partitions are read, those too that come while the client runs.
#[test]
fn several_partitions_and_new_ones_are_read() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 3);
    for partition in 0..3 {
        send(broker, &topic, partition, &[put(&format!("p{partition}"))]);
    }
    let (client, events) = start(broker, &topic);
    eventually(PATIENCE, "in sync", || client.is_in_sync().then_some(()));
    assert_eq!(client.sources(), ["from-p0", "from-p1", "from-p2"]);
    let seen: Vec<_> = (0..4).map(|_| events.recv_timeout(PATIENCE).unwrap()).collect();
    assert_eq!(seen[3], Sync(false), "{seen:?}");

    let grown = block_on(admin(broker).create_partitions([&NewPartitions::new(&topic, 5)], &admin_options()));
    grown.unwrap().into_iter().for_each(|grown| drop(grown.unwrap()));
    eventually(PATIENCE, "the new partition takes messages", || {
        let metadata = admin(broker).inner().fetch_metadata(Some(&topic), PATIENCE).ok()?;
        let led = metadata.topics()[0].partitions().iter().filter(|partition| partition.leader() >= 0).count();
        (led == 5).then_some(())
    });
    send(broker, &topic, 4, &[put("p4")]);
    expect(&events, &[Put("p4".into())]);
    send(broker, &topic, 0, &[put("again")]);
    expect(&events, &[Put("again".into())]);
    assert_eq!((client.filters().len(), client.skipped()), (5, 0), "nothing was read twice");
}

/// A broker that is gone for a while, by a stop, a kill or a freeze, costs nothing but time; and with one that does not
/// answer a client ends all the same.
#[test]
fn an_outage_is_outlasted() {
    let mut broker = Broker::start();
    let servers = broker.bootstrap().to_owned();
    let topic = TestTopic::new(&servers, 2);
    send(&servers, &topic, 0, &[put("a")]);
    let (client, events) = start(&servers, &topic);
    expect(&events, &[Put("a".into()), Sync(false)]);

    broker.stop();
    broker.restart();
    send(&servers, &topic, 1, &[put("b")]);
    expect(&events, &[Put("b".into())]);

    broker.kill();
    let (builder, late_events) = watched(FilterClient::builder(&topic, &servers), NEVER);
    let late = builder.start().unwrap();
    broker.restart();
    send(&servers, &topic, 0, &[put("c")]);
    expect(&events, &[Put("c".into())]);
    eventually(PATIENCE, "a client that began in the outage is in sync", || late.is_in_sync().then_some(()));
    assert_eq!(late.sources(), client.sources());
    drop(late_events);

    broker.freeze();
    let (frozen, _frozen_events) = start(&servers, &topic);
    let begin = Instant::now();
    late.stop();
    late.join();
    drop(late);
    drop(frozen);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    broker.thaw();
    send(&servers, &topic, 1, &[delete("a")]);
    expect(&events, &[Deleted("a".into())]);
    assert_eq!(client.sources(), ["from-b", "from-c"]);
    assert_eq!(client.skipped(), 0, "nothing was read twice");
}

/// A topic that is deleted and made anew: its filters take the place of the old ones. With fewer messages than before
/// nobody sees a mixture; where the new topic has outgrown the old one's offsets, only its id tells, a little later.
#[test]
fn a_topic_made_anew_replaces_the_filters() {
    let (broker, topic) = (shared_broker(), unique("anew"));
    create_topic_with(broker, &topic, 2, &[]);
    for partition in 0..2 {
        send(
            broker,
            &topic,
            partition,
            &ids(0..20).iter().map(|id| put(&format!("old-{partition}-{id}"))).collect::<Vec<_>>(),
        );
    }
    let (client, events) = start(broker, &topic);
    eventually(PATIENCE, "in sync", || client.is_in_sync().then_some(()));
    assert_eq!(client.filters().len(), 40);
    let mut syncs = Vec::new();
    for (round, (partitions, count)) in [(2, 3), (1, 2_500), (3, 0)].into_iter().enumerate() {
        let before = client.sources();
        delete_topic(broker, &topic);
        create_topic_with(broker, &topic, partitions, &[]);
        let name = |partition: i32, id: &str| format!("new{round}-{partition}-{id}");
        let mut expected = Vec::new();
        for partition in 0..partitions {
            let names: Vec<_> = ids(0..count).iter().map(|id| name(partition, id)).collect();
            send(broker, &topic, partition, &names.iter().map(|id| put(id)).collect::<Vec<_>>());
            expected.extend(names.iter().map(|id| format!("from-{id}")));
        }
        expected.sort();
        eventually(PATIENCE, "the new filters are there", || {
            let sources = client.sources();
            if sources == before {
                return None;
            }
            let is_new = sources.iter().all(|source| expected.binary_search(source).is_ok());
            assert!(is_new || count > 20, "round {round}: a mixture of {} sources", sources.len());
            (sources == expected).then_some(())
        });
        // No message says so, but the old filters are gone.
        let gone: Vec<_> = before.iter().map(|source| Deleted(source.replacen("from-", "", 1))).collect();
        let mut deleted = Vec::new();
        while deleted.len() < gone.len() {
            match events.recv_timeout(PATIENCE).unwrap() {
                event @ Deleted(_) => deleted.push(event),
                Sync(error) => syncs.push(error),
                Put(_) => {}
            }
        }
        assert_eq!(deleted, gone);
    }
    assert!(client.is_alive() && syncs == [false] && !events.try_iter().any(|event| matches!(event, Sync(_))));
    delete_topic(broker, &topic);
}

/// A callback may stop the client, wait for its end, and drop its last handle: nothing is called after that.
#[test]
fn callbacks_may_end_the_client() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    send(broker, &topic, 0, &[put("a"), put("b")]);
    for stops in [true, false] {
        let (give, handle) = channel::<FilterClient>();
        let (told, calls) = channel();
        let builder = FilterClient::builder(&topic, broker).on_put(move |id| {
            let client = handle.recv().unwrap();
            if stops {
                client.stop();
                client.join();
            }
            told.send((id.to_owned(), client.is_alive())).unwrap();
        });
        give.send(builder.start().unwrap()).unwrap();
        assert_eq!(calls.recv_timeout(PATIENCE).unwrap(), ("a".to_owned(), true));
        assert_eq!(calls.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected), "the callbacks are gone");
    }
}

/// A panic in a callback ends the client, which is told once where it was not in sync.
#[test]
fn a_callback_that_panics_ends_the_client() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    send(broker, &topic, 0, &[put("a")]);
    let (sender, synced) = channel();
    let builder = FilterClient::builder(&topic, broker);
    let panicking = builder
        .on_sync(NEVER, move |error| sender.send(error).unwrap())
        .on_put(|_| panic!("of a user"))
        .start()
        .unwrap();
    panicking.join();
    assert!(!panicking.is_alive() && !panicking.is_in_sync());
    assert_eq!(synced.iter().collect::<Vec<_>>(), [true]);
    assert_eq!(panicking.sources(), ["from-a"], "what was read stays");

    let (sender, synced) = channel();
    let panicking = FilterClient::builder(&topic, broker)
        .on_sync(NEVER, move |error| {
            sender.send(error).unwrap();
            panic!("of a user");
        })
        .start()
        .unwrap();
    panicking.join();
    assert!(!panicking.is_alive());
    assert_eq!(synced.iter().collect::<Vec<_>>(), [false], "not called again");
}

/// The last handle that goes ends the thread.
#[test]
fn the_last_handle_ends_the_client() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let (client, events) = start(broker, &topic);
    expect(&events, &[Sync(false)]);
    let other = client.clone();
    drop(client);
    send(broker, &topic, 0, &[put("a")]);
    expect(&events, &[Put("a".into())]);
    let begin = Instant::now();
    drop(other);
    assert!(events.recv().is_err() && begin.elapsed() < Duration::from_secs(5));
}

/// No group is joined, and no offset is committed.
#[test]
fn no_group_is_made() {
    let broker = shared_broker();
    let topic = TestTopic::new(broker, 1);
    let (client, events) = start(broker, &topic);
    expect(&events, &[Sync(false)]);
    drop(client);
    let asking: BaseConsumer = self::client(broker).set("group.id", unique("asking")).create().unwrap();
    let groups = asking.fetch_group_list(None, PATIENCE).unwrap();
    let names: Vec<_> = groups.groups().iter().map(|group| group.name()).collect();
    assert!(!names.contains(&"kafka-envelope-filters"), "{names:?}");
}

/// A topic that may not be read ends a client that has not begun, and no other: that one goes on once it may again.
#[test]
fn missing_rights_end_a_client_before_it_is_in_sync_and_are_waited_for_after_that() {
    keep_logs();
    let (broker, topic) = (EmbeddedBroker::start().unwrap(), unique("rights"));
    let servers = broker.bootstrap_servers();
    broker.create_topic(&topic, 2).unwrap();
    send(servers, &topic, 0, &[put("a")]);
    let (running, running_events) = start(servers, &topic);
    expect(&running_events, &[Put("a".into()), Sync(false)]);

    broker.fail_next(ApiKey::Fetch, [ErrorCode::TopicAuthorizationFailed; 1_000]).unwrap();
    let (refused, refused_events) = start(servers, &topic);
    expect(&refused_events, &[Sync(true)]);
    refused.join();
    assert!(!refused.is_alive() && !refused.is_in_sync());
    eventually(PATIENCE, "who reads already is refused, too", || {
        (!logged(&["WARN", &topic, "is tried again"]).is_empty()).then_some(())
    });
    assert!(running.is_alive() && running.sources() == ["from-a"]);

    broker.clear_failures(ApiKey::Fetch).unwrap();
    send(servers, &topic, 0, &[put("b")]);
    expect(&running_events, &[Put("b".into())]);
    assert_eq!(running.skipped(), 0, "nothing was read twice");
}

/// What cannot work is refused before anything connects.
#[test]
fn what_cannot_work_is_refused_at_the_start() {
    let refused = |builder: FilterClientBuilder| builder.start().unwrap_err().to_string();
    let builder = |topic: &str| FilterClient::builder(topic, "127.0.0.1:1");
    assert!(refused(builder("^filters")).starts_with("setting `topic`: "));
    assert!(refused(FilterClient::builder("filters", "")).starts_with("setting `bootstrap.servers`: "));
    assert!(refused(builder("filters").time_format("%Q")).starts_with("setting `time_format`: "));
    assert!(refused(builder("filters").config([("group.id", "mine")])).starts_with("setting `group.id`: "));
    assert!(refused(builder("filters").config([("no.such", "1")])).starts_with("setting `no.such`: "));
    assert!(refused(builder("filters").config_file("/no/such/file")).contains("/no/such/file"));
    let client = builder("filters").start().unwrap();
    assert!(client.is_alive() && !client.is_in_sync());
}
