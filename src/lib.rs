//! JSON envelopes over Apache Kafka, in batches whose offsets are committed only after your handler returned `Ok`.
//!
//! For services that talk to each other through Kafka. A [`Producer`] sends messages, each in an envelope that says
//! which service made it, when, and from which messages. A [`Consumer`] hands them over in batches to a handler, and
//! commits what the handler is done with. Both stand on [`rdkafka`](https://docs.rs/rdkafka/0.39), whose settings they
//! pass through and whose plain clients [`low_level`] helps with.
//!
//! # A first example
//!
//! Needs no Kafka: [`testing::EmbeddedBroker`] is a broker inside the process. Put the address of yours in its place.
//!
//! ```
//! use kafka_envelope::testing::EmbeddedBroker;
//! use kafka_envelope::{Batch, Consumer, Message, Producer};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Order {
//!     sku: String,
//!     quantity: u32,
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let broker = EmbeddedBroker::start()?;
//!     let brokers = broker.bootstrap_servers();
//!     broker.create_topic("orders", 3)?;
//!
//!     let shop = Producer::new("shop", brokers)?;
//!     let order = Order { sku: "apples".into(), quantity: 3 };
//!     shop.produce("orders", &Message::new(order).id("order-1"))?;
//!
//!     let billing = Producer::new("billing", brokers)?;
//!     let mut consumer = Consumer::builder("billing", brokers, "billing-group").topics(["orders"]).build()?;
//!     let stopper = consumer.stopper();
//!     let summary = consumer.run(|batch: &Batch<Order>| {
//!         let invoice = |order: &Order| f64::from(order.quantity) * 1.25;
//!         let invoices: Vec<_> =
//!             batch.iter().map(|order| Message::new(invoice(&order.payload)).caused_by(order)).collect();
//!         billing.produce_batch("invoices", &invoices)?;
//!         stopper.stop(); // for this example; a service goes on
//!         Ok(())
//!     })?;
//!     assert_eq!(summary.records, 1);
//!     Ok(())
//! }
//! ```
//!
//! # Consuming
//!
//! [`Consumer::run`] handles batch after batch until it is stopped; [`Consumer::process`] handles one and returns when
//! its offsets are committed. A handler gets a [`Batch`], which is a slice of [`Received`]: the payload, decoded into
//! any type that serde knows, and the record's id, topic, partition, offset, timestamp, headers and history.
//!
//! - A free handler gets what is there; under load batches fill up to [`batch_size`](ConsumerBuilder::batch_size) or
//!   [`batch_bytes`](ConsumerBuilder::batch_bytes). With a [`linger`](ConsumerBuilder::linger) a batch waits to fill.
//! - [`Batch::latest_by_id`] leaves out what a later record of the batch has replaced.
//! - Tombstones and empty values are not handed over. They count as handled.
//! - [`Consumer::run_raw`] decodes payloads that borrow from the record, without an allocation for each.
//! - The handler runs on the caller's thread, so it need not be `Send`. Another thread goes on polling meanwhile: a
//!   handler may take longer than `max.poll.interval.ms`.
//! - [`Consumer::stopper`] ends a run from anywhere; so do signals, after `Consumer::stop_on_signals` (feature
//!   `signal`). [`Consumer::close`] says whether the end went well.
//!
//! **At least once.** Offsets are committed after the handler returned `Ok`, and never beyond a record that is not
//! done. While a run goes on, commits overlap with handling: a crash repeats at most the batches that were handled and
//! not confirmed, 256 of them by default, and the one in hand. [`Commit::EachBatch`] makes it one. So a handler has to
//! bear that a record comes again. Order holds within a partition.
//!
//! # Failures
//!
//! A handler answers `Ok(())` or a [`HandlerError`], and `?` turns any error into one. A panic is a failure too. By
//! default the first failure ends the run with [`Error::Handler`]; nothing of the batch is committed, and the next call
//! hands it over first. A handler that knows how far it came says so, and what stands before is committed:
//! [`HandlerError::at`], or [`Batch::each`], which does it by itself.
//!
//! ```
//! use kafka_envelope::{Batch, HandlerError};
//!
//! fn handle(batch: &Batch<u32>) -> Result<(), HandlerError> {
//!     batch.each(|record| if record.payload < 100 { Ok(()) } else { Err("too many".into()) })
//! }
//! # let records = kafka_envelope::testing::Records::new("orders").push("a", &1).push("b", &100);
//! # assert_eq!(handle(&records.batch()?).err().and_then(|error| error.index()), Some(1));
//! # Ok::<(), kafka_envelope::Error>(())
//! ```
//!
//! A record that is no envelope, or whose payload does not fit the type, is [`Error::Undecodable`]: it names topic,
//! partition, offset and key, the rule that failed and where, and shows a short excerpt of the payload at most.
//! [`Error::is_retriable`] says whether the same call may succeed later, [`Error::is_fatal`] whether a new client has
//! to be built.
//!
//! **Policies** let the run go on. [`ConsumerBuilder::on_error`] takes an [`OnError`]: how often a batch that failed is
//! handed over again, and what then becomes of it. [`ConsumerBuilder::on_undecodable`] takes an [`OnUndecodable`], for
//! records that cannot be read; those are not tried again.
//!
//! - Attempts are counted for each record; [`Batch::attempt`] tells the handler. Batches come again from memory, after
//!   the pauses of a [`Backoff`].
//! - A failure with an index is one of the record at the index. A failure without counts for every record that was
//!   handed over, so after the last attempt all of them are given up; with [`OnError::bisect`] the batch is halved
//!   instead, until only records are given up that failed alone.
//! - [`GiveUp::Skip`] logs the record and commits it. [`GiveUp::DeadLetter`] writes it to the topic's name with `-dlt`
//!   after it, or to [`ConsumerBuilder::dead_letter_topic`], and commits it once that is acknowledged. [`Summary`] and
//!   [`Done`] count both.
//!
//! ```
//! use std::time::Duration;
//!
//! use kafka_envelope::testing::EmbeddedBroker;
//! use kafka_envelope::{Backoff, Batch, Consumer, GiveUp, Message, OnError, OnUndecodable, Producer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = EmbeddedBroker::start()?;
//! let brokers = broker.bootstrap_servers();
//! broker.create_topic("orders", 1)?;
//! broker.create_topic("orders-dlt", 1)?;
//! let orders: Vec<_> = [3, 0, 5].map(Message::new).into();
//! Producer::new("shop", brokers)?.produce_batch("orders", &orders)?;
//!
//! let backoff = Backoff { first: Duration::from_millis(10), attempts: 3, ..Backoff::default() };
//! let mut consumer = Consumer::builder("billing", brokers, "billing-group")
//!     .topics(["orders"])
//!     .on_error(OnError::retry(backoff).then(GiveUp::DeadLetter).bisect(true))
//!     .on_undecodable(OnUndecodable::DeadLetter)
//!     .build()?;
//! let (stopper, mut total) = (consumer.stopper(), 0);
//! let summary = consumer.run(|batch: &Batch<u32>| {
//!     if batch.iter().any(|order| order.payload == 0) {
//!         return Err("an order of nothing".into()); // does not say which: the batch is halved
//!     }
//!     total += batch.iter().map(|order| order.payload).sum::<u32>();
//!     if total == 8 {
//!         stopper.stop();
//!     }
//!     Ok(())
//! })?;
//! assert_eq!((summary.records, summary.dead_lettered), (3, 1));
//! # Ok(())
//! # }
//! ```
//!
//! A dead letter has its record's key, value and headers. Added are the headers of Spring Kafka's dead letters
//! (`kafka_dlt-original-topic`, `kafka_dlt-exception-message` and others), and `kafka_dlt-attempts`.
//! The example `retry_and_dead_letter` shows all of it.
//!
//! # Async
//!
//! With the feature `tokio`, `Consumer::run_async` takes an async handler and `Consumer::run_async_until` a future that
//! shuts it down; failures, policies and commits are those of [`Consumer::run`]. A run whose future is dropped commits
//! nothing of its batch. `Producer::produce_async` and `Producer::produce_batch_async` wait without blocking the
//! thread; a [`Pending`] is a future on any executor, without the feature. [`Consumer::close`] blocks, and so does
//! dropping a consumer: give them a thread with `tokio::task::spawn_blocking`. A handler whose run is spawned is an
//! `async move` closure.
//!
//! # Exactly once
//!
//! [`Consumer::run_exactly_once`] hands the handler a batch and an [`Outbox`]. What [`Outbox::send`] took and the
//! offsets of the batch are committed in one transaction of a [`TransactionalProducer`], or neither is. Each process
//! needs a transactional id of its own, and the same when it starts again. Readers of the outputs, and the consumer
//! itself, read with `isolation.level=read_committed`, librdkafka's default. The handler may be called again for a batch whose
//! transaction was aborted, so what it does outside of the outbox is done at least once; so are dead letters. Where
//! [`HandlerError::at`] says that records are done, they are handed over again, because their outputs went with the
//! rest.
//!
//! # Health
//!
//! [`Consumer::health`] gives a [`Health`] that any thread can ask while the consumer runs, for a probe or a metric.
//! [`Health::is_healthy`] sums up; [`Health::stalls`] names partitions that have a backlog and made no progress for
//! [`stall_timeout`](ConsumerBuilder::stall_timeout), and why; [`Health::handler_overdue`] tells of a handler that
//! works on one batch for longer than [`handler_timeout`](ConsumerBuilder::handler_timeout), where that is set; then
//! the consumer stops polling, so that the group goes on without it. [`Health::resets`] lists records that the log no
//! longer had when they should have been read. [`max_window`](ConsumerBuilder::max_window) bounds how far a partition
//! is read beyond a record that hangs.
//!
//! With the feature `metrics`, consumers and producers tell an exporter of records, batches, handlers, commits, lag and
//! bytes. See the module `metrics`.
//!
//! # Producing
//!
//! [`Producer::produce`] and [`Producer::produce_batch`] wait for the acknowledgement of every in-sync replica;
//! [`Producer::send`] does not, and its [`Pending`] tells later. An error says record by record what was not
//! acknowledged, and which of those may stand in the log all the same ([`Error::NotDelivered`]). What is too large is
//! refused before anything of its batch is sent, or skipped and reported ([`Oversize`]). See [`producer`].
//!
//! # Lineage
//!
//! [`Message::caused_by`] notes the messages that a message was made from, each with its own history. A reader sees it
//! as [`Received::history`]: a [`History`] is kept as the text that it was, and opened one [`Stage`] at a time.
//! [`stage_latencies`] tells how long each service on the way took. See [`envelope`] for the format and its limits.
//!
//! # Tracing
//!
//! The headers `traceparent` and `tracestate` of W3C Trace Context go from a message to those that are
//! [made from it](Message::caused_by), whatever the features: a service that does not trace does not break a trace.
//! Nothing is added to messages that are made from none.
//!
//! With the feature `otel` the crate makes spans by OpenTelemetry's
//! [conventions for messaging](https://opentelemetry.io/docs/specs/semconv/messaging/kafka/), with the global tracer
//! provider that is set when a client is built. It has to be one of the same version of `opentelemetry`, 0.33.
//!
//! | span | kind | from, to | parent |
//! |---|---|---|---|
//! | `send <topic>` | producer; client where it sends only messages that keep a context of their own | the call, the last acknowledgement of its messages | the current span; else what caused the messages, where that is one trace |
//! | `poll <topic>` | client | the wait for a batch, its hand-over | the current span |
//! | `process <topic>` | consumer | an attempt to handle a batch | the current span; else what sent the first message, where all are of one trace; else it is a trace of its own |
//! | `commit <topic>` | client | the request, its answer | the attempt; of several batches none, with a link to each of the first 256 |
//!
//! - `process` is the current span while the handler runs, async handlers included, so what a handler sends or traces is
//!   its child. It has a link to each message of the batch that carries a context; an SDK keeps 128 links unless told
//!   otherwise (`max_links_per_span`). Apps have one for each handler and pipeline of a record, stream workers one for each
//!   call of an agent; what commits their records is no part of these.
//! - What is sent carries the context of its `send` span. Without a tracer provider it carries that of the current span,
//!   else that of what caused it. A `traceparent` that the message [is given](Message::header) stays, and so does that of a
//!   message sent outside of any span together with messages of other traces. What goes through an [`Outbox`] carries that
//!   of `process`.
//! - Failures set the status and `error.type`: `handler`, `undecodable`, the broker's own word for it, as
//!   `UNKNOWN_TOPIC_OR_PARTITION`, or the kind of [`Error`] as one word. The text of a handler's error stands in the
//!   status; of a record that cannot be read nothing does.
//! - A `traceparent` that is none is as if it were not there.
//!
//! ```
//! # #[cfg(feature = "otel")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use kafka_envelope::testing::EmbeddedBroker;
//! use kafka_envelope::{Message, Producer};
//! use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
//!
//! // A service has an exporter of `opentelemetry-otlp` in its place, and a batch of spans at a time.
//! let exporter = InMemorySpanExporter::default();
//! let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
//! opentelemetry::global::set_tracer_provider(provider);
//!
//! // Only now: clients trace with the provider that was set before.
//! # let broker = EmbeddedBroker::start()?;
//! # broker.create_topic("orders", 1)?;
//! # let brokers = broker.bootstrap_servers();
//! let producer = Producer::new("shop", brokers)?;
//! producer.produce("orders", &Message::new("apples"))?;
//! assert_eq!(exporter.get_finished_spans()?[0].name, "send orders");
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "otel"))]
//! # fn main() {}
//! ```
//!
//! # Settings
//!
//! Any property of librdkafka: this crate's defaults stand lowest, above them a properties file, the environment and
//! the builder's map. What cannot work is an error before anything connects. See [`settings`].
//!
//! # A loop of your own
//!
//! Seeking, pausing, manual assignment: [`low_level`] makes plain rdkafka clients with this crate's defaults, and
//! packs, unpacks and sends for them.
//!
//! # Exports
//!
//! With the feature `export`, filters that arrive on a topic say which fields of which messages go into a sink. See the
//! module `export`.
//!
//! # Event apps
//!
//! With the feature `app`, a service registers handlers by an event's name, chains transactions, and asks other services
//! through Kafka. See the module `app`.
//!
//! # Stream workers
//!
//! With the feature `stream`, a worker passes a topic's messages through a chain of agents, which gather them in batches
//! and send them to Kafka, Redis or a sink of one's own. See the module `stream`.
//!
//! # Testing
//!
//! [`testing::Records`] makes a batch for a handler without any broker. [`testing::EmbeddedBroker`] is a broker for the
//! tests of a whole service, and can be made slow, failing or absent. See [`testing`].
//!
//! # Features
//!
//! None is on by default.
//!
//! | feature | brings |
//! |---|---|
//! | `signal` | `Consumer::stop_on_signals`, and with `tokio` `shutdown_signal`: SIGINT and SIGTERM |
//! | `tokio` | `Consumer::run_async`, `Producer::produce_async` and `produce_batch_async`; needs tokio's time driver |
//! | `app` | the module `app`: handlers by event, pipelines, request and response; with it `signal` and `tokio` |
//! | `stream` | the module `stream`: workers that pass messages through agents to sinks; with it `signal` and `tokio` |
//! | `cli` | the program `kafka-envelope`: messages made, shown, traced and put back from a terminal |
//! | `redis` | `app::RedisCache`: responses reach the replica that waits for them; `stream::RedisSink` |
//! | `export` | the module `export`: filters, and clients that export what they say; numbers of untyped payloads then keep their text |
//! | `metrics` | the module `metrics`: what consumers and producers do, through the facade of that name |
//! | `otel` | spans of what is sent, handled and committed, to OpenTelemetry's global tracer provider |
//! | `ssl` | TLS, SCRAM and OAUTHBEARER, with the system's OpenSSL |
//! | `sasl` | Kerberos (GSSAPI), with the system's Cyrus SASL |
//! | `zstd` | zstd compression; gzip, lz4 and snappy are always there |
//!
//! How librdkafka is built (`cmake-build`, `dynamic-linking`) the final binary chooses: Cargo unifies features, so it
//! names `rdkafka` with them in its own `Cargo.toml`.
//!
//! Logging goes to the [`log`](https://docs.rs/log) crate; librdkafka's own lines have the target `librdkafka`.

