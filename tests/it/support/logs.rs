//! What this crate logs, kept for tests that ask for it.

use std::sync::{Mutex, MutexGuard, OnceLock};

use log::{LevelFilter, Log, Metadata, Record};

struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl Lines {
    fn get(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("kafka_envelope")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.get().push(format!("{} {}", record.level(), record.args()));
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

/// The lines so far that contain all of these.
pub(crate) fn logged(parts: &[&str]) -> Vec<String> {
    LINES.get().iter().filter(|line| parts.iter().all(|part| line.contains(part))).cloned().collect()
}
