//! `kafka-envelope listen`: messages of topics that a real HTTP gateway lists, each committed once it is printed.

use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::broker::Broker;
use super::support::cli::cli;
use super::support::gateway::{Gateway, oda};
use super::support::running::Running;
use super::support::{
    PATIENCE, TestTopic, committed, create_topic_with, eventually, group, produce_numbers, produce_raw, shared_broker,
    unique,
};

/// Puts values into a topic's first partition.
fn produce(topic: &str, values: &[&str]) {
    for value in values {
        produce_raw(shared_broker(), topic, 0, None, Some(value.as_bytes()));
    }
}

/// Waits until the group has this as its next offset.
#[track_caller]
fn commits(group: &str, topic: &str, next: i64) {
    eventually(PATIENCE, "it is committed", || {
        (committed(shared_broker(), group, topic, 0) == Some(next)).then_some(())
    });
}

fn listen(topic: &str, group: &str, more: &[&str]) -> Running {
    Running::start(&[&["listen", topic, "-r", shared_broker(), "-g", group], more].concat())
}

/// The values that the Python consumer read in all of its cases.
fn packets() -> Vec<String> {
    let cases = oda();
    let all = cases["generator"].as_array().unwrap().iter().flat_map(|case| case["records"].as_array().unwrap());
    let of_livingroom = all.filter(|record| record["topic"] == "livingroom");
    of_livingroom.map(|record| record["value"]["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_the_python_consumer_printed_is_printed_as_json() {
    let (topic, group, packets) = (TestTopic::new(shared_broker(), 1), group(), packets());
    assert_eq!(packets.len(), 4);
    produce(&topic, &packets.iter().map(String::as_str).collect::<Vec<_>>());
    let gateway = Gateway::of(shared_broker(), &["a", &topic]);
    let arguments = ["listen", &*topic, "-t", "0", "-g", &group, "-a", &gateway.url];
    let mut running = Running::start(&arguments);
    for packet in &packets {
        let (line, packet): (Value, Value) =
            (serde_json::from_str(&running.line()).unwrap(), serde_json::from_str(packet).unwrap());
        assert_eq!(line, packet);
    }
    commits(&group, &topic, 4);
    running.end("INT").good();
    let [request] = gateway.requests().try_into().unwrap();
    assert_eq!((&*request.method, &*request.path, &*request.query, &*request.body), ("GET", "/register/dc", "", ""));
    assert_eq!(request.content_type, None);

    // Again in the same group: only what is new.
    let mut running = Running::start(&arguments);
    produce(&topic, &["5"]);
    assert_eq!(running.line(), "5");
    running.end("TERM").good();
}

#[test]
fn topics_that_the_gateway_does_not_list_are_warned_of() {
    let topic = TestTopic::new(shared_broker(), 1);
    // One of its topics may be no text.
    let answer = json!({"topics": ["livingroom", &*topic, 5], "KAFKA_ENDPOINT": shared_broker()});
    let gateway = Gateway::start(200, "text/html; charset=utf-8", &answer.to_string());
    let ran = cli(&["listen", "nowhere", "5", "-a", &gateway.url]);
    let ran = ran.bad(1, &["topic `nowhere`", "topic `5`", "none of the topics is listed", "hint: "]);
    assert!(ran.stdout.is_empty());

    produce(&topic, &["1"]);
    let mut running = Running::start(&["listen", "nowhere", "nowhere2", &topic, "-a", &gateway.url]);
    assert_eq!(running.line(), "1");
    let ran = running.end("INT").bad(0, &["topic `nowhere`", "topic `nowhere2`"]);
    assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
}

#[test]
fn what_is_no_json_is_named_and_counts_as_read() {
    let (topic, group) = (TestTopic::new(shared_broker(), 1), group());
    produce(&topic, &["secret", "[1]", "{\"a\": 1", ""]);
    produce_raw(shared_broker(), &topic, 0, None, Some(b"\"\xff\""));
    produce(&topic, &["[2]"]);
    let mut running = listen(&topic, &group, &["-gi", "static-1"]);
    assert_eq!((running.line(), running.line()), ("[1]".to_owned(), "[2]".to_owned()));
    commits(&group, &topic, 6);
    let ran = running.end("INT").bad(3, &["4 messages were no JSON"]);
    for offset in [0, 2, 3, 4] {
        assert!(ran.stderr.contains(&format!("{}:0:{offset} is no JSON: ", &*topic)), "{}", ran.stderr);
    }
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
}

#[test]
fn a_line_has_the_message_as_it_is() {
    let topic = TestTopic::new(shared_broker(), 1);
    let pretty = "{\n  \"b\": 1.50,\r\n  \"a\": [12345678901234567890123, \"x  \\u00fc ü \\\" y\"],\t\"b\": null}";
    produce(&topic, &[pretty]);
    produce_raw(shared_broker(), &topic, 0, Some(b"key"), None);
    let expected = r#"{"b":1.50,"a":[12345678901234567890123,"x  \u00fc ü \" y"],"b":null}"#;
    let mut running = listen(&topic, &group(), &[]);
    assert_eq!((&*running.line(), &*running.line()), (expected, "null"));
    running.end("INT").good();

    let mut running = listen(&topic, &group(), &["--json"]);
    let (first, second) = (running.line(), running.line());
    running.end("INT").good();
    let begin = format!(r#"{{"topic":"{}","partition":0,"offset":0,"timestamp":"2"#, &*topic);
    assert!(first.starts_with(&begin), "{first}");
    assert!(first.ends_with(&format!(r#"Z","key":null,"message":{expected}}}"#)), "{first}");
    let second: Value = serde_json::from_str(&second).unwrap();
    assert_eq!((&second["offset"], &second["key"], &second["message"]), (&json!(1), &json!("key"), &Value::Null));
}

#[test]
fn each_message_is_committed_and_none_that_is_not_printed() {
    let (topic, group) = (TestTopic::new(shared_broker(), 1), group());
    let mut running = listen(&topic, &group, &[]);
    for number in 0..3 {
        produce(&topic, &[&number.to_string()]);
        assert_eq!(running.line(), number.to_string());
        commits(&group, &topic, number + 1);
    }
    running.end("INT").good();

    // The reader goes after a line, of many that do not fit into a pipe.
    let large = format!("\"{}\"", "x".repeat(40_000));
    produce(&topic, &[&*large; 20]);
    let mut running =
        Running::unread(&["listen", &topic, "--register", shared_broker(), "--group-id", &group, "--timeout", "1"]);
    let mut line = String::new();
    BufReader::new(running.stdout()).read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), large);
    running.wait().good();
    let next = committed(shared_broker(), &group, &topic, 0).unwrap();
    assert!((4..23).contains(&next), "{next}");
}

#[test]
fn the_instance_id_is_the_members_own() {
    let (topic, group) = (TestTopic::new(shared_broker(), 1), group());
    produce(&topic, &["1"]);
    let mut first = listen(&topic, &group, &["--group_instance_id", "one"]);
    first.line();
    commits(&group, &topic, 1);
    // Another one with the same id takes its place.
    let second = listen(&topic, &group, &["-gi=one"]);
    let ran = first.wait().bad(1, &["--group_instance_id?"]);
    assert_eq!(ran.stdout, "1\n");
    drop(second);
}

#[test]
fn a_group_is_shared_and_all_of_it_is_committed() {
    let (topic, group) = (TestTopic::new(shared_broker(), 2), group());
    let mut both = [listen(&topic, &group, &[]), listen(&topic, &group, &[])];
    let mut sent = 0;
    for running in &mut both {
        // Each has a partition once it prints something.
        eventually(PATIENCE, "it has a partition", || {
            for partition in 0..2 {
                produce_raw(shared_broker(), &topic, partition, None, Some(b"1"));
            }
            sent += 1;
            running.try_line()
        });
    }
    let [first, second] = both;
    first.end("INT").good();
    for partition in 0..2 {
        eventually(PATIENCE, "it is committed", || {
            (committed(shared_broker(), &group, &topic, partition) == Some(sent)).then_some(())
        });
    }
    second.end("INT").good();
}

#[test]
fn errors_say_what_and_what_to_do() {
    let gateway = Gateway::start(500, "text/html; charset=utf-8", "ConnectionError(MaxRetryError('x'))");
    let ran = cli(&["listen", "a", "-a", &gateway.url]);
    ran.bad(1, &["answers 500", "/register/dc: ConnectionError", "hint: "]);
    cli(&["listen", "a", "-a", "http://127.0.0.1:9"]).bad(1, &["the gateway does not answer", "hint: "]);
    let ran = cli(&["listen", "a", "-r", "127.0.0.1:9", "--connect-timeout", "1"]);
    ran.bad(1, &["127.0.0.1:9", "Connection refused", "hint: is the address right"]);
    for wrong in [&["listen"][..], &["listen", "a", "-t", "x"], &["listen", "^a.*"], &["listen", "a", "-g", "", "-q"]] {
        cli(wrong).bad(2, &["error: "]);
    }
}

#[test]
fn without_a_gateway_a_topic_may_come_later() {
    let (topic, missing) = (TestTopic::new(shared_broker(), 1), unique("missing"));
    produce(&topic, &["1"]);
    let mut running = Running::start(&["-b", shared_broker(), "listen", &missing, &topic]);
    assert_eq!(running.line(), "1");
    let ran = running.end("INT").bad(0, &[&format!("Kafka shows no topic `{missing}`")]);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

#[test]
fn a_signal_ends_it_in_time_where_a_broker_is_frozen() {
    let broker = Broker::start();
    let (topic, group) = (unique("topic"), group());
    create_topic_with(broker.bootstrap(), &topic, 1, &[]);
    produce_numbers(broker.bootstrap(), &topic, 0, 0..20_000);
    let mut running =
        Running::start(&["listen", &topic, "-r", broker.bootstrap(), "-g", &group, "--connect-timeout", "2"]);
    running.line();
    broker.freeze();
    let start = Instant::now();
    running.end("INT").bad(1, &["does not end within 2s", "may come again"]);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
