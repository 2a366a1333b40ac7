//! `kafka-envelope trace`: from a message back to its sources, and forward to what was made of it.

use std::time::{Duration, Instant};

use kafka_envelope::{Message, Producer, Ref};
use serde_json::{Value, json};

use super::support::cli::{cli, command};
use super::support::{TestTopic, delete_topic, eventually, produce_raw, shared_broker, unique};

/// A message made of others, as a service would send it: where it stands, with its history.
fn made(service: &str, topic: &str, id: &str, causes: &[Ref]) -> Ref {
    let producer = Producer::new(service, shared_broker()).unwrap();
    let message = Message::new(json!({"id": id})).id(id).caused_by_all(causes.iter().cloned());
    let at = producer.produce(topic, &message).unwrap();
    let record = super::support::consume_all(shared_broker(), topic).into_iter().find(|record| {
        (rdkafka::Message::partition(record), rdkafka::Message::offset(record)) == (at.partition, at.offset)
    });
    kafka_envelope::low_level::unpack(&record.unwrap()).unwrap().unwrap().reference
}

fn place(reference: &Ref) -> String {
    format!("{}:{}:{}", reference.topic, reference.partition, reference.offset)
}

fn topic() -> TestTopic {
    TestTopic::new(shared_broker(), 1)
}

/// Two orders, an invoice of both, and its reminder.
struct Chain {
    topics: [TestTopic; 3],
    orders: [Ref; 2],
    invoice: Ref,
    reminder: Ref,
}

impl Chain {
    fn new() -> Self {
        let topics = [topic(), topic(), topic()];
        let orders = ["order-1", "order-2"].map(|id| made("shop", &topics[0], id, &[]));
        let invoice = made("billing", &topics[1], "invoice", &orders);
        let reminder = made("mail", &topics[2], "reminder", std::slice::from_ref(&invoice));
        Self { topics, orders, invoice, reminder }
    }
}

/// Service, id, whether it was found, and the ids of its sources.
fn shape(nodes: &Value) -> Value {
    let nodes = nodes.as_array().unwrap();
    let place = |node: &Value| format!("{}:{}:{}", node["topic"].as_str().unwrap(), node["partition"], node["offset"]);
    let id = |source: &Value| nodes.iter().find(|node| place(node) == *source).unwrap()["id"].clone();
    let shape = |node: &Value| {
        let sources: Vec<Value> = node["sources"].as_array().unwrap().iter().map(id).collect();
        json!([node["service"], node["id"], node["found"], sources])
    };
    nodes.iter().map(shape).collect()
}

