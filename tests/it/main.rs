//! Integration tests, on the Apache Kafka that `scripts/test.sh` gets.
#![allow(clippy::unwrap_used, missing_docs)]

mod broker;
mod envelope;
mod fuzz_bodies;
mod support;
mod worker;
