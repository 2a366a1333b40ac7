//! Spans: which there are, whose children they are, what they are linked to, and what they say.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use kafka_envelope::{Batch, Consumer, Message, Producer, TransactionalProducer};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId, Tracer as _};
use opentelemetry::{Context, global};
use opentelemetry_sdk::trace::Sampler;
use rdkafka::Message as _;
use rdkafka::message::{Headers as _, OwnedMessage};

use crate::support::traces::{
    Spans, alone, assert_child, assert_root, attribute, current, failure, links, traceparent,
};
use crate::support::{PATIENCE, TestTopic, consume_all, consumer, eventually, group, shared_broker, unique};

fn header(record: &OwnedMessage, name: &str) -> Option<String> {
    let found = record.headers()?.iter().find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(found.value?).into_owned())
}

/// A consumer whose first batch holds so many records.
fn reader(group: &str, topic: &str, records: usize) -> Consumer {
    let builder = consumer(shared_broker(), group, topic).linger(Duration::from_secs(5));
    builder.batch_size(records).build().unwrap()
}

/// One trace goes through two services: what a handler sends is part of what it was called for.
#[test]
fn a_chain_of_services_is_one_trace() {
    alone("otel::a_chain_of_services_is_one_trace", || {
        let (spans, broker, group) = (Spans::keep(), shared_broker(), group());
        let (orders, invoices) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
        let shop = Producer::new("shop", broker).unwrap();
        shop.produce(&orders, &Message::new(1u32)).unwrap();
        let billing = Producer::new("billing", broker).unwrap();
        let mut inner = SpanId::INVALID;
        reader(&group, &orders, 1)
            .process(|batch: &Batch<u32>| {
                inner = current();
                billing.produce(&invoices, &Message::new(2u32).caused_by(&batch[0]))?;
                Ok(())
            })
            .unwrap();
        reader(&group, &invoices, 1).process(|_: &Batch<u32>| Ok(())).unwrap();

        let ordered = spans.one(&format!("send {}", &*orders));
        let processed = spans.one(&format!("process {}", &*orders));
        let invoiced = spans.one(&format!("send {}", &*invoices));
        let received = spans.one(&format!("process {}", &*invoices));
        assert_root(&ordered);
        assert_child(&processed, &ordered);
        assert_child(&invoiced, &processed);
        assert_child(&received, &invoiced);
        assert_eq!(processed.span_context.span_id(), inner, "it is current in the handler");
        assert_eq!(links(&processed), [ordered.span_context.span_id()]);
        assert_eq!(links(&received), [invoiced.span_context.span_id()]);
        let sent = consume_all(broker, &invoices).remove(0);
        assert_eq!(header(&sent, "traceparent"), Some(traceparent(&invoiced)));
        assert_eq!(header(&sent, "tracestate"), None);

        let committed = spans.one(&format!("commit {}", &*orders));
        assert_child(&committed, &processed);
        let polled = spans.one(&format!("poll {}", &*orders));
        assert_root(&polled);
        assert!(polled.start_time <= polled.end_time && polled.end_time <= processed.start_time);

        let kinds = [&ordered, &processed, &committed, &polled].map(|span| span.span_kind.clone());
        assert_eq!(kinds, [SpanKind::Producer, SpanKind::Consumer, SpanKind::Client, SpanKind::Client]);
        for (span, operation, kind) in [
            (&ordered, "send", "send"),
            (&processed, "process", "process"),
            (&committed, "commit", "settle"),
            (&polled, "poll", "receive"),
        ] {
            let of = |name: &str| attribute(span, name);
            assert_eq!(of("messaging.system").as_deref(), Some("kafka"));
            assert_eq!(of("messaging.operation.name").as_deref(), Some(operation));
            assert_eq!(of("messaging.operation.type").as_deref(), Some(kind));
            let service = if operation == "send" { "shop" } else { "test" };
            assert_eq!(of("messaging.client.id").as_deref(), Some(service));
            assert_eq!(of("messaging.destination.name").as_deref(), Some(&*orders));
            assert_eq!(of("messaging.consumer.group.name"), (operation != "send").then(|| group.clone()));
            assert_eq!(failure(span), None);
            assert_eq!(span.instrumentation_scope.name(), "kafka-envelope");
        }
        for span in [&ordered, &processed] {
            assert_eq!(attribute(span, "messaging.kafka.offset").as_deref(), Some("0"));
            assert_eq!(attribute(span, "messaging.destination.partition.id").as_deref(), Some("0"));
        }
        assert_eq!(attribute(&ordered, "messaging.batch.message_count"), None);
        assert_eq!(attribute(&processed, "messaging.batch.message_count").as_deref(), Some("1"));
    });
}

