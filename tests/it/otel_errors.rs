//! What spans say of failures: that there was one, of which kind, and nothing of payloads.

use std::time::Duration;

use kafka_envelope::testing::{ApiKey, EmbeddedBroker, ErrorCode};
use kafka_envelope::{Backoff, Batch, GiveUp, HandlerError, Message, OnError, OnUndecodable, Producer};

use crate::support::traces::{Spans, alone, assert_child, failure, links};
use crate::support::{PATIENCE, TestTopic, consumer, eventually, group, shared_broker};

const HANDLER: &str = "handler";

/// Each attempt is a span of its own, and each failure is told there.
#[test]
fn a_failing_handler_is_told_by_its_span() {
    alone("otel_errors::a_failing_handler_is_told_by_its_span", || {
        let (spans, broker) = (Spans::keep(), shared_broker());
        let topic = TestTopic::new(broker, 1);
        let producer = Producer::new("test", broker).unwrap();
        producer.produce(&topic, &Message::new(1u32)).unwrap();
        let backoff = Backoff { first: Duration::from_millis(1), attempts: 4, ..Backoff::default() };
        let mut consumer = consumer(broker, &group(), &topic).on_error(OnError::retry(backoff)).build().unwrap();
        let mut attempts = 0;
        let handler = |_: &Batch<u32>| {
            attempts += 1;
            match attempts {
                1 => Err("out of paper".into()),
                2 => panic!("paper jam"),
                3 => Err(HandlerError::new("ä".repeat(1_000))),
                _ => Ok(()),
            }
        };
        consumer.process(handler).unwrap();
        let sent = spans.one(&format!("send {}", &*topic));
        let processed = spans.wait(&format!("process {}", &*topic), 4);
        for span in &processed {
            assert_child(span, &sent);
            assert_eq!(links(span), [sent.span_context.span_id()]);
        }
        let handler = |text: &str| Some((HANDLER.to_owned(), text.to_owned()));
        assert_eq!(failure(&processed[0]), handler("out of paper"));
        assert_eq!(failure(&processed[1]), handler("it panicked: paper jam"));
        assert_eq!(failure(&processed[2]), handler(&"ä".repeat(512)));
        assert_eq!(failure(&processed[3]), None);
        assert_child(&spans.one(&format!("commit {}", &*topic)), &processed[3]);
    });
}

/// A record that cannot be read is told without a word of it; its dead letter is sent in the trace that it came in.
#[test]
fn an_unreadable_record_is_told_without_its_text() {
    alone("otel_errors::an_unreadable_record_is_told_without_its_text", || {
        let (spans, broker) = (Spans::keep(), shared_broker());
        let topic = TestTopic::new(broker, 1);
        let letters = format!("{}-dlt", &*topic);
        crate::support::create_topic_with(broker, &letters, 1, &[]);
        Producer::new("test", broker).unwrap().produce(&topic, &Message::new("secret")).unwrap();
        let builder = consumer(broker, &group(), &topic).on_undecodable(OnUndecodable::DeadLetter);
        let done = builder.build().unwrap().process(|_: &Batch<u32>| Ok(())).unwrap().unwrap();
        assert_eq!(done.dead_lettered, 1);
        let processed = spans.one(&format!("process {}", &*topic));
        assert_eq!(failure(&processed), Some(("undecodable".to_owned(), String::new())));
        let sent = spans.one(&format!("send {}", &*topic));
        let letter = spans.one(&format!("send {letters}"));
        assert_child(&letter, &sent);
        assert_eq!(links(&letter), [sent.span_context.span_id()]);
        assert!(!format!("{:?}", spans.all()).contains("secret"));
        crate::support::delete_topic(broker, &letters);
    });
}

/// A record that is not acknowledged, and a message that cannot be sent.
#[test]
fn a_message_that_is_not_sent_is_told() {
    alone("otel_errors::a_message_that_is_not_sent_is_told", || {
        let (spans, broker) = (Spans::keep(), shared_broker());
        let topic = TestTopic::new(broker, 1);
        let config = [("message.max.bytes", "2000")];
        let producer = Producer::builder("test", broker).config(config).build().unwrap();
        let batch = [Message::new(String::new()), Message::new(String::new()).partition(9)];
        assert!(producer.produce_batch(&topic, &batch).is_err());
        assert!(producer.send(&topic, &Message::new("x".repeat(3_000))).is_err());
        let spans = spans.wait(&format!("send {}", &*topic), 2);
        assert_eq!(failure(&spans[0]).unwrap().0, "UNKNOWN_PARTITION");
        assert_eq!(failure(&spans[1]).unwrap().0, "oversize");
    });
}

/// Each try of a commit is a span.
#[test]
fn a_commit_that_fails_is_told() {
    alone("otel_errors::a_commit_that_fails_is_told", || {
        let spans = Spans::keep();
        let broker = EmbeddedBroker::start().unwrap();
        broker.create_topic("t", 1).unwrap();
        Producer::new("test", broker.bootstrap_servers()).unwrap().produce("t", &Message::new(1u32)).unwrap();
        broker.fail_next(ApiKey::OffsetCommit, [ErrorCode::OffsetMetadataTooLarge]).unwrap();
        let mut consumer = consumer(broker.bootstrap_servers(), "g", "t").build().unwrap();
        consumer.process(|_: &Batch<u32>| Ok(())).unwrap();
        let commits = spans.wait("commit t", 2);
        assert_eq!(failure(&commits[0]).unwrap().0, "OFFSET_METADATA_TOO_LARGE");
        assert_eq!(failure(&commits[1]), None);
        assert_child(&commits[0], &spans.one("process t"));
    });
}

/// A tracer provider that panics is the provider's affair: nothing fails of it.
#[test]
fn a_panicking_exporter_stops_nothing() {
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanProcessor};

    #[derive(Debug)]
    struct Panicking;

    impl SpanProcessor for Panicking {
        fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

        fn on_end(&self, _: SpanData) {
            panic!("no disk");
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    alone("otel_errors::a_panicking_exporter_stops_nothing", || {
        let provider = SdkTracerProvider::builder().with_span_processor(Panicking).build();
        opentelemetry::global::set_tracer_provider(provider);
        let broker = shared_broker();
        let topic = TestTopic::new(broker, 1);
        let producer = Producer::new("test", broker).unwrap();
        producer.produce(&topic, &Message::new(1u32)).unwrap();
        producer.send(&topic, &Message::new(2u32)).unwrap().wait().unwrap();
        let mut consumer =
            consumer(broker, &group(), &topic).on_error(OnError::default().then(GiveUp::Skip)).build().unwrap();
        let mut seen = 0;
        eventually(PATIENCE, "both are handled", || {
            consumer
                .process(|batch: &Batch<u32>| {
                    seen += batch.len();
                    Ok(())
                })
                .unwrap();
            (seen == 2).then_some(())
        });
        consumer.close(PATIENCE).unwrap();
    });
}
