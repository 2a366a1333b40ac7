//! A data consumer: prints the messages of topics that a gateway lists, and commits each once it is printed.

use std::time::Duration;
use std::{process, thread};

use chrono::{DateTime, SecondsFormat};
use kafka_envelope::Error;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::connection::{Connection, Context, hear, seconds, topic};
use crate::failure::{Failure, Result, warn};
use crate::gateway::{self, Gateway};
use crate::interrupt::Interrupt;
use crate::json::compact;
use crate::output::Output;

/// A poll takes no longer, so that signals do not wait, and no shorter, so that it does not spin.
const POLL: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(100)];

/// How long a signal may go unseen there.
const LOOK: Duration = Duration::from_millis(50);

const EXAMPLES: &str = "\
Examples:
  kafka-envelope listen livingroom kitchen
  kafka-envelope listen livingroom -g dashboard -gi dashboard-1 -a http://gateway:50005
  kafka-envelope --json listen livingroom -r localhost:9092 | jq .message

The gateway says where Kafka is, and which topics there are. With --register, or --bootstrap-servers on the command line, it \
is not asked; KAFKA_BOOTSTRAP_SERVERS does not count here. Each message is a line of JSON, a tombstone is `null`; with --json \
its topic, partition, offset, timestamp and key stand beside it. A new group reads from the earliest message on. A message \
that is no JSON is named on standard error and counts as read. SIGINT and SIGTERM end it, and \
where brokers do not answer then, it ends with exit code 1 after --connect-timeout.";

/// Prints messages as JSON, a line each, until it is interrupted
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The topics to read
    #[arg(required = true, value_name = "TOPIC", value_parser = topic)]
    topics: Vec<String>,
    /// Where Kafka is, for who has registered before
    #[arg(short, long, value_name = "HOST:PORT")]
    register: Option<String>,
    #[command(flatten)]
    gateway: Gateway,
    /// How long one poll waits for a message, in seconds; no more than 0.1 are waited at once
    #[arg(short, long, value_name = "SECONDS", default_value = "0.1", value_parser = seconds)]
    timeout: Duration,
    /// The group that reads; a new one where it is not said
    #[arg(short, long = "group_id", alias = "group-id", value_name = "GROUP")]
    group_id: Option<String>,
    /// A fixed id of this member of the group, also as -gi: it keeps its partitions while it is started again
    #[arg(long = "group_instance_id", alias = "group-instance-id", value_name = "ID")]
    group_instance_id: Option<String>,
}

impl Arguments {
    /// Where Kafka is, and what is read there. Asks the gateway where nobody has said that.
    fn kafka(&self, connection: &Connection) -> Result<(Connection, Vec<&str>)> {
        let topics = self.topics.iter().map(String::as_str);
        if let Some(kafka) = gateway::without(self.register.as_deref(), connection) {
            return Ok((kafka, topics.collect()));
        }
        let (endpoint, listed) = self.gateway.register_listener(connection.timeout())?;
        let (known, unknown): (Vec<_>, Vec<_>) = topics.partition(|topic| listed.iter().any(|listed| listed == topic));
        for topic in unknown {
            warn(format_args!("the gateway does not list topic `{topic}`"));
        }
        if known.is_empty() {
            return Err(Failure::new("none of the topics is listed by the gateway")
                .hint("topics are listed once a generator has registered them: `kafka-envelope generate` does"));
        }
        Ok((connection.at(&endpoint), known))
    }

    fn subscribe(&self, kafka: &Connection, topics: &[&str]) -> Result<BaseConsumer<Context>> {
        let group = self.group_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let mut config = kafka.consumer_config(&group)?;
        if let Some(id) = &self.group_instance_id {
            config.set("group.instance.id", id);
        }
        let consumer: BaseConsumer<Context> = kafka.create(&config)?;
        let metadata = consumer.fetch_metadata(None, kafka.timeout());
        if metadata.is_err() {
            hear(&consumer);
        }
        let metadata = kafka.answered(metadata, consumer.context())?;
        for topic in topics {
            if !metadata.topics().iter().any(|known| known.name() == *topic) {
                warn(format_args!("Kafka shows no topic `{topic}`: it is read once there is one"));
            }
        }
        consumer.subscribe(topics)?;
        Ok(consumer)
    }
}

