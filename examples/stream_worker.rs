//! Readings of sensors through a stream worker: parsed, gathered in windows, and scored by how far each is from the
//! others of its window. All scores go to a Kafka topic; what is unusual goes into a hash of Redis too, where `REDIS_URL`
//! names one. It is gone after ten minutes. Needs the features `stream` and `redis`.
//!
//! ```text
//! cargo run --release --features stream,redis --example stream_worker
//! REDIS_URL=redis://localhost/ cargo run --release --features stream,redis --example stream_worker
//! KAFKA_BOOTSTRAP_SERVERS=localhost:9092 cargo run --release --features stream,redis --example stream_worker
//! ```

mod common;

use std::env;
use std::error::Error as StdError;
use std::time::{Duration, Instant};

use common::Broker;
use kafka_envelope::low_level::{Oversize, create_consumer, create_producer, produce_batch};
use kafka_envelope::rdkafka::Message as _;
use kafka_envelope::rdkafka::consumer::Consumer as _;
use kafka_envelope::stream::{Agent, KafkaSink, RedisSink, Sinks, Worker};
use kafka_envelope::{Error, HandlerError};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const READINGS: usize = 1_000;
const WINDOW: usize = 50;
/// So many standard deviations are unusual.
const UNUSUAL: f64 = 3.0;
const PATIENCE: Duration = Duration::from_secs(30);

/// What a sensor said.
struct Reading {
    sensor: String,
    celsius: f64,
}

/// How far a reading is from the others of its window, in standard deviations.
#[derive(Serialize, Deserialize)]
struct Score {
    sensor: String,
    celsius: f64,
    score: f64,
}

/// `sensor;celsius`. What is no reading goes no further.
async fn parse(line: String, _: Sinks) -> Result<Option<Reading>, HandlerError> {
    let Some((sensor, celsius)) = line.split_once(';') else { return Ok(None) };
    Ok(celsius.parse().ok().map(|celsius| Reading { sensor: sensor.to_owned(), celsius }))
}

/// Scores all readings of a window by their mean and deviation.
async fn score(window: Vec<Reading>, _: Sinks) -> Result<Option<Vec<Score>>, HandlerError> {
    let count = window.len() as f64;
    let mean = window.iter().map(|reading| reading.celsius).sum::<f64>() / count;
    let variance = window.iter().map(|reading| (reading.celsius - mean).powi(2)).sum::<f64>() / count;
    let deviation = variance.sqrt().max(f64::EPSILON);
    let score = |Reading { sensor, celsius }| Score { sensor, celsius, score: (celsius - mean).abs() / deviation };
    Ok(Some(window.into_iter().map(score).collect()))
}

/// Sends every score. Those that are unusual go on.
async fn publish(score: Score, sinks: Sinks, topic: String) -> Result<Option<Score>, HandlerError> {
    sinks.kafka("scores").send(&topic, &score).await?;
    Ok(Some(score).filter(|score| score.score > UNUSUAL))
}

/// Keeps the first unusual reading of each sensor.
async fn alarm(Score { sensor, celsius, .. }: Score, sinks: Sinks, hash: String) -> Result<Option<()>, HandlerError> {
    sinks.redis("alarms").put(&[&hash], &[sensor], &[celsius]).await?;
    sinks.redis("alarms").batch_execute(&[vec!["EXPIRE", &hash, "600"]]).await?;
    Ok(None)
}

/// Where everything goes.
struct Places {
    readings: String,
    scores: String,
    group: String,
    /// The hash in Redis.
    alarms: String,
}

async fn worker(brokers: &str, redis: Option<&str>, places: &Places) -> Result<Worker, Error> {
    // What agents need beside the element, their closures bring.
    let (topic, hash) = (places.scores.clone(), places.alarms.clone());
    let scoring = Worker::builder(&places.readings, brokers, &places.group)
        .sink(KafkaSink::new("scores", brokers)?)
        .agent(Agent::new("parse", parse))
        // The agent's scores go on one by one.
        .agent(Agent::batched("score", WINDOW, score).timeout(Duration::from_secs(5)).atomic_send())
        .agent(Agent::new("publish", move |score, sinks| publish(score, sinks, topic.clone())));
    match redis {
        None => scoring.build(),
        Some(url) => scoring
            .sink(RedisSink::connect("alarms", url).await?)
            .agent(Agent::new("alarm", move |score, sinks| alarm(score, sinks, hash.clone())))
            .build(),
    }
}

fn main() -> Result<(), Box<dyn StdError>> {
    let broker = Broker::from_env()?;
    println!("{broker}");
    let places = Places {
        readings: broker.topic("readings", 2)?,
        scores: broker.topic("scores", 1)?,
        group: broker.name("scoring"),
        alarms: broker.name("alarms"),
    };
    let (brokers, redis) = (broker.bootstrap_servers(), env::var("REDIS_URL").ok());

    // In a service: `worker.run_until(kafka_envelope::shutdown_signal())`. Here it ends once all scores are there.
    let runtime = Runtime::new()?;
    let worker = runtime.block_on(worker(brokers, redis.as_deref(), &places))?;
    let (shut, shutdown) = oneshot::channel();
    let running = runtime.spawn(worker.run_until(async { _ = shutdown.await }));

    send_readings(brokers, &places.readings)?;
    println!("{READINGS} readings sent");
    let scores = read_scores(brokers, &broker.name("onlooker"), &places.scores)?;
    _ = shut.send(());
    runtime.block_on(running)??;

    println!("{} scores in {}, from windows of {WINDOW}", scores.len(), places.scores);
    for Score { sensor, celsius, score } in scores.iter().filter(|score| score.score > UNUSUAL) {
        println!("{sensor}: {celsius:.1} degrees are {score:.1} deviations off");
    }
    println!("committed: {}", broker.committed(&places.group, &places.readings, 2)?);
    match redis {
        Some(_) => println!("`redis-cli HGETALL {}` shows them as well", places.alarms),
        None => println!("With REDIS_URL=redis://host:port/, what is unusual goes into a hash there, too."),
    }
    Ok(())
}

/// The sensors: each record is a list of lines, which go in one by one.
fn send_readings(brokers: &str, topic: &str) -> Result<(), Box<dyn StdError>> {
    let line = |number: usize| {
        let celsius = if number % 333 == 5 { 95.0 } else { 20.0 + (number % 13) as f64 / 10.0 };
        format!("sensor-{};{celsius}", number % 7)
    };
    let mut batch = Vec::new();
    for first in (0..READINGS).step_by(10) {
        let lines: Vec<_> = (first..first + 10).map(line).collect();
        batch.push((None::<&str>, serde_json::to_vec(&lines)?));
    }
    produce_batch(&create_producer(brokers, [("acks", "all")])?, topic, &batch, Oversize::Refuse)?;
    Ok(())
}

/// Whoever reads what the worker sends.
fn read_scores(brokers: &str, group: &str, topic: &str) -> Result<Vec<Score>, Box<dyn StdError>> {
    let consumer = create_consumer(brokers, group, [("auto.offset.reset", "earliest")])?;
    consumer.subscribe(&[topic])?;
    let (mut scores, start) = (Vec::new(), Instant::now());
    while scores.len() < READINGS {
        if start.elapsed() > PATIENCE {
            return Err(format!("only {} of {READINGS} scores came", scores.len()).into());
        }
        if let Some(record) = consumer.poll(Duration::from_millis(100)) {
            scores.push(serde_json::from_slice(record?.payload().unwrap_or_default())?);
        }
    }
    Ok(scores)
}
