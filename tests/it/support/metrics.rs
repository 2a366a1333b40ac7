//! What this process has measured, as Prometheus gets it.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::{PATIENCE, eventually};

/// The exporter of this process. Before anything is built that is to be measured.
pub(crate) fn exporter() -> Exporter {
    static EXPORTER: OnceLock<PrometheusHandle> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new().with_recommended_naming(true);
        builder.set_buckets(&[0.01, 0.1, 1.0, 10.0]).unwrap().install_recorder().unwrap()
    };
    Exporter(EXPORTER.get_or_init(install))
}

#[derive(Clone, Copy)]
pub(crate) struct Exporter(&'static PrometheusHandle);

impl Exporter {
    pub(crate) fn text(self) -> String {
        self.0.render()
    }

    /// The sum of all samples of this name that have all these labels. None: there is none.
    pub(crate) fn value(self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let text = self.text();
        let samples = text.lines().filter_map(Sample::parse).filter(|sample| sample.name == name);
        let values = samples.filter(|sample| labels.iter().all(|label| sample.labels.contains(label)));
        values.map(|sample| sample.value).reduce(|one, other| one + other)
    }

    /// Waits until that is this.
    #[track_caller]
    pub(crate) fn is(self, name: &str, labels: &[(&str, &str)], expected: f64) {
        eventually(PATIENCE, &format!("{name}{labels:?} is {expected}"), || {
            (self.value(name, labels) == Some(expected)).then_some(())
        });
    }

    /// Waits until it is at least this.
    #[track_caller]
    pub(crate) fn is_at_least(self, name: &str, labels: &[(&str, &str)], expected: f64) {
        eventually(PATIENCE, &format!("{name}{labels:?} is {expected} or more"), || {
            self.value(name, labels).filter(|value| *value >= expected)
        });
    }
}

/// A line of the exporter's text that is no comment.
#[derive(Debug)]
pub(crate) struct Sample<'a> {
    pub(crate) name: &'a str,
    pub(crate) labels: Vec<(&'a str, &'a str)>,
    pub(crate) value: f64,
}

impl<'a> Sample<'a> {
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        // No value of these tests has a comma in it.
        let labels = labels.strip_suffix('}')?.split(',').filter_map(|label| label.split_once('='));
        let labels = labels.map(|(name, value)| (name, value.trim_matches('"'))).collect();
        Some(Self { name, labels, value: value.parse().ok()? })
    }
}
