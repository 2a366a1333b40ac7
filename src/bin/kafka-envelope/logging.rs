//! What the clients and this crate log, on standard error.

use std::sync::atomic::{AtomicU64, Ordering};

use log::{LevelFilter, Log, Metadata, Record};

use crate::failure;

/// Who names the records that a consumer skips.
const SKIPPED: &str = "kafka_envelope::consumer::dead_letters";

static COUNT: AtomicU64 = AtomicU64::new(0);

/// How many records consumers have skipped.
pub(crate) fn skipped() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// `RUST_LOG` stands above what `-v` says. Records that a consumer skips are named in any case.
pub(crate) fn to_stderr(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Off,
        1 => LevelFilter::Warn,
        _ => LevelFilter::Debug,
    };
    let inner = env_logger::Builder::new().filter_level(level).parse_default_env().build();
    let filter = inner.filter().max(LevelFilter::Error);
    if log::set_boxed_logger(Box::new(Logger(inner))).is_ok() {
        log::set_max_level(filter);
    }
}

struct Logger(env_logger::Logger);

fn names_a_skipped(metadata: &Metadata<'_>) -> bool {
    metadata.target() == SKIPPED && metadata.level() == log::Level::Error
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        names_a_skipped(metadata) || self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if names_a_skipped(record.metadata()) {
            COUNT.fetch_add(1, Ordering::Relaxed);
            failure::warn(record.args());
        } else {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}
