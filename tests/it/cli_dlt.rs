//! `kafka-envelope dlt`: dead letters of a real consumer, counted, shown and put back.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use kafka_envelope::{Batch, Consumer, GiveUp, HandlerError, Message, OnError, Producer};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{BorrowedHeaders, Header, Headers as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde_json::{Value, json};

use super::support::cli::{Ran, cli, command};
use super::support::kafka::{admin, admin_options};
use super::support::running::Running;
use super::support::{
    TestTopic, committed, consume_all, create_topic_with, delete_topic, eventually, produce_raw, shared_broker, unique,
};

/// A topic, and the letters of a consumer that gave up some of its records.
struct Letters {
    topic: TestTopic,
    dlt: String,
}

impl Drop for Letters {
    fn drop(&mut self) {
        delete_topic(shared_broker(), &self.dlt);
    }
}

impl Letters {
    fn new() -> Self {
        let topic = TestTopic::new(shared_broker(), 3);
        let dlt = format!("{}-dlt", &*topic);
        create_topic_with(shared_broker(), &dlt, 2, &[]);
        Self { topic, dlt }
    }

    fn send(&self, ids: std::ops::Range<u32>) {
        let producer = Producer::new("shop", shared_broker()).unwrap();
        for id in ids {
            let message = Message::new(json!({"number": id})).id(format!("id-{id}")).header("trace", "abc");
            producer.produce(&self.topic, &message).unwrap();
        }
    }

    /// A consumer of this group fails on all of them: a letter for each.
    fn give_up(&self, group: &str, count: u32) {
        let mut consumer = Consumer::builder("billing", shared_broker(), group)
            .topics([&*self.topic])
            .on_error(OnError::stop().then(GiveUp::DeadLetter))
            .build()
            .unwrap();
        let mut left = count;
        while left > 0 {
            let done = consumer.process(|batch: &Batch<Value>| {
                let number = batch.iter().next().and_then(|record| record.payload["number"].as_u64());
                let even = number.is_some_and(|number| number % 2 == 0);
                Err::<(), HandlerError>(HandlerError::at(
                    0,
                    if even { "timeout of the bank" } else { "no such account" },
                ))
            });
            left -= done.unwrap().unwrap().dead_lettered as u32;
        }
    }

    /// What stands in the topic: values by key, and how often each was put back.
    fn records(&self) -> BTreeMap<String, Vec<(i32, String, u32)>> {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for record in consume_all(shared_broker(), &self.topic) {
            let key = String::from_utf8_lossy(record.key().unwrap()).into_owned();
            let value = String::from_utf8_lossy(record.payload().unwrap()).into_owned();
            let redrives = header(&record, "kafka_envelope-redrives").map_or(0, |count| count.parse().unwrap());
            all.entry(key).or_default().push((record.partition(), value, redrives));
        }
        all
    }

    fn redrive(&self, group: &str, more: &[&str]) -> Ran {
        let mut arguments = vec!["dlt", "redrive", &self.dlt, "--group", group];
        arguments.extend(more);
        cli(&arguments)
    }
}

fn header(record: &OwnedMessage, name: &str) -> Option<String> {
    let headers: &BorrowedHeaders = record.headers()?.as_borrowed();
    let found = headers.iter().find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(found.value.unwrap()).into_owned())
}

#[test]
fn letters_are_counted_by_topic_and_error() {
    let letters = Letters::new();
    letters.send(0..5);
    letters.give_up(&unique("group"), 5);
    let rows = cli(&["dlt", "list", &letters.dlt, "--json"]).good().json();
    let counts: Vec<_> = rows.iter().map(|row| (row["letters"].as_u64().unwrap(), row["message"].clone())).collect();
    assert_eq!(counts, [(3, json!("timeout of the bank")), (2, json!("no such account"))]);
    for row in &rows {
        assert_eq!(row["topic"], *letters.topic);
        assert_eq!(row["error"], "kafka_envelope::Error::Handler");
    }
    let text = cli(&["dlt", "list", &letters.dlt, "--error", "account"]).good().stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("LETTERS") && lines.len() == 2 && lines[1].contains("no such account"), "{text}");

    produce_raw(shared_broker(), &letters.dlt, 0, None, Some(b"no letter"));
    cli(&["dlt", "list", &letters.dlt]).bad(3, &["1 records of", "say not where they came from"]);
    cli(&["dlt", "list", &unique("missing")]).bad(1, &["there is no topic"]);
}

