//! What librdkafka says of itself every few seconds, as JSON: of that, what becomes metrics.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

use ::metrics::{Counter, Label, counter};
use serde::Deserialize;

use crate::metrics::names::{RECEIVED_BYTES, SENT_BYTES};
use crate::sync::lock;

/// What one client has said.
pub(crate) struct Statistics {
    sent: Counter,
    received: Counter,
    has_partitions: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// So far, of this client.
    sent: u64,
    received: u64,
    /// Until somebody takes them.
    partitions: Vec<PartitionStatistics>,
}

/// What is known of a partition's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionStatistics {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// The log's start, where that is known.
    low: Option<i64>,
    high: Option<i64>,
    /// The end for those who read committed records.
    stable: Option<i64>,
    committed: Option<i64>,
    /// From where it is fetched on.
    next: Option<i64>,
    /// Records that were fetched wait to be taken.
    has_fetched: bool,
}

impl PartitionStatistics {
    /// How many offsets stand between what is committed and the log's end. `own`: what is committed, as far as its reader
    /// knows. Where nothing is, it starts at the log's end or at its start. None: the log's end is not known.
    pub(crate) fn lag(
        &self,
        own: Option<i64>,
        committed_only: bool,
        starts_at_end: bool,
        is_open: bool,
    ) -> Option<u64> {
        let end = if committed_only { self.stable } else { self.high }?;
        // What stands at the end of a log may be no record, and is never handled.
        if !is_open && !self.has_fetched && self.next.is_some_and(|next| next >= end) {
            return Some(0);
        }
        let from = own.or(self.committed).or(if starts_at_end { Some(end) } else { self.low })?;
        Some(u64::try_from(end - from).unwrap_or(0))
    }
}

#[derive(Deserialize)]
struct Totals {
    tx_bytes: u64,
    rx_bytes: u64,
}

#[derive(Deserialize)]
struct Whole {
    tx_bytes: u64,
    rx_bytes: u64,
    topics: BTreeMap<String, Topic>,
}

#[derive(Deserialize)]
struct Topic {
    partitions: BTreeMap<String, Partition>,
}

#[derive(Deserialize)]
struct Partition {
    partition: i32,
    desired: bool,
    fetchq_cnt: i64,
    next_offset: i64,
    committed_offset: i64,
    lo_offset: i64,
    hi_offset: i64,
    ls_offset: i64,
}

impl Statistics {
    pub(super) fn new(labels: &[Label], has_partitions: bool) -> Self {
        let of = |name: &'static str| counter!(name, labels.to_vec());
        Self { sent: of(SENT_BYTES), received: of(RECEIVED_BYTES), has_partitions, state: Mutex::default() }
    }

    /// In librdkafka's own callback.
    pub(crate) fn hear(&self, json: &[u8]) {
        let heard = match self.has_partitions {
            true => serde_json::from_slice(json)
                .map(|Whole { tx_bytes, rx_bytes, topics }| (tx_bytes, rx_bytes, partitions(topics))),
            false => serde_json::from_slice(json).map(|Totals { tx_bytes, rx_bytes }| (tx_bytes, rx_bytes, Vec::new())),
        };
        let (sent, received, partitions) = match heard {
            Ok(heard) => heard,
            Err(error) => return log::debug!("librdkafka's statistics cannot be read: {error}"),
        };
        let mut state = self.lock();
        self.sent.increment(sent.saturating_sub(state.sent));
        self.received.increment(received.saturating_sub(state.received));
        *state = State { sent, received, partitions };
    }

