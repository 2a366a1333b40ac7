//! `kafka-envelope consume`: envelopes as lines, from any place on, alone or as a member of a group.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, TimeDelta, Utc};
use futures_executor::block_on;
use kafka_envelope::{Message, Producer, Ref};
use rdkafka::admin::NewPartitions;
use serde_json::{Value, json};

use super::support::cli::{cli, cli_with, command};
use super::support::{
    Broker, TestTopic, committed, create_topic, envelope, eventually, group, kafka, produce_numbers, produce_raw,
    shared_broker, unique,
};

fn topic(partitions: i32) -> TestTopic {
    TestTopic::new(shared_broker(), partitions)
}

fn numbers(partitions: i32, each: u64) -> TestTopic {
    let topic = topic(partitions);
    for partition in 0..partitions {
        produce_numbers(shared_broker(), &topic, partition, 0..each);
    }
    topic
}

/// The payloads of a run without a word on standard error.
#[track_caller]
pub(crate) fn payloads(arguments: &[&str]) -> Vec<Value> {
    let lines = cli(&[&["consume"], arguments].concat()).good().json();
    lines.into_iter().map(|mut line| line["payload"].take()).collect()
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("sh").args(["-c", "kill -s $0 $1", name, &pid]).status().unwrap().success());
}

#[test]
fn an_envelope_is_a_line_with_all_that_is_known_of_it() {
    let topic = topic(1);
    let producer = Producer::new("shop", shared_broker()).unwrap();
    let at = "2026-01-02T03:04:05.006Z".parse().unwrap();
    let message = Message::new(json!({"n": 1, "text": "ä\n"})).id("a\"b").timestamp(at).caused_by(Ref::new("x", 0, 1));
    let message = message.header("one", "1").header("two", "2").header("two", [0xff_u8]);
    producer.produce(&topic, &message).unwrap();
    let expected = json!({
        "id": "a\"b",
        "payload": {"n": 1, "text": "ä\n"},
        "ref": format!("{}:0:0:a\"b", &*topic),
        "topic": &*topic,
        "partition": 0,
        "offset": 0,
        "timestamp": "2026-01-02T03:04:05.006Z",
        "headers": {"one": "1", "two": ["2", {"base64": "/w=="}]},
    });
    assert_eq!(cli(&["consume", &topic]).good().json(), [expected]);
    let with_history = cli(&["consume", &topic, "--hist"]).good().json();
    assert_eq!(with_history[0]["hist"]["svc"], "shop");
    assert_eq!(with_history[0]["hist"]["refs"][0]["topic"], "x");
}

#[test]
fn what_is_consumed_can_be_produced() {
    let (from, to) = (numbers(1, 3), topic(1));
    let lines = cli(&["consume", &from, "--hist"]).good().json().into_iter().map(|line| {
        let cause =
            json!({"topic": &*from, "partition": 0, "offset": line["offset"], "key": line["id"], "hist": line["hist"]});
        json!({"id": line["id"], "payload": line["payload"], "headers": line["headers"], "refs": [cause]}).to_string()
    });
    let input = lines.collect::<Vec<_>>().join("\n");
    cli_with(&["produce", &to], &input).good();
    let read = cli(&["consume", &to, "--hist"]).good().json();
    assert_eq!((&read[2]["id"], &read[2]["payload"]), (&json!("2"), &json!(2)));
    let cause = &read[2]["hist"]["refs"][0];
    assert_eq!((&cause["offset"], &cause["hist"]["svc"]), (&json!(2), &json!("test")));
}

#[test]
fn what_is_no_envelope_is_named_and_raw_shows_it() {
    let topic = topic(1);
    let broker = shared_broker();
    produce_raw(broker, &topic, 0, Some(b"a"), Some(&envelope(&1)));
    produce_raw(broker, &topic, 0, Some(b"b"), Some(b"secret"));
    produce_raw(broker, &topic, 0, None, Some(b"\xff\0"));
    produce_raw(broker, &topic, 0, Some(b"\xff"), Some(&envelope(&2)));
    produce_raw(broker, &topic, 0, Some(b"d"), None);
    produce_raw(broker, &topic, 0, Some(b"e"), Some(b"{\n\"item\":\n[1,\n2]}"));
    let ran = cli(&["consume", &topic]);
    let place = |offset: i32| format!("{}:0:{offset}: ", &*topic);
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    let ran =
        ran.bad(3, &[&place(1), &place(2), &place(3), "the key, which", "3 of 6 records could not be read", "--raw"]);
    let lines = ran.json();
    assert_eq!(
        lines.iter().map(|line| &line["payload"]).collect::<Vec<_>>(),
        [&json!(1), &Value::Null, &json!([1, 2])]
    );
    assert_eq!((&lines[1]["tombstone"], &lines[1]["id"]), (&json!(true), &json!("d")));
    assert_eq!(lines[2].get("tombstone"), None);

    let raw = cli(&["consume", &topic, "--raw"]).good().json();
    assert_eq!(raw.len(), 6);
    assert_eq!((&raw[1]["id"], &raw[1]["value"]), (&json!("b"), &json!("secret")));
    assert_eq!((&raw[2]["id"], &raw[2]["value"]), (&Value::Null, &json!({"base64": "/wA="})));
    assert_eq!(raw[3]["id"], json!({"base64": "/w=="}));
    assert_eq!(raw[4]["value"], Value::Null);
}