/// A batch of messages of several traces is a trace of its own, linked to each message that has one.
#[test]
fn a_batch_is_linked_to_each_message() {
    alone("otel::a_batch_is_linked_to_each_message", || {
        let (spans, broker) = (Spans::keep(), shared_broker());
        let (input, output) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
        let producer = Producer::new("test", broker).unwrap();
        producer.produce(&input, &Message::new(0u32)).unwrap();
        producer.produce(&input, &Message::new(1u32)).unwrap();
        producer.produce(&input, &Message::new(2u32).header("traceparent", "garbage")).unwrap();
        producer.produce(&input, &Message::new(3u32).header("traceparent", [255; 55])).unwrap();
        reader(&group(), &input, 4)
            .process(|batch: &Batch<u32>| {
                producer.produce(&output, &Message::new(4u32).caused_by_all(batch))?;
                Ok(())
            })
            .unwrap();
        let sent = spans.wait(&format!("send {}", &*input), 4);
        let processed = spans.one(&format!("process {}", &*input));
        assert_root(&processed);
        assert_eq!(links(&processed), [0, 1].map(|place| sent[place].span_context.span_id()));
        let offsets = processed.links.iter().map(|link| {
            let offset = link.attributes.iter().find(|found| found.key.as_str() == "messaging.kafka.offset");
            offset.unwrap().value.to_string()
        });
        assert_eq!(offsets.collect::<Vec<_>>(), ["0", "1"]);
        assert_eq!(attribute(&processed, "messaging.batch.message_count").as_deref(), Some("4"));
        assert_eq!(attribute(&processed, "messaging.kafka.offset"), None);
        // What was given stays, and is told by its kind.
        let given = sent.iter().map(|span| span.span_kind.clone()).collect::<Vec<_>>();
        assert_eq!(given, [SpanKind::Producer, SpanKind::Producer, SpanKind::Client, SpanKind::Client]);
        assert_eq!(header(&consume_all(broker, &input)[2], "traceparent").as_deref(), Some("garbage"));
        // Not of the first cause's trace: the handler's own span goes before.
        assert_child(&spans.one(&format!("send {}", &*output)), &processed);
    });
}

/// What one call sent is one trace, however it is handed over.
#[test]
fn a_batch_of_one_trace_is_part_of_it() {
    alone("otel::a_batch_of_one_trace_is_part_of_it", || {
        let (spans, broker) = (Spans::keep(), shared_broker());
        let topic = TestTopic::new(broker, 1);
        let producer = Producer::new("test", broker).unwrap();
        producer.produce_batch(&topic, &[0, 1, 2].map(Message::new)).unwrap();
        reader(&group(), &topic, 3).process(|_: &Batch<u32>| Ok(())).unwrap();
        let sent = spans.one(&format!("send {}", &*topic));
        assert_eq!(attribute(&sent, "messaging.batch.message_count").as_deref(), Some("3"));
        assert_eq!(attribute(&sent, "messaging.kafka.offset"), None);
        let processed = spans.one(&format!("process {}", &*topic));
        assert_child(&processed, &sent);
        assert_eq!(links(&processed), [sent.span_context.span_id(); 3]);
    });
}

/// Within a span of the service's own, consumer and producer are part of that.
#[test]
fn the_current_span_goes_before_the_messages() {
    alone("otel::the_current_span_goes_before_the_messages", || {
        let (spans, broker) = (Spans::keep(), shared_broker());
        let topic = TestTopic::new(broker, 1);
        let producer = Producer::new("test", broker).unwrap();
        let mut consumer = reader(&group(), &topic, 1);
        let tracer = global::tracer("service");
        tracer.in_span("asked", |_| producer.produce(&topic, &Message::new(1u32)).unwrap());
        tracer.in_span("looked", |_| consumer.process(|_: &Batch<u32>| Ok(())).unwrap());
        let sent = spans.one(&format!("send {}", &*topic));
        assert_child(&sent, &spans.one("asked"));
        let (looked, processed) = (spans.one("looked"), spans.one(&format!("process {}", &*topic)));
        assert_child(&processed, &looked);
        assert_eq!(links(&processed), [sent.span_context.span_id()]);
        assert_child(&spans.one(&format!("poll {}", &*topic)), &looked);
    });
}

