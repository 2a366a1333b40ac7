//! Spans of event apps: one for each handler and pipeline that a record goes to.

use std::time::Duration;

use kafka_envelope::app::{Context, Event, Pipeline};
use kafka_envelope::{Backoff, GiveUp, HandlerError, OnError, OnUndecodable};
use rdkafka::Message as _;
use rdkafka::message::Headers as _;
use serde_json::{Value, json};

use crate::support::app::{Calls, Running, app, handled, produce_all, records};
use crate::support::traces::{
    Spans, alone, assert_child, assert_root, attribute, current, failure, links, traceparent,
};
use crate::support::{TestTopic, shared_broker};

fn on_tokio(body: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(body);
}

/// A question, its answer and what comes of it are one trace, through handlers that wait, that block, and pipelines.
#[test]
fn events_and_answers_are_one_trace() {
    alone("otel_app::events_and_answers_are_one_trace", || {
        on_tokio(async {
            let (spans, broker) = (Spans::keep(), shared_broker());
            let [orders, stock, answers, audit] = [(); 4].map(|()| TestTopic::new(broker, 1));
            let (to_answers, to_audit) = (answers.to_string(), audit.to_string());

            let reserve = move |_: Value, context: Context| {
                let to = to_answers.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    context.respond(&to, Event::new("reserved", json!({}))).await?;
                    Ok::<_, HandlerError>(())
                }
            };
            let (_, builder) = app(broker);
            let storage = Running::start(builder.listen([&*stock]).on("reserve", reserve).build().unwrap());

            let blocking = Calls::<String>::default();
            let noted = blocking.clone();
            let order = Pipeline::<Value>::new("order")
                .pipe_and_wait::<Value>(&*stock, "reserve", (&*answers, "reserved"), Duration::from_secs(20))
                .then(move |message: Value, _: Context| {
                    noted.push(current().to_string());
                    Ok::<_, HandlerError>(message)
                })
                .pipe(&to_audit, "done");
            let (_, builder) = app(broker);
            let shop = builder.listen([&*orders]).pipeline("order", order).build().unwrap();
            let sender = shop.emitter();
            let shop = Running::start(shop);
            sender.emit(&orders, Event::new("order", json!({"sku": "a"}))).await.unwrap();
            handled(&shop, 1);
            handled(&storage, 1);

            let of = |operation: &str, topic: &TestTopic| spans.one(&format!("{operation} {}", &**topic));
            let (ordered, ordering) = (of("send", &orders), of("process", &orders));
            let (asked, reserving, answered) = (of("send", &stock), of("process", &stock), of("send", &answers));
            let audited = of("send", &audit);
            assert_root(&ordered);
            assert_child(&ordering, &ordered);
            assert_eq!(links(&ordering), [ordered.span_context.span_id()]);
            assert_child(&asked, &ordering);
            assert_child(&reserving, &asked);
            assert_child(&answered, &reserving);
            assert_child(&audited, &ordering);
            assert_eq!(
                blocking.get(),
                [ordering.span_context.span_id().to_string()],
                "on a thread that may block, too"
            );
            assert_eq!(attribute(&ordering, "messaging.kafka.offset").as_deref(), Some("0"));
            assert_eq!(attribute(&ordering, "messaging.batch.message_count"), None);
            let record = records(broker, &audit, 1).remove(0);
            let header = record.headers().unwrap().iter().find(|header| header.key == "traceparent").unwrap();
            assert_eq!(header.value, Some(traceparent(&audited).as_bytes()));
            shop.stop().await.unwrap();
            storage.stop().await.unwrap();
        });
    });
}

/// A handler that fails, panics or gets what it cannot read.
#[test]
fn failures_of_handlers_are_told() {
    alone("otel_app::failures_of_handlers_are_told", || {
        on_tokio(async {
            let (spans, broker) = (Spans::keep(), shared_broker());
            let topic = TestTopic::new(broker, 1);
            let (_, builder) = app(broker);
            let once = OnError::retry(Backoff { attempts: 1, ..Backoff::default() }).then(GiveUp::Skip);
            let running = Running::start(
                builder
                    .listen([&*topic])
                    .consumer(|consumer| consumer.on_error(once).on_undecodable(OnUndecodable::Skip))
                    .on("fails", async |_: Value, _: Context| Err::<(), HandlerError>("no".into()))
                    .on("panics", async |_: Value, _: Context| -> Result<(), HandlerError> { panic!("at all") })
                    .on("typed", async |_: Typed, _: Context| Ok::<_, HandlerError>(()))
                    .build()
                    .unwrap(),
            );
            let record =
                |event: &str| json!({"value": {"text": json!({"event": event, "number": "secret"}).to_string()}});
            produce_all(broker, &topic, &["fails", "panics", "typed"].map(record)).await;
            let name = format!("process {}", &*topic);
            let spans = tokio::task::block_in_place(|| spans.wait(&name, 3));
            let found = |offset: &str| {
                let span =
                    spans.iter().find(|span| attribute(span, "messaging.kafka.offset").as_deref() == Some(offset));
                failure(span.unwrap()).unwrap()
            };
            let told = |kind: &str, text: &str| (kind.to_owned(), text.to_owned());
            assert_eq!(found("0"), told("handler", "no"));
            assert_eq!(found("1"), told("handler", "it panicked: at all"));
            assert_eq!(found("2"), told("undecodable", ""));
            running.stop().await.unwrap();
        });
    });
}

#[derive(serde::Deserialize)]
struct Typed {
    #[serde(rename = "number")]
    _number: u32,
}