#[test]
fn reading_starts_and_ends_where_it_is_told() {
    let topic = numbers(2, 10);
    let some = |range: std::ops::Range<u64>| range.map(Value::from).collect::<Vec<_>>();
    assert_eq!(payloads(&[&topic]).len(), 20);
    assert_eq!(payloads(&[&topic, "--from", "beginning", "-p", "1"]), some(0..10));
    assert_eq!(payloads(&[&topic, "--from", "7", "--partition", "0"]), some(7..10));
    assert_eq!(payloads(&[&topic, "--from", "99"]), some(0..0));
    assert_eq!(payloads(&[&topic, "--from", "end"]), some(0..0));
    assert_eq!(payloads(&[&topic, "--from", "-2", "-p", "0"]), some(8..10));
    assert_eq!(payloads(&[&topic, "--from=-99"]).len(), 20);
    assert_eq!(payloads(&[&topic, "--limit", "3", "-p", "0"]), some(0..3));
    assert_eq!(payloads(&[&topic, "--limit", "0"]), some(0..0));
    let ran = cli(&["consume", &topic, "-p", "2"]);
    ran.bad(1, &["has no partition 2", "it has 2, from 0 on"]);
}

#[test]
fn reading_starts_at_a_time() {
    let topic = topic(1);
    let producer = Producer::new("shop", shared_broker()).unwrap();
    let now = Utc::now();
    for hours in [3, 2, 1] {
        let message = Message::new(hours).timestamp(now - TimeDelta::hours(hours));
        producer.produce(&topic, &message).unwrap();
    }
    let ago = |minutes: i64| (now - TimeDelta::minutes(minutes)).to_rfc3339_opts(SecondsFormat::Secs, true);
    assert_eq!(payloads(&[&topic, "--from", &ago(150)]), [2, 1].map(Value::from));
    assert_eq!(payloads(&[&topic, "--from", &ago(30)]), [0; 0].map(Value::from));
    cli(&["consume", &topic, "--from", "yesterday"]).bad(2, &["--from", "is none of: beginning, end"]);
}

#[test]
fn filters_look_into_payloads() {
    let topic = topic(1);
    let broker = shared_broker();
    for (name, age) in [("Ada", 36), ("Eve", 20), ("Bob", 36)] {
        produce_raw(broker, &topic, 0, None, Some(&envelope(&json!({"who": {"name": name}, "age": age}))));
    }
    produce_raw(broker, &topic, 0, None, Some(&envelope(&"text")));
    produce_raw(broker, &topic, 0, None, None);
    let names = |filters: &[&str]| {
        let found = payloads(&[&[&*topic], filters].concat());
        found.iter().map(|payload| payload["who"]["name"].as_str().unwrap_or("-").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["--filter", "/age"]), ["Ada", "Eve", "Bob"]);
    assert_eq!(names(&["--filter", "/age=36"]), ["Ada", "Bob"]);
    assert_eq!(names(&["--filter", "/age=36", "--filter", "/who/name!=Bob"]), ["Ada"]);
    assert_eq!(names(&["--filter", "/age!=36"]), ["Eve", "-"]);
    assert_eq!(names(&["--filter", "/age=36", "--limit", "1"]), ["Ada"]);
    cli(&["consume", &topic, "--filter", "age"]).bad(2, &["--filter", "JSON pointer"]);

    let deep = format!("{{\"item\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    produce_raw(broker, &topic, 0, None, Some(deep.as_bytes()));
    cli(&["consume", &topic, "--filter", "/age"]).bad(3, &[":0:5: no filter can look into it"]);
    let ran = cli(&["consume", &topic, "--from", "5"]);
    assert_eq!((ran.code, ran.stdout.lines().count()), (0, 1));
}

#[test]
fn what_follows_is_written_at_once_until_a_signal() {
    for name in ["INT", "TERM"] {
        let topic = numbers(1, 2);
        let mut child = command(&["consume", &topic, "--follow", "--from", "1"]);
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap()["payload"].take();
        assert_eq!(next(), 1);
        produce_numbers(shared_broker(), &topic, 0, 7..9);
        assert_eq!([next(), next()], [7, 8]);
        signal(&child, name);
        let mut rest = String::new();
        child.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!((child.wait().unwrap().code(), &*rest), (Some(0), ""));
    }
    let topic = numbers(1, 2);
    assert_eq!(payloads(&[&topic, "-f", "-l", "2"]), [0, 1].map(Value::from));
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let topic = numbers(1, 20_000);
    for more in [&[][..], &["--raw"], &["--group", &group(), "--commit"]] {
        let mut child = command(&[&["consume", &*topic], more].concat());
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &*String::from_utf8(output.stderr).unwrap()), (Some(0), ""), "{more:?}");
        assert!(first.starts_with("{\"id\":\"0\""), "{first}");
    }
}

