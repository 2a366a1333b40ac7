//! `kafka-envelope generate`: packets as the Python generator sends them, registered with a real HTTP gateway.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rdkafka::Message as _;
use rdkafka::message::{Headers as _, OwnedMessage};
use serde_json::{Map, Value, json};

use super::support::cli::{Ran, cli};
use super::support::gateway::{Gateway, Request, oda};
use super::support::running::Running;
use super::support::{TestTopic, consume_all, create_topic_with, delete_topic, shared_broker, unique};

/// Where nobody listens.
const NOBODY: &str = "127.0.0.1:9";

/// Registered already; sends to one topic.
fn generate(topic: &str, more: &[&str]) -> Ran {
    cli(&[&["generate", "-r", shared_broker(), "-tp", topic], more].concat())
}

/// A run that reaches Kafka through this gateway.
fn through(gateway: &Gateway, more: &[&str]) -> Ran {
    cli(&[&["generate", "-a", &gateway.url], more].concat())
}

/// The record at `topic:partition:offset`.
fn record(place: &str) -> OwnedMessage {
    let mut parts = place.rsplitn(3, ':');
    let (offset, partition, topic) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    let is_it =
        |record: &OwnedMessage| record.offset().to_string() == offset && record.partition().to_string() == partition;
    consume_all(shared_broker(), topic).into_iter().find(is_it).unwrap()
}

fn text(record: &OwnedMessage) -> String {
    String::from_utf8(record.payload().unwrap().to_vec()).unwrap()
}

fn packets(topic: &str) -> Vec<Map<String, Value>> {
    let records = consume_all(shared_broker(), topic);
    records.iter().map(|record| serde_json::from_slice(record.payload().unwrap()).unwrap()).collect()
}

#[test]
fn each_case_of_the_python_generator_is_done_alike() {
    let cases = oda();
    create_topic_with(shared_broker(), "generic_topic", 1, &[]);
    for case in cases["generator"].as_array().unwrap() {
        one_case(case);
    }
    delete_topic(shared_broker(), "generic_topic");
}