#[test]
fn a_letter_is_shown_whole() {
    let letters = Letters::new();
    letters.send(7..8);
    let group = unique("group");
    letters.give_up(&group, 1);
    let at = consume_all(shared_broker(), &letters.dlt).remove(0);
    let place = format!("{}:{}", at.partition(), at.offset());
    let letter = cli(&["dlt", "show", &letters.dlt, &place, "--json"]).good().json().remove(0);
    assert_eq!(letter["original_topic"], *letters.topic);
    assert_eq!(letter["original_offset"], 0);
    assert_eq!(letter["consumer_group"], *group);
    assert_eq!(letter["message"], "no such account");
    assert_eq!((&letter["attempts"], &letter["redrives"]), (&json!(1), &json!(0)));
    assert_eq!((&letter["key"], &letter["headers"]), (&json!("id-7"), &json!([{"name": "trace", "value": "abc"}])));
    assert_eq!(letter["value"]["payload"], Value::Null);
    assert!(letter["value"].to_string().contains(r#""number":7"#), "{letter}");
    let text = cli(&["dlt", "show", &letters.dlt, &place]).good().stdout;
    assert!(text.contains("message: no such account\n") && text.contains("  trace: abc\n"), "{text}");

    cli(&["dlt", "show", &letters.dlt, "0:99"]).bad(1, &["there is no record", "has offsets from 0"]);
    cli(&["dlt", "show", &letters.dlt, "9:0"]).bad(1, &["has no partition 9"]);
    cli(&["dlt", "show", &letters.dlt, "nonsense"]).bad(2, &["is not partition:offset"]);
}

/// Nothing is changed or left out: numbers of any size, the order of names, and names that come twice.
#[test]
fn a_letter_is_shown_as_it_was_written() {
    let letters = Letters::new();
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", shared_broker()).create().unwrap();
    let headers = ["one", "two"]
        .iter()
        .fold(OwnedHeaders::new(), |all, value| all.insert(Header { key: "twice", value: Some(*value) }));
    for value in ["{\"z\": 1.10,\n \"a\": 123456789012345678901234567890, \"a\": 1e400}", "no JSON"] {
        producer
            .send(BaseRecord::to(&letters.dlt).partition(0).key("key").payload(value).headers(headers.clone()))
            .unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    let line = cli(&["dlt", "show", &letters.dlt, "0:0", "--json"]).good().stdout;
    let end = concat!(
        r#","headers":[{"name":"twice","value":"one"},{"name":"twice","value":"two"}],"#,
        r#""value":{"z":1.10,"a":123456789012345678901234567890,"a":1e400}}"#,
        "\n",
    );
    assert!(line.ends_with(end) && line.lines().count() == 1, "{line}");
    let line = cli(&["dlt", "show", &letters.dlt, "0:1", "--json"]).good().stdout;
    assert!(line.ends_with("\"value\":\"no JSON\"}\n"), "{line}");
    let text = cli(&["dlt", "show", &letters.dlt, "0:0"]).good().stdout;
    assert!(text.contains("  twice: one\n  twice: two\n"), "{text}");
    assert!(text.ends_with("1e400}\n") && text.contains("value: {\"z\": 1.10,\n"), "{text}");
}

/// To its own partition, with its own key, value and headers, and once.
#[test]
fn letters_go_back_to_where_they_came_from() {
    let letters = Letters::new();
    letters.send(0..250);
    letters.give_up(&unique("group"), 250);
    let group = unique("redrive");
    let dry = letters.redrive(&group, &["--dry-run"]).good().stdout;
    assert!(dry.ends_with("250 letters would be put back\n"), "{dry}");
    assert!(letters.records().values().all(|all| all.len() == 1));

    let text = letters.redrive(&group, &[]).good().stdout;
    assert_eq!(text.lines().filter(|line| line.ends_with(&format!(" -> {}", &*letters.topic))).count(), 250);
    assert!(text.ends_with("250 letters put back\n"), "{text}");
    for (key, all) in letters.records() {
        let [(partition, value, 0), (to, again, 1)] = &*all else { panic!("{key}: {all:?}") };
        assert_eq!((partition, value), (to, again), "{key}");
    }
    let back = consume_all(shared_broker(), &letters.topic);
    let last = back.iter().rfind(|record| header(record, "kafka_envelope-redrives").is_some()).unwrap();
    let names: Vec<_> = last.headers().unwrap().iter().map(|header| header.key.to_owned()).collect();
    assert_eq!(names, ["trace", "kafka_envelope-redrives"]);
    // Nothing is left to do.
    assert_eq!(letters.redrive(&group, &[]).good().stdout, "0 letters put back\n");
}

/// Killed in the middle, and started again: whoever reads committed records gets each of them once.
#[test]
fn a_redrive_that_is_killed_goes_on() {
    let letters = Letters::new();
    letters.send(0..1_000);
    letters.give_up(&unique("group"), 1_000);
    let group = unique("redrive");
    for lines in [50, 250] {
        let mut child =
            command(&["dlt", "redrive", &letters.dlt, "--group", &group]).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..lines {
            output.next().unwrap().unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let text = letters.redrive(&group, &[]).good().stdout;
    let last: usize = text.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((1..1_000).contains(&last), "{last}");
    let records = letters.records();
    assert_eq!(records.len(), 1_000);
    for (key, all) in records {
        assert_eq!(all.iter().map(|(.., redrives)| *redrives).collect::<Vec<_>>(), [0, 1], "{key}");
    }
}

/// Interrupted, it ends between two transactions: none is left open, which would hold up who reads committed records.
#[test]
fn a_redrive_that_is_interrupted_leaves_nothing_open() {
    let letters = Letters::new();
    letters.send(0..2_000);
    letters.give_up(&unique("group"), 2_000);
    let group = unique("redrive");
    let mut running = Running::start(&["dlt", "redrive", &letters.dlt, "--group", &group]);
    running.line();
    let ran = running.end("INT").bad(3, &["interrupted: another run goes on from here"]);
    assert!(ran.stdout.ends_with(" letters put back\n"), "{}", ran.stdout);
    let done = letters.records().values().filter(|all| all.len() == 2).count();
    assert!(done > 0 && done < 2_000 && ran.stdout.contains(&format!("{done} letters put back\n")), "{done}");
    letters.redrive(&group, &[]).good();
    assert!(letters.records().values().all(|all| all.len() == 2));
}

/// That nobody reads which letters went back keeps none of them from it: the exit code is true.
#[test]
fn a_redrive_whose_output_is_closed_puts_all_back() {
    let letters = Letters::new();
    letters.send(0..250);
    letters.give_up(&unique("group"), 250);
    let group = unique("redrive");
    let mut child =
        command(&["dlt", "redrive", &letters.dlt, "--group", &group]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert!(letters.records().values().all(|all| all.len() == 2));
}

/// The later one goes on, the other says so, and nothing is put back twice.
#[test]
fn of_two_redrives_at_once_the_later_one_goes_on() {
    let letters = Letters::new();
    letters.send(0..2_500);
    letters.give_up(&unique("group"), 2_500);
    let group = unique("redrive");
    // Its output is more than a pipe holds, so that it waits for whoever reads it.
    let mut first = command(&["dlt", "redrive", &letters.dlt, "--group", &group, "--json"]);
    let mut first = first.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(first.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    letters.redrive(&group, &[]).good();
    let read = std::thread::spawn(move || output.lines().count());
    let ended = first.wait_with_output().unwrap();
    read.join().unwrap();
    let error = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{error}");
    assert!(error.contains(&format!("a later run puts letters of `{}` back", letters.dlt)), "{error}");
    assert!(letters.records().values().all(|all| all.len() == 2));
}

/// What a filter or a limit leaves a later run puts back, and nothing twice.
#[test]
fn runs_with_filters_leave_the_others() {
    let letters = Letters::new();
    letters.send(0..40);
    letters.give_up(&unique("group"), 40);
    let group = unique("redrive");
    let count = |ran: Ran| ran.json().len();
    assert_eq!(count(letters.redrive(&group, &["--error", "account", "--json"]).good()), 20);
    assert_eq!(count(letters.redrive(&group, &["--error", "account", "--json"]).good()), 0);
    assert_eq!(count(letters.redrive(&group, &["--key", "id-6", "--json"]).good()), 1);
    assert_eq!(count(letters.redrive(&group, &["--limit", "5", "--json"]).good()), 5);
    assert_eq!(count(letters.redrive(&group, &["--from-topic", "other", "--json"]).good()), 0);
    assert_eq!(count(letters.redrive(&group, &["--until", "2020-01-01T00:00:00Z", "--json"]).good()), 0);
    assert_eq!(count(letters.redrive(&group, &["--since", "2020-01-01T00:00:00Z", "--json"]).good()), 14);
    for (key, all) in letters.records() {
        assert_eq!(all.len(), 2, "{key}: {all:?}");
    }
    let done: i64 =
        (0..2).map(|partition| committed(shared_broker(), &group, &letters.dlt, partition).unwrap_or(0)).sum();
    assert_eq!(done, 40);
}

/// A service with transactions writes its letters within them: between two of them there is a marker, which is no letter
/// that was left.
#[test]
fn letters_of_transactions_leave_no_gaps() {
    let letters = Letters::new();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", shared_broker())
        .set("transactional.id", unique("transactional"))
        .create()
        .unwrap();
    let patience = Duration::from_secs(30);
    producer.init_transactions(patience).unwrap();
    for index in 0..5 {
        producer.begin_transaction().unwrap();
        let headers = OwnedHeaders::new()
            .insert(Header { key: "kafka_dlt-original-topic", value: Some(letters.topic.as_bytes()) });
        let key = format!("id-{index}");
        producer.send(BaseRecord::to(&letters.dlt).partition(0).key(&key).payload("{}").headers(headers)).unwrap();
        producer.flush(patience).unwrap();
        producer.commit_transaction(patience).unwrap();
    }
    let group = unique("redrive");
    let text = letters.redrive(&group, &["--key", "id-3"]).good().stdout;
    assert!(text.ends_with("1 letters put back\n"), "{text}");
    assert_eq!(committed(shared_broker(), &group, &letters.dlt, 0), Some(0));
    let text = letters.redrive(&group, &[]).good().stdout;
    assert!(text.ends_with("4 letters put back\n"), "{text}");
    assert_eq!(committed(shared_broker(), &group, &letters.dlt, 0), Some(9));
    assert!(letters.records().values().all(|all| all.len() == 1));
}

/// Letters that are too old are gone, and the others are there from their first on.
#[test]
fn letters_before_the_first_are_passed_over() {
    let letters = Letters::new();
    letters.send(0..40);
    letters.give_up(&unique("group"), 40);
    let group = unique("redrive");
    letters.redrive(&group, &["--limit", "5"]).good();
    let mut before = TopicPartitionList::new();
    for partition in 0..2 {
        before.add_partition_offset(&letters.dlt, partition, Offset::Offset(10)).unwrap();
    }
    block_on(admin(shared_broker()).delete_records(&before, &admin_options())).unwrap();
    let rows = cli(&["dlt", "list", &letters.dlt, "--json"]).good().json();
    assert_eq!(rows.iter().map(|row| row["letters"].as_u64().unwrap()).sum::<u64>(), 20);
    let text = letters.redrive(&group, &[]).good().stdout;
    assert!(text.ends_with("20 letters put back\n"), "{text}");
}

/// A record that becomes a letter again and again is left at last.
#[test]
fn letters_do_not_go_round_for_ever() {
    let letters = Letters::new();
    letters.send(0..1);
    let (group, redrive) = (unique("group"), unique("redrive"));
    for round in 0..2 {
        letters.give_up(&group, 1);
        let text = letters.redrive(&redrive, &["--max-redrives", "2"]).good().stdout;
        assert!(text.ends_with("1 letters put back\n"), "{round}: {text}");
    }
    letters.give_up(&group, 1);
    let left = letters.redrive(&redrive, &["--max-redrives", "2"]);
    left.bad(3, &["was put back 2 times before, and stays", "1 letters were left"]);
    assert_eq!(letters.records()["id-0"].iter().map(|(.., redrives)| *redrives).collect::<Vec<_>>(), [0, 1, 2]);
}

/// Writes letters by hand: where they came from, and how long they are.
fn write_letters(dlt: &str, letters: &[(&str, usize)]) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", shared_broker()).create().unwrap();
    for (index, (from, length)) in letters.iter().enumerate() {
        let headers = OwnedHeaders::new().insert(Header { key: "kafka_dlt-original-topic", value: Some(*from) });
        let (key, value) = (format!("id-{index}"), "x".repeat(*length));
        producer.send(BaseRecord::to(dlt).partition(0).key(&key).payload(&value).headers(headers)).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

/// The others of its batch go, in the same run, and it is not made anew.
#[test]
fn letters_whose_topic_is_gone_stay() {
    let letters = Letters::new();
    let gone = unique("gone");
    write_letters(&letters.dlt, &[(&letters.topic, 1), (&gone, 1), (&letters.topic, 1)]);
    let group = unique("redrive");
    let expected = [&*format!("{}:0:1 cannot be put back", letters.dlt), &format!("there is no topic `{gone}`")];
    let dry = letters.redrive(&group, &["--dry-run"]).bad(3, &expected);
    assert!(dry.stdout.ends_with("2 letters would be put back\n"), "{}", dry.stdout);
    let ran = letters.redrive(&group, &[]).bad(3, &expected).bad(3, &["1 letters were left"]);
    assert!(ran.stdout.ends_with("2 letters put back\n"), "{}", ran.stdout);
    assert_eq!(letters.records().keys().collect::<Vec<_>>(), ["id-0", "id-2"]);
    assert_eq!(committed(shared_broker(), &group, &letters.dlt, 0), Some(1));
    cli(&["topics", "describe", &gone]).bad(1, &["there is no topic"]);
    // Once it is there again, it goes.
    create_topic_with(shared_broker(), &gone, 1, &[]);
    let ran = letters.redrive(&group, &[]).good();
    assert!(ran.stdout.ends_with("1 letters put back\n"), "{}", ran.stdout);
    delete_topic(shared_broker(), &gone);
}

/// Refused by the client, or by the broker: in no time, and the others go.
#[test]
fn letters_that_are_refused_stay() {
    let letters = Letters::new();
    let narrow = unique("narrow");
    create_topic_with(shared_broker(), &narrow, 1, &[("max.message.bytes", "2000")]);
    let all: Vec<_> = (0..250).map(|number| (&*narrow, if number % 100 == 50 { 5_000 } else { 10 })).collect();
    write_letters(&letters.dlt, &all);
    let start = Instant::now();
    for more in [&["--config", "message.max.bytes=4000", "--limit", "120"][..], &["--config", "compression.type=none"]]
    {
        let group = unique("redrive");
        let ran = letters.redrive(&group, more).bad(3, &[&format!("{}:0:50 cannot be put back", letters.dlt)]);
        assert!(ran.stdout.ends_with(" letters put back\n"), "{}", ran.stdout);
        let before = consume_all(shared_broker(), &narrow).len();
        // What was left is all that is still to do.
        let again = letters.redrive(&group, &["--dry-run"]).good().stdout;
        let left = again.lines().count() - 1;
        assert_eq!(left, if more.len() == 2 { 2 } else { 250 - before }, "{again}");
    }
    // An abort that waits for reports in vain takes a minute, and there are five.
    assert!(start.elapsed() < Duration::from_secs(150), "{:?}", start.elapsed());
    let keys: HashSet<_> =
        consume_all(shared_broker(), &narrow).iter().map(|record| record.key().unwrap().to_vec()).collect();
    assert_eq!(keys.len(), 248);
    delete_topic(shared_broker(), &narrow);
}

/// They would say that letters are done which nobody put back.
#[test]
fn offsets_of_another_program_are_refused() {
    let letters = Letters::new();
    write_letters(&letters.dlt, &[(&letters.topic, 1), (&letters.topic, 1)]);
    let group = unique("foreign");
    let client = ClientConfig::new().set("bootstrap.servers", shared_broker()).set("group.id", &group).clone();
    let consumer: BaseConsumer = client.create().unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(&letters.dlt, 0, Offset::Offset(1)).unwrap();
    eventually(Duration::from_secs(30), "the offset is committed", || consumer.commit(&offsets, CommitMode::Sync).ok());
    letters.redrive(&group, &[]).bad(1, &["is not this program's", "hint: another program commits under this group"]);
    assert!(letters.records().is_empty());
}

/// So many gaps are more than ranges in a commit's metadata could tell.
#[test]
fn every_second_letter_goes_back() {
    let letters = Letters::new();
    let other = TestTopic::new(shared_broker(), 1);
    let all: Vec<_> = (0..6_000).map(|number| (if number % 2 == 0 { &*other } else { &*letters.topic }, 1)).collect();
    write_letters(&letters.dlt, &all);
    let group = unique("redrive");
    for (more, count) in [(&["--from-topic", &*letters.topic][..], 3_000), (&[], 3_000), (&[], 0)] {
        let text = letters.redrive(&group, more).good().stdout;
        assert!(text.ends_with(&format!("{count} letters put back\n")), "{}", text.lines().last().unwrap());
    }
    assert_eq!(letters.records().len(), 3_000);
}
