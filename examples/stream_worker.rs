//! Readings of sensors through a stream worker: parsed, gathered in windows, scored, and sent to a Kafka topic and, where
//! `REDIS_URL` names one, into a hash of Redis. Needs the features `stream` and `redis`.
//!
//! ```text
//! cargo run --release --features stream,redis --example stream_worker
//! KAFKA_BOOTSTRAP_SERVERS=localhost:9092 REDIS_URL=redis://localhost/ cargo run --release --features stream,redis --example stream_worker
//! ```

mod common;

use std::env;
use std::error::Error as StdError;
use std::time::Duration;

use common::Broker;
use kafka_envelope::low_level::create_producer;
use kafka_envelope::stream::{Agent, KafkaSink, RedisSink, Sinks, Worker};
use kafka_envelope::{HandlerError, low_level};
use rdkafka::producer::Producer as _;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

const READINGS: usize = 1_000;
const WINDOW: usize = 50;
const PATIENCE: Duration = Duration::from_secs(30);

/// What a sensor said.
struct Reading {
    sensor: String,
    celsius: f64,
}

/// How far a reading is from the others of its window, in standard deviations.
#[derive(Clone, Serialize)]
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
async fn window(readings: Vec<Reading>, _: Sinks) -> Result<Option<Vec<Score>>, HandlerError> {
    let count = readings.len() as f64;
    let mean = readings.iter().map(|reading| reading.celsius).sum::<f64>() / count;
    let variance = readings.iter().map(|reading| (reading.celsius - mean).powi(2)).sum::<f64>() / count;
    let deviation = variance.sqrt().max(f64::EPSILON);
    let score = |Reading { sensor, celsius }| Score { sensor, celsius, score: (celsius - mean).abs() / deviation };
    Ok(Some(readings.into_iter().map(score).collect()))
}

fn main() -> Result<(), Box<dyn StdError>> {
    let broker = Broker::from_env()?;
    println!("{broker}");
    let (readings, scores) = (broker.topic("readings", 2)?, broker.topic("scores", 1)?);
    tokio::runtime::Runtime::new()?.block_on(score_readings(&broker, &readings, &scores))
}

async fn score_readings(broker: &Broker, readings: &str, scores: &str) -> Result<(), Box<dyn StdError>> {
    let brokers = broker.bootstrap_servers();
    let redis = env::var("REDIS_URL").ok();
    let has_redis = redis.is_some();
    let (anomalies, mut seen) = mpsc::unbounded_channel();

    let topic = scores.to_owned();
    let store = move |score: Score, sinks: Sinks| {
        let (topic, anomalies) = (topic.clone(), anomalies.clone());
        async move {
            sinks.kafka("scores").send(&topic, &score).await?;
            if has_redis {
                sinks.redis("cache").put(&["scores"], &[&score.sensor], &[score.score]).await?;
            }
            anomalies.send(score)?;
            Ok::<Option<()>, HandlerError>(None)
        }
    };
    let mut builder = Worker::builder(readings, brokers, &broker.name("scoring"))
        .agent(Agent::new("parse", parse))
        .agent(Agent::batched("window", WINDOW, window).timeout(Duration::from_secs(1)).atomic_send())
        .agent(Agent::new("store", store))
        .sink(KafkaSink::new("scores", brokers)?);
    if let Some(url) = redis {
        builder = builder.sink(RedisSink::connect("cache", &url).await?);
    }
    let worker = builder.build()?;

    // The sensors: each record is a list of lines, which go in one by one.
    let sensors = create_producer(brokers, [("client.id", "sensors")])?;
    for record in 0..READINGS / 10 {
        let line = |number: usize| {
            format!(
                "sensor-{};{}",
                number % 7,
                if number % 333 == 5 { 95.0 } else { 20.0 + (number % 13) as f64 / 10.0 }
            )
        };
        let lines: Vec<_> = (record * 10..record * 10 + 10).map(line).collect();
        low_level::produce(&sensors, readings, None, None, &serde_json::to_vec(&lines)?)?;
    }
    sensors.flush(PATIENCE)?;
    println!("{READINGS} readings sent");

    // In a service: `kafka_envelope::shutdown_signal()`. Here the worker ends once all scores are there.
    let (shut, shutdown) = tokio::sync::oneshot::channel();
    let running = tokio::spawn(worker.run_until(async { _ = shutdown.await }));
    let (mut count, mut hot) = (0, Vec::new());
    while count < READINGS {
        let score = timeout(PATIENCE, seen.recv()).await?.ok_or("the worker has ended")?;
        count += 1;
        if score.score > 3.0 {
            hot.push(score);
        }
    }
    _ = shut.send(());
    running.await??;
    println!("{count} scores in windows of {WINDOW}");
    for Score { sensor, celsius, score } in hot {
        println!("{sensor}: {celsius} degrees are {score:.1} deviations off");
    }
    Ok(())
}