/// Where no span is current, a message's cause says what it belongs to: on a thread of the service's own, for one.
#[test]
fn elsewhere_the_cause_goes_on() {
    alone("otel::elsewhere_the_cause_goes_on", || {
        let (spans, broker) = (Spans::keep(), shared_broker());
        let (input, one, several) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1), TestTopic::new(broker, 1));
        let producer = Producer::new("test", broker).unwrap();
        for number in 0..2u32 {
            producer.produce(&input, &Message::new(number)).unwrap();
        }
        let (sender, made) = channel();
        reader(&group(), &input, 2)
            .process(|batch: &Batch<u32>| {
                for record in batch {
                    sender.send(Message::new(record.payload).caused_by(record))?;
                }
                Ok(())
            })
            .unwrap();
        let messages: Vec<_> = made.try_iter().collect();
        let sending = producer.clone();
        let (to_one, to_several) = (one.to_string(), several.to_string());
        thread::spawn(move || {
            sending.produce(&to_one, &messages[0]).unwrap();
            let new = Message::new(9).id("new");
            sending.produce_batch(&to_several, &[&messages[..], &[new]].concat()).unwrap();
        })
        .join()
        .unwrap();

        let causes = spans.wait(&format!("send {}", &*input), 2);
        let single = spans.one(&format!("send {}", &*one));
        assert_child(&single, &causes[0]);
        assert_eq!(header(&consume_all(broker, &one)[0], "traceparent"), Some(traceparent(&single)));
        // Of two traces: each keeps its own.
        let both = spans.one(&format!("send {}", &*several));
        assert_root(&both);
        assert_eq!(links(&both), [0, 1].map(|place| causes[place].span_context.span_id()));
        let carried = consume_all(broker, &several)
            .iter()
            .map(|record| header(record, "traceparent").unwrap())
            .collect::<Vec<_>>();
        assert_eq!(carried, [traceparent(&causes[0]), traceparent(&causes[1]), traceparent(&both)]);
    });
}

/// An async handler's span is current whenever the handler goes on, and nowhere else.
#[cfg(feature = "tokio")]
#[test]
fn async_handlers_have_their_span_across_waits() {
    alone("otel::async_handlers_have_their_span_across_waits", || {
        let (spans, broker) = (Spans::keep(), shared_broker());
        let topics = [TestTopic::new(broker, 1), TestTopic::new(broker, 1)];
        let output = TestTopic::new(broker, 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let producer = Producer::new("test", broker).unwrap();
            // Both on one thread, in turns.
            let barrier = tokio::sync::Barrier::new(2);
            let service = async |topic: &TestTopic| {
                producer.produce_async(topic, &Message::new(1u32)).await.unwrap();
                let mut consumer = reader(&group(), topic, 1);
                let stopper = consumer.stopper();
                let handler = async |batch: &Batch<u32>| {
                    let before = current();
                    barrier.wait().await;
                    tokio::task::yield_now().await;
                    barrier.wait().await;
                    assert_eq!(current(), before);
                    producer.produce_async(&output, &Message::new(2u32).caused_by(&batch[0])).await?;
                    stopper.stop();
                    Ok(())
                };
                consumer.run_async(handler).await.unwrap();
                assert_eq!(current(), SpanId::INVALID);
                drop(tokio::task::spawn_blocking(move || drop(consumer)).await);
            };
            tokio::join!(service(&topics[0]), service(&topics[1]));
        });
        let mut parents: Vec<_> =
            spans.wait(&format!("send {}", &*output), 2).iter().map(|span| span.parent_span_id).collect();
        let mut processed = Vec::new();
        for topic in &topics {
            let span = spans.one(&format!("process {}", &**topic));
            assert_child(&span, &spans.one(&format!("send {}", &**topic)));
            assert_child(&spans.one(&format!("commit {}", &**topic)), &span);
            processed.push(span.span_context.span_id());
        }
        parents.sort_by_key(|id| id.to_bytes());
        processed.sort_by_key(|id| id.to_bytes());
        assert_eq!(parents, processed);
    });
}

/// A transaction's commit is part of its attempt, and its records' sending part of the commit.
#[test]
fn a_transaction_is_part_of_its_attempt() {
    alone("otel::a_transaction_is_part_of_its_attempt", || {
        let (spans, broker) = (Spans::keep(), shared_broker());
        let (input, output) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
        Producer::new("test", broker).unwrap().produce(&input, &Message::new(1u32)).unwrap();
        let mut producer = TransactionalProducer::new("test", broker, &unique("transactional")).unwrap();
        let mut consumer = reader(&group(), &input, 1);
        let stopper = consumer.stopper();
        consumer
            .run_exactly_once(&mut producer, |batch: &Batch<u32>, outbox| {
                stopper.stop();
                outbox.send(&output, &Message::new(2u32).caused_by(&batch[0]))?;
                Ok(())
            })
            .unwrap();
        let processed = spans.one(&format!("process {}", &*input));
        let committed = spans.one(&format!("commit {}", &*input));
        assert_child(&committed, &processed);
        let sent = spans.one("send");
        assert_child(&sent, &committed);
        assert_eq!(sent.span_kind, SpanKind::Client);
        let records = eventually(PATIENCE, "the output", || {
            Some(consume_all(broker, &output)).filter(|records| records.len() == 1)
        });
        assert_eq!(header(&records[0], "traceparent"), Some(traceparent(&processed)));
    });
}

