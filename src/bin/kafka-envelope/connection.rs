//! How Kafka is reached: the same options for every subcommand.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use kafka_envelope::low_level::{consumer_config, producer_config};
use kafka_envelope::{Consumer, ConsumerBuilder, Error, Producer, ProducerBuilder, Refusal};
use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};

use crate::failure::{Failure, Result};

/// As which service the program shows up in histories and in the brokers' logs.
pub(crate) const SERVICE: &str = "kafka-envelope";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = crate::GLOBAL)]
pub(crate) struct Connection {
    /// The brokers that are asked first: host:port, with commas between
    #[arg(short, long, env = "KAFKA_BOOTSTRAP_SERVERS", global = true, value_name = "HOST:PORT,…")]
    bootstrap_servers: Option<String>,
    /// Those stand on the command line, and not only in the environment.
    #[arg(skip)]
    is_said: bool,
    /// A property of librdkafka, as often as needed
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    config: Vec<Pair>,
    /// A file of such properties, as `--command-config` of Kafka's own tools
    #[arg(long, global = true, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// How long brokers may take to answer, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    connect_timeout: Duration,
}

/// `KEY=VALUE`.
#[derive(Clone, Debug)]
pub(crate) struct Pair(String, String);

impl Pair {
    pub(crate) fn parts(&self) -> (&str, &str) {
        (&self.0, &self.1)
    }
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("is not KEY=VALUE")?;
        Ok(Self(key.trim().to_owned(), value.to_owned()))
    }
}

/// The name of a topic, as Kafka allows them.
pub(crate) fn topic(text: &str) -> Result<String, String> {
    let is_legal = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-');
    if text.is_empty() || text.len() > 249 || !text.chars().all(is_legal) || matches!(text, "." | "..") {
        return Err("a topic's name has 1 to 249 letters, digits, `.`, `_` and `-`".to_owned());
    }
    Ok(text.to_owned())
}

/// Seconds, whole or not. librdkafka counts milliseconds in 32 bits.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "is no number of seconds")?;
    if seconds > 1e6 {
        return Err("is more than 1000000".to_owned());
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl Connection {
    pub(crate) fn brokers(&self) -> Result<&str> {
        let missing = || {
            Failure::new("no broker is named")
                .hint("say `--bootstrap-servers HOST:PORT`, or set KAFKA_BOOTSTRAP_SERVERS")
        };
        self.bootstrap_servers.as_deref().ok_or_else(missing)
    }

    /// As this is known only of the command line's matches.
    pub(crate) fn find_said(&mut self, matches: &ArgMatches) {
        self.is_said = matches.value_source("bootstrap_servers") == Some(ValueSource::CommandLine);
    }

    /// The brokers, where the command line says them. The environment's may be meant for something else.
    pub(crate) fn said(&self) -> Option<&str> {
        self.bootstrap_servers.as_deref().filter(|_| self.is_said)
    }

    /// The same elsewhere.
    pub(crate) fn at(&self, brokers: &str) -> Self {
        let Self { config, config_file, connect_timeout, .. } = self;
        let bootstrap_servers = Some(brokers.to_owned());
        Self {
            bootstrap_servers,
            is_said: true,
            config: config.clone(),
            config_file: config_file.clone(),
            connect_timeout: *connect_timeout,
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.connect_timeout
    }

    fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        self.config.iter().map(|Pair(key, value)| (key.clone(), value.clone()))
    }

    /// A producer whose messages this service made.
    pub(crate) fn producer_of(&self, service: &str) -> Result<ProducerBuilder> {
        let builder = Producer::builder(service, self.brokers()?).config(self.pairs());
        Ok(match &self.config_file {
            Some(file) => builder.config_file(file),
            None => builder,
        })
    }

    pub(crate) fn consumer(&self, group: &str) -> Result<ConsumerBuilder> {
        let builder = Consumer::builder(SERVICE, self.brokers()?, group).config(self.pairs());
        Ok(match &self.config_file {
            Some(file) => builder.config_file(file),
            None => builder,
        })
    }

    /// A consumer that reads partitions which it is given, and is no member of the group: that is only asked about. It
    /// tells where partitions end.
    pub(crate) fn reader(&self, group: &str) -> Result<BaseConsumer<Context>> {
        self.reader_with(group, &[])
    }

    /// The same, with these properties.
    pub(crate) fn reader_with(&self, group: &str, properties: &[(&str, &str)]) -> Result<BaseConsumer<Context>> {
        let mut config = self.consumer_config(group)?;
        for (key, value) in properties {
            config.set(*key, *value);
        }
        // Where it is to start it is told; an offset that is gone must not lead elsewhere.
        config.set("enable.partition.eof", "true").set("auto.offset.reset", "error");
        self.create(&config)
    }

    /// The properties of a consumer that asks about this group.
    pub(crate) fn consumer_config(&self, group: &str) -> Result<ClientConfig> {
        Ok(consumer_config(self.brokers()?, group, self.config_file.as_deref(), self.pairs())?)
    }

    /// A consumer that asks and says what this group has committed, and is no member of it.
    pub(crate) fn group_reader(&self, group: &str) -> Result<BaseConsumer<Context>> {
        self.create(&self.consumer_config(group)?)
    }

    /// A producer with this transactional id. Whoever had it before cannot go on.
    pub(crate) fn transactional(&self, id: &str, timeout: Duration) -> Result<BaseProducer<Refusals>> {
        let mut config = self.producer_config()?;
        // librdkafka takes the transaction's time.
        config.set("transactional.id", id).remove("delivery.timeout.ms");
        // A topic that is gone is not made anew.
        config.set("allow.auto.create.topics", "false");
        let producer: BaseProducer<_> = config.create_with_context(Refusals::default())?;
        producer.init_transactions(timeout)?;
        Ok(producer)
    }

    /// The properties of a producer.
    pub(crate) fn producer_config(&self) -> Result<ClientConfig> {
        Ok(producer_config(self.brokers()?, self.config_file.as_deref(), self.pairs())?)
    }

    pub(crate) fn admin(&self) -> Result<AdminClient<Context>> {
        self.create(&self.producer_config()?)
    }

    pub(crate) fn create<T: rdkafka::config::FromClientConfigAndContext<Context>>(
        &self,
        config: &ClientConfig,
    ) -> Result<T> {
        Ok(config.create_with_context(Context::default())?)
    }

    /// Why no answer came.
    pub(crate) fn unreachable(&self, context: &Context) -> Failure {
        if let Some(refusal) = context.refusal() {
            return Error::Refused { refusal: Box::new(refusal.examined()) }.into();
        }
        let reason = context.trouble().unwrap_or_else(|| format!("nothing came within {:?}", self.connect_timeout));
        Error::Unreachable { brokers: self.bootstrap_servers.clone().unwrap_or_default(), reason }.into()
    }

    /// An answer, or why there is none: where no broker answered at all, that.
    pub(crate) fn answered<T>(&self, answer: Result<T, KafkaError>, context: &Context) -> Result<T> {
        answer.map_err(|error| if is_silent(&error) { self.unreachable(context) } else { error.into() })
    }
}

/// No broker answered.
pub(crate) fn is_silent(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::Resolve)
    )
}

