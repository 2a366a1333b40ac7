//! librdkafka's properties: this crate's defaults, and what may stand above them.
//!
//! Later wins:
//!
//! 1. the defaults, [`consumer_defaults`] and [`producer_defaults`], with the feature `metrics` also `metrics_defaults`;
//! 2. a properties file, given to a builder's `config_file`: `key=value` lines in UTF-8, `#` begins a comment;
//! 3. the environment: `KAFKA_ENVELOPE_CONSUMER_` or `KAFKA_ENVELOPE_PRODUCER_` and the property's name in upper case,
//!    with `_` for `.`, as in `KAFKA_ENVELOPE_CONSUMER_SESSION_TIMEOUT_MS=20000`;
//! 4. the map given to a builder's `config`; of several the last.
//!
//! Two names of one property (`linger.ms`, `queue.buffering.max.ms`) count as one. With `group.protocol=consumer` the
//! defaults that only the classic protocol takes are left out.
//!
//! Everything is checked before anything connects. An [`Error::Setting`] names the property and where it was set if
//! librdkafka does not know it or does not take its value, and if the crate manages it:
//!
//! - `bootstrap.servers` and `group.id` are arguments of the constructors;
//! - `enable.auto.commit`, `enable.auto.offset.store` and `enable.partition.eof` stay false, `offset.store.method` and
//!   `delivery.report.only.error` as they are: what the crate promises hangs on them;
//! - `transactional.id` belongs to a transactional producer;
//! - `log_level` is what the [`log`](https://docs.rs/log) crate says for the target `librdkafka`.
//!
//! The value of a secret property, such as `sasl.password`, is never shown in an error, a log or a `Debug` text.
//!
//! ```
//! let defaults = kafka_envelope::settings::consumer_defaults();
//! assert_eq!(defaults["auto.offset.reset"], "earliest");
//! ```

pub(crate) mod check;
mod keys;
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use crate::error::{Error, Result};
use keys::{canonical, is_secret, shown};

const CONSUMER: &str = include_str!("../../settings/consumer.properties");
const PRODUCER: &str = include_str!("../../settings/producer.properties");
#[cfg(feature = "metrics")]
const METRICS: &str = include_str!("../../settings/metrics.properties");

/// The properties that a consumer of this crate has unless they are overridden. The file `settings/consumer.properties`
/// gives the reason beside each.
///
/// ```
/// let defaults = kafka_envelope::settings::consumer_defaults();
/// assert_eq!(defaults["enable.auto.commit"], "false");
/// ```
#[must_use]
pub fn consumer_defaults() -> BTreeMap<String, String> {
    Side::Consumer.defaults()
}

/// The properties that a producer of this crate has unless they are overridden. The file `settings/producer.properties`
/// gives the reason beside each.
///
/// ```
/// let defaults = kafka_envelope::settings::producer_defaults();
/// assert_eq!(defaults["compression.type"], "snappy");
/// ```
#[must_use]
pub fn producer_defaults() -> BTreeMap<String, String> {
    Side::Producer.defaults()
}

/// The properties that consumers and producers have beside these with the feature `metrics`, unless they are overridden.
/// The file `settings/metrics.properties` gives the reason beside each.
///
/// ```
/// let defaults = kafka_envelope::settings::metrics_defaults();
/// assert_eq!(defaults["statistics.interval.ms"], "5000");
/// ```
#[cfg(feature = "metrics")]
#[must_use]
pub fn metrics_defaults() -> BTreeMap<String, String> {
    parsed(METRICS)
}

fn parsed(text: &str) -> BTreeMap<String, String> {
    // A test holds the files to the parser.
    let entries = properties::parse(text.as_bytes()).unwrap_or_default();
    entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Consumer,
    Producer,
}

impl Side {
    fn defaults(self) -> BTreeMap<String, String> {
        parsed(match self {
            Self::Consumer => CONSUMER,
            Self::Producer => PRODUCER,
        })
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Consumer => "KAFKA_ENVELOPE_CONSUMER_",
            Self::Producer => "KAFKA_ENVELOPE_PRODUCER_",
        }
    }
}

/// Where an override was set, for errors.
#[derive(Clone)]
enum Origin<'a> {
    File(&'a Path, usize),
    Environment(String),
    Map,
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "line {line} of {}", path.display()),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Map => f.write_str("the configuration map"),
        }
    }
}

