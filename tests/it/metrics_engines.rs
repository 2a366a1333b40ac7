//! What event apps, stream workers and exports measure in their own ways.
#![cfg_attr(not(any(feature = "app", feature = "export", feature = "stream")), allow(unused))]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kafka_envelope::{Backoff, GiveUp, HandlerError, OnError, OnUndecodable};
use serde_json::{Value, json};

use crate::support::metrics::exporter;
use crate::support::{PATIENCE, TestTopic, create_topic_with, delete_topic, group, shared_broker};

const GROUP: &str = "messaging_consumer_group_name";
const TOPIC: &str = "messaging_destination_name";
const ERROR: &str = "error_type";

fn twice() -> OnError {
    OnError::retry(Backoff { first: Duration::from_millis(10), attempts: 2, ..Backoff::default() })
}

#[cfg(feature = "app")]
#[tokio::test(flavor = "multi_thread")]
async fn an_app_counts_record_by_record() {
    use crate::support::app::{Running, app, produce_all, soon};
    use kafka_envelope::app::Context;

    let (exporter, broker) = (exporter(), shared_broker());
    let topic = TestTopic::new(broker, 1);
    let letters = format!("{}-dlt", &*topic);
    create_topic_with(broker, &letters, 1, &[]);
    let (group, builder) = app(broker);
    let app = builder
        .listen([&*topic])
        .consumer(|consumer| {
            let consumer = consumer.on_error(twice().then(GiveUp::DeadLetter)).python_metrics(true);
            consumer.on_undecodable(OnUndecodable::Skip)
        })
        .on("number", async |message: Value, _: Context| match message["n"].as_u64() {
            Some(7) => Err(HandlerError::from("not this one")),
            Some(_) => Ok(()),
            None => Err("no number".into()),
        });
    let running = Running::start(app.build().unwrap());
    let record = |value: Value| json!({ "key": null, "value": { "text": value.to_string() }, "headers": [] });
    let mut records: Vec<_> = (0..10).map(|n| record(json!({ "event": "number", "n": n }))).collect();
    records.push(record(json!({ "event": "unknown" })));
    records.push(json!({ "key": null, "value": { "text": "nonsense" }, "headers": [] }));
    produce_all(broker, &topic, &records).await;
    soon("all are done", || {
        let counts = &running.counts;
        (counts.handled() == 9 && counts.dead_lettered() == 1 && counts.skipped() == 1).then_some(())
    });
    running.stop().await.unwrap();

    let of_topic = [(GROUP, &*group), (TOPIC, &*topic)];
    let with = |more: (&'static str, &'static str)| [&of_topic[..], &[more]].concat();
    tokio::task::block_in_place(|| {
        exporter.is("messaging_client_consumed_messages_total", &of_topic, 12.0);
        // Who is not registered for does nothing, and that is done.
        exporter.is("messaging_process_handled_messages_total", &of_topic, 10.0);
        exporter.is("messaging_process_failed_messages_total", &with((ERROR, "handler")), 2.0);
        exporter.is("messaging_process_failed_messages_total", &with((ERROR, "undecodable")), 1.0);
        exporter.is("messaging_process_retried_messages_total", &of_topic, 1.0);
        exporter.is("messaging_process_dead_lettered_messages_total", &of_topic, 1.0);
        exporter.is("messaging_process_skipped_messages_total", &of_topic, 1.0);
        exporter.is("messaging_process_duration_seconds_count", &[(GROUP, &*group)], 11.0);
        exporter.is("messaging_consumer_lag", &of_topic, 0.0);
        let python = format!("{}_kafka_process", group.replace('-', "_"));
        exporter.is(&format!("{python}_count_total"), &[], 9.0);
        exporter.is(&format!("{python}_seconds_count"), &[], 9.0);
    });
    delete_topic(broker, &letters);
}

