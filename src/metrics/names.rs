//! The names of all metrics and attributes.
//!
//! An exporter for Prometheus writes `_` for `.`, and with its recommended naming the unit and `_total` behind:
//! `messaging_process_duration_seconds`, `messaging_client_consumed_messages_total`.

use ::metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Records that were read, by topic and partition. OpenTelemetry's.
pub const CONSUMED: &str = "messaging.client.consumed.messages";
/// How long a commit took, or a call that sends and waits: see [`OPERATION`]. OpenTelemetry's.
pub const OPERATION_DURATION: &str = "messaging.client.operation.duration";
/// How long a handler worked on what it was handed, with the decoding of a batch. OpenTelemetry's.
pub const PROCESS_DURATION: &str = "messaging.process.duration";
/// How many records, or an agent's elements, were handed over at once.
pub const BATCH_SIZE: &str = "messaging.process.batch.size";
/// Records that are done, by topic: tombstones too, but none that was given up.
pub const HANDLED: &str = "messaging.process.handled.messages";
/// Records that an attempt failed on, by topic and [`ERROR_TYPE`]: `handler` or `undecodable`. Elements, where an agent failed.
pub const FAILED: &str = "messaging.process.failed.messages";
/// Records that are handed over again after a failure, by topic. Elements, where an agent is called again.
pub const RETRIED: &str = "messaging.process.retried.messages";
/// Records that became dead letters, by topic.
pub const DEAD_LETTERED: &str = "messaging.process.dead_lettered.messages";
/// Records that were given up without a dead letter, by topic. In an event app also those that middleware rejects or that
/// say of no event.
pub const SKIPPED: &str = "messaging.process.skipped.messages";
/// Commits that failed. They are sent again.
pub const FAILED_COMMITS: &str = "messaging.client.failed.commits";
/// Changes of the assignment, by [`REBALANCE`].
pub const REBALANCES: &str = "messaging.client.rebalances";
/// Offsets between what is committed and the log's end, by topic and partition. 0 for a partition that went away.
pub const LAG: &str = "messaging.consumer.lag";
/// Partitions that have a backlog and make no progress: see [`Health::stalls`](crate::Health::stalls).
pub const STALLED: &str = "messaging.consumer.stalled.partitions";
/// Consumers that are not [healthy](crate::Health::is_healthy).
pub const UNHEALTHY: &str = "messaging.consumer.unhealthy";
/// Records with a delivery report, by topic; with [`ERROR_TYPE`] those that were not acknowledged. OpenTelemetry's.
pub const SENT: &str = "messaging.client.sent.messages";
/// Records that were handed to the client and have no delivery report yet.
pub const IN_FLIGHT: &str = "messaging.client.in_flight.messages";
/// Bytes sent to brokers, of a consumer too.
pub const SENT_BYTES: &str = "messaging.client.sent.bytes";
/// Bytes received from brokers, of a producer too.
pub const RECEIVED_BYTES: &str = "messaging.client.received.bytes";

/// Attribute: `kafka`.
pub const SYSTEM: &str = "messaging.system";
/// Attribute: `poll`, `process`, `commit` or `send`.
pub const OPERATION: &str = "messaging.operation.name";
/// Attribute of [`OPERATION_DURATION`]: `settle` or `send`, OpenTelemetry's names of these for any system.
pub const OPERATION_TYPE: &str = "messaging.operation.type";
/// Attribute: the `client.id`, which is the service's name unless it is set.
pub const CLIENT: &str = "messaging.client.id";
/// Attribute: the consumer's group.
pub const GROUP: &str = "messaging.consumer.group.name";
/// Attribute: the topic.
pub const TOPIC: &str = "messaging.destination.name";
/// Attribute: the partition's number.
pub const PARTITION: &str = "messaging.destination.partition.id";
/// Attribute of what failed: `handler`; `undecodable`; the broker's word for it, as `NOT_COORDINATOR`; `setting`, `encode`,
/// `limit`, `oversize` or `refused` for the [`Error`](crate::Error) of that name; else `_OTHER`. Spans say the same.
pub const ERROR_TYPE: &str = "error.type";
/// Attribute: `assigned`, `revoked`, or `lost` where the group went on without this member.
pub const REBALANCE: &str = "messaging.kafka.rebalance.type";
/// Attribute: the name of a stream worker's agent.
pub const AGENT: &str = "messaging.process.agent.name";

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often which values came.
    Histogram,
}

