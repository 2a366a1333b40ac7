//! The promise under every fault of `docs/RELIABILITY.md`: no acknowledged record is lost, none is committed before it was
//! handled, and duplicates are bounded.
//!
//! A [`Scene`] is a broker, a load that is acknowledged record by record, services in processes of their own that write
//! down what they do, and somebody who looks at the committed offsets from outside. A row injects its fault and lets the
//! scene come to its end; the checker holds the log, the acknowledgements, what the services wrote and what was seen
//! against each other, and says what was lost, repeated, or committed too early.
//!
//! Each row runs in its short form here. `bash scripts/faults.sh [row] [--long]` runs the long ones, and prints a table.

mod checker;
mod checker_tests;
mod history;
mod load;
mod log_of_topic;
mod report;
mod scene;
mod service;
mod watcher;

#[cfg(all(feature = "sasl", feature = "ssl"))]
mod access;
mod clocks;
mod clusters;
mod frozen_broker;
mod full_disk;
mod handlers;
mod injected;
mod input;
mod killed_broker;
mod kills;
mod lost_answers;
mod members;
mod moved_broker;
mod network;
mod offsets;
mod producer_outages;
mod quotas;
mod soak;
mod topics;
mod transactions;
use report::Report;
use scene::{Scene, Setup};
use service::Work;
