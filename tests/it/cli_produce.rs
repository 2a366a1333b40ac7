//! `kafka-envelope produce`: each line of standard input is acknowledged, or named.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use kafka_envelope::{envelope, unpack};
use rdkafka::message::{Headers as _, Message as _, OwnedMessage};
use serde_json::{Value, json};

use super::support::cli::{cli, cli_with, command};
use super::support::{TestTopic, consume_all, create_topic_with, delete_topic, eventually, shared_broker, unique};

fn topic() -> TestTopic {
    TestTopic::new(shared_broker(), 1)
}

fn records(topic: &str) -> Vec<OwnedMessage> {
    consume_all(shared_broker(), topic)
}

fn payloads(topic: &str) -> Vec<Value> {
    records(topic).iter().map(|record| unpack(record.payload().unwrap()).unwrap().payload().unwrap()).collect()
}

#[test]
fn a_line_becomes_an_envelope() {
    let topic = topic();
    let hist = json!({"svc": "shop", "dt": "2026-01-02T03:04:05+00:00", "refs": []});
    let full = json!({
        "id": "a",
        "payload": {"n": [1, null]},
        "refs": ["orders:0:7:k", {"topic": "orders", "partition": 1, "offset": 8, "key": null, "hist": hist}],
        "headers": {"one": "1", "two": ["2", "ü"]},
    });
    let input = format!("{full}\r\n\n{{\"payload\": 1.50}}\n{{\"id\": null, \"payload\": \"\\u00e4\"}}");
    let ran = cli_with(&["produce", &topic, "--service", "billing"], &input).good();
    assert_eq!(ran.stdout, "3 acknowledged, 0 refused, 0 failed\n");

    let records = records(&topic);
    assert_eq!(records[0].key(), Some(&b"a"[..]));
    let headers = records[0].headers().unwrap();
    let headers: Vec<_> = headers.iter().map(|header| (header.key, header.value.unwrap())).collect();
    assert_eq!(headers, [("one", &b"1"[..]), ("two", b"2"), ("two", "ü".as_bytes())]);
    let value: Value = serde_json::from_slice(records[0].payload().unwrap()).unwrap();
    assert_eq!((&value["item"], &value["hist"]["svc"]), (&json!({"n": [1, null]}), &json!("billing")));
    assert_eq!(value["hist"]["refs"][0]["key"], "k");
    assert_eq!(value["hist"]["refs"][1]["hist"], hist);
    assert_eq!(records[1].key().unwrap().len(), 36);
    assert!(records[1].payload().unwrap().starts_with(b"{\"item\":1.50,"));
    assert_eq!(records[2].key(), None);
}

#[test]
fn bad_lines_are_named_and_the_others_are_sent() {
    let topic = topic();
    let input = "{\"payload\": 1}\nnonsense\n{\"payload\": \"secret\", \"more\": 1}\n\n{\"payload\": 2}\n{\"id\": \"x\"}\n\
                 [\"secret\"]\n{\"payload\": \"\\ud800\"}\n{\"payload\": 3, \"refs\": [\"orders\"]}\n{\"payload\": 3}\n{";
    let ran = cli_with(&["produce", &topic], input);
    assert_eq!(ran.stdout, "3 acknowledged, 7 refused, 0 failed\n");
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    ran.bad(
        3,
        &[
            "line 2, column 2: expected ident",
            "line 3, column 28: unknown field `more`, expected one of",
            "line 6, column 11: missing field `payload`",
            "line 7, column 1: is a list",
            "line 8: `payload`: half a surrogate pair",
            "line 9, column 32: a ref is not topic:partition:offset:key",
            "line 11, column 1: EOF",
            "7 lines were not sent",
        ],
    );
    assert_eq!(payloads(&topic), [1, 2, 3].map(Value::from));
}

#[test]
fn strict_stops_at_the_first_bad_line() {
    let topic = topic();
    let ran = cli_with(&["produce", &topic, "--strict"], "{\"payload\": 1}\n{\"payload\": }\n{\"payload\": 3}\n");
    ran.bad(1, &["error: line 2, column 13: expected value", "hint: "]);
    assert_eq!(payloads(&topic), [1].map(Value::from));
}

#[test]
fn rubbish_is_refused_line_by_line() {
    let topic = topic();
    let mut child = command(&["produce", &topic, "--json"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut seed = 7_u32;
    let rubbish: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    })
    .take(100_000)
    .collect();
    let lines = rubbish.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
    child.stdin.take().unwrap().write_all(&rubbish).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary, json!({"acknowledged": 0, "refused": lines, "failed": 0}));
    assert!(String::from_utf8(output.stderr).unwrap().contains("column 1: "));
    assert!(records(&topic).is_empty());
    assert_eq!(cli(&["produce", &topic]).good().stdout, "0 acknowledged, 0 refused, 0 failed\n");
}

#[test]
fn what_is_too_large_is_named() {
    let topic = topic();
    let large = "x".repeat(3_000);
    let input = format!("{{\"payload\": \"{large}\"}}\n{{\"payload\": 2}}\n");
    let ran = cli_with(&["produce", &topic, "--config", "message.max.bytes=2000"], &input);
    ran.bad(3, &["line 1: the message takes 3", "`message.max.bytes` allows 2000"]);
    assert_eq!(payloads(&topic), [2].map(Value::from));
}

