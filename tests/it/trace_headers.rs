//! `traceparent` and `tracestate` go from a message to those made from it. Nothing has to be traced here for that.

use std::time::Duration;

use kafka_envelope::{Batch, Message, Producer, Ref, TransactionalProducer};
use rdkafka::Message as _;
use rdkafka::message::{Headers as _, OwnedMessage};

use crate::support::{PATIENCE, TestTopic, consume_all, consumer, eventually, group, shared_broker, unique};

const FIRST: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const SECOND: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// A record's headers.
fn headers(record: &OwnedMessage) -> Vec<(String, String)> {
    let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
    let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    headers.map(|header| (header.key.to_owned(), text(header.value))).collect()
}

/// The headers of the one record with this key.
#[track_caller]
fn of_key(records: &[OwnedMessage], key: &str) -> Vec<(String, String)> {
    let found: Vec<_> = records.iter().filter(|record| record.key() == Some(key.as_bytes())).collect();
    assert_eq!(found.len(), 1, "{key}");
    headers(found[0])
}

fn one<T>(value: &T) -> &[T] {
    std::slice::from_ref(value)
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// What is made of a message carries its trace context, as it came. Nothing is added where there was none, or what is
/// none; and what the service itself says stays.
#[test]
fn a_message_takes_along_the_trace_of_what_caused_it() {
    let broker = shared_broker();
    let (input, output) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
    let producer = Producer::new("test", broker).unwrap();
    let state = "vendor=1,other=a b";
    let given = [
        Message::new(0).id("whole").header("traceparent", FIRST).header("other", "x").header("tracestate", state),
        Message::new(1).id("bare").header("traceparent", SECOND),
        Message::new(2).id("none").header("tracestate", state),
        Message::new(3).id("garbage").header("traceparent", [0xff, 0xfe]).header("tracestate", state),
        Message::new(4).id("long").header("traceparent", FIRST).header("tracestate", "a".repeat(100_000)),
        Message::new(5).id("own").header("traceparent", FIRST).header("tracestate", state),
        Message::new(6).id("own_state").header("traceparent", FIRST),
        Message::new(7).id("by_reference").header("traceparent", FIRST),
    ];
    producer.produce_batch(&input, &given).unwrap();

    let mut consumer = consumer(broker, &group(), &input).linger(Duration::from_secs(5)).batch_size(8).build().unwrap();
    consumer
        .process(|batch: &Batch<u32>| {
            let mut made = Vec::new();
            for record in batch {
                let message = Message::new(record.payload).id(record.id().unwrap_or_default()).header("x", "y");
                made.push(match record.id() {
                    // In whatever order it says so.
                    Some("own") => message.header("traceparent", "mine").caused_by(record),
                    Some("own_state") => message.caused_by(record).header("tracestate", "mine=1"),
                    Some("by_reference") => message.caused_by(record.reference()),
                    _ => message.caused_by(record),
                });
            }
            made.push(Message::new(8).id("of_all").caused_by(Ref::new("t", 0, 1)).caused_by_all(&batch[1..]));
            producer.produce_batch(&output, &made)?;
            producer.send(&output, &Message::new(9).id("sent").caused_by(&batch[2]).caused_by(&batch[0]))?.wait()?;
            Ok(())
        })
        .unwrap();

    let records = consume_all(broker, &output);
    let x = pair("x", "y");
    let (first, second) = (pair("traceparent", FIRST), pair("traceparent", SECOND));
    let state = pair("tracestate", state);
    assert_eq!(of_key(&records, "whole"), [x.clone(), first.clone(), state.clone()]);
    assert_eq!(of_key(&records, "bare"), [x.clone(), second.clone()]);
    for none in ["none", "garbage", "by_reference"] {
        assert_eq!(of_key(&records, none), one(&x), "{none}");
    }
    assert_eq!(of_key(&records, "long"), [x.clone(), first.clone()]);
    assert_eq!(of_key(&records, "own"), [x.clone(), pair("traceparent", "mine")]);
    assert_eq!(of_key(&records, "own_state"), [x.clone(), pair("tracestate", "mine=1")]);
    assert_eq!(of_key(&records, "of_all"), [second]);
    assert_eq!(of_key(&records, "sent"), [first, state]);
}

/// What goes through an outbox does not differ.
#[test]
fn an_outbox_keeps_the_trace() {
    let broker = shared_broker();
    let (input, output) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
    let message = |id: &str| Message::new(1).id(id);
    let given = [message("traced").header("traceparent", FIRST), message("plain")];
    Producer::new("test", broker).unwrap().produce_batch(&input, &given).unwrap();
    let mut producer = TransactionalProducer::new("test", broker, &unique("transactional")).unwrap();
    let mut consumer = consumer(broker, &group(), &input).linger(Duration::from_secs(5)).batch_size(2).build().unwrap();
    let stopper = consumer.stopper();
    consumer
        .run_exactly_once(&mut producer, |batch: &Batch<u32>, outbox| {
            stopper.stop();
            for record in batch {
                outbox.send(&output, &Message::new(1).id(record.id().unwrap_or_default()).caused_by(record))?;
            }
            Ok(())
        })
        .unwrap();
    let records = eventually(PATIENCE, "both outputs", || {
        Some(consume_all(broker, &output)).filter(|records| records.len() == 2)
    });
    assert_eq!(of_key(&records, "traced"), [pair("traceparent", FIRST)]);
    assert_eq!(of_key(&records, "plain"), []);
}

#[cfg(feature = "app")]
mod app {
    use kafka_envelope::HandlerError;
    use kafka_envelope::app::{Context, Event};
    use serde_json::{Value, json};

    use super::*;
    use crate::support::app::{Running, app, handled, produce_all, records};

    /// Events, answers and what is piped on carry the trace of the record that is handled.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_handler_sends_takes_the_trace_along() {
        let broker = shared_broker();
        let (input, output) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
        let to = output.to_string();
        let handler = move |message: Value, context: Context| {
            let to = to.clone();
            async move {
                let name = message["name"].as_str().unwrap_or_default();
                let event = |how: &str| Event::new(how, json!({})).key(format!("{name}-{how}"));
                context.emit(&to, event("emit")).await?;
                context.respond(&to, event("respond")).await?;
                context.emit(&to, event("own").header("traceparent", "mine")).await?;
                context.pipe(&to, &format!("{name}-pipe"), &message).await?;
                Ok::<_, HandlerError>(())
            }
        };
        let (_, builder) = app(broker);
        let running = Running::start(builder.listen([&*input]).on("go", handler).build().unwrap());
        let record = |name: &str, headers: Value| {
            let value = json!({"event": "go", "name": name}).to_string();
            json!({"value": {"text": value}, "headers": headers})
        };
        let id = json!(["event_id", {"text": "7"}]);
        let traced =
            json!([["traceparent", {"text": FIRST}], ["a", {"text": "b"}], id, ["tracestate", {"text": "c=1"}]]);
        let garbage = json!([["traceparent", {"text": "garbage"}], id]);
        let given = [record("traced", traced), record("garbage", garbage), record("plain", json!([id]))];
        produce_all(broker, &input, &given).await;
        handled(&running, 3);
        running.stop().await.unwrap();

        let records = records(broker, &output, 12);
        let piped = |name: &str| {
            let event = format!("{name}-pipe");
            let is_piped = |record: &&OwnedMessage| {
                serde_json::from_slice::<Value>(record.payload().unwrap()).unwrap()["event"] == *event
            };
            headers(records.iter().find(is_piped).unwrap())
        };
        let id = pair("event_id", "7");
        let trace = [pair("traceparent", FIRST), pair("tracestate", "c=1")];
        assert_eq!(of_key(&records, "traced-emit"), trace);
        assert_eq!(of_key(&records, "traced-respond"), [&[id.clone()][..], &trace].concat());
        assert_eq!(piped("traced"), [&[pair("a", "b"), id.clone()][..], &trace].concat());
        for none in ["garbage", "plain"] {
            assert_eq!(of_key(&records, &format!("{none}-emit")), []);
            assert_eq!(of_key(&records, &format!("{none}-respond")), one(&id));
            assert_eq!(piped(none), one(&id));
        }
        for name in ["traced", "garbage", "plain"] {
            assert_eq!(of_key(&records, &format!("{name}-own")), [pair("traceparent", "mine")]);
        }
    }
}

