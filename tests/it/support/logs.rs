//! What is logged, kept for tests that ask for it.

use std::sync::{Mutex, MutexGuard, OnceLock};

use log::{LevelFilter, Log, Metadata, Record};

/// Target and line.
struct Lines(Mutex<Vec<(String, String)>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl Lines {
    fn get(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        ["kafka_envelope", "librdkafka", "rdkafka"].iter().any(|target| metadata.target().starts_with(target))
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.get().push((record.target().to_owned(), format!("{} {}", record.level(), record.args())));
        }
    }

    fn flush(&self) {}
}

/// From now on lines are kept. They are those of the whole process: a topic's name tells a test's own.
pub(crate) fn keep_logs() {
    static KEPT: OnceLock<()> = OnceLock::new();
    KEPT.get_or_init(|| {
        log::set_logger(&LINES).unwrap();
        log::set_max_level(LevelFilter::Debug);
    });
}

/// This crate's lines so far that contain all of these.
pub(crate) fn logged(parts: &[&str]) -> Vec<String> {
    let lines = LINES.get();
    let own = lines.iter().filter(|(target, _)| target.starts_with("kafka_envelope")).map(|(_, line)| line);
    own.filter(|line| parts.iter().all(|part| line.contains(part))).cloned().collect()
}

/// The same of librdkafka's and rdkafka's lines, too.
pub(crate) fn logged_by_all(parts: &[&str]) -> Vec<String> {
    let lines = LINES.get();
    let all = lines.iter().map(|(_, line)| line).filter(|line| parts.iter().all(|part| line.contains(part)));
    all.cloned().collect()
}