#[test]
fn a_member_of_a_group_commits_what_it_wrote() {
    let (topic, group) = (numbers(2, 10), group());
    let member = ["consume", &topic, "--group", &group, "--commit"];
    let of_both = |group: &str| [0, 1].map(|partition| committed(shared_broker(), group, &topic, partition));
    assert_eq!(cli(&member).good().json().len(), 20);
    assert_eq!(of_both(&group), [Some(10), Some(10)]);
    // Nothing is left, so nothing is waited for.
    assert_eq!(cli(&member).good().stdout, "");
    produce_numbers(shared_broker(), &topic, 0, 10..15);
    let limited = cli(&[&member[..], &["--limit", "3"]].concat()).good().json();
    assert_eq!(limited.iter().map(|line| line["payload"].clone()).collect::<Vec<_>>(), [10, 11, 12].map(Value::from));
    assert_eq!(of_both(&group), [Some(13), Some(10)]);

    // Without `--commit` it only looks where the group is.
    assert_eq!(payloads(&[&topic, "--group", &group]), [13, 14].map(Value::from));
    assert_eq!(of_both(&group), [Some(13), Some(10)]);
    let ran = cli(&["consume", &topic, "--group", &group, "--commit", "--from", "5"]);
    ran.bad(1, &["starts where the group is", "`--from` is `beginning` or `end`"]);
    cli(&["consume", &topic, "--commit"]).bad(2, &["--group"]);
    cli(&["consume", &topic, "--group", &group, "--commit", "--raw"]).bad(2, &["--raw"]);
}

#[test]
fn a_member_of_a_group_names_what_it_passes_over() {
    let (topic, group) = (topic(1), group());
    let broker = shared_broker();
    for value in [Some(envelope(&1)), Some(b"secret".to_vec()), None, Some(envelope(&2))] {
        produce_raw(broker, &topic, 0, Some(b"k"), value.as_deref());
    }
    let ran = cli(&["consume", &topic, "--group", &group, "--commit", "--hist"]);
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    let skipped = format!("warning: {}:0:1:k is skipped", &*topic);
    let ran = ran.bad(3, &[&skipped, "1 tombstones were passed over", "1 of 3 records could not be read"]);
    assert_eq!(ran.json().iter().map(|line| line["payload"].clone()).collect::<Vec<_>>(), [1, 2].map(Value::from));
    assert_eq!(ran.json()[0]["hist"]["svc"], "test");
    assert_eq!(committed(broker, &group, &topic, 0), Some(4));
}

