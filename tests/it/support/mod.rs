//! What the scenarios have in common: brokers, topics, worker processes, waiting.
//!
//! A test asks for [`shared_broker`] unless it kills, freezes or configures one: then it starts its own [`Broker`].
//! Nothing here skips: without a Kafka the test fails and says what to run.
// A helper is here for scenarios to come, too.
#![allow(dead_code)]

#[cfg(all(feature = "sasl", feature = "ssl"))]
pub(crate) mod acls;
#[cfg(feature = "app")]
pub(crate) mod app;
pub(crate) mod broker;
#[cfg(all(feature = "sasl", feature = "ssl"))]
pub(crate) mod certificates;
#[cfg(feature = "cli")]
pub(crate) mod cli;
pub(crate) mod cluster;
pub(crate) mod envelopes;
pub(crate) mod eventually;
#[cfg(feature = "export")]
pub(crate) mod exports;
#[cfg(feature = "cli")]
pub(crate) mod gateway;
pub(crate) mod kafka;
pub(crate) mod leash;
pub(crate) mod logs;
#[cfg(feature = "metrics")]
pub(crate) mod metrics;
pub(crate) mod names;
pub(crate) mod proxy;
mod proxy_frames;
#[cfg(all(feature = "redis", any(feature = "app", feature = "stream")))]
pub(crate) mod redis;
#[cfg(feature = "cli")]
pub(crate) mod running;
#[cfg(all(feature = "sasl", feature = "ssl"))]
pub(crate) mod secured;
pub(crate) mod small_disk;
#[cfg(feature = "stream")]
pub(crate) mod stream;
#[cfg(feature = "otel")]
pub(crate) mod traces;
pub(crate) mod worker;

#[allow(unused_imports)]
pub(crate) use self::{
    broker::{Broker, shared_broker},
    cluster::Cluster,
    envelopes::{consumer, envelope, group, produce_numbers},
    eventually::{PATIENCE, eventually},
    kafka::{
        TestTopic, committed, consume_all, create_topic, create_topic_with, delete_topic, produce_raw,
        produce_raw_batch,
    },
    logs::{keep_logs, logged, logged_by_all},
    names::unique,
    worker::{Worker, emit},
};