#[test]
fn deliveries_say_where_messages_stand() {
    let topic = topic();
    let input = "{\"id\": \"a\", \"payload\": 1}\nno\n{\"id\": null, \"payload\": 2}\n";
    let ran = cli_with(&["produce", &topic, "--deliveries"], input).bad(3, &["line 2"]);
    assert_eq!(ran.stdout, format!("1 {}:0:0:a\n3 {}:0:1:\n", &*topic, &*topic));
    let ran = cli_with(&["produce", &topic, "--deliveries", "--json"], "{\"id\": \"b\", \"payload\": 1}\n").good();
    let expected = json!({
        "line": 1, "ref": format!("{}:0:2:b", &*topic), "topic": &*topic, "partition": 0, "offset": 2,
    });
    assert_eq!(ran.json(), [expected]);
}

#[test]
fn what_kafka_does_not_acknowledge_is_named() {
    let topic = unique("topic");
    create_topic_with(shared_broker(), &topic, 1, &[("max.message.bytes", "1000")]);
    let line = format!("{{\"payload\": \"{}\"}}\n", "secret".repeat(300));
    let ran = cli_with(&["produce", &topic, "--config", "compression.type=none"], &format!("{line}{line}\n{line}"));
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    assert_eq!(ran.stdout, "0 acknowledged, 0 refused, 3 failed\n");
    let reason = "Message production error: MessageSizeTooLarge";
    assert!(!ran.stderr.contains("of 1 messages"), "{}", ran.stderr);
    let last = format!("error: 3 messages were not acknowledged, see above; the last one: {reason}");
    ran.bad(1, &["lines 1 to 2: not acknowledged: ", "line 4: not acknowledged: ", &last]);
    delete_topic(shared_broker(), &topic);
}

#[test]
fn without_topic_or_broker_nothing_is_read() {
    let missing = unique("topic");
    let line = "{\"payload\": 1}\n";
    cli_with(&["produce", &missing], line).bad(1, &["there is no topic", &missing, "topics create"]);
    let ran = cli_with(&["produce", "t", "-b", "127.0.0.1:1", "--connect-timeout", "2"], line);
    ran.bad(1, &["no broker of `127.0.0.1:1` answers", "hint: is the address right"]);
    let ran = cli_with(&["produce", "t", "--config", "linger.ms=soon"], line);
    ran.bad(1, &["setting `linger.ms`"]);
    cli(&["produce"]).bad(2, &["<TOPIC>"]);
    let help = cli(&["produce", "--help"]).good().stdout;
    assert!(help.contains("Examples:") && help.contains("[default: kafka-envelope]"), "{help}");
}

#[test]
fn a_signal_ends_it_once_what_was_sent_is_acknowledged() {
    let topic = topic();
    let mut child = command(&["produce", &topic]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"{\"payload\": 1}\n{\"payload\": 2}\n{\"payload\": 3").unwrap();
    eventually(Duration::from_secs(30), "two messages are there", || (records(&topic).len() == 2).then_some(()));
    let pid = child.id().to_string();
    assert!(std::process::Command::new("sh").args(["-c", "kill -s INT $0", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    drop(input);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "2 acknowledged, 0 refused, 0 failed\n");
    assert!(String::from_utf8(output.stderr).unwrap().contains("what comes after line 2 was not sent"));
    assert_eq!(records(&topic).len(), 2);
}

#[test]
fn many_lines_arrive_once_and_in_order() {
    let topic = topic();
    let input: String = (0..30_000).map(|n| format!("{{\"id\":\"{}\",\"payload\":{n}}}\n", n % 10)).collect();
    let ran = cli_with(&["produce", &topic, "--json"], &input).good();
    assert_eq!(ran.json(), [json!({"acknowledged": 30_000, "refused": 0, "failed": 0})]);
    assert_eq!(payloads(&topic), (0..30_000).map(Value::from).collect::<Vec<_>>());
}

#[test]
fn a_line_longer_than_any_envelope_is_named() {
    let topic = topic();
    let mut child = command(&["produce", &topic]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let block = vec![b'x'; 1 << 20];
    for _ in 0..envelope::MAX_VALUE_BYTES / block.len() + 3 {
        input.write_all(&block).unwrap();
    }
    input.write_all(b"\n{\"payload\": 2}\n").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stderr).unwrap().contains("line 1: the line is longer than an envelope may be"));
    assert_eq!(payloads(&topic), [2].map(Value::from));
}

#[test]
fn where_nothing_can_be_told_the_rest_is_sent_and_the_exit_code_is_true() {
    let topic = topic();
    let input = "no\n{\"payload\": 1}\n";
    let produce = |redirections: &str| {
        let script = format!("printf '%s' \"$0\" | (\"$@\"; echo $? >&3) {redirections}");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script, input]).arg(command(&["produce"]).get_program()).args(["produce", &*topic]);
        shell.env("KAFKA_BOOTSTRAP_SERVERS", shared_broker());
        String::from_utf8(shell.output().unwrap().stdout).unwrap()
    };
    assert_eq!(produce("3>&1 >&2 2> /dev/full"), "3\n");
    let mut child = command(&["produce", &topic]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(payloads(&topic), [1, 1].map(Value::from));
}
