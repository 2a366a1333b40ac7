use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::message::{OwnedMessage, Timestamp};
use serde_json::{Value, json};

use super::*;
use crate::testing::{ApiKey, EmbeddedBroker, ErrorCode};

fn record(key: Option<&[u8]>, value: Option<&[u8]>) -> OwnedMessage {
    let owned = |bytes: &[u8]| bytes.to_vec();
    OwnedMessage::new(value.map(owned), key.map(owned), "t".to_owned(), Timestamp::NotAvailable, 3, 42, None)
}

#[test]
fn unpack_gives_payload_and_reference() {
    let value = pack("shop", &json!({"x": 1}), &[Ref::new("a", 0, 1)]).unwrap();
    let record = record(Some(b"k"), Some(&value));
    let message = unpack(&record).unwrap().unwrap();
    assert_eq!(message.payload::<Value>().unwrap(), json!({"x": 1}));
    assert_eq!(format_ref(&message.reference), "t:3:42:k");
    // As in a loop: the reference moves on into what is made from it.
    let next = pack("billing", &2, &[message.reference]).unwrap();
    let next = envelope::unpack(&next).unwrap();
    let history: History = serde_json::from_str(next.history().unwrap().get()).unwrap();
    assert_eq!(history.stage().unwrap().refs[0].history.as_ref().unwrap().stage().unwrap().service, "shop");
}

#[test]
fn what_has_no_envelope_is_none_or_an_error_with_its_place() {
    assert!(unpack(&record(Some(b"k"), None)).unwrap().is_none());
    assert!(unpack(&record(Some(b"k"), Some(b""))).unwrap().is_none());
    assert_eq!(unpack(&record(None, Some(b"{\"item\":1}"))).unwrap().unwrap().reference, Ref::new("t", 3, 42));

    let error = unpack(&record(Some(b"k"), Some(b"{oops"))).unwrap_err();
    assert!(error.to_string().starts_with("cannot decode t:3:42:k: "), "{error}");
    let error = unpack(&record(Some(b"\xff"), Some(b"{\"item\":1}"))).unwrap_err();
    assert!(matches!(error, Error::Undecodable { partition: 3, offset: 42, key: Some(_), .. }), "{error}");
    let one = record(Some(b"k"), Some(b"{\"item\":1}"));
    let error = unpack(&one).unwrap().unwrap().payload::<String>().unwrap_err();
    assert!(error.to_string().starts_with("cannot decode t:3:42:k: "), "{error}");
}

#[test]
fn a_history_that_is_too_long_is_left_out() {
    let mut value = pack("a", &1, &[]).unwrap();
    for _ in 0..crate::envelope::MAX_HISTORY_DEPTH + 1 {
        let text = std::str::from_utf8(&value).unwrap();
        let history = text.split_once("\"hist\":").unwrap().1.strip_suffix('}').unwrap();
        let level = r#"{"svc":"a","dt":"2026-01-02T03:04:05+00:00","refs":[{"topic":"t","partition":0,"offset":1,"key":null,"hist":"#;
        value = format!("{{\"item\":1,\"hist\":{level}{history}}}]}}}}").into_bytes();
    }
    let record = record(None, Some(&value));
    let message = unpack(&record).unwrap().unwrap();
    assert_eq!((message.reference.history.as_ref(), message.payload::<u32>().unwrap()), (None, 1));
}

#[test]
fn managed_and_unknown_properties_are_refused() {
    let refused = |result: Result<BaseConsumer>| match result.err() {
        Some(Error::Setting { key, .. }) => key,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(create_consumer("localhost", "g", [("enable.auto.commit", "true")])), "enable.auto.commit");
    assert_eq!(refused(create_consumer("localhost", "g", [("group.id", "h")])), "group.id");
    assert_eq!(refused(create_consumer("localhost", "", [("", "")])), "group.id");
    assert!(create_producer("", [("acks", "all")]).is_err());
    assert!(create_producer("localhost", [("no.such.key", "1")]).is_err());
}

