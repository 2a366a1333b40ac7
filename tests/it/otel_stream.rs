//! Spans of stream workers: one for each call of an agent.

use kafka_envelope::stream::{Agent, KafkaSink, Sinks};
use kafka_envelope::{GiveUp, HandlerError, Message, OnError, Producer};
use serde_json::Value;

use crate::support::app::Calls;
use crate::support::stream::{Running, worker};
use crate::support::traces::{Spans, alone, assert_child, assert_root, attribute, current, failure, links};
use crate::support::{TestTopic, shared_broker};

/// Calls with one element are children of what sent its record, calls with elements of several traces are linked to each;
/// what agents send is part of the call.
#[test]
fn calls_of_agents_are_part_of_the_trace() {
    alone("otel_stream::calls_of_agents_are_part_of_the_trace", || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (spans, broker) = (Spans::keep(), shared_broker());
            let (input, output) = (TestTopic::new(broker, 1), TestTopic::new(broker, 1));
            let producer = Producer::new("test", broker).unwrap();
            for number in 0..2u32 {
                producer.produce_async(&input, &Message::new([number])).await.unwrap();
            }
            let to = output.to_string();
            let blocking = Calls::<String>::default();
            let noted = blocking.clone();
            let (_, builder) = worker(&input);
            let worker = builder
                .envelopes()
                .consumer(|consumer| consumer.on_error(OnError::default().then(GiveUp::Skip)))
                .sink(KafkaSink::new("out", broker).unwrap())
                .agent(Agent::blocking("each", move |element: Value, _: Sinks| {
                    noted.push(current().to_string());
                    Ok::<_, HandlerError>(Some(element))
                }))
                .agent(Agent::batched("all", 2, move |elements: Vec<Value>, sinks: Sinks| {
                    let to = to.clone();
                    async move {
                        sinks.kafka("out").send(&to, &elements).await?;
                        Ok::<_, HandlerError>(Some(elements.len()))
                    }
                }))
                .agent(Agent::new("fails", async |_: usize, _: Sinks| Err::<Option<()>, HandlerError>("no".into())))
                .build()
                .unwrap();
            let running = Running::start(worker);
            let processed = tokio::task::block_in_place(|| spans.wait(&format!("process {}", &*input), 4));
            running.stop().await.unwrap();

            let sent = spans.wait(&format!("send {}", &*input), 2);
            let of = |agent: &str| {
                let is_its = |span: &&_| attribute(span, "messaging.process.agent.name").as_deref() == Some(agent);
                processed.iter().filter(is_its).collect::<Vec<_>>()
            };
            let each = of("each");
            assert_eq!(each.len(), 2);
            for (place, span) in each.iter().enumerate() {
                assert_child(span, &sent[place]);
                assert_eq!(links(span), [sent[place].span_context.span_id()]);
                assert_eq!(attribute(span, "messaging.kafka.offset"), Some(place.to_string()));
            }
            assert_eq!(blocking.get(), [0, 1].map(|place| each[place].span_context.span_id().to_string()));
            let [all] = of("all")[..] else { panic!("{processed:#?}") };
            assert_root(all);
            assert_eq!(links(all), [0, 1].map(|place| sent[place].span_context.span_id()));
            assert_eq!(attribute(all, "messaging.batch.message_count").as_deref(), Some("2"));
            assert_child(&spans.one(&format!("send {}", &*output)), all);
            let [fails] = of("fails")[..] else { panic!("{processed:#?}") };
            assert_eq!(failure(fails), Some(("handler".to_owned(), "no".to_owned())));
        });
    });
}
