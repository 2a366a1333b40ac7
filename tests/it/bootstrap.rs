//! Clients go on after an answer that named no broker, as when all are fenced for a moment.

use std::sync::mpsc::channel;
use std::thread;

use kafka_envelope::{Batch, Consumer, Message, Producer, TransactionalProducer};

use crate::support::{
    PATIENCE, consume_all, create_topic, eventually, group, kafka, produce_numbers, proxy::Proxy, unique,
};

/// With many topics an answer takes long to be read, and meanwhile librdkafka loses its brokers for good.
const TOPICS: usize = 200;
const ROUNDS: u64 = 2;
/// Clients ask for metadata all the time.
const ASKING: [(&str, &str); 1] = [("topic.metadata.refresh.interval.ms", "500")];

/// Hides the brokers until each of these clients was told of none, then shows them again.
fn hide_from(proxy: &Proxy, clients: &[&str]) {
    let before: Vec<_> = clients.iter().map(|client| proxy.hidden_from(client)).collect();
    proxy.hide_brokers(true);
    for (client, before) in clients.iter().zip(before) {
        eventually(PATIENCE, client, || (proxy.hidden_from(client) > before).then_some(()));
    }
    proxy.hide_brokers(false);
}

#[test]
fn clients_that_are_told_of_no_broker_go_on() {
    let (proxy, _broker) = Proxy::start();
    let bootstrap = proxy.address();
    let topics = kafka::create_topics(bootstrap, TOPICS);
    let (input, output) = (create_topic(bootstrap, 1), create_topic(bootstrap, 1));

    let reader = Consumer::builder("reader", bootstrap, &group()).topics(&topics).config(ASKING);
    let mut reader = reader.idle_timeout(PATIENCE * 5).build().unwrap();
    let writer = Producer::builder("writer", bootstrap).config(ASKING).config([("delivery.timeout.ms", "100000")]);
    let writer = writer.build().unwrap();
    let doubler = Consumer::builder("doubling", bootstrap, &group()).topics([&input]).config(ASKING);
    let mut doubler = doubler.idle_timeout(PATIENCE * 5).build().unwrap();
    let transactional = TransactionalProducer::builder("doubler", bootstrap, &unique("transactional"));
    let mut transactional = transactional.config(ASKING).build().unwrap();
    let (stop_reader, stop_doubler) = (reader.stopper(), doubler.stopper());

    let (sender, seen) = channel();
    let reading = thread::spawn(move || {
        let handler = |batch: &Batch<u64>| {
            batch.iter().for_each(|record| sender.send(record.payload).unwrap());
            Ok(())
        };
        reader.run(handler).unwrap();
    });
    let (out, known) = (output.clone(), topics.clone());
    let doubling = thread::spawn(move || {
        let handler = |batch: &Batch<u64>, outbox: &mut kafka_envelope::Outbox<'_>| {
            for record in batch {
                outbox.send(&out, &Message::new(record.payload * 2).caused_by(record))?;
                if record.payload == 0 {
                    // So that it knows them.
                    known.iter().try_for_each(|topic| outbox.send(topic, &Message::new(0)))?;
                }
            }
            Ok(())
        };
        doubler.run_exactly_once(&mut transactional, handler).unwrap();
    });
    let doubled = |count: u64| {
        eventually(PATIENCE, "the transaction", || {
            (consume_all(bootstrap, &output).len() as u64 >= count).then_some(())
        });
    };

    topics.iter().for_each(|topic| writer.send(topic, &Message::new(0)).unwrap().wait().map(drop).unwrap());
    produce_numbers(bootstrap, &input, 0, 0..1);
    doubled(1);
    (0..2 * TOPICS).for_each(|_| assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), 0));

    for round in 1..=ROUNDS {
        hide_from(&proxy, &["reader", "writer", "doubling", "doubler"]);
        produce_numbers(bootstrap, &topics[7], 0, round..round + 1);
        produce_numbers(bootstrap, &input, 0, round..round + 1);
        let written = writer.send(&output, &Message::new(round)).unwrap();
        assert_eq!(seen.recv_timeout(PATIENCE).expect("a record is read"), round);
        written.wait().unwrap();
        doubled(1 + 2 * round);
    }
    stop_reader.stop();
    stop_doubler.stop();
    reading.join().unwrap();
    doubling.join().unwrap();
}