    /// The partitions, once.
    pub(crate) fn take(&self) -> Vec<PartitionStatistics> {
        std::mem::take(&mut self.lock().partitions)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Those that are read.
fn partitions(topics: BTreeMap<String, Topic>) -> Vec<PartitionStatistics> {
    let known = |offset: i64| (offset >= 0).then_some(offset);
    let mut all = Vec::new();
    for (topic, Topic { partitions }) in topics {
        for partition in partitions.into_values().filter(|partition| partition.desired) {
            all.push(PartitionStatistics {
                topic: topic.clone(),
                partition: partition.partition,
                low: known(partition.lo_offset),
                high: known(partition.hi_offset),
                stable: known(partition.ls_offset),
                committed: known(partition.committed_offset),
                next: known(partition.next_offset),
                has_fetched: partition.fetchq_cnt > 0,
            });
        }
    }
    all
}

impl Default for Statistics {
    fn default() -> Self {
        let (sent, received) = (Counter::noop(), Counter::noop());
        Self { sent, received, has_partitions: false, state: Mutex::default() }
    }
}

impl fmt::Debug for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statistics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{ "name": "billing#consumer-1", "client_id": "billing", "type": "consumer", "brokers":{ },
        "topics":{ "orders": { "topic":"orders", "age":7, "partitions":{
            "0": { "partition":0, "desired":true, "unknown":false, "fetchq_cnt":3, "fetch_state":"active",
                "next_offset":90, "committed_offset":40, "lo_offset":10, "hi_offset":100, "ls_offset":95 },
            "1": { "partition":1, "desired":true, "unknown":false, "fetchq_cnt":0, "fetch_state":"active",
                "next_offset":-1001, "committed_offset":-1001, "lo_offset":-1001, "hi_offset":-1001, "ls_offset":-1001 },
            "-1": { "partition":-1, "desired":false, "unknown":false, "fetchq_cnt":0, "fetch_state":"none",
                "next_offset":-1001, "committed_offset":-1001, "lo_offset":-1001, "hi_offset":-1001, "ls_offset":-1001 } } } },
        "cgrp": { "state": "up" }, "tx":1, "tx_bytes":500, "rx":1, "rx_bytes":7000, "txmsgs":0 }"#;

    fn heard() -> Vec<PartitionStatistics> {
        let statistics = Statistics { has_partitions: true, ..Statistics::default() };
        statistics.hear(JSON.as_bytes());
        let state = statistics.lock();
        assert_eq!((state.sent, state.received), (500, 7000));
        drop(state);
        let partitions = statistics.take();
        assert!(statistics.take().is_empty());
        partitions
    }

    #[test]
    fn partitions_that_are_read_have_a_lag_once_their_end_is_known() {
        let partitions = heard();
        assert_eq!(partitions.iter().map(|partition| partition.partition).collect::<Vec<_>>(), [0, 1]);
        let lag = |own, committed_only| partitions[0].lag(own, committed_only, false, true);
        assert_eq!(lag(None, false), Some(60));
        assert_eq!(lag(None, true), Some(55));
        assert_eq!(lag(Some(70), true), Some(25), "what the reader knows is newer");
        assert_eq!(lag(Some(120), true), Some(0), "the log was made anew");
        assert_eq!(partitions[1].lag(Some(7), true, false, true), None);
    }

    #[test]
    fn where_nothing_is_committed_the_start_decides() {
        let mut partition = heard().remove(0);
        partition.committed = None;
        assert_eq!(partition.lag(None, true, false, true), Some(85));
        assert_eq!(partition.lag(None, true, true, true), Some(0));
    }

    /// A transaction's end is an offset that no record has.
    #[test]
    fn what_is_no_record_is_no_lag() {
        let mut partition = heard().remove(0);
        (partition.next, partition.has_fetched) = (Some(95), false);
        assert_eq!(partition.lag(Some(94), true, false, false), Some(0));
        assert_eq!(partition.lag(Some(94), true, false, true), Some(1), "a record is not done");
        partition.has_fetched = true;
        assert_eq!(partition.lag(Some(94), true, false, false), Some(1), "it may be one");
    }

    #[test]
    fn a_text_that_cannot_be_read_changes_nothing() {
        let statistics = Statistics::default();
        statistics.hear(b"{");
        assert_eq!(statistics.lock().sent, 0);
    }
}