#[test]
fn a_message_is_traced_to_its_sources() {
    let chain = Chain::new();
    let ran = cli(&["trace", "--json", &place(&chain.reminder)]).good();
    let nodes = &ran.json()[0]["ancestors"];
    let expected = json!([
        ["mail", "reminder", true, ["invoice"]],
        ["billing", "invoice", true, ["order-1", "order-2"]],
        ["shop", "order-1", true, []],
        ["shop", "order-2", true, []],
    ]);
    assert_eq!(shape(nodes), expected);
    assert_eq!(nodes[0]["offset"], 0);
    assert_eq!(nodes[0]["topic"], *chain.topics[2]);
    assert!(nodes[0]["latency_ms"].as_i64().unwrap() >= 0);
    assert!(ran.json()[0]["descendants"].is_null());

    let text = cli(&["trace", &place(&chain.reminder)]).good().stdout;
    let [first, second] = chain.orders.each_ref().map(place);
    let expected = [
        format!("{}:reminder", place(&chain.reminder)),
        format!("└─ {}:invoice", place(&chain.invoice)),
        format!("   ├─ {first}:order-1"),
        format!("   └─ {second}:order-2"),
    ];
    assert_eq!(text.lines().count(), expected.len(), "{text}");
    assert!(text.lines().zip(&expected).all(|(line, head)| line.starts_with(&format!("{head} "))), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours into a pipe: {text:?}");
}

/// Of the invoice's sources only its own history tells.
fn check_that_orders_are_gone(chain: &Chain) {
    let ran = cli(&["trace", "--json", &place(&chain.invoice)]).good();
    let expected = json!([
        ["billing", "invoice", true, ["order-1", "order-2"]],
        ["shop", "order-1", false, []],
        ["shop", "order-2", false, []],
    ]);
    assert_eq!(shape(&ran.json()[0]["ancestors"]), expected);
}

/// The histories of what came of them still tell of those that are gone.
#[test]
fn sources_that_are_gone_are_shown_as_such() {
    let chain = Chain::new();
    delete_topic(shared_broker(), &chain.topics[0]);
    check_that_orders_are_gone(&chain);
    let text = cli(&["trace", &place(&chain.invoice)]).good().stdout;
    assert_eq!(text.matches("gone").count(), 2, "{text}");
}

/// What stands at the place of a source in a topic that was made anew is another message.
#[test]
fn a_topic_that_was_made_anew_has_no_sources() {
    let chain = Chain::new();
    let orders = &*chain.topics[0];
    delete_topic(shared_broker(), orders);
    eventually(Duration::from_secs(30), "the topic is made anew", || {
        (cli(&["topics", "create", orders, "--partitions", "1"]).code == 0).then_some(())
    });
    made("other", orders, "order-9", &[]);
    made("other", orders, "order-2", &[]);
    check_that_orders_are_gone(&chain);
}

/// All that are to be looked for are: no warning.
#[test]
fn a_limit_is_told_where_it_leaves_some() {
    let chain = Chain::new();
    cli(&["trace", &place(&chain.reminder), "--limit", "3"]).good();
    let ran = cli(&["trace", "--json", &place(&chain.reminder), "--limit", "2"]);
    let ran = ran.bad(0, &["no more than 2 messages were looked for"]);
    assert_eq!(ran.json()[0]["ancestors"][3]["found"], Value::Null);
}

/// Who has no room for its errors still gets the exit code.
#[test]
fn standard_error_may_be_full() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = command(&["trace", &format!("{}:0:0", unique("missing"))]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn what_was_made_of_a_message_is_found() {
    let chain = Chain::new();
    let [_, invoices, reminders] = &chain.topics;
    // What has nothing to do with it.
    made("billing", invoices, "other", &[]);
    let arguments = ["trace", "--json", &place(&chain.orders[0]), "--descendants", invoices, reminders];
    let tree = &cli(&arguments).good().json()[0]["descendants"];
    assert_eq!(
        shape(tree),
        json!([
            ["shop", "order-1", null, []],
            ["billing", "invoice", null, ["order-1"]],
            ["mail", "reminder", null, ["invoice"]]
        ])
    );
    // On the way there, where only the end is looked through.
    let arguments = ["trace", "--json", &place(&chain.orders[1]), "--descendants", reminders];
    let tree = &cli(&arguments).good().json()[0]["descendants"];
    assert_eq!(
        shape(tree),
        json!([
            ["shop", "order-2", null, []],
            ["billing", "invoice", null, ["order-2"]],
            ["mail", "reminder", null, ["invoice"]]
        ])
    );
}

/// Its place alone, as where its history was cut.
fn cut(reference: &Ref) -> Ref {
    Ref { history: None, ..reference.clone() }
}

/// So many messages, each made of the one before, whose history it does not have.
fn chain_of(topic: &str, count: usize) -> Vec<Ref> {
    let producer = Producer::new("step", shared_broker()).unwrap();
    let mut chain: Vec<Ref> = Vec::new();
    for number in 0..count {
        let id = format!("id-{number}");
        let message = Message::new(json!({})).id(&id).caused_by_all(chain.last().cloned());
        let at = producer.produce(topic, &message).unwrap();
        let (topic, partition, offset) = (topic.to_owned(), at.partition, at.offset);
        chain.push(Ref { topic, partition, offset, key: Some(id), history: None });
    }
    chain
}

/// Deeper than a history may be, and than JSON is read.
#[test]
fn a_long_chain_is_traced_in_a_moment() {
    let topic = topic();
    let chain = chain_of(&topic, 300);
    let start = Instant::now();
    let ran = cli(&["trace", "--json", &place(&chain[299])]).good();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let nodes = shape(&ran.json()[0]["ancestors"]);
    assert_eq!(nodes.as_array().unwrap().len(), 300);
    assert_eq!(nodes[298], json!(["step", "id-1", true, ["id-0"]]));
    assert_eq!(nodes[299], json!(["step", "id-0", true, []]));
    let text = cli(&["trace", &place(&chain[299])]).good().stdout;
    assert_eq!(text.lines().count(), 300);
}

#[test]
fn many_sources_are_looked_for_at_once() {
    let (orders, wholes) = (TestTopic::new(shared_broker(), 3), topic());
    let producer = Producer::new("shop", shared_broker()).unwrap();
    let send = |number: usize| {
        let id = format!("id-{number}");
        let at = producer.produce(&orders, &Message::new(json!({})).id(&id)).unwrap();
        Ref { topic: orders.to_string(), partition: at.partition, offset: at.offset, key: Some(id), history: None }
    };
    // Near ones and far ones.
    let sources: Vec<Ref> = (0..3_000).map(send).step_by(3).collect();
    let first = &sources[0];
    let gone = Ref { offset: 1_000_000, key: None, ..first.clone() };
    let at = producer.produce(&wholes, &Message::new(json!({})).caused_by_all(sources.iter().cloned().chain([gone])));
    let start = Instant::now();
    let ran = cli(&["trace", "--json", &format!("{}:0:{}", &*wholes, at.unwrap().offset), "--limit", "2000"]).good();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let nodes = &ran.json()[0]["ancestors"];
    let found = |is_there: bool| nodes.as_array().unwrap().iter().filter(|node| node["found"] == is_there).count();
    assert_eq!((found(true), found(false)), (1_001, 1));
}

/// The message between was scanned before or after, and its own history does not tell of the first.
#[test]
fn what_was_made_of_a_message_is_found_where_histories_are_cut() {
    let (orders, invoices, reminders) = (topic(), topic(), topic());
    let order = made("shop", &orders, "order", &[]);
    let invoice = made("billing", &invoices, "invoice", &[cut(&order)]);
    made("mail", &reminders, "reminder", &[cut(&invoice)]);
    let expected = json!([
        ["shop", "order", null, []],
        ["billing", "invoice", null, ["order"]],
        ["mail", "reminder", null, ["invoice"]]
    ]);
    for topics in [[&*invoices, &*reminders], [&*reminders, &*invoices]] {
        let ran = cli(&["trace", "--json", &place(&order), "--descendants", topics[0], topics[1]]).good();
        assert_eq!(shape(&ran.json()[0]["descendants"]), expected);
    }
}

/// One that hangs on two is shown whole once.
#[test]
fn a_source_of_two_is_shown_once() {
    let (orders, halves, wholes) = (topic(), topic(), topic());
    let order = made("shop", &orders, "order", &[]);
    let parts = ["left", "right"].map(|id| made("split", &halves, id, std::slice::from_ref(&order)));
    let whole = made("join", &wholes, "whole", &parts);
    let nodes = &cli(&["trace", "--json", &place(&whole)]).good().json()[0]["ancestors"];
    let expected = json!([
        ["join", "whole", true, ["left", "right"]],
        ["split", "left", true, ["order"]],
        ["split", "right", true, ["order"]],
        ["shop", "order", true, []],
    ]);
    assert_eq!(shape(nodes), expected);
    assert_eq!(cli(&["trace", &place(&whole)]).good().stdout.matches("as above").count(), 1);
}

#[test]
fn what_is_not_there_is_an_error() {
    let (topic, missing) = (topic(), unique("missing"));
    produce_raw(shared_broker(), &topic, 0, None, Some(b"no envelope"));
    produce_raw(shared_broker(), &topic, 0, Some(b"gone"), None);
    let name = &*topic;
    let of = |place: &str| cli(&["trace", place]);
    of(&format!("{missing}:0:0")).bad(1, &[&format!("there is no topic `{missing}`"), "hint: "]);
    of(&format!("{name}:7:0")).bad(1, &["has no partition 7"]);
    of(&format!("{name}:0:9")).bad(1, &["there is no record", "offsets from 0 to before 2"]);
    of(&format!("{name}:0:0")).bad(1, &["cannot decode"]);
    of(&format!("{name}:0:1")).bad(1, &["has no value"]);
    for wrong in ["", "x", "x:1", "x:y:1", "x:1:-1", ":0:0"] {
        of(wrong).bad(2, &["is not topic:partition:offset"]);
    }
}
