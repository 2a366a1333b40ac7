//! Topics: makes them, lists them, and describes one.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as Asked, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use kafka_envelope::Error;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigEntry, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use serde::Serialize;
use serde_json::json;

use crate::connection::{Connection, Context, Pair, topic};
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::reader::{Ends, Reader};

const EXAMPLES: &str = "\
Examples:
  kafka-envelope topics create orders --partitions 6 --replication-factor 3
  kafka-envelope topics list
  kafka-envelope --json topics describe orders";

/// Makes, lists and describes topics
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(Create),
    List(List),
    Describe(Describe),
}

const CREATE: &str = "\
Example:
  kafka-envelope topics create orders --partitions 6 --topic-config cleanup.policy=compact";

/// Makes a topic, and returns once it can be used
#[derive(Debug, clap::Args)]
#[command(after_long_help = CREATE)]
struct Create {
    /// The topic
    #[arg(value_parser = topic)]
    name: String,
    /// How many partitions it has; as the brokers are set where it is not said
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// How many brokers have each partition; as the brokers are set where it is not said
    #[arg(long, value_name = "BROKERS", value_parser = clap::value_parser!(i32).range(1..))]
    replication_factor: Option<i32>,
    /// A property of the topic, as often as needed
    #[arg(long, value_name = "KEY=VALUE")]
    topic_config: Vec<Pair>,
}

const LIST: &str = "\
Example:
  kafka-envelope topics list --internal";

/// Lists the topics with the numbers of their partitions and replicas
#[derive(Debug, clap::Args)]
#[command(after_long_help = LIST)]
struct List {
    /// Lists Kafka's own topics too, whose names begin with two underscores
    #[arg(long)]
    internal: bool,
}

const DESCRIBE: &str = "\
Example:
  kafka-envelope topics describe orders

A partition's latest offset is that of the next record. Properties are shown where they are not the default, with who has \
set them: topic, broker (for one broker or all of them), or file (a broker's own).";

/// Shows a topic's partitions, and what is set for it
#[derive(Debug, clap::Args)]
#[command(after_long_help = DESCRIBE)]
struct Describe {
    /// The topic
    #[arg(value_parser = topic)]
    name: String,
}

pub(crate) fn run(arguments: &Arguments, connection: &Connection, output: &Output) -> Result {
    connection.brokers()?;
    let client = connection.admin().map_err(|failure| match &arguments.command {
        Command::Create(_) => {
            failure.hint("`--config` is for librdkafka; a topic's properties go into `--topic-config`")
        }
        _ => failure,
    })?;
    let admin = Admin { client, reader: Reader::new(connection)?, connection };
    match &arguments.command {
        Command::Create(create) => admin.create(create, output),
        Command::List(list) => admin.list(list, output),
        Command::Describe(describe) => admin.describe(describe, output),
    }
}

struct Admin<'a> {
    connection: &'a Connection,
    client: AdminClient<Context>,
    reader: Reader<'a>,
}

/// What is shown of a partition.
#[derive(Serialize)]
struct Partition {
    partition: i32,
    /// None: nobody leads it.
    leader: Option<i32>,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
    /// None: nobody answers for it.
    earliest: Option<i64>,
    latest: Option<i64>,
}

/// What is set for a topic.
#[derive(Serialize)]
struct Property {
    name: String,
    /// None: it is a secret.
    value: Option<String>,
    set_by: &'static str,
}

