//! Exports: filters that arrive on a topic say which fields of which messages go into a sink, and change while it runs.
//!
//! A [`FilterClient`] keeps the filters of a topic. A [`DataClient`] reads the topics that they name, and hands over what
//! they make of the messages; an [`ExportWorker`] does so with a handler, as [`Consumer::run`](crate::Consumer::run).
//! [`Filters`] are the same without Kafka, for tests.
//!
//! ```
//! # use kafka_envelope::testing::EmbeddedBroker;
//! use std::time::Duration;
//!
//! use kafka_envelope::export::{DataClient, FilterClient, Shape};
//! # use kafka_envelope::low_level::{create_producer, produce};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = EmbeddedBroker::start()?;
//! # let brokers = broker.bootstrap_servers();
//! # broker.create_topic("filters", 1)?;
//! # broker.create_topic("readings", 1)?;
//! # let producer = create_producer(brokers, [("acks", "all")])?;
//! # let filter = r#"{"method": "put", "timestamp": 1760000000, "payload": {"id": "tank-levels", "source": "readings",
//! #     "identifiers": [{"key": "device_id", "value": "tank-1"}], "mappings": {"level:data": "value.level", "time:extra": "time"}}}"#;
//! # produce(&producer, "filters", None, Some(b"tank-levels"), filter.as_bytes())?;
//! # let message = r#"{"device_id": "tank-1", "time": "2026-01-02T03:04:05Z", "value": {"level": 3.25, "unit": "m"}}"#;
//! # produce(&producer, "readings", None, None, message.as_bytes())?;
//! let filters = FilterClient::builder("filters", brokers).start()?;
//! let mut data = DataClient::builder("exporter", brokers, &filters).extra(Shape::KeyValue).start()?;
//! # let mut stored = 0;
//! while !data.is_stopped() {
//!     // None: nothing came in time, as while the client joins its group.
//!     let Some(exports) = data.get_exports_batch(Duration::from_secs(1), 500)? else { continue };
//!     for export in &exports.results {
//!         println!("{:?}: {} {}", export.filter_ids, export.data, export.extra); // a sink
//!         # assert_eq!(export.data.to_string(), r#"{"level":3.25}"#);
//!         # stored += 1;
//!     }
//!     data.store_offsets()?;
//!     # if stored > 0 { break }
//! }
//! # assert_eq!(stored, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # A filter
//!
//! On the filter topic stands
//!
//! ```json
//! {
//!   "method": "put",
//!   "timestamp": 1760000000,
//!   "payload": {
//!     "id": "tank-levels",
//!     "source": "readings",
//!     "identifiers": [{"key": "device_id", "value": "tank-1"}],
//!     "mappings": {"level:data": "value.level", "time:extra": "time"},
//!     "args": {"table": "levels"}
//!   }
//! }
//! ```
//!
//! and from then on the message `{"device_id": "tank-1", "time": "03:04", "value": {"level": 3.25, "unit": "m"}}` becomes
//! an [`Export`] with the data `{"level": 3.25}` and the extra `{"time": "03:04"}`.
//!
//! - `id`: any text, unlike that of any other filter that is held. To change a filter, delete it first:
//!   `{"method": "delete", "payload": {"id": "tank-levels"}, "timestamp": …}`. A record without a value whose key is the
//!   id does the same, so a filter topic can be compacted. Where compaction took a delete away, because its filter was
//!   put again, that put replaces the filter which is held by a client that had read it before.
//! - `source`: the topic that the messages are on.
//! - `identifiers`: keys that a message must have at its top, each with the value that it must have, or without one. Of
//!   the key sets that filters have, a message belongs to the largest of which it has all keys; of equally large ones to
//!   that which was there first. Filters with another key set do not match it. Values are compared as text, numbers and
//!   the like as Python spells them: `True`, `None`, `5.0`, `1e+20`. A value of `null`, `""`, `0`, `false`, `[]` or `{}`
//!   is none; any other that is no text is refused.
//!   A filter with identifiers matches messages from any source.
//! - A filter without identifiers (`null`, or an empty list) matches the messages from its source that fit no key set.
//! - `mappings`: for each target, with `:data` or `:extra` behind it, the path of a value; dots lead into objects. A key
//!   that a message lacks is the error of that result ([`Export::error`]), or is left out where
//!   [`DataClientBuilder::data_ignore_missing_keys`](ExportBuilder::data_ignore_missing_keys) says so.
//! - `args`: an object for the sink's own use, see [`FilterClient::args`].
//!
//! Anything else is refused: [`Error::Filter`](crate::Error::Filter) names filter and field, it is logged with the
//! message's topic, partition, offset and key, and the filters stay as they are.
//!
//! Filters that share their mappings share their result: one [`Export`] for each message, with all their ids. Its data
//! and extra are built as [`Shape`] says.
//!
//! # Speed
//!
//! A message is looked up, not compared: filters that do not match it cost nothing but room in the processor's caches.
//! Measured with three of 10, of 1,000 and of 100,000 filters that match: 1.0, 1.07 and 1.4 of the time where filters
//! differ by the values of their identifiers, 1.0, 1.1 and 1.6 where each three have a key or mappings of their own
//! (`benches/filters.rs`), at half a kilobyte for each filter. What does cost is how differently filters leave out the
//! values of the same keys: each way is a look-up of its own.
//!
//! Readers take the filters in force without a lock, whatever is changed meanwhile.
//!
//! # Numbers
//!
//! Numbers keep their text on the way, integers beyond 64 bits too. For that the feature `export` turns on
//! `serde_json/arbitrary_precision`, for the whole program. Two things then change elsewhere: a float inside of serde's
//! `untagged`, internally tagged or `flatten`ed types cannot be read
//! ([serde_json#1157](https://github.com/serde-rs/json/issues/1157)), and reading a `serde_json::Value` takes about twice
//! as long. Types of one's own are read as before.
//!
//! # From the Python libraries
//!
//! | `ew_lib`, `mf_lib` | here |
//! |---|---|
//! | `FilterClient(kafka_consumer, filter_topic)` | [`FilterClient::builder`], which makes its own consumer |
//! | `set_on_sync(callback, sync_delay)` | [`FilterClientBuilder::on_sync`] |
//! | `set_on_put`, `set_on_delete` | [`FilterClientBuilder::on_put`], [`FilterClientBuilder::on_delete`] |
//! | `time_format`, `utc` | [`FilterClientBuilder::time_format`], [`FilterClientBuilder::utc`] |
//! | `start()`, `stop()`, `join()`, `is_alive()` | [`FilterClientBuilder::start`], [`FilterClient::stop`], [`FilterClient::join`], [`FilterClient::is_alive`] |
//! | `get_last_update()` | [`FilterClient::last_update`] |
//! | `handler.get_sources()`, `handler.get_filter_args(id)` | [`FilterClient::sources`], [`FilterClient::args`] |
//! | `FilterHandler`: `add_filter`, `delete_filter`, `get_results` | [`Filters`]: [`Filters::put`], [`Filters::delete`], [`Filters::export`] |
//! | `DataClient(kafka_consumer, filter_client)` | [`DataClient::builder`] |
//! | `subscribe_interval`, `poll_timeout`, `kafka_msg_err_ignore`, `validator` | none: changes are followed at once, errors that pass are retried, the rules above are the validator |
//! | `get_exports(…, data_builder, extra_builder)`: `dict_builder`, `string_list_builder`, `tuple_list_builder`, a function | [`ExportBuilder::data`], [`ExportBuilder::extra`]: [`Shape::Map`], [`Shape::KeyValue`], [`Shape::Pairs`], [`Shape::custom`] |
//! | `data_ignore_missing_keys`, `extra_ignore_missing_keys` | the same, of [`ExportBuilder`] |
//! | `get_exports(timeout)`, `get_exports_batch(timeout, limit)` | [`DataClient::get_exports`], [`DataClient::get_exports_batch`]; what is there is handed over at once |
//! | no results, `None` | [`Exports`] without results; `None` |
//! | `{id: data}`, `{id: [data, …]}` | [`Exports::latest_by_export_id`], [`Exports::by_export_id`] |
//! | `FilterResult(data, extra, filter_ids, ex)` | [`Export`] |
//! | `handle_offsets=True`, `store_offsets()` | [`DataClientBuilder::handle_offsets`](ExportBuilder::handle_offsets), [`DataClient::store_offsets`] |
//! | the data client's `start()`, `stop()`, `join()` | [`DataClientBuilder::start`](ExportBuilder::start), [`DataClient::stopper`], [`DataClient::close`] |
//! | `AddFilterError`, `MappingError`, `KafkaMessageError` | [`Error::Filter`](crate::Error::Filter), [`Error::Mapping`](crate::Error::Mapping), [`Error::Partition`](crate::Error::Partition) and [`Error::Kafka`](crate::Error::Kafka) |
//! | `logger` | the crate `log` |
//!
//! A callback that panics ends the filter client, where an exception was logged. `on_delete` is called after the filter is
//! gone, not before. An empty filter topic is in sync. A message that is not JSON is an error beside the other results
//! ([`Exports::errors`]), and takes none of them away. Filters that are refused leave no traces.

mod builder;
mod data_client;
mod exports;
mod fields;
mod filter;
mod filter_client;
mod filter_message;
mod filters;
mod index;
mod mapping;
mod python;
mod shape;
mod shared_map;
mod source;
mod strict;
mod timestamp;
mod worker;

pub use builder::{DataClientBuilder, ExportBuilder, ExportWorkerBuilder};
pub use data_client::DataClient;
pub use exports::{Export, Exports, Form};
pub use filter_client::{FilterClient, FilterClientBuilder};
pub use filters::Filters;
pub use shape::{CustomShape, Shape};
pub use worker::ExportWorker;