#[test]
fn a_loop_of_ones_own() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("orders", 1).unwrap();
    broker.create_topic("invoices", 1).unwrap();
    let brokers = broker.bootstrap_servers();
    let producer = create_producer(brokers, [("linger.ms", "60000")]).unwrap();
    let orders: Vec<_> = (0..100).map(|n| (Some(format!("order-{n}")), pack("shop", &n, &[]).unwrap())).collect();
    let start = Instant::now();
    produce_batch(&producer, "orders", &orders, Oversize::Refuse).unwrap();

    let consumer = create_consumer(brokers, "billing", [("auto.offset.reset", "earliest")]).unwrap();
    consumer.subscribe(&["orders"]).unwrap();
    let mut batch = Vec::new();
    while batch.len() < 100 {
        assert!(start.elapsed() < Duration::from_secs(30));
        // None comes early, too, after a rebalance.
        let Some(record) = consumer.poll(Duration::from_secs(1)) else { continue };
        let record = record.unwrap();
        let message = unpack(&record).unwrap().unwrap();
        let order: u64 = message.payload().unwrap();
        assert_eq!(order, batch.len() as u64);
        batch.push(message.reference.clone());
        let value = pack("billing", &(order * 2), &[message.reference]).unwrap();
        produce(&producer, "invoices", None, Some(b"key"), &value).unwrap();
        consumer.commit_message(&record, CommitMode::Sync).unwrap();
    }
    assert_eq!(format_batch_ref(&batch), "orders[0=0:100]");
    // The linger was ended each time, and an answer was taken when it came.
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn failures_have_their_real_reason() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("orders", 1).unwrap();
    let config = [("message.max.bytes", "2000"), ("retries", "0"), ("enable.idempotence", "false")];
    let producer = create_producer(broker.bootstrap_servers(), config).unwrap();
    produce(&producer, "orders", Some(0), None, b"1").unwrap();
    assert!(matches!(produce(&producer, "", None, None, b"1"), Err(Error::Setting { key, .. }) if key == "topic"));
    assert!(matches!(produce(&producer, "orders", Some(-1), None, b"1"), Err(Error::Setting { .. })));

    broker.fail_next(ApiKey::Produce, [ErrorCode::PolicyViolation]).unwrap();
    let error = produce(&producer, "orders", None, None, b"1").unwrap_err();
    let Error::NotDelivered { total: 1, failed, .. } = &error else { panic!("{error}") };
    assert_eq!(failed[0].1.rdkafka_error_code(), Some(ErrorCode::PolicyViolation));
    let error = produce(&producer, "orders", Some(7), None, b"1").unwrap_err();
    let Error::NotDelivered { failed, .. } = &error else { panic!("{error}") };
    assert_eq!(failed[0].1.rdkafka_error_code(), Some(ErrorCode::UnknownPartition));

    let none: Option<&str> = None;
    let batch = [(none, vec![b'1'; 10]), (none, vec![b'1'; 2_000]), (none, vec![b'1'; 10])];
    let error = produce_batch(&producer, "orders", &batch, Oversize::Refuse).unwrap_err();
    assert!(matches!(error, Error::Oversize { index: 1, bytes: 2036, limit: 2000 }), "{error}");
    produce_batch(&producer, "orders", &batch, Oversize::Skip).unwrap();
    // The refused batch left nothing.
    let consumer = create_consumer(broker.bootstrap_servers(), "g", [("acks", "all"); 0]).unwrap();
    let (_, high) = consumer.fetch_watermarks("orders", 0, Duration::from_secs(10)).unwrap();
    assert_eq!(high, 3);
}

#[test]
fn a_small_queue_is_waited_out() {
    let broker = EmbeddedBroker::start().unwrap();
    let producer = create_producer(broker.bootstrap_servers(), [("queue.buffering.max.messages", "10")]).unwrap();
    let batch: Vec<_> = (0..500).map(|n| (Some("key"), pack("shop", &n, &[]).unwrap())).collect();
    produce_batch(&producer, "orders", &batch, Oversize::Refuse).unwrap();
}

#[test]
fn a_record_sent_by_rdkafka_itself_has_its_receipt() {
    let broker = EmbeddedBroker::start().unwrap();
    let producer = create_producer(broker.bootstrap_servers(), [("linger.ms", "0")]).unwrap();
    let receipt = Arc::new(Receipt::default());
    producer.send(BaseRecord::<(), _, _>::with_opaque_to("orders", Arc::clone(&receipt)).payload("1")).unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();
    assert!(matches!(receipt.result(), Some(Ok(()))));
}
