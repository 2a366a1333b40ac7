//! Row 20: values that cannot be read.

use std::collections::BTreeSet;

use kafka_envelope::pack;
use rdkafka::message::{Headers, Message};

use super::checker::Place;
use super::load::Payload;
use super::log_of_topic::log_of;
use super::report::by_length;
use super::{Report, Scene, Setup};
use crate::support::{PATIENCE, consume_all, create_topic_with, produce_raw_batch, shared_broker};

/// What JSON parsers differ about, or stumble over.
fn oddities() -> Vec<Vec<u8>> {
    let envelope = |payload: &str| format!(r#"{{"payload":{payload},"hist":{{"serv":"x","refs":[]}}}}"#);
    let payload = |number: &str| envelope(&format!(r#"{{"number":{number},"filler":"x"}}"#));
    let deep = |depth: usize| envelope(&("[".repeat(depth) + &"]".repeat(depth)));
    let history = r#"{"serv":"a","refs":["#.repeat(10_000) + &"]}".repeat(10_000);
    let mut oddities: Vec<Vec<u8>> = [
        payload("NaN"),
        payload("1e999"),
        payload("-1"),
        payload("18446744073709551616"),
        payload("1, \"number\": 2"),
        payload("1") + " x",
        format!("\u{feff}{}", payload("1")),
        r#"{"payload":"\ud800"}"#.into(),
        "null".into(),
        "[]".into(),
        "{".into(),
        r#"{"payload":{}}"#.into(),
        deep(127),
        deep(10_000),
        format!(r#"{{"payload":{{"number":1}},"hist":{history}}}"#),
        // As large as a message may be by default, readable and not.
        envelope(&format!(r#"{{"number":1,"filler":"{}"}}"#, "x".repeat(999_900))),
        "[".repeat(1_000_000),
    ]
    .map(String::into_bytes)
    .into();
    oddities.extend([vec![0xff, 0xfe], vec![0; 1_000], b"{\"payload\":\"\xc3\x28\"}".to_vec()]);
    oddities
}

/// Envelopes of which a few bytes are changed, cut off or doubled.
fn spoilt(count: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut state = 0x5eed_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    (0..count).map(move |number| {
        let mut value = pack("test", &(number, "some text", [1.5, 2.5]), &[]).unwrap();
        if number % 2 == 0 {
            value = pack("test", &Payload::short(number), &[]).unwrap();
        }
        for _ in 0..random(4) {
            let at = random(value.len());
            match random(4) {
                0 => value[at] = random(256) as u8,
                1 => value[at] ^= 1 << random(8),
                2 => value.truncate(at + 1),
                _ => value.extend_from_within(at..),
            }
        }
        value
    })
}

/// Oddities and spoilt envelopes among good ones. No service ends; what can be read is handled, and all that cannot is a
/// dead letter that says where it was. No good one is.
#[test]
fn row_20_bad_input() {
    let (good, bad) = by_length((5_000, 20_000), (200_000, 1_000_000));
    let broker = shared_broker();
    let mut scene = Scene::start(Setup::new(broker, good));
    let letters = format!("{}-dlt", scene.topic);
    create_topic_with(broker, &letters, 1, &[]);
    let values = oddities().into_iter().chain(spoilt(bad));
    let values = values.enumerate().map(|(number, value)| ((number % 6) as i32, None::<&str>, Some(value)));
    let injected = produce_raw_batch(broker, &scene.topic, values).len();
    scene.service.buries = true;
    let services = [scene.spawn(), scene.spawn()];
    scene.until_committed(PATIENCE);

    let log = log_of(broker, &scene.topic);
    let handled: BTreeSet<Place> = scene.handled_places();
    let mut buried: BTreeSet<Place> = BTreeSet::new();
    let mut duplicates = 0;
    for letter in consume_all(broker, &letters) {
        let headers = letter.headers().unwrap();
        let bytes = |name: &str| headers.iter().find(|header| header.key == name).unwrap().value.unwrap();
        let partition = i32::from_be_bytes(bytes("kafka_dlt-original-partition").try_into().unwrap());
        let offset = i64::from_be_bytes(bytes("kafka_dlt-original-offset").try_into().unwrap());
        duplicates += u64::from(!buried.insert((partition, offset)));
    }
    for service in services {
        assert!(scene.worker(service).ended().is_none(), "a service ended");
    }
    let verdict = scene.evidence(log.iter().copied().filter(|place| !buried.contains(place)).collect()).check();
    // The second service joins: a batch whose letters are written, and which goes before it is handled, is written again.
    let bound = 2 * scene.service.batch as u64;
    let mut report = Report::of(20, "values that cannot be read", injected, log.len(), &verdict, bound);
    let of_good = scene.load.acknowledged().iter().filter(|place| buried.contains(place)).count();
    if of_good > 0 {
        report.wrong.push(format!("{of_good} dead letters of records that can be read"));
    }
    report.duplicates += duplicates + handled.intersection(&buried).count() as u64;
    assert!(buried.len() > injected / 4 && handled.len() > good, "{} buried, {} handled", buried.len(), handled.len());
    report.file();
}