#[test]
fn a_member_that_follows_commits_what_it_wrote_before_a_signal() {
    let (topic, group) = (numbers(1, 5), group());
    let mut child = command(&["consume", &topic, "-g", &group, "--commit", "--follow"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.by_ref().take(5).count(), 5);
    let patience = Duration::from_secs(30);
    eventually(patience, "what was written is committed", || {
        (committed(shared_broker(), &group, &topic, 0) == Some(5)).then_some(())
    });
    produce_numbers(shared_broker(), &topic, 0, 5..6);
    assert!(lines.next().unwrap().unwrap().contains("\"payload\":5,"));
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
    assert_eq!(committed(shared_broker(), &group, &topic, 0), Some(6));
}

#[test]
fn without_topic_or_broker_it_says_so() {
    let missing = unique("topic");
    for more in [&[][..], &["--group", "g", "--commit"]] {
        cli(&[&["consume", &*missing], more].concat()).bad(1, &["there is no topic", &missing, "topics list"]);
        let nowhere = ["consume", "t", "-b", "127.0.0.1:1", "--connect-timeout", "2"];
        let ran = cli(&[&nowhere[..], more].concat());
        ran.bad(1, &["no broker of `127.0.0.1:1` answers", "hint: is the address right"]);
    }
    let help = cli(&["consume", "--help"]).good().stdout;
    assert!(help.contains("Examples:"), "{help}");
}

#[test]
fn after_a_crash_a_member_waits_until_the_one_that_died_is_let_go() {
    let (topic, group) = (numbers(1, 30_000), group());
    let member = ["consume", &topic, "-g", &group, "--commit", "--connect-timeout", "5"];
    let session = ["--config", "session.timeout.ms=12000"];
    let mut died = command(&[&member[..], &session].concat()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(died.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().is_ok());
    died.kill().unwrap();
    died.wait().unwrap();
    let next = committed(shared_broker(), &group, &topic, 0).unwrap_or(0);
    assert!(next < 30_000);
    let read = cli(&[&member[..], &session].concat()).good().json();
    assert_eq!(read.first().map(|line| line["offset"].clone()), Some(next.into()));
    assert_eq!(read.len() as i64, 30_000 - next);
}

#[test]
fn what_another_member_of_the_group_has_is_named() {
    let (topic, group) = (numbers(1, 5_000), group());
    let member = ["consume", &topic, "-g", &group, "--commit", "--connect-timeout", "2"];
    // Nobody reads what it writes.
    let mut other = command(&member).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().is_ok());
    let ran = cli(&member).bad(3, &["not read to its end: ", &format!("{}:0", &*topic)]);
    assert_eq!(ran.stdout, "");
    other.kill().unwrap();
    other.wait().unwrap();
}

/// What was fetched is written; what is still to come does not come, and the broker does not answer to anything else.
#[test]
fn a_broker_that_freezes_in_the_middle_ends_it_within_the_timeout() {
    let broker = Broker::start();
    let topic = create_topic(broker.bootstrap(), 2);
    for partition in 0..2 {
        produce_numbers(broker.bootstrap(), &topic, partition, 0..20_000);
    }
    let read = ["consume", &*topic, "-b", broker.bootstrap(), "--connect-timeout", "3"];
    // It fetches little ahead of what it writes, and nobody reads that.
    let slow = ["--config", "queued.min.messages=1", "--config", "fetch.message.max.bytes=1000"];
    let mut child = command(&[&read[..], &slow].concat());
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().is_ok());
    broker.freeze();
    let start = Instant::now();
    assert!(lines.map(Result::unwrap).count() < 39_000);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&format!("no broker of `{}` answers", broker.bootstrap())), "{stderr}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[test]
fn partitions_that_are_added_are_followed_unless_others_are_asked_for() {
    let topic = numbers(1, 1);
    let follow = |more: &[&str]| {
        let mut child = command(&[&["consume", &*topic, "--follow"], more].concat());
        let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()))
    };
    let ((mut all, mut of_all), (mut one, mut of_one)) = (follow(&[]), follow(&["-p", "0"]));
    assert_eq!((of_all.next().unwrap()["partition"].clone(), of_one.next().is_some()), (json!(0), true));
    let admin = kafka::admin(shared_broker());
    let created = block_on(admin.create_partitions([&NewPartitions::new(&topic, 3)], &kafka::admin_options()));
    created.unwrap().remove(0).unwrap();
    for partition in [2, 1] {
        let sent =
            || Producer::new("shop", shared_broker()).unwrap().produce(&topic, &Message::new(0).partition(partition));
        // It may not know of the partition yet.
        eventually(Duration::from_secs(30), "the partition is there", || sent().ok());
    }
    let mut partitions = [(); 2].map(|()| of_all.next().unwrap()["partition"].as_i64().unwrap());
    partitions.sort_unstable();
    assert_eq!(partitions, [1, 2]);
    produce_numbers(shared_broker(), &topic, 0, 5..6);
    assert_eq!([&mut of_all, &mut of_one].map(|lines| lines.next().unwrap()["payload"].clone()), [5, 5]);
    for child in [&mut all, &mut one] {
        signal(child, "INT");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}
