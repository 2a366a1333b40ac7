//! Metrics, through the facade [`metrics`](https://docs.rs/metrics/0.24): whatever exporter a service installs gets them.
//!
//! Names and attributes are OpenTelemetry's for messaging, where it has one, and made in the same manner where it has none:
//! see [`names`]. Nothing has to be turned on. The exporter has to be installed before consumers and producers are built,
//! since each asks for its handles once:
//!
//! ```
//! use kafka_envelope::testing::EmbeddedBroker;
//! use kafka_envelope::{Message, Producer};
//! use metrics_exporter_prometheus::PrometheusBuilder;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let exporter = PrometheusBuilder::new()
//!     .with_recommended_naming(true) // units and `_total` in names, as the dashboard and the alerts have them
//!     .set_buckets(&[0.005, 0.025, 0.1, 0.5, 2.5, 10.0])?
//!     .install_recorder()?;
//!
//! # let broker = EmbeddedBroker::start()?;
//! # broker.create_topic("orders", 1)?;
//! # let brokers = broker.bootstrap_servers();
//! Producer::new("shop", brokers)?.produce("orders", &Message::new(3u32))?;
//! assert!(exporter.render().contains("messaging_client_sent_messages_total"));
//! # Ok(())
//! # }
//! ```
//!
//! A process may have several consumers or producers of one name: counters add up, and so do gauges. What one of them
//! adds to a gauge it takes back: the lag of a partition that went away is 0, not what it was.
//!
//! - **Lag** and **bytes** come of librdkafka's statistics, every 5 seconds. Setting `statistics.interval.ms` to something
//!   else says otherwise; with 0 there are none of these. The file `settings/metrics.properties` gives the reason.
//! - **Lag** is how many offsets stand between what is committed and the log's end; 0 where everything is read, whatever
//!   stands at the end that is no record.
//! - **`unhealthy`** is what [`Health::is_healthy`](crate::Health::is_healthy) denies, looked at every second.
//! - A record that is handed over again counts again: as consumed where it was read again, as retried where it came from
//!   memory. What an exactly-once run handles counts once its transaction is committed.
//!
//! The repository's `dashboards/` has a dashboard for Grafana and alerts for Prometheus. The example `metrics` serves
//! `/metrics`, `/healthz` and `/readyz`.

mod consumer;
mod fate;
pub mod names;
mod producer;
mod share;
mod statistics;

use std::time::{Duration, Instant};

use ::metrics::Label;

#[cfg(feature = "stream")]
pub(crate) use consumer::AgentMeter;
pub(crate) use consumer::{ConsumerMeter, PartitionMeter};
pub(crate) use fate::Fate;
pub(crate) use producer::ProducerMeter;
pub(crate) use statistics::Statistics;

/// Whether anything is measured.
pub(crate) const IS_ON: bool = true;

/// How many there are of [`Fate`].
const FATES: usize = 6;

/// What became of records one by one, to be told together.
#[cfg(any(feature = "app", feature = "export", feature = "stream"))]
#[derive(Debug, Default)]
pub(crate) struct Fates(Vec<(String, [u64; FATES])>);

#[cfg(any(feature = "app", feature = "export", feature = "stream"))]
impl Fates {
    pub(crate) fn add(&mut self, topic: &str, fate: Fate, records: usize) {
        let place = self.0.iter().position(|(known, _)| known == topic).unwrap_or_else(|| {
            self.0.push((topic.to_owned(), [0; FATES]));
            self.0.len() - 1
        });
        self.0[place].1[fate as usize] += records as u64;
    }
}

/// How long something takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timer(Instant);

impl Timer {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn took(self) -> Duration {
        self.0.elapsed()
    }
}

/// These labels and more.
fn with(labels: &[Label], more: &[(&'static str, &str)]) -> Vec<Label> {
    let more = more.iter().map(|(name, value)| Label::new(*name, (*value).to_owned()));
    labels.iter().cloned().chain(more).collect()
}