impl Admin<'_> {
    fn answered<T>(&self, answer: Result<T, KafkaError>) -> Result<T> {
        self.connection.answered(answer, self.client.inner().context())
    }

    fn options(&self) -> AdminOptions {
        let timeout = self.connection.timeout();
        AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
    }

    fn create(&self, create: &Create, output: &Output) -> Result {
        let Create { name, partitions, replication_factor, topic_config } = create;
        let replication = TopicReplication::Fixed(replication_factor.unwrap_or(-1));
        let mut topic = NewTopic::new(name, partitions.unwrap_or(-1), replication);
        for (key, value) in topic_config.iter().map(Pair::parts) {
            topic = topic.set(key, value);
        }
        // One that cannot be reached says so sooner, and why.
        self.reader.metadata(None)?;
        let created = self.answered(wait(self.client.create_topics([&topic], &self.options())))?;
        for created in created {
            created.map_err(|(name, code)| refused(&name, code))?;
        }
        let made = self.usable(name, *partitions)?;
        if output.json {
            return output.value(&made);
        }
        let Made { partitions, replication_factor, .. } = made;
        output.line(&format!("{name}: {}, {}", count(partitions, "partition"), count(replication_factor, "replica")))
    }

    /// Waits until every partition of a new topic has a leader.
    fn usable<'a>(&self, topic: &'a str, partitions: Option<i32>) -> Result<Made<'a>> {
        let until = Instant::now() + self.connection.timeout();
        loop {
            let metadata = self.reader.metadata(Some(topic))?;
            if let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) {
                let led = found.partitions().iter().filter(|partition| partition.leader() >= 0).count();
                let wanted = partitions.map_or(1, |partitions| usize::try_from(partitions).unwrap_or(1));
                if led == found.partitions().len() && led >= wanted {
                    return Ok(Made { topic, partitions: led, replication_factor: replicas(found) });
                }
            }
            if Instant::now() > until {
                let what = format!(
                    "topic `{topic}` was made, but not all of its partitions can be used after {:?}",
                    self.connection.timeout()
                );
                return Err(
                    Failure::new(what).hint(format_args!("`kafka-envelope topics describe {topic}` shows them"))
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn list(&self, List { internal }: &List, output: &Output) -> Result {
        let metadata = self.reader.metadata(None)?;
        let mut topics: Vec<_> = metadata.topics().iter().collect();
        topics.retain(|topic| *internal || !topic.name().starts_with("__"));
        topics.sort_by_key(|topic| topic.name());
        let row =
            |topic: &MetadataTopic| vec![json!(topic.name()), json!(topic.partitions().len()), json!(replicas(topic))];
        output.table(&["topic", "partitions", "replication_factor"], topics.into_iter().map(row))
    }

    fn describe(&self, Describe { name }: &Describe, output: &Output) -> Result {
        // Says it where there is no such topic.
        self.reader.partitions(name)?;
        let partitions = self.partitions(name)?;
        let properties = self.properties(name)?;
        if output.json {
            return output.value(&Described { topic: name, partitions, properties });
        }
        let row = |partition: Partition| {
            let Partition { partition, leader, replicas, in_sync, earliest, latest } = partition;
            vec![json!(partition), json!(leader), list(&replicas), list(&in_sync), json!(earliest), json!(latest)]
        };
        let titles = ["partition", "leader", "replicas", "in_sync", "earliest", "latest"];
        output.table(&titles, partitions.into_iter().map(row))?;
        if properties.is_empty() {
            return Ok(());
        }
        output.line("")?;
        let row = |Property { name, value, set_by }| vec![json!(name), json!(value), json!(set_by)];
        output.table(&["property", "value", "set_by"], properties.into_iter().map(row))
    }

    fn partitions(&self, topic: &str) -> Result<Vec<Partition>> {
        let metadata = self.reader.metadata(Some(topic))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let partition = |partition: &MetadataPartition| {
            let leader = Some(partition.leader()).filter(|leader| *leader >= 0);
            let ends = match leader {
                Some(_) => Some(self.reader.ends(topic, partition.id())?),
                None => None,
            };
            Ok(Partition {
                partition: partition.id(),
                leader,
                replicas: partition.replicas().to_vec(),
                in_sync: partition.isr().to_vec(),
                earliest: ends.map(|Ends { low, .. }| low),
                latest: ends.map(|Ends { high, .. }| high),
            })
        };
        let mut partitions: Vec<Partition> =
            found.into_iter().flat_map(|found| found.partitions()).map(partition).collect::<Result<_>>()?;
        partitions.sort_by_key(|partition| partition.partition);
        Ok(partitions)
    }

    /// What is not as by default.
    fn properties(&self, topic: &str) -> Result<Vec<Property>> {
        let asked = [ResourceSpecifier::Topic(topic)];
        let resources = self.answered(wait(self.client.describe_configs(&asked, &self.options())))?;
        let mut properties = Vec::new();
        for resource in resources {
            let entries = resource.map_err(|code| refused(topic, code))?.entries;
            properties.extend(entries.into_iter().filter_map(property));
        }
        properties.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(properties)
    }
}

#[derive(Serialize)]
struct Made<'a> {
    topic: &'a str,
    partitions: usize,
    replication_factor: usize,
}

#[derive(Serialize)]
struct Described<'a> {
    topic: &'a str,
    partitions: Vec<Partition>,
    properties: Vec<Property>,
}

fn property(entry: ConfigEntry) -> Option<Property> {
    let set_by = match entry.source {
        ConfigSource::Default => return None,
        ConfigSource::DynamicTopic => "topic",
        ConfigSource::DynamicBroker | ConfigSource::DynamicDefaultBroker => "broker",
        ConfigSource::StaticBroker => "file",
        ConfigSource::Unknown if entry.is_default => return None,
        ConfigSource::Unknown => "unknown",
    };
    let value = entry.value.filter(|_| !entry.is_sensitive);
    Some(Property { name: entry.name, value, set_by })
}

fn replicas(topic: &MetadataTopic) -> usize {
    topic.partitions().iter().map(|partition| partition.replicas().len()).max().unwrap_or(0)
}

fn list(brokers: &[i32]) -> serde_json::Value {
    brokers.iter().map(i32::to_string).collect::<Vec<_>>().join(",").into()
}

fn count(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// What a broker says of a topic.
fn refused(topic: &str, code: Code) -> Failure {
    let failure = Failure::new(format_args!("topic `{topic}`: {}", Error::from(KafkaError::AdminOp(code))));
    match code {
        Code::TopicAlreadyExists => {
            failure.hint(format_args!("`kafka-envelope topics describe {topic}` shows what it is"))
        }
        Code::InvalidReplicationFactor => failure.hint("there are no more replicas than brokers"),
        Code::InvalidConfig => failure.hint("`--topic-config` takes the topic properties of Apache Kafka"),
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            failure.hint("the user that `--config sasl.username=…` names has no right to do this: ask for an ACL")
        }
        _ => failure,
    }
}

/// What comes of a future of the admin client's, whose own thread wakes this one.
fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Asked::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}
