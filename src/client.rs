//! What the contexts of producers and consumers share.
use rdkafka::config::RDKafkaLogLevel as Level;
use rdkafka::error::KafkaError;
pub(crate) fn log(level: Level, facility: &str, text: &str) {
    let level = match level {
        Level::Emerg | Level::Alert | Level::Critical | Level::Error => log::Level::Error,
        Level::Warning => log::Level::Warn,
        Level::Notice | Level::Info => log::Level::Info,
        Level::Debug => log::Level::Debug,
    };
    log::log!(target: "librdkafka", level, "{facility}: {text}");
}
pub(crate) fn error(error: &KafkaError, reason: &str) {
    log::error!(target: "librdkafka", "{error}: {reason}");
}
