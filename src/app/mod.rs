//! Event apps: handlers registered by an event's name, pipelines of transactions, request and response.
//!
//! ```
//! use std::time::Duration;
//!
//! use kafka_envelope::HandlerError;
//! use kafka_envelope::app::{App, Context, Event};
//! # use kafka_envelope::testing::EmbeddedBroker;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Order {
//!     sku: String,
//!     quantity: u32,
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! struct Stock {
//!     left: u32,
//! }
//!
//! /// The shop asks the warehouse about every order.
//! async fn place(order: Order, context: Context) -> Result<(), HandlerError> {
//!     let question = Event::new("reserve", &order).key(&order.sku);
//!     let stock: Stock = context.emit_with_response("stock", question, Duration::from_secs(10)).await?;
//!     println!("{} of {} are left", stock.left, order.sku);
//!     Ok(())
//! }
//!
//! /// The warehouse answers.
//! async fn reserve(order: Order, context: Context) -> Result<(), HandlerError> {
//!     let stock = Stock { left: 10 - order.quantity };
//!     context.respond("stock.answers", Event::new("reserved", &stock)).await?;
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = EmbeddedBroker::start()?;
//! # let brokers = broker.bootstrap_servers();
//! # ["orders", "stock", "stock.answers"].iter().try_for_each(|topic| broker.create_topic(topic, 1))?;
//! let shop = App::builder("shop", brokers)
//!     .listen(["orders"])
//!     .answers([("stock.answers", "reserved")])
//!     .on("order_placed", place)
//!     .build()?;
//! let warehouse = App::builder("warehouse", brokers).listen(["stock"]).on("reserve", reserve).build()?;
//!
//! let (emitter, counts) = (shop.emitter(), shop.counts());
//! emitter.emit("orders", Event::new("order_placed", Order { sku: "apples".into(), quantity: 3 })).await?;
//!
//! // A service runs until `kafka_envelope::shutdown_signal()`.
//! let shutdown = async || {
//!     while counts.handled() == 0 {
//!         tokio::time::sleep(Duration::from_millis(10)).await;
//!     }
//! };
//! let (shop, warehouse) = tokio::join!(shop.run_until(shutdown()), warehouse.run_until(shutdown()));
//! (shop?, warehouse?);
//! # Ok(())
//! # }
//! ```
//!
//! # Events
//!
//! An event is a record that says its name: by the field `event` of its value, a JSON object, or by its key where
//! [`AppBuilder::key_as_event`] says so. The topics that [`AppBuilder::envelopes`] names carry the object as the item of
//! an [envelope](crate::envelope), in both directions; then what a handler sends refers to the record it handles.
//!
//! - [`AppBuilder::on`] and [`AppBuilder::on_topic`] register a [`Handler`], async or not, for the type that it takes.
//!   One that is not async runs on a thread that may block.
//! - [`AppBuilder::pipeline`] registers a [`Pipeline`] of transactions. A record can reach a handler and a pipeline.
//! - [`AppBuilder::middleware`] is asked first, and may reject a record.
//! - A record that says of no event is logged and counted; one of an event that nothing is registered for is counted. See
//!   [`Counts`].
//!
//! Records of one key, within their partition, are handled one after the other; those of different keys, and those
//! without a key, beside one another, up to [`AppBuilder::max_concurrent_tasks`] and
//! [`AppBuilder::max_concurrent_pipelines`].
//!
//! # Commits and failures
//!
//! A record's offset is committed once everything that was registered for it has succeeded, and never beyond one that has
//! not. What fails goes by the policies of the [`Consumer`](crate::Consumer), which [`AppBuilder::consumer`] takes: by
//! default the first failure ends [`App::run_until`] with its error. A handler or a pipeline is tried again alone, not
//! with the other that the record reached. Records that cannot be read, or do not fit the handler's type, go by
//! [`OnUndecodable`](crate::OnUndecodable); tombstones and empty values are done.
//!
//! So each record is handled at least once. When partitions go to another replica, what is being handled is waited for,
//! and what has not begun is left to that one. After a crash everything comes again that was done and not committed: a
//! record that takes long keeps those behind it in its partition from being committed, as many as
//! [`max_window`](crate::ConsumerBuilder::max_window) says, 100,000 unless set. The app has up to 10,000 records, or
//! 64 MiB of them, that are not done; then it takes no more, of whatever key and partition these are.
//!
//! # Request and response
//!
//! [`Emitter::emit_with_response`] sends an event with an `event_id` of its own as header, and waits for a response: one
//! of the events that [`AppBuilder::answers`] names, with the same `event_id`. [`Context::respond`] sends one. A response
//! wakes who waits for it at once, and it never waits behind handlers: it is read by a consumer of its own, in the group
//! with `-answers` after its name. A handler that waits lends its place meanwhile, so that handlers of the same app can
//! answer it, whatever the limit. But within a partition, those of the same key wait for one another: who asks an app of
//! its own about the key that it handles does so through another topic.
//!
//! Partitions that are taken away wait for the handlers of their records until the consumer's `drain_budget` is up, but
//! only a second once all of these wait for a response: whoever is to answer may be waiting for the partitions. Then the
//! records go to another replica while they are still being handled here, and are handled twice. Records of partitions that
//! stay go on being handled meanwhile.
//!
//! With several replicas a response reaches one of them, and somebody else may wait for it. A [`ResponseCache`] carries
//! it there: [`MemoryCache`] within a process, `RedisCache` (feature `redis`) between them. It is asked after pauses of 2
//! to 50 ms. Where it fails, the call fails that asked it; the app lives on.
//!
//! Each question of [`Emitter::emit_with_response`] has an `event_id` of its own. What is piped keeps that of its record:
//! all questions of a chain of pipelines have the same. Each takes only the event that it waits for, so these should
//! differ. A cache keeps one answer for an `event_id`, the last, and where the key is the event's name, as in the Python
//! app, it does not say of which event. There a record with two questions that is handled again within 30 s may get the
//! answer to the other one: with a cache and [`AppBuilder::key_as_event`], ask such questions by `emit_with_response`.
//!
//! # With the Python app
//!
//! Records, responses and what the cache holds are those of `kafka-python-app`, in both directions, so that services can
//! move one by one.
//!
//! | `kafka-python-app` | here |
//! |---|---|
//! | `KafkaApp(AppConfig(…))` | [`App::builder`] |
//! | `consumer_config`, `producer_config` | [`AppBuilder::config`], [`AppBuilder::producer_config`] |
//! | nothing is compressed, unless `compression_type` says so | the same: [`AppBuilder::producer_config`] |
//! | a group of its own at each start | the app's name as the group |
//! | `message_value_cls` | the type that a handler takes; [`AppBuilder::payload`]. No text is made a number |
//! | `@app.on(event, topic)` | [`AppBuilder::on`], [`AppBuilder::on_topic`]; twice for one event is an error |
//! | `MessagePipeline`, `MessageTransaction` | [`Pipeline`]; what a transaction needs beside, its closure brings |
//! | `pipe_result_options` | [`Pipeline::pipe`], [`Pipeline::pipe_and_wait`], [`Pipeline::custom`] |
//! | `emit_with_response_options` | [`AppBuilder::answers`], [`AppBuilder::cache`] |
//! | `KafkaConnector` | [`connector`] |
//! | offsets are committed before anything is handled | after everything has succeeded |
//! | a failing pipeline is logged | a failure like any other |

mod answers;
mod builder;
mod cache;
mod callback;
pub mod connector;
mod context;
mod counts;
mod emitter;
mod engine;
mod event;
mod form;
mod handler;
mod handling;
mod json;
mod outgoing;
mod pipeline;
mod read;
#[cfg(feature = "redis")]
mod redis_cache;
mod responses;
mod routes;
mod run;
mod schedule;
mod slot;
mod task;

pub use crate::message::Record;
pub use builder::AppBuilder;
pub use cache::{MemoryCache, ResponseCache};
pub use callback::Callback;
pub use context::Context;
pub use counts::Counts;
pub use emitter::Emitter;
pub use event::Event;
pub use handler::{Async, Blocking, Handler};
pub use pipeline::Pipeline;
#[cfg(feature = "redis")]
pub use redis_cache::RedisCache;
pub use run::App;