#[cfg(feature = "stream")]
mod stream {
    use kafka_envelope::HandlerError;
    use kafka_envelope::stream::{Agent, KafkaSink, Sinks};
    use serde_json::Value;

    use super::*;
    use crate::support::stream::{Running, soon, worker};

    /// What an agent sends carries the trace of the record that its element came of, also behind another agent; of a
    /// batch that of the first.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_an_agent_sends_takes_the_trace_along() {
        let broker = shared_broker();
        let (input, output) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
        let producer = Producer::new("test", broker).unwrap();
        let traced = |id: &str, trace: &str| Message::new(vec![id.to_owned()]).header("traceparent", trace);
        let given = [traced("first", FIRST), traced("second", SECOND), Message::new(vec!["plain".to_owned()])];
        producer.produce_batch(&input, &given).unwrap();

        let (each, all) = (output.to_string(), output.to_string());
        let (_, builder) = worker(&input);
        let worker = builder
            .envelopes()
            .sink(KafkaSink::new("out", broker).unwrap())
            .agent(Agent::new("each", move |element: Value, sinks: Sinks| {
                let to = each.clone();
                async move {
                    sinks.kafka("out").send(&to, &element).await?;
                    Ok::<_, HandlerError>(Some(element))
                }
            }))
            .agent(Agent::batched("all", 3, move |elements: Vec<Value>, sinks: Sinks| {
                let to = all.clone();
                async move {
                    sinks.kafka("out").send(&to, &elements.len()).await?;
                    Ok::<_, HandlerError>(None::<()>)
                }
            }))
            .build()
            .unwrap();
        let running = Running::start(worker);
        let records = soon("four outputs", || Some(consume_all(broker, &output)).filter(|records| records.len() == 4));
        running.stop().await.unwrap();
        let of =
            |value: &str| headers(records.iter().find(|record| record.payload() == Some(value.as_bytes())).unwrap());
        assert_eq!(of("\"first\""), [pair("traceparent", FIRST)]);
        assert_eq!(of("\"second\""), [pair("traceparent", SECOND)]);
        assert_eq!(of("\"plain\""), []);
        assert_eq!(of("3"), [pair("traceparent", FIRST)]);
    }
}