/// Commits of several batches are linked to them.
#[test]
fn overlapped_commits_are_linked_to_their_batches() {
    alone("otel::overlapped_commits_are_linked_to_their_batches", || {
        let (spans, broker) = (Spans::keep(), shared_broker());
        let topic = TestTopic::new(broker, 1);
        let producer = Producer::new("test", broker).unwrap();
        producer.produce_batch(&topic, &(0..50u32).map(Message::new).collect::<Vec<_>>()).unwrap();
        let mut consumer = consumer(broker, &group(), &topic).batch_size(1).build().unwrap();
        let (stopper, mut count) = (consumer.stopper(), 0);
        let counting = |_: &Batch<u32>| {
            count += 1;
            if count == 50 {
                stopper.stop();
            }
            Ok(())
        };
        consumer.run(counting).unwrap();
        let processed = spans.wait(&format!("process {}", &*topic), 50);
        let mut covered = Vec::new();
        for commit in spans.named(&format!("commit {}", &*topic)) {
            match links(&commit).as_slice() {
                [] => covered.push(commit.parent_span_id),
                several => covered.extend(several),
            }
        }
        let mut all: Vec<_> = processed.iter().map(|span| span.span_context.span_id()).collect();
        all.sort_by_key(|id| id.to_bytes());
        covered.sort_by_key(|id| id.to_bytes());
        assert_eq!(covered, all);
    });
}

/// Clients that were built before there was a tracer provider trace nothing. What is current goes along all the same.
#[test]
fn without_a_provider_nothing_is_traced() {
    alone("otel::without_a_provider_nothing_is_traced", || {
        let broker = shared_broker();
        let topic = TestTopic::new(broker, 1);
        let producer = Producer::new("test", broker).unwrap();
        let mut consumer = reader(&group(), &topic, 3);
        let spans = Spans::keep();
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        producer.produce(&topic, &Message::new(0u32)).unwrap();
        producer.produce(&topic, &Message::new(1u32).header("traceparent", given)).unwrap();
        let remote =
            SpanContext::new(TraceId::from(1), SpanId::from(2), TraceFlags::SAMPLED, true, "a=1".parse().unwrap());
        {
            let _current = Context::new().with_remote_span_context(remote).attach();
            producer.produce(&topic, &Message::new(2u32)).unwrap();
        }
        consumer
            .process(|batch: &Batch<u32>| {
                assert_eq!(current(), SpanId::INVALID);
                producer.produce(&topic, &Message::new(3u32).caused_by_all(batch))?;
                Ok(())
            })
            .unwrap();
        let headers: Vec<_> = consume_all(broker, &topic)
            .iter()
            .map(|record| (header(record, "traceparent"), header(record, "tracestate")))
            .collect();
        let current = format!("00-{:032x}-{:016x}-01", 1, 2);
        let given = Some(given.to_owned());
        assert_eq!(
            headers,
            [(None, None), (given.clone(), None), (Some(current), Some("a=1".to_owned())), (given, None)]
        );
        assert_eq!(spans.all().len(), 0);
    });
}

/// A trace that is not sampled goes on as one, and leaves no spans.
#[test]
fn what_is_not_sampled_stays_so() {
    alone("otel::what_is_not_sampled_stays_so", || {
        let (spans, broker) = (Spans::sampled(Sampler::AlwaysOff), shared_broker());
        let (input, output) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
        let producer = Producer::new("test", broker).unwrap();
        producer.produce(&input, &Message::new(0u32)).unwrap();
        reader(&group(), &input, 1)
            .process(|batch: &Batch<u32>| {
                producer.produce(&output, &Message::new(1u32).caused_by(&batch[0]))?;
                Ok(())
            })
            .unwrap();
        let parents = [&input, &output].map(|topic| header(&consume_all(broker, topic)[0], "traceparent").unwrap());
        assert!(parents.iter().all(|parent| parent.ends_with("-00")), "{parents:?}");
        assert_eq!(parents[0][..35], parents[1][..35], "it is one trace");
        assert_ne!(parents[0], parents[1]);
        assert_eq!(spans.all().len(), 0);
    });
}
