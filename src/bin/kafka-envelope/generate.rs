//! A data generator: packets with given or random data, to topics that a gateway is told of.

mod packet;
mod sender;

use std::time::{Duration, Instant};

use kafka_envelope::pack;
use rdkafka::error::KafkaError;
use serde::Serialize;
use uuid::Uuid;

use crate::connection::{Connection, seconds, topic};
use crate::failure::{Failure, Result, warn};
use crate::gateway::{self, Gateway};
use crate::generate::packet::{Packet, now, random_data};
use crate::generate::sender::{Report, Sender};
use crate::interrupt::Interrupt;
use crate::output::Output;

/// How long a signal may go unseen.
const LOOK: Duration = Duration::from_millis(50);

/// The topic where none is named.
const GENERIC: &str = "generic_topic";

const EXAMPLES: &str = "\
Examples:
  kafka-envelope generate -tp livingroom -d '{\"temperature\": 25}' -g thermometer
  kafka-envelope generate -n 10 -t 0.5 -tps livingroom kitchen -a http://gateway:50005
  kafka-envelope generate -n 1000 --rate 100 -r localhost:9092 -tp livingroom

Registers the topics with the gateway, which says where Kafka is. With --registered, or --bootstrap-servers on \
the command line, it does not; KAFKA_BOOTSTRAP_SERVERS does not count here. Each message that Kafka has acknowledged is a \
line: topic:partition:offset. SIGINT and SIGTERM end it once what was sent is acknowledged.";

/// Sends packets of given or random data, and registers with the gateway before
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// How many messages are sent
    #[arg(short, long = "number_of_msg", alias = "number-of-msg", value_name = "MESSAGES", default_value_t = 1)]
    number_of_msg: u64,
    /// Where Kafka is, for who has registered before
    #[arg(short, long, value_name = "HOST:PORT")]
    registered: Option<String>,
    #[command(flatten)]
    gateway: Gateway,
    /// The data; random for each message where there is none
    #[arg(short, long, value_name = "TEXT", allow_negative_numbers = true)]
    data: Option<String>,
    /// The topic, also as -tp; by default a random one of --topics for each message
    #[arg(long, value_name = "TOPIC", value_parser = topic)]
    topic: Option<String>,
    /// Who the packets say they are from
    #[arg(
        short,
        long = "generator_id",
        alias = "generator-id",
        value_name = "NAME",
        default_value = "generic_generator"
    )]
    generator_id: String,
    /// The packets' timestamp, also as -ts; the time of sending (UTC) where there is none
    #[arg(long, value_name = "TEXT")]
    timestamp: Option<String>,
    /// The topics, also as -tps
    #[arg(long, value_name = "TOPIC", num_args = 0.., default_value = GENERIC, default_missing_value = GENERIC, value_parser = topic)]
    topics: Vec<String>,
    /// The time between two messages, in seconds
    #[arg(short, long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    timeout: Duration,
    /// How many messages are sent in a second, instead of --timeout
    #[arg(long, value_name = "MESSAGES", conflicts_with = "timeout", value_parser = rate)]
    rate: Option<f64>,
    /// Sends each packet as the item of an envelope, made by --generator_id
    #[arg(long)]
    envelope: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "is no number")?;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err("is not above 0".to_owned()) }
}

impl Arguments {
    fn all_topics(&self) -> Vec<&str> {
        match &self.topic {
            Some(topic) => vec![topic],
            None => self.topics.iter().map(String::as_str).collect(),
        }
    }

    /// Where Kafka is; registers where nobody has said that.
    fn kafka(&self, connection: &Connection) -> Result<Connection> {
        if let Some(kafka) = gateway::without(self.registered.as_deref(), connection) {
            return Ok(kafka);
        }
        Ok(connection.at(&self.gateway.register_generator(&self.all_topics(), connection.timeout())?))
    }

    /// So many seconds after the first message that of this number is due, counted from 0.
    fn due(&self, number: u64) -> f64 {
        let pause = self.rate.map_or(self.timeout.as_secs_f64(), f64::recip);
        pause * number as f64
    }