#[cfg(feature = "app")]
pub mod app;
mod bootstrap;
mod client;
mod consumer;
pub mod envelope;
mod error;
#[cfg(feature = "export")]
pub mod export;
mod fault;
mod heap;
pub mod low_level;
mod message;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
#[path = "metrics/off.rs"]
mod metrics;
mod native;
mod otel;
pub mod producer;
#[cfg(any(feature = "app", feature = "export", feature = "stream"))]
mod python;
#[cfg(all(feature = "redis", any(feature = "app", feature = "stream")))]
mod redis;
mod refusal;
pub mod settings;
#[cfg(feature = "signal")]
mod signal;
#[cfg(feature = "stream")]
pub mod stream;
mod sync;
pub mod testing;
mod trace_context;
mod transaction;

pub use consumer::{
    Backoff, Commit, Consumer, ConsumerBuilder, Done, GiveUp, Health, OffsetReset, OnError, OnUndecodable, Stall,
    StallCause, Stopper, Summary,
};
#[doc(inline)]
pub use envelope::{BatchRef, Envelope, History, Latencies, Ref, Stage, pack, pack_into, stage_latencies, unpack};
pub use error::{Error, HandlerError, Result, TransactionOutcome};
pub use message::{Batch, Cause, Headers, Message, Oversize, RawBatch, Received, TimestampType};
#[doc(inline)]
pub use producer::{Delivery, Pending, Producer, ProducerBuilder, Report};
pub use rdkafka;
pub use refusal::{Refusal, RefusalKind};
#[cfg(all(feature = "signal", feature = "tokio"))]
pub use signal::shutdown_signal;
pub use transaction::{Outbox, TransactionalProducer, TransactionalProducerBuilder};

/// The README's programs, compiled and, where they need no broker, run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