/// A metric of this crate.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Of what its values are numbers.
    pub unit: Unit,
    /// What it tells.
    pub text: &'static str,
}

/// All metrics of this crate.
pub const ALL: &[Metric] = &[
    counter(CONSUMED, Unit::Count, "Records read"),
    histogram(OPERATION_DURATION, Unit::Seconds, "Time of a commit, or of a call that sends and waits"),
    histogram(PROCESS_DURATION, Unit::Seconds, "Time of a handler"),
    histogram(BATCH_SIZE, Unit::Count, "Records handed over at once"),
    counter(HANDLED, Unit::Count, "Records done"),
    counter(FAILED, Unit::Count, "Records that an attempt failed on"),
    counter(RETRIED, Unit::Count, "Records handed over again after a failure"),
    counter(DEAD_LETTERED, Unit::Count, "Records that became dead letters"),
    counter(SKIPPED, Unit::Count, "Records given up without a dead letter"),
    counter(FAILED_COMMITS, Unit::Count, "Commits that failed and are sent again"),
    counter(REBALANCES, Unit::Count, "Changes of the assignment"),
    gauge(LAG, "Offsets between what is committed and the log's end"),
    gauge(STALLED, "Partitions with a backlog that make no progress"),
    gauge(UNHEALTHY, "Consumers that are not healthy"),
    counter(SENT, Unit::Count, "Records with a delivery report, good or bad"),
    gauge(IN_FLIGHT, "Records without a delivery report"),
    counter(SENT_BYTES, Unit::Bytes, "Bytes sent to brokers"),
    counter(RECEIVED_BYTES, Unit::Bytes, "Bytes received from brokers"),
];

const fn counter(name: &'static str, unit: Unit, text: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, unit, text }
}

const fn gauge(name: &'static str, text: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, unit: Unit::Count, text }
}

const fn histogram(name: &'static str, unit: Unit, text: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, unit, text }
}

/// Tells the exporter of units and texts. For each client again: the first may have come before the exporter, and a name
/// has its unit from here.
pub(super) fn describe() {
    for Metric { name, kind, unit, text } in ALL {
        match kind {
            Kind::Counter => describe_counter!(*name, *unit, *text),
            Kind::Gauge => describe_gauge!(*name, *unit, *text),
            Kind::Histogram => describe_histogram!(*name, *unit, *text),
        }
    }
}

/// The Python library's names for the time of handlers and the number of their messages.
pub(super) fn python(service: &str) -> (String, String) {
    // As exporters write them, and as the library's own can only be written.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let plain: String = service.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    let start = if plain.starts_with(|c: char| c.is_ascii_digit()) { "_" } else { "" };
    (format!("{start}{plain}_kafka_process_seconds"), format!("{start}{plain}_kafka_process_count"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_written_alike_and_each_stands_once() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for name in names {
            assert!(name.starts_with("messaging.") && name.chars().all(|c| c.is_ascii_lowercase() || "._".contains(c)));
        }
    }

    #[test]
    fn pythons_names_are_ones_that_prometheus_takes() {
        let names = |service| python(service);
        assert_eq!(names("billing"), ("billing_kafka_process_seconds".into(), "billing_kafka_process_count".into()));
        assert_eq!(names("my-billing.v2").0, "my_billing_v2_kafka_process_seconds");
        assert_eq!(names("2fast").1, "_2fast_kafka_process_count");
        assert_eq!(names("münze").0, "m_nze_kafka_process_seconds");
    }
}