/// Agents are measured one by one, in elements; what becomes of records is counted in records.
#[cfg(feature = "stream")]
#[tokio::test(flavor = "multi_thread")]
async fn a_workers_agents_are_measured_one_by_one() {
    use crate::support::stream::{Running, committed, soon, topic_of, worker};
    use kafka_envelope::stream::{Agent, Sinks};

    const AGENT: &str = "messaging_process_agent_name";

    let exporter = exporter();
    let topic = topic_of(["[1, 2]", "[3, 4]", "nonsense", "[5, 6]", "[7, 8]"]);
    let letters = format!("{topic}-dlt");
    create_topic_with(shared_broker(), &letters, 1, &[]);
    let (group, builder) = worker(&topic);
    let attempts = AtomicUsize::new(0);
    let flaky = Agent::new("flaky", move |number: Value, _: Sinks| {
        // Once each.
        let fails = number == 2 && attempts.fetch_add(1, Ordering::Relaxed) == 0;
        async move { if fails { Err(HandlerError::from("not yet")) } else { Ok(Some(number)) } }
    });
    let flaky = flaky.retry(Backoff { first: Duration::from_millis(5), attempts: 3, ..Backoff::default() });
    let pairs = Agent::batched("pairs", 2, async |numbers: Vec<Value>, _: Sinks| {
        if numbers.contains(&json!(5)) { Err(HandlerError::from("a five")) } else { Ok::<Option<()>, _>(None) }
    });
    let builder = builder.consumer(|consumer| {
        consumer.on_error(OnError::stop().then(GiveUp::DeadLetter)).on_undecodable(OnUndecodable::Skip)
    });
    let running = Running::start(builder.agent(flaky).agent(pairs).build().unwrap());
    soon("all is committed", || (committed(&group, &topic) == Some(5)).then_some(()));
    running.stop().await.unwrap();

    let of_topic = [(GROUP, &*group), (TOPIC, &*topic)];
    let with = |more: (&'static str, &'static str)| [&of_topic[..], &[more]].concat();
    let agent = |name| [(GROUP, &*group), (AGENT, name)];
    tokio::task::block_in_place(|| {
        exporter.is("messaging_client_consumed_messages_total", &of_topic, 5.0);
        exporter.is("messaging_process_handled_messages_total", &of_topic, 3.0);
        exporter.is("messaging_process_failed_messages_total", &with((ERROR, "handler")), 3.0);
        exporter.is("messaging_process_failed_messages_total", &with((ERROR, "undecodable")), 1.0);
        exporter.is("messaging_process_retried_messages_total", &of_topic, 1.0);
        exporter.is("messaging_process_dead_lettered_messages_total", &of_topic, 1.0);
        exporter.is("messaging_process_skipped_messages_total", &of_topic, 1.0);
        exporter.is("messaging_process_duration_seconds_count", &agent("flaky"), 8.0);
        exporter.is("messaging_process_duration_seconds_count", &agent("pairs"), 4.0);
        exporter.is("messaging_process_batch_size_sum", &agent("pairs"), 8.0);
    });
    delete_topic(shared_broker(), &letters);
    delete_topic(shared_broker(), &topic);
}

#[cfg(feature = "export")]
#[test]
fn exports_are_counted() {
    use crate::support::exports::{FilterTopic, produce_json};
    use kafka_envelope::export::{DataClient, ExportWorker};

    let (exporter, broker) = (exporter(), shared_broker());
    let topic = TestTopic::new(broker, 1);
    let filters = FilterTopic::of(&[&topic]);
    produce_json(&topic, 0, 0..10);
    let handled = "messaging_process_handled_messages_total";

    let workers = group();
    let builder = ExportWorker::builder(&workers, broker, &filters.client());
    let mut worker = builder.consumer(|consumer| consumer.linger(Duration::from_secs(1))).start().unwrap();
    let (stopper, mut seen) = (worker.stopper(), 0);
    worker
        .run(|exports| {
            seen += exports.results.len();
            if seen == 10 {
                stopper.stop();
            }
            Ok(())
        })
        .unwrap();
    exporter.is(handled, &[(GROUP, &*workers), (TOPIC, &*topic)], 10.0);
    exporter.is_at_least("messaging_process_duration_seconds_count", &[(GROUP, &*workers)], 1.0);

    // A client's records are done when it says so.
    let clients = group();
    let builder = DataClient::builder(&clients, broker, &filters.client());
    let mut client = builder.handle_offsets(true).linger(Duration::from_secs(1)).start().unwrap();
    let mut taken = 0;
    while taken < 10 {
        taken += client.get_exports_batch(PATIENCE, 10).unwrap().unwrap().results.len();
    }
    exporter.is(handled, &[(GROUP, &*clients), (TOPIC, &*topic)], 0.0);
    client.store_offsets().unwrap();
    exporter.is(handled, &[(GROUP, &*clients), (TOPIC, &*topic)], 10.0);
    client.close(PATIENCE).unwrap();
}
