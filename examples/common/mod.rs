//! Where the examples run: on the broker that `KAFKA_BOOTSTRAP_SERVERS` names, else on one inside the process.
// No example uses all of it.
#![allow(dead_code)]

use std::cell::RefCell;
use std::env;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use futures_executor::block_on;
use kafka_envelope::low_level::create_consumer;
use kafka_envelope::rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use kafka_envelope::rdkafka::client::DefaultClientContext;
use kafka_envelope::rdkafka::consumer::Consumer as _;
use kafka_envelope::rdkafka::{ClientConfig, Offset, TopicPartitionList};
use kafka_envelope::testing::EmbeddedBroker;
use uuid::Uuid;

/// A broker. What an example made on yours is deleted at the end.
pub(crate) enum Broker {
    Embedded(EmbeddedBroker),
    Yours { bootstrap_servers: String, run: String, topics: RefCell<Vec<String>> },
}

impl Broker {
    pub(crate) fn from_env() -> Result<Self, Box<dyn Error>> {
        // What the Kafka client has to say goes to the `log` crate, so it is shown where somebody asks for it.
        if env::var_os("RUST_LOG").is_some() {
            env_logger::init();
        }
        match env::var("KAFKA_BOOTSTRAP_SERVERS") {
            Ok(bootstrap_servers) if !bootstrap_servers.is_empty() => {
                let run = Uuid::new_v4().simple().to_string()[..6].to_owned();
                Ok(Self::Yours { bootstrap_servers, run, topics: RefCell::default() })
            }
            _ => Ok(Self::Embedded(EmbeddedBroker::start()?)),
        }
    }

    pub(crate) fn bootstrap_servers(&self) -> &str {
        match self {
            Self::Embedded(broker) => broker.bootstrap_servers(),
            Self::Yours { bootstrap_servers, .. } => bootstrap_servers,
        }
    }

    /// The name itself on the embedded broker; on yours one that nobody else has.
    pub(crate) fn name(&self, name: &str) -> String {
        match self {
            Self::Embedded(_) => name.to_owned(),
            Self::Yours { run, .. } => format!("{name}-{run}"),
        }
    }

    /// Creates a topic, and returns its name.
    pub(crate) fn topic(&self, name: &str, partitions: i32) -> Result<String, Box<dyn Error>> {
        self.create(self.name(name), partitions)
    }

    /// Creates the topic where this topic's dead letters go, and returns its name.
    pub(crate) fn dead_letter_topic(&self, topic: &str) -> Result<String, Box<dyn Error>> {
        self.create(format!("{topic}-dlt"), 1)
    }

    fn create(&self, name: String, partitions: i32) -> Result<String, Box<dyn Error>> {
        match self {
            Self::Embedded(broker) => broker.create_topic(&name, partitions)?,
            Self::Yours { topics, .. } => {
                let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(-1));
                let created = block_on(self.admin()?.create_topics([&topic], &patience()))
                    .map_err(|error| format!("cannot create topic {name} on {}: {error}", self.bootstrap_servers()))?;
                for created in created {
                    created.map_err(|(name, code)| format!("cannot create topic {name}: {code}"))?;
                }
                topics.borrow_mut().push(name.clone());
            }
        }
        Ok(name)
    }

    /// The next offset of each partition that the group has committed, asked of the broker itself.
    pub(crate) fn committed(&self, group: &str, topic: &str, partitions: i32) -> Result<String, Box<dyn Error>> {
        let client = create_consumer(self.bootstrap_servers(), group, [("client.id", "onlooker")])?;
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        let answer = client.committed_offsets(list, Duration::from_secs(10))?;
        let mut texts = Vec::new();
        for entry in answer.elements() {
            texts.push(match entry.offset() {
                Offset::Offset(next) => format!("{}={next}", entry.partition()),
                _ => format!("{}=none", entry.partition()),
            });
        }
        Ok(format!("{topic}[{}]", texts.join(",")))
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, Box<dyn Error>> {
        Ok(ClientConfig::new().set("bootstrap.servers", self.bootstrap_servers()).create()?)
    }

    fn delete_topics(&self) -> Result<(), Box<dyn Error>> {
        let Self::Yours { topics, .. } = self else { return Ok(()) };
        let topics = topics.take();
        if topics.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = topics.iter().map(String::as_str).collect();
        for deleted in block_on(self.admin()?.delete_topics(&names, &patience()))? {
            deleted.map_err(|(name, code)| format!("topic {name}: {code}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(_) => {
                f.write_str("On a broker inside this process; with KAFKA_BOOTSTRAP_SERVERS=host:port, on yours.")
            }
            Self::Yours { bootstrap_servers, .. } => write!(f, "On the broker at {bootstrap_servers}."),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = self.delete_topics() {
            eprintln!("could not clean up: {error}");
        }
    }
}

pub(crate) fn heading(text: &str) {
    println!("\n== {text}");
}

fn patience() -> AdminOptions {
    let limit = Some(Duration::from_secs(20));
    AdminOptions::new().request_timeout(limit).operation_timeout(limit)
}
