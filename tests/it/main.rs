//! Integration tests, on the Apache Kafka that `scripts/test.sh` gets.
#![allow(clippy::unwrap_used, missing_docs)]

#[cfg(feature = "app")]
mod app_bounds;
#[cfg(feature = "app")]
mod app_commits;
#[cfg(feature = "app")]
mod app_connector;
#[cfg(feature = "app")]
mod app_dispatch;
#[cfg(feature = "app")]
mod app_emit;
#[cfg(feature = "app")]
mod app_pipelines;
#[cfg(feature = "app")]
mod app_rebalance;
#[cfg(all(feature = "app", feature = "redis"))]
mod app_redis;
#[cfg(feature = "app")]
mod app_responses;
mod batches;
mod bootstrap;
mod bounds;
mod broker;
#[cfg(feature = "cli")]
mod cli_consume;
#[cfg(feature = "cli")]
mod cli_consume_gaps;
#[cfg(feature = "cli")]
mod cli_dlt;
#[cfg(feature = "cli")]
mod cli_freezes;
#[cfg(feature = "cli")]
mod cli_generate;
#[cfg(feature = "cli")]
mod cli_lag;
#[cfg(feature = "cli")]
mod cli_listen;
#[cfg(feature = "cli")]
mod cli_produce;
#[cfg(feature = "cli")]
mod cli_shell;
#[cfg(feature = "cli")]
mod cli_topics;
#[cfg(feature = "cli")]
mod cli_trace;
mod commit;
mod commit_errors;
mod crash;
mod envelope;
mod exactly_once;
mod examples;
mod examples_on_kafka;
#[cfg(feature = "export")]
mod export_data;
#[cfg(feature = "export")]
mod export_filters;
#[cfg(feature = "export")]
mod export_sources;
#[cfg(feature = "export")]
mod export_sqlite;
#[cfg(feature = "export")]
mod export_worker;
mod failures;
mod fault_table;
mod fuzz_bodies;
mod group;
mod leader_epochs;
mod low_level;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(all(feature = "metrics", feature = "signal"))]
mod metrics_dashboards;
#[cfg(feature = "metrics")]
mod metrics_engines;
mod offset_resets;
#[cfg(feature = "otel")]
mod otel;
#[cfg(all(feature = "otel", feature = "app"))]
mod otel_app;
#[cfg(feature = "otel")]
mod otel_errors;
#[cfg(all(feature = "otel", feature = "export"))]
mod otel_export;
#[cfg(all(feature = "otel", feature = "app", feature = "stream"))]
mod otel_stream;
mod policies;
mod producer;
#[cfg(feature = "tokio")]
mod producer_async;
mod rebalance;
mod renewal;
#[cfg(feature = "tokio")]
mod run_async;
#[cfg(all(feature = "sasl", feature = "ssl"))]
mod security;
#[cfg(all(feature = "cli", feature = "sasl", feature = "ssl"))]
mod security_cli;
#[cfg(all(feature = "sasl", feature = "ssl"))]
mod security_rights;
mod stalls;
mod stop;
#[cfg(feature = "stream")]
mod stream_chains;
#[cfg(feature = "stream")]
mod stream_edges;
#[cfg(feature = "stream")]
mod stream_faults;
#[cfg(feature = "stream")]
mod stream_kills;
#[cfg(feature = "stream")]
mod stream_memory;
#[cfg(feature = "stream")]
mod stream_outages;
#[cfg(feature = "stream")]
mod stream_policies;
#[cfg(feature = "stream")]
mod stream_rebalance;
#[cfg(all(feature = "stream", feature = "redis"))]
mod stream_sinks;
#[cfg(feature = "stream")]
mod stream_stages;
#[cfg(feature = "stream")]
mod stream_start;
#[cfg(feature = "stream")]
mod stream_vectors;
mod support;
mod topics;
mod trace_headers;
mod window;
mod worker;