/// One override, as it was spelled.
struct Override<'a> {
    key: String,
    value: String,
    origin: Origin<'a>,
}

impl Override<'_> {
    fn refused(&self, reason: impl fmt::Display) -> Error {
        Error::setting(shown(&self.key), format!("{reason} (set in {})", self.origin))
    }
}

/// What a builder collects. Nothing is read or checked before [`Settings::resolve`].
#[derive(Clone)]
#[must_use]
pub(crate) struct Settings {
    side: Side,
    fallbacks: Vec<(&'static str, String)>,
    /// Whether the client's statistics are heard.
    is_measured: bool,
    files: Vec<PathBuf>,
    maps: Vec<Vec<(String, String)>>,
}

impl Settings {
    pub(crate) fn consumer() -> Self {
        Self::new(Side::Consumer)
    }

    pub(crate) fn producer() -> Self {
        Self::new(Side::Producer)
    }

    fn new(side: Side) -> Self {
        Self { side, fallbacks: Vec::new(), is_measured: false, files: Vec::new(), maps: Vec::new() }
    }

    /// The `client.id` unless it is overridden: a service's name.
    pub(crate) fn client_id(self, service: impl Into<String>) -> Self {
        self.fallback("client.id", service)
    }

    /// Also the defaults of a client whose statistics are heard, with the feature `metrics`.
    pub(crate) fn measured(mut self) -> Self {
        self.is_measured = true;
        self
    }

    /// A property's value over the defaults, unless it is overridden.
    pub(crate) fn fallback(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.fallbacks.push((key, value.into()));
        self
    }

    /// A properties file, over those before it.
    pub(crate) fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.push(path.into());
        self
    }

    /// A map of properties, over those before it.
    pub(crate) fn map<K: Into<String>, V: Into<String>>(mut self, entries: impl IntoIterator<Item = (K, V)>) -> Self {
        self.maps.push(entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect());
        self
    }

    /// Lays everything over the defaults and checks it. `managed` is what the caller itself sets: it wins, and an
    /// override of it is refused.
    pub(crate) fn resolve(&self, managed: &[(&str, &str)]) -> Result<Resolved> {
        self.resolve_with(std::env::vars_os(), managed)
    }

    fn resolve_with(
        &self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        managed: &[(&str, &str)],
    ) -> Result<Resolved> {
        let mut layers = Vec::new();
        for path in &self.files {
            layers.push(read(path)?);
        }
        layers.push(self.environment(environment)?);
        for map in &self.maps {
            let entry = |(key, value): &(String, String)| Override {
                key: key.clone(),
                value: value.clone(),
                origin: Origin::Map,
            };
            layers.push(map.iter().map(entry).collect());
        }

        let mut merged = BTreeMap::new();
        for (key, value) in self.side.defaults() {
            merged.insert(canonical(&key).to_owned(), value);
        }
        #[cfg(feature = "metrics")]
        if self.is_measured {
            merged.extend(metrics_defaults());
        }
        for (key, value) in &self.fallbacks {
            merged.insert(canonical(key).to_owned(), value.clone());
        }
        let managed: Vec<_> = managed.iter().map(|(key, value)| (canonical(key), *value)).collect();
        let mut overridden = BTreeMap::new();
        for layer in layers {
            for (key, entry) in self.checked(layer, &managed)? {
                merged.insert(key.clone(), entry.value.clone());
                overridden.insert(key, entry);
            }
        }
        for (key, value) in managed {
            merged.insert(key.to_owned(), value.to_owned());
        }
        give_way(&mut merged, &overridden)?;
        for (key, value) in &merged {
            accepted(key, value).map_err(|reason| Error::setting(shown(key), reason))?;
        }
        Ok(Resolved(merged.into_iter().collect()))
    }

    /// The variables with this side's prefix.
    fn environment(&self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Vec<Override<'static>>> {
        let mut entries = Vec::new();
        for (variable, value) in variables {
            let Some(name) = variable.to_string_lossy().strip_prefix(self.side.prefix()).map(str::to_ascii_lowercase)
            else {
                continue;
            };
            let variable = variable.to_string_lossy().into_owned();
            // Only few names have a `_` of their own, and those have no `.`.
            let Some(key) = [name.replace('_', "."), name].into_iter().find(|key| is_known(key)) else {
                return Err(Error::setting(variable, "librdkafka knows no property that this variable could mean"));
            };
            let Ok(value) = value.into_string() else {
                return Err(Error::setting(variable, "the variable's value is not Unicode"));
            };
            entries.push(Override { key, value, origin: Origin::Environment(variable) });
        }
        Ok(entries)
    }

