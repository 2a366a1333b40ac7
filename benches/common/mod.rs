//! What the benches have in common.

// Not every bench uses all of it.
#![allow(dead_code)]

pub(crate) mod turns;

use std::env;
use std::error::Error;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// Of one partition.
pub(crate) fn create_topic(brokers: &str, topic: &str) -> Outcome<()> {
    create_topic_of(brokers, topic, 1)
}

pub(crate) fn create_topic_of(brokers: &str, topic: &str, partitions: i32) -> Outcome<()> {
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for result in futures_executor::block_on(admin.create_topics([&new], &AdminOptions::new()))? {
        result.map_err(|(topic, code)| format!("{topic}: {code}"))?;
    }
    Ok(())
}

/// What a variable of the environment says.
pub(crate) fn number(name: &str, default: u64) -> Outcome<u64> {
    Ok(env::var(name).map_or(Ok(default), |text| text.parse())?)
}

/// A name for a topic or a group.
pub(crate) fn unique(prefix: &str) -> Outcome<String> {
    Ok(format!("{prefix}-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos()))
}

/// User and system time of this process.
pub(crate) fn cpu() -> Outcome<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The second field is a name in parentheses, which may hold blanks.
    let (_, fields) = stat.rsplit_once(')').ok_or("no name")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap_or(0)).sum();
    // 100 a second on every Linux that Rust runs on.
    Ok(Duration::from_millis(ticks * 10))
}

/// `VmRSS`, or `VmHWM` for the most so far.
pub(crate) fn memory_mib(field: &str) -> Outcome<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(field)).ok_or("no such field")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse::<f64>()? / 1024.0)
}