/// What a client says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context(Arc<Mutex<Trouble>>);

#[derive(Debug, Default)]
struct Trouble {
    last: Option<String>,
    /// Why brokers let nobody in.
    refusal: Option<Refusal>,
}

impl Context {
    /// Its last error.
    fn trouble(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }

    fn refusal(&self) -> Option<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).refusal.clone()
    }
}

/// How long a client may take to say what troubles it.
pub(crate) const HEARING: Duration = Duration::from_millis(20);

/// After an error: what a client says of itself, it says while it is polled.
pub(crate) fn hear(consumer: &BaseConsumer<Context>) {
    while let Some(Err(_)) = consumer.poll(HEARING) {}
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log::debug!(target: "librdkafka", "{level:?} {facility}: {text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log::warn!(target: "librdkafka", "{error}: {reason}");
        if error.rdkafka_error_code() != Some(Code::AllBrokersDown) {
            let mut trouble = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            trouble.last = Some(reason.to_owned());
            trouble.refusal = Refusal::of(&error, reason).or(trouble.refusal.take());
        }
    }
}

impl ConsumerContext for Context {}

/// The first record that was refused: its number, and why.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Option<(usize, KafkaError)>>);

impl Refusals {
    pub(crate) fn take(&self) -> Option<(usize, KafkaError)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Refusals {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log::debug!(target: "librdkafka", "{level:?} {facility}: {text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log::warn!(target: "librdkafka", "{error}: {reason}");
    }
}

impl ProducerContext for Refusals {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        if let Err((error, _)) = result {
            let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that are purged are so because another one was refused, which may be told later.
            let is_purged =
                |error: &KafkaError| matches!(error.rdkafka_error_code(), Some(Code::PurgeQueue | Code::PurgeInflight));
            if first.as_ref().is_none_or(|(_, first)| is_purged(first) && !is_purged(error)) {
                *first = Some((index, error.clone()));
            }
        }
    }
}
