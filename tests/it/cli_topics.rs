//! `kafka-envelope topics`: made, listed and described.

use serde_json::{Value, json};

use super::support::cli::{Ran, cli};
use super::support::{TestTopic, delete_topic, produce_raw, shared_broker, unique};

fn topics(more: &[&str]) -> Ran {
    cli(&[&["topics"], more].concat())
}

fn describe(topic: &str) -> Value {
    topics(&["describe", topic, "--json"]).good().json().remove(0)
}

#[test]
fn a_topic_is_made_as_asked_for() {
    let name = unique("made");
    let ran = topics(
        &["create", &name, "--partitions", "3", "--replication-factor", "1", "--topic-config"]
            .into_iter()
            .chain(["retention.ms=60000", "--topic-config", "cleanup.policy=compact"])
            .collect::<Vec<_>>(),
    );
    assert_eq!(ran.good().stdout, format!("{name}: 3 partitions, 1 replica\n"));
    let described = describe(&name);
    let partitions = described["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 3);
    let first = json!({"partition": 0, "leader": 1, "replicas": [1], "in_sync": [1], "earliest": 0, "latest": 0});
    assert_eq!(partitions[0], first);
    for (property, value) in [("retention.ms", "60000"), ("cleanup.policy", "compact")] {
        let property = json!({"name": property, "value": value, "set_by": "topic"});
        assert!(described["properties"].as_array().unwrap().contains(&property), "{described}");
    }

    let ran = topics(&["create", &name]);
    assert!(ran.bad(1, &[&format!("topic `{name}`: "), "hint: ", "topics describe"]).stdout.is_empty());
    delete_topic(shared_broker(), &name);
}

#[test]
fn what_is_not_said_the_brokers_say() {
    let name = unique("made");
    let ran = topics(&["create", &name, "--json"]).good();
    assert_eq!(ran.json(), [json!({"topic": name, "partitions": 1, "replication_factor": 1})]);
    delete_topic(shared_broker(), &name);
}

#[test]
fn what_brokers_refuse_is_told() {
    let name = unique("refused");
    let cases: [(&[&str], &[&str]); 4] = [
        (&["--replication-factor", "9"], &["eplication", "no more replicas than brokers"]),
        (&["--topic-config", "no.such=1"], &["--topic-config"]),
        (&["--topic-config", "retention.ms=soon"], &["--topic-config"]),
        (&["--config", "retention.ms=1"], &["retention.ms", "--topic-config"]),
    ];
    for (more, parts) in cases {
        let ran = topics(&[&["create", &name], more].concat());
        assert!(ran.bad(1, parts).stdout.is_empty());
    }
    for wrong in [&["create"][..], &["create", "bad name!"], &["create", "a", "--partitions", "0"], &["describe"], &[]]
    {
        topics(wrong).bad(2, &[]);
    }
    let listed = topics(&["list", "--json"]).good().json();
    assert!(listed.iter().all(|topic| topic["topic"] != json!(name)));
}

#[test]
fn topics_are_listed_without_kafkas_own() {
    let topic = TestTopic::new(shared_broker(), 4);
    // So that there are some.
    produce_raw(shared_broker(), &topic, 0, None, Some(b"1"));
    super::support::committed(shared_broker(), &unique("group"), &topic, 0);
    let json = topics(&["list", "--json"]).good().json();
    assert!(json.contains(&json!({"topic": &*topic, "partitions": 4, "replication_factor": 1})), "{json:?}");
    assert!(json.iter().all(|topic| !topic["topic"].as_str().unwrap().starts_with("__")));
    let all = topics(&["list", "--json", "--internal"]).good().json();
    assert!(all.iter().any(|topic| topic["topic"] == "__consumer_offsets"), "{all:?}");

    let text = topics(&["list"]).good().stdout;
    let words: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["TOPIC", "PARTITIONS", "REPLICATION", "FACTOR"]);
    assert!(words.contains(&vec![&*topic, "4", "1"]), "{text}");
}

#[test]
fn a_topic_is_described() {
    let topic = TestTopic::new(shared_broker(), 2);
    for _ in 0..3 {
        produce_raw(shared_broker(), &topic, 1, None, Some(b"1"));
    }
    let text = topics(&["describe", &topic]).good().stdout;
    let words: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["PARTITION", "LEADER", "REPLICAS", "IN", "SYNC", "EARLIEST", "LATEST"]);
    assert_eq!(words[1], ["0", "1", "1", "1", "0", "0"]);
    assert_eq!(words[2], ["1", "1", "1", "1", "0", "3"]);
    let described = describe(&topic);
    assert_eq!(described["topic"], json!(&*topic));
    assert_eq!(described["partitions"][1]["latest"], 3);
    // As `scripts/kafka.properties` says.
    let property = json!({"name": "file.delete.delay.ms", "value": "1000", "set_by": "file"});
    assert!(described["properties"].as_array().unwrap().contains(&property), "{described}");

    topics(&["describe", &unique("missing")]).bad(1, &["there is no topic", "topics list"]);
}

#[test]
fn properties_of_librdkafka_count_wherever_they_stand() {
    for line in [
        ["--config", "no.such=1", "topics", "list", "--config", "client.id=a"],
        ["--config", "client.id=a", "topics", "--config", "no.such=1", "list"],
    ] {
        cli(&line).bad(1, &["no.such"]);
    }
}

#[test]
fn without_a_broker_that_is_said() {
    for more in [&["list"][..], &["describe", "a"], &["create", "a"]] {
        let nowhere = ["-b", "127.0.0.1:9", "--connect-timeout", "1", "topics"];
        let ran = cli(&[&nowhere[..], more].concat());
        assert!(ran.bad(1, &["127.0.0.1:9", "Connection refused", "hint: is the address right"]).stdout.is_empty());
    }
}