    /// One layer, by canonical key, if all of it may be set.
    fn checked<'a>(
        &self,
        layer: Vec<Override<'a>>,
        managed: &[(&str, &str)],
    ) -> Result<BTreeMap<String, Override<'a>>> {
        let mut checked: BTreeMap<String, Override<'a>> = BTreeMap::new();
        for entry in layer {
            let key = canonical(&entry.key);
            let by_caller = || managed.iter().any(|(managed, _)| *managed == key).then_some("the builder sets it");
            if let Some(reason) = keys::managed(self.side, key).or_else(by_caller) {
                return Err(entry.refused(format!("is managed by this crate: {reason}")));
            }
            accepted(&entry.key, &entry.value).map_err(|reason| entry.refused(reason))?;
            // Which of the two is meant? A hash map has no order that could tell.
            if let Some(other) = checked.get(key).filter(|other| other.key != entry.key && other.value != entry.value) {
                return Err(entry.refused(format!("differs from `{}`, an alias of it in the same place", other.key)));
            }
            checked.insert(key.to_owned(), entry);
        }
        Ok(checked)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys only: they are not checked yet, so a secret may stand under a misspelled one.
        let keys: BTreeSet<_> = self.maps.iter().flatten().map(|(key, _)| shown(key)).collect();
        f.debug_struct("Settings")
            .field("side", &self.side)
            .field("fallbacks", &self.fallbacks)
            .field("is_measured", &self.is_measured)
            .field("files", &self.files)
            .field("keys", &keys)
            .finish()
    }
}

/// A properties file's lines.
fn read(path: &Path) -> Result<Vec<Override<'_>>> {
    let refused = |reason: String| Error::setting(path.display().to_string(), reason);
    let bytes = std::fs::read(path).map_err(|error| refused(format!("cannot read the properties file: {error}")))?;
    let entries =
        properties::parse(&bytes).map_err(|error| refused(format!("line {} {}", error.line, error.reason)))?;
    let entry = |entry: properties::Entry| Override {
        key: entry.key,
        value: entry.value,
        origin: Origin::File(path, entry.line),
    };
    Ok(entries.into_iter().map(entry).collect())
}

/// Takes back the defaults that exclude what the user has set.
fn give_way(merged: &mut BTreeMap<String, String>, overridden: &BTreeMap<String, Override<'_>>) -> Result<()> {
    const CLASSIC_ONLY: [&str; 4] =
        ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy", "group.protocol.type"];
    if merged.get("group.protocol").is_some_and(|value| value.trim().eq_ignore_ascii_case("consumer")) {
        for key in CLASSIC_ONLY {
            if let Some(entry) = overridden.get(key) {
                return Err(entry.refused("with `group.protocol=consumer` the broker decides this: leave it out"));
            }
            merged.remove(key);
        }
    }
    // librdkafka then takes `transaction.timeout.ms`, and refuses more.
    if merged.contains_key("transactional.id") && !overridden.contains_key("delivery.timeout.ms") {
        merged.remove("delivery.timeout.ms");
    }
    Ok(())
}

/// Properties that librdkafka takes, one by one. What excludes each other it tells when the client is created.
pub(crate) struct Resolved(ClientConfig);

impl Resolved {
    /// A client with these properties. Nothing is connected before librdkafka has taken them.
    pub(crate) fn create<C, T>(&self, context: C) -> Result<T>
    where
        C: ClientContext,
        T: FromClientConfigAndContext<C>,
    {
        let is_set = |key, value: &str| self.0.get(key).is_some_and(|set| set.eq_ignore_ascii_case(value));
        // librdkafka waits for a token without a word.
        if is_set("sasl.mechanism", "OAUTHBEARER") && !is_set("enable.sasl.oauthbearer.unsecure.jwt", "true") {
            let reason = "OAUTHBEARER takes tokens, which only a client of your own can give: see `low_level`";
            return Err(Error::setting("sasl.mechanism", reason));
        }
        self.0.create_with_context(context).map_err(not_created)
    }