pub(crate) fn run(arguments: &Arguments, connection: &Connection, output: &Output) -> Result {
    let interrupt = Interrupt::new()?;
    let (kafka, topics) = arguments.kafka(connection)?;
    let consumer = arguments.subscribe(&kafka, &topics)?;
    end_in_time(interrupt.clone(), kafka.timeout())?;
    let [shortest, longest] = POLL;
    let wait = arguments.timeout.clamp(shortest, longest);
    let mut unreadable = 0;
    let mut uncommitted = None;
    while !interrupt.has_come() {
        match consumer.poll(wait) {
            None if uncommitted.is_none() => continue,
            None => {}
            Some(Ok(record)) => {
                if let Err(why) = print(&record, output)? {
                    unreadable += 1;
                    warn(format_args!("{} is no JSON: {why}", place(&record)));
                }
                if let Err(error) = consumer.store_offset_from_message(&record) {
                    warn(format_args!("{} is not committed and may come again: {error}", place(&record)));
                }
            }
            Some(Err(error)) => {
                passing(error)?;
                continue;
            }
        }
        uncommitted = commit(&consumer)?;
    }
    if uncommitted.is_some() {
        if let Some(error) = commit(&consumer)? {
            warn(format_args!("what was printed last is not committed and may come again: {error}"));
        }
    }
    match unreadable {
        0 => Ok(()),
        1 => Err(Failure::Incomplete("1 message was no JSON".to_owned())),
        _ => Err(Failure::Incomplete(format!("{unreadable} messages were no JSON"))),
    }
}

/// A commit waits for its answer as long as it takes: where brokers do not answer, the program ends without.
fn end_in_time(interrupt: Interrupt, within: Duration) -> Result {
    let watch = move || {
        while !interrupt.has_come() {
            thread::sleep(LOOK);
        }
        thread::sleep(within);
        warn(format_args!(
            "it does not end within {within:?}: what was printed last may not be committed, and may come again"
        ));
        process::exit(1);
    };
    let refused = |error| Failure::new(format_args!("the system refuses a thread: {error}"));
    thread::Builder::new().name("end".into()).spawn(watch).map(drop).map_err(refused)
}

fn place(record: &BorrowedMessage<'_>) -> String {
    format!("{}:{}:{}", record.topic(), record.partition(), record.offset())
}

/// Only what goes by itself: brokers that are away, topics that are not there yet.
fn passing(error: KafkaError) -> Result {
    let code = error.rdkafka_error_code();
    let error = Error::from(error);
    if error.is_retriable() || matches!(code, Some(Code::UnknownTopicOrPartition | Code::UnknownTopic)) {
        log::warn!("{error}");
        return Ok(());
    }
    let failure = Failure::from(error);
    Err(match code {
        Some(Code::FencedInstanceId | Code::Fatal) => {
            failure.hint("does another member of the group have the same --group_instance_id?")
        }
        _ => failure,
    })
}

/// A message with its place.
#[derive(Serialize)]
struct Printed<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: Option<String>,
    key: Option<String>,
    message: &'a RawValue,
}

/// Writes a message out. Or why it cannot be read.
fn print(record: &BorrowedMessage<'_>, output: &Output) -> Result<Result<(), serde_json::Error>> {
    let text = match record.payload().map(serde_json::from_slice::<&RawValue>) {
        None => "null".to_owned(),
        Some(Ok(json)) => compact(json.get()),
        Some(Err(error)) => return Ok(Err(error)),
    };
    if output.json {
        let millis = record.timestamp().to_millis();
        let message = match RawValue::from_string(text) {
            Ok(message) => message,
            Err(error) => return Ok(Err(error)),
        };
        output.value(&Printed {
            topic: record.topic(),
            partition: record.partition(),
            offset: record.offset(),
            timestamp: millis
                .and_then(DateTime::from_timestamp_millis)
                .map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)),
            key: record.key().map(|key| String::from_utf8_lossy(key).into_owned()),
            message: &message,
        })?;
    } else {
        output.bytes(text.as_bytes())?;
        output.bytes(b"\n")?;
    }
    output.flush()?;
    Ok(Ok(()))
}

/// Commits what was printed, of the partitions that are still this member's. Or why that has to be tried again: the group
/// is just sharing them out, for one.
fn commit(consumer: &BaseConsumer<Context>) -> Result<Option<KafkaError>> {
    let Err(error) = consumer.commit_consumer_state(CommitMode::Sync) else { return Ok(None) };
    match error.rdkafka_error_code() {
        // There is nothing more.
        Some(Code::NoOffset) => Ok(None),
        Some(
            Code::FencedInstanceId
            | Code::Fatal
            | Code::GroupAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::OffsetMetadataTooLarge,
        ) => passing(error).map(|()| None),
        _ => {
            log::warn!("{error}");
            Ok(Some(error))
        }
    }
}
