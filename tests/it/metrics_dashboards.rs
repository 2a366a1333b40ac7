//! The dashboard, the alerts and the README name what a service exports, and the example serves it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use kafka_envelope::metrics::names::{ALL, Kind};
use serde_json::Value;

use crate::examples::program;
use crate::support::leash::Leashed;
use crate::support::metrics::Sample;
use crate::support::{PATIENCE, eventually, unique};

/// The example while it runs, on a broker of its own.
struct Service {
    process: Leashed,
    log: PathBuf,
    address: String,
}

impl Service {
    fn start() -> Self {
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique("metrics"));
        let mut command = Command::new(program("metrics"));
        command.env_remove("RUST_LOG").env_remove("KAFKA_BOOTSTRAP_SERVERS").env("METRICS_ADDRESS", "127.0.0.1:0");
        let process = Leashed::spawn(&command, Some(fs::File::create(&log).unwrap()), None);
        let address = eventually(PATIENCE, "it says where it listens", || {
            let printed = fs::read_to_string(&log).unwrap();
            printed.lines().find_map(|line| Some(line.strip_prefix("http://")?.split_once('/')?.0.to_owned()))
        });
        Self { process, log, address }
    }

    /// Status and body.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Once all of that stands in the metrics.
    fn metrics_with(&self, parts: &[&str]) -> String {
        eventually(PATIENCE, &format!("{parts:?} are measured"), || {
            let (status, text) = self.get("/metrics");
            assert_eq!(status, 200);
            parts.iter().all(|part| text.contains(part)).then_some(text)
        })
    }

    fn stop(mut self) -> String {
        self.process.signal("INT");
        let status = self.process.wait(PATIENCE, "the example ends");
        let printed = fs::read_to_string(&self.log).unwrap();
        fs::remove_file(&self.log).unwrap();
        assert!(status.success(), "{status}\n{printed}");
        printed
    }
}

/// The words of a query that are names of this crate's metrics or attributes.
fn words(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("messaging_") || *word == "error_type")
}

/// Every `expr` of a panel and `definition` and `query` of a variable in a JSON text.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    // Of the variable that chooses a data source it is the kind of that.
                    Value::String(text)
                        if matches!(name.as_str(), "expr" | "definition" | "query") && text != "prometheus" =>
                    {
                        found.push(text.clone());
                    }
                    value => queries(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| queries(value, found)),
        _ => {}
    }
}

fn repository(path: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_example_serves_metrics_that_the_dashboard_and_the_alerts_know() {
    let service = Service::start();
    // Statistics come every 5 seconds, a dead letter after 50 orders, and a failure has a type.
    let text = service.metrics_with(&[
        "messaging_process_dead_lettered_messages_total{",
        "error_type=\"handler\"",
        "messaging_destination_name=\"orders-dlt\"",
        "billing_kafka_process_seconds_count",
        "billing_kafka_process_count_total",
    ]);
    assert_eq!(service.get("/healthz"), (200, "ok\n".into()));
    assert_eq!(service.get("/readyz"), (200, "ok\n".into()));
    assert_eq!(service.get("/else").0, 404);

    let samples: Vec<_> = text.lines().filter_map(Sample::parse).collect();
    let metrics: BTreeSet<_> = samples.iter().map(|sample| sample.name).collect();
    let labels: BTreeSet<_> = samples.iter().flat_map(|sample| &sample.labels).map(|(name, _)| *name).collect();
    let value = |name| samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum::<f64>();
    assert!(value("messaging_process_handled_messages_total") > 0.0, "{text}");

    let (mut dashboard, mut alerts) = (Vec::new(), Vec::new());
    queries(&serde_json::from_str(&repository("dashboards/grafana.json")).unwrap(), &mut dashboard);
    let rules = repository("dashboards/alerts.yml");
    alerts.extend(rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned));
    assert!(dashboard.len() > 10 && alerts.len() > 5, "{} and {}", dashboard.len(), alerts.len());
    assert_eq!(alerts.len(), rules.matches("- alert: ").count(), "each on one line");
    for query in dashboard.iter().chain(&alerts) {
        let unknown: Vec<_> = words(query).filter(|word| !metrics.contains(word) && !labels.contains(word)).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {query}: nobody exports that");
        assert!(words(query).any(|word| metrics.contains(word)), "{query} asks for no metric");
    }
    // What a rule says of labels is known, too.
    for word in words(&rules) {
        assert!(metrics.contains(word) || labels.contains(word), "{word} in the rules");
    }

    // Everything that there is is shown, and told of.
    let readme = repository("README.md");
    for metric in ALL {
        let exported = metric.name.replace('.', "_");
        let is_it = |name: &&str| name.starts_with(&*exported);
        let suffix = if metric.kind == Kind::Counter { "_total" } else { "" };
        assert!(metrics.iter().any(|name| is_it(name) && name.ends_with(suffix)), "{exported} is not exported");
        assert!(
            dashboard.iter().any(|query| words(query).any(|word| is_it(&word))),
            "{exported} is not on the dashboard"
        );
        assert!(readme.contains(&format!("`{}`", metric.name)), "{} is not in README.md", metric.name);
    }
    let printed = service.stop();
    assert!(printed.contains(" of them dead letters"), "{printed}");
}