    /// A message's topic, key and value.
    fn message(&self) -> Result<(&str, Option<String>, Vec<u8>)> {
        let drawn = || fastrand::choice(&self.topics).map_or("", String::as_str);
        let topic = self.topic.as_deref().unwrap_or_else(drawn);
        let timestamp = self.timestamp.clone().unwrap_or_else(now);
        let data = self.data.clone().filter(|data| !data.is_empty()).unwrap_or_else(random_data);
        let packet = Packet { timestamp: &timestamp, generator_id: &self.generator_id, topic, data: &data };
        if self.envelope {
            return Ok((topic, Some(Uuid::new_v4().to_string()), pack(&self.generator_id, &packet, &[])?));
        }
        Ok((topic, None, packet.text().into_bytes()))
    }
}

pub(crate) fn run(arguments: &Arguments, connection: &Connection, output: &Output) -> Result {
    let interrupt = Interrupt::new()?;
    let kafka = arguments.kafka(connection)?;
    if arguments.number_of_msg == 0 {
        return Ok(());
    }
    let sender = Sender::connect(&kafka)?;
    let mut sending = Sending { sender, output, interrupt, unwritten: None, sent: 0, failed: 0, failure: None };
    let done = sending.all(arguments);
    sending.settle(arguments.number_of_msg, done)
}

struct Sending<'a> {
    sender: Sender,
    output: &'a Output,
    interrupt: Interrupt,
    /// Why nothing can be written any more.
    unwritten: Option<Failure>,
    sent: u64,
    failed: u64,
    /// The first one.
    failure: Option<KafkaError>,
}

impl Sending<'_> {
    fn all(&mut self, arguments: &Arguments) -> Result {
        let start = Instant::now();
        while self.sent < arguments.number_of_msg {
            let due = arguments.due(self.sent);
            self.report(Duration::ZERO);
            loop {
                let left = due - start.elapsed().as_secs_f64();
                if self.is_over() {
                    return Ok(());
                }
                if left <= 0.0 {
                    break;
                }
                self.written(self.output.flush());
                self.report(LOOK.mul_f64((left / LOOK.as_secs_f64()).min(1.0)));
            }
            let (topic, key, value) = arguments.message()?;
            while !self.sender.send(self.sent + 1, topic, key.as_deref(), &value) {
                if self.is_over() {
                    return Ok(());
                }
                self.report(Duration::from_millis(5));
            }
            self.sent += 1;
        }
        Ok(())
    }

    /// Nothing more is to be sent.
    fn is_over(&self) -> bool {
        self.interrupt.has_come() || self.unwritten.is_some()
    }

    /// Waits for what is on its way, then says how it went.
    fn settle(mut self, wanted: u64, done: Result) -> Result {
        let start = Instant::now();
        while self.sender.outstanding() > 0 {
            // An answer that comes fast is taken at once.
            let wait = (start.elapsed() / 4).clamp(Duration::from_millis(1), LOOK);
            self.report(wait);
        }
        done?;
        let Self { sent, failed, failure, unwritten, .. } = self;
        match failure {
            Some(error) if failed == sent => return Err(error.into()),
            _ if failed > 0 => {
                return Err(Failure::Incomplete(format!("{failed} of {sent} messages were not delivered")));
            }
            _ => {}
        }
        match unwritten {
            Some(failure) => Err(failure),
            None if sent < wanted => {
                Err(Failure::Incomplete(format!("interrupted: {sent} of {wanted} messages were sent")))
            }
            None => Ok(()),
        }
    }

    /// Tells of the deliveries that are reported within this time.
    fn report(&mut self, within: Duration) {
        for Report { number, topic, outcome } in self.sender.reports(within) {
            match outcome {
                Ok((partition, offset)) => {
                    if self.unwritten.is_none() {
                        self.written(delivered(self.output, &topic, partition, offset));
                    }
                }
                Err(error) => {
                    warn(format_args!("message {number} was not delivered to `{topic}`: {error}"));
                    self.failed += 1;
                    self.failure.get_or_insert(error);
                }
            }
        }
    }

    /// Where nothing can be written any more, what was sent is waited for all the same.
    fn written(&mut self, written: Result) {
        if let Err(failure) = written {
            self.unwritten.get_or_insert(failure);
        }
    }
}

fn delivered(output: &Output, topic: &str, partition: i32, offset: i64) -> Result {
    #[derive(Serialize)]
    struct Delivered<'a> {
        topic: &'a str,
        partition: i32,
        offset: i64,
    }
    if output.json {
        return output.value(&Delivered { topic, partition, offset });
    }
    output.line(&format!("{topic}:{partition}:{offset}"))
}