    /// What decides how the client reaches its brokers, so that another client can do the same.
    pub(crate) fn connection(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_about_it = |key: &str| keys::CONNECTION.iter().any(|prefix| key.starts_with(prefix));
        self.0.config_map().into_iter().filter(move |(key, _)| is_about_it(key))
    }

    /// The value in force, librdkafka's own default included, under any of the property's names.
    pub(crate) fn effective(&self, key: &str) -> Result<String> {
        self.0.create_native_config().and_then(|native| native.get(key)).map_err(not_created)
    }

    /// The same for a property that is a whole number.
    pub(crate) fn effective_number(&self, key: &str) -> Result<u64> {
        self.effective(key)?.parse().map_err(|_| Error::setting(shown(key), "is no whole number from 0 on"))
    }
}

impl Deref for Resolved {
    type Target = ClientConfig;

    /// rdkafka's own type, whose `Debug` shows more than this one's.
    fn deref(&self) -> &ClientConfig {
        &self.0
    }
}

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let redact = |(key, value)| (key, if is_secret(key) { "(redacted)" } else { value });
        f.debug_map().entries(self.0.config_map().into_iter().map(redact)).finish()
    }
}

/// What librdkafka said to a whole configuration, as an error that names the key and shows no value of a secret.
fn not_created(error: KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, _, key, _) if is_secret(&key) => Error::setting(shown(&key), REFUSED),
        KafkaError::ClientConfig(_, reason, key, _) => Error::setting(shown(&key), reason),
        KafkaError::ClientCreation(reason) if reason.starts_with("Unsupported SASL mechanism") => {
            Error::setting("sasl.mechanism", reason)
        }
        // "`max.poll.interval.ms`must be >= `session.timeout.ms`"
        KafkaError::ClientCreation(ref reason) => match reason.split('`').nth(1) {
            Some(key) if is_known(key) => Error::setting(key, reason.trim()),
            _ => error.into(),
        },
        KafkaError::Nul(_) => Error::setting("configuration", NUL),
        error => error.into(),
    }
}

const REFUSED: &str = "librdkafka refuses the value";
const NUL: &str = "contains a NUL byte";

/// What librdkafka says to one property, in a configuration of its own that is thrown away.
enum Answer {
    Taken,
    Unknown,
    Refused(String),
}

fn ask(key: &str, value: &str) -> Answer {
    let native = match ClientConfig::new().set(key, value).create_native_config() {
        Ok(native) => native,
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => return Answer::Unknown,
        Err(KafkaError::ClientConfig(_, reason, ..)) => return Answer::Refused(reason.trim_end().to_owned()),
        Err(KafkaError::Nul(_)) => return Answer::Refused(NUL.to_owned()),
        Err(_) => return Answer::Refused(REFUSED.to_owned()),
    };
    // It reads a number only as far as that goes: `10s` is 10, `010` is 8, and what is too large wraps.
    let numeric = value.trim_start().starts_with(|c: char| c.is_ascii_digit() || "+-".contains(c));
    match native.get(key).ok().filter(|read| numeric && read != value).and_then(|read| read.parse::<f64>().ok()) {
        Some(read) if value.trim().parse() != Ok(read) => {
            Answer::Refused(format!("is not a plain number, librdkafka would read it as {read}"))
        }
        _ => Answer::Taken,
    }
}

fn is_known(key: &str) -> bool {
    !matches!(ask(key, ""), Answer::Unknown)
}

/// Whether librdkafka takes the property, else why not.
fn accepted(key: &str, value: &str) -> Result<(), String> {
    let reason = match ask(key, value) {
        Answer::Taken => return Ok(()),
        Answer::Unknown => return Err("librdkafka knows no such property".to_owned()),
        // The reason may quote the value. If it is about the key, it is the same for any value.
        Answer::Refused(_) if is_secret(key) => match ask(key, "x") {
            Answer::Refused(reason) => reason,
            _ => REFUSED.to_owned(),
        },
        Answer::Refused(reason) => reason,
    };
    let hint = if reason.contains("not supported in this build") {
        "; the features `ssl`, `sasl` and `zstd` of this crate build it in"
    } else {
        ""
    };
    Err(reason + hint)
}