/// Topics get names of their own, but for the one that is the default.
fn one_case(case: &Value) {
    let name = case["name"].as_str().unwrap();
    let own: HashMap<String, TestTopic> = ["livingroom", "kitchen", "a", "b", "c"]
        .into_iter()
        .filter(|topic| case.to_string().contains(&format!("\"{topic}\"")))
        .map(|topic| (topic.to_owned(), TestTopic::new(shared_broker(), 1)))
        .collect();
    let renamed = |text: &str| {
        own.iter().fold(text.to_owned(), |text, (old, new)| {
            if text == *old { new.to_string() } else { text.replace(&format!("\"{old}\""), &format!("\"{}\"", &**new)) }
        })
    };
    let exchange = &case["http"][0];
    let answer = &exchange["response"];
    let gateway = Gateway::start(
        answer["status"].as_u64().unwrap_or(200),
        answer["headers"]["content-type"].as_str().unwrap_or_default(),
        &answer["body"]["text"].as_str().unwrap_or_default().replace("127.0.0.1:29092", shared_broker()),
    );
    let mut arguments = vec!["generate".to_owned()];
    for argument in case["arguments"].as_array().unwrap() {
        let argument = argument.as_str().unwrap();
        arguments.push(if argument == "127.0.0.1:29092" { shared_broker().to_owned() } else { renamed(argument) });
    }
    if name != "gateway-down" {
        arguments.extend(["-a".to_owned(), gateway.url.clone()]);
    }
    let before = Utc::now().timestamp();
    let ran = cli(&arguments);
    assert_eq!(i64::from(ran.code), case["exit"].as_i64().unwrap(), "{name}: {}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.stderr.is_empty(), ran.code == 0, "{name}: {}", ran.stderr);

    let expected: Vec<_> = case["http"]
        .as_array()
        .unwrap()
        .iter()
        .map(|exchange| {
            let request = &exchange["request"];
            let of = |value: &Value| value.as_str().map(str::to_owned);
            Request {
                method: of(&request["method"]).unwrap(),
                path: of(&request["path"]).unwrap(),
                query: of(&request["query"]).unwrap(),
                content_type: of(&request["headers"]["content-type"]),
                body: renamed(request["body"]["text"].as_str().unwrap()),
            }
        })
        .collect();
    assert_eq!(gateway.requests(), expected, "{name}");

    let places: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(places.len() as u64, case["delivery_reports"].as_u64().unwrap(), "{name}");
    let varies = case["varies"].to_string();
    for (place, expected) in places.iter().zip(case["records"].as_array().unwrap()) {
        let record = record(place);
        assert_eq!((record.key(), record.headers().map_or(0, |headers| headers.count())), (None, 0), "{name}");
        let expected = renamed(expected["value"]["text"].as_str().unwrap());
        let alike = |text: &str| {
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.into_iter().filter(|line| {
                !(varies.contains("packet.timestamp") && line.contains("\"timestamp\":")
                    || varies.contains("packet.data") && line.contains("\"data\":")
                    || varies.contains("records.topic") && line.contains("\"topic\":"))
            })
        };
        assert!(alike(&text(&record)).eq(alike(&expected)), "{name}: {}", text(&record));
        let packet: Map<String, Value> = serde_json::from_slice(record.payload().unwrap()).unwrap();
        assert_eq!(packet["topic"], record.topic());
        if varies.contains("packet.timestamp") {
            let at: DateTime<Utc> = packet["timestamp"].as_str().unwrap().parse().unwrap();
            assert!((before..=Utc::now().timestamp()).contains(&at.timestamp()), "{name}: {at}");
        }
        if varies.contains("packet.data") {
            let data: Map<String, Value> = serde_json::from_str(packet["data"].as_str().unwrap()).unwrap();
            assert!(!data.is_empty(), "{name}");
        }
    }
}

#[test]
fn data_and_topic_are_drawn_anew_for_each_message() {
    let topics = [TestTopic::new(shared_broker(), 1), TestTopic::new(shared_broker(), 2)];
    let gateway = Gateway::of(shared_broker(), &[]);
    let ran = through(&gateway, &["-n", "60", "-tps", &topics[0], &topics[1], "-d", ""]).good();
    assert_eq!(ran.stdout.lines().count(), 60);
    let counts: Vec<_> = topics.iter().map(|topic| packets(topic).len()).collect();
    assert!(counts.iter().all(|count| *count > 5) && counts.iter().sum::<usize>() == 60, "{counts:?}");
    let data: BTreeSet<_> =
        topics.iter().flat_map(|topic| packets(topic)).map(|packet| packet["data"].to_string()).collect();
    assert!(data.len() > 20, "{data:?}");
}

#[test]
fn each_delivery_is_a_line_of_text_or_json() {
    let topic = TestTopic::new(shared_broker(), 1);
    let text = generate(&topic, &["-n", "2", "-d", "x"]).good();
    assert_eq!(text.stdout, format!("{0}:0:0\n{0}:0:1\n", &*topic));
    let ran = generate(&topic, &["-d", "x", "--json"]).good();
    assert_eq!(ran.stdout, format!("{{\"topic\":\"{}\",\"partition\":0,\"offset\":2}}\n", &*topic));
}

#[test]
fn long_options_are_taken_with_underscores_and_with_hyphens() {
    let topic = TestTopic::new(shared_broker(), 1);
    for (number, generator) in [("--number_of_msg", "--generator_id"), ("--number-of-msg", "--generator-id")] {
        let long = ["generate", "--registered", shared_broker(), "--topic", &*topic, number, "2", generator, "g"];
        let more = ["--data", "x", "--timestamp", "t", "--timeout", "0", "--apigateway", "http://127.0.0.1:9"];
        assert_eq!(cli(&[&long[..], &more[..]].concat()).good().stdout.lines().count(), 2);
    }
    let expected = format!(
        "{{\n    \"timestamp\": \"t\",\n    \"generator_id\": \"g\",\n    \"topic\": \"{}\",\n    \"data\": \"x\"\n}}",
        &*topic
    );
    let records = consume_all(shared_broker(), &topic);
    assert_eq!(records.iter().map(text).collect::<Vec<_>>(), vec![expected; 4]);
}

#[test]
fn with_envelope_the_packet_is_an_item_made_by_the_generator() {
    let topic = TestTopic::new(shared_broker(), 1);
    generate(&topic, &["-n", "2", "--envelope", "-g", "thermometer", "-d", "{\"x\": 1}", "-ts", "now"]).good();
    let records = consume_all(shared_broker(), &topic);
    let item = format!(
        r#"{{"item":{{"timestamp":"now","generator_id":"thermometer","topic":"{}","data":"{{\"x\": 1}}"}},"hist":{{"svc":"thermometer","dt":""#,
        &*topic
    );
    assert!(records.iter().all(|record| text(record).starts_with(&item)), "{}", text(&records[0]));
    let ids: BTreeSet<_> = records.iter().map(|record| record.key().unwrap()).collect();
    assert_eq!(ids.len(), 2);
}

#[test]
fn messages_are_paced() {
    let topic = TestTopic::new(shared_broker(), 1);
    for more in [["-n", "4", "-t", "0.2"], ["-n", "7", "--rate", "10"]] {
        let start = Instant::now();
        generate(&topic, &more).good();
        assert!(start.elapsed() >= Duration::from_millis(600), "{more:?}: {:?}", start.elapsed());
    }
    // As they come, not at the end.
    let mut slow = Running::start(&["generate", "-r", shared_broker(), "-tp", &topic, "-n", "2", "-t", "1000"]);
    slow.line();
}

#[test]
fn a_signal_ends_it_with_what_was_sent_acknowledged() {
    for signal in ["INT", "TERM"] {
        let topic = TestTopic::new(shared_broker(), 1);
        let mut running =
            Running::start(&["generate", "-r", shared_broker(), "-tp", &topic, "-n", "100000", "-t", "0.01"]);
        running.line();
        let ran = running.end(signal).bad(3, &["interrupted: ", " of 100000 messages were sent"]);
        assert_eq!(ran.stdout.lines().count(), consume_all(shared_broker(), &topic).len());
    }
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let topic = TestTopic::new(shared_broker(), 1);
    let mut running =
        Running::unread(&["generate", "-r", shared_broker(), "-tp", &topic, "-n", "100000", "-t", "0.01"]);
    drop(running.stdout());
    running.wait().good();
}

#[test]
fn a_topic_that_is_missing_fails_alone() {
    let (topic, missing) = (TestTopic::new(shared_broker(), 1), unique("missing"));
    let some = ["generate", "-r", shared_broker(), "-tps", &*topic, &missing, "-n", "40", "--connect-timeout", "3"];
    let ran = cli(&some).bad(3, &["messages were not delivered", &format!("was not delivered to `{missing}`")]);
    let (lines, failed) = (ran.stdout.lines().count(), ran.stderr.matches("was not delivered to").count());
    assert_eq!((lines + failed, packets(&topic).len()), (40, lines));

    let ran = generate(&missing, &["--connect-timeout", "2"]);
    assert!(ran.bad(1, &["message 1 was not delivered", "error: ", "topics list"]).stdout.is_empty());
}

#[test]
fn errors_of_the_gateway_say_what_and_what_to_do() {
    let html = "<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>";
    let cases: [(u64, &str, &[&str]); 7] = [
        (400, "Empty Registration", &["answers 400", "/register/dg: Empty Registration", "empty registration"]),
        (500, "ConnectionError(MaxRetryError('x'))", &["answers 500", "ConnectionError", "its log says more"]),
        (404, html, &["answers 404", "is that the gateway?"]),
        (200, "hello", &["is not JSON with a KAFKA_ENDPOINT: hello", "is that the gateway?"]),
        (200, "{\"topics\": []}", &["is not JSON with a KAFKA_ENDPOINT", "is that the gateway?"]),
        (200, "{\"KAFKA_ENDPOINT\": \"\"}", &["is not JSON with a KAFKA_ENDPOINT"]),
        (0, "", &["the gateway does not answer at http://127.0.0.1:", "nothing came within 1s"]),
    ];
    for (status, body, parts) in cases {
        let gateway = Gateway::start(status, "text/html", body);
        let ran = through(&gateway, &["-d", "x", "--connect-timeout", "1"]).bad(1, parts);
        assert!(ran.stdout.is_empty() && !ran.stderr.contains("<html"), "{}", ran.stderr);
    }
    let ran = cli(&["generate", "-a", "http://127.0.0.1:9"]);
    ran.bad(1, &["the gateway does not answer at http://127.0.0.1:9/register/dg", "refused", "hint: is it up?"]);
}

#[test]
fn only_the_command_line_goes_round_the_gateway() {
    let topic = TestTopic::new(shared_broker(), 1);
    let gateway = Gateway::of(shared_broker(), &[]);
    // KAFKA_BOOTSTRAP_SERVERS is set.
    through(&gateway, &["-tp", &topic]).good();
    through(&gateway, &["-tp", &topic, "--static"]).good();
    let asked: Vec<_> = gateway.requests().into_iter().map(|request| request.query).collect();
    assert_eq!(asked, ["", "static=true"]);
    for endpoint in ["-b", "-r"] {
        through(&gateway, &["-tp", &topic, endpoint, shared_broker()]).good();
    }
    cli(&["-b", shared_broker(), "generate", "-a", &gateway.url, "-tp", &topic]).good();
    assert_eq!((gateway.requests().len(), packets(&topic).len()), (2, 5));
}

#[test]
fn a_broker_that_does_not_answer_is_named() {
    let ran = cli(&["generate", "-r", NOBODY, "--connect-timeout", "1"]);
    assert!(ran.bad(1, &[NOBODY, "Connection refused", "hint: is the address right"]).stdout.is_empty());
    let gateway = format!("http://user:secret@{NOBODY}");
    let ran = cli(&["generate", "-a", &gateway]);
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    ran.bad(1, &[&format!("http://{NOBODY}/register/dg")]);
    // Nothing is to be sent, so nobody is asked.
    cli(&["generate", "-r", NOBODY, "-n", "0"]).good();
    cli(&["generate", "-r", ""]).bad(1, &["error: "]);
}

#[test]
fn a_wrong_command_line_is_told() {
    let cases: [&[&str]; 8] = [
        &["-n", "-1"],
        &["-n", "many"],
        &["-t", "-1"],
        &["--rate", "0"],
        &["--rate", "5", "-t", "1"],
        &["-tp", "bad name!"],
        &["-a", "127.0.0.1:50005"],
        &["-a", "https://gateway"],
    ];
    for more in cases {
        let ran = cli(&[&["generate"], more].concat());
        assert!(ran.bad(2, &["error: "]).stdout.is_empty());
    }
    let help = cli(&["generate", "--help"]).good().stdout;
    for word in ["-tp", "-tps", "-ts", "default: generic_generator", "Global options:", "Examples:"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}

#[test]
fn many_messages_go_out_at_once() {
    let topic = TestTopic::new(shared_broker(), 2);
    let ran = generate(&topic, &["-n", "20000"]).good();
    let places: BTreeSet<_> = ran.stdout.lines().collect();
    assert_eq!(places.len(), 20_000);
    assert_eq!(packets(&topic).len(), 20_000);
}

#[test]
fn data_may_be_a_number_below_0() {
    let topic = TestTopic::new(shared_broker(), 1);
    generate(&topic, &["-d", "-5"]).good();
    assert_eq!(packets(&topic)[0]["data"], "-5");
}

#[test]
fn topics_without_a_topic_are_the_generic_one() {
    let gateway = Gateway::of(shared_broker(), &[]);
    through(&gateway, &["-n", "0", "-tps"]).good();
    through(&gateway, &["-n", "0", "-tps", "-g", "thermometer"]).good();
    let bodies: Vec<_> =
        gateway.requests().iter().map(|request| serde_json::from_str::<Value>(&request.body).unwrap()).collect();
    assert_eq!(bodies, vec![json!({"topics": ["generic_topic"]}); 2]);
}
