//! A service that can be watched: `/metrics` for Prometheus, `/healthz` and `/readyz` for Kubernetes. It goes on until
//! Ctrl-C. Needs the features `metrics` and `signal`.
//!
//! ```text
//! cargo run --release --features metrics,signal --example metrics
//! curl localhost:9464/metrics
//! KAFKA_BOOTSTRAP_SERVERS=localhost:9092 cargo run --release --features metrics,signal --example metrics
//! ```
//!
//! `METRICS_ADDRESS` says where it listens, `127.0.0.1:9464` unless set.

mod common;

use std::env;
use std::error::Error;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use common::Broker;
use kafka_envelope::metrics::names;
use kafka_envelope::{Backoff, Batch, Consumer, GiveUp, Health, Message, OnError, Producer, StallCause};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order {
    sku: String,
    quantity: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::from_env()?;
    let orders = broker.topic("orders", 3)?;
    broker.dead_letter_topic(&orders)?;

    // First: consumers and producers ask for their handles when they are built.
    let exporter = PrometheusBuilder::new()
        .with_recommended_naming(true)
        .set_buckets(&[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])?
        .set_buckets_for_metric(Matcher::Full(names::BATCH_SIZE.into()), &[1.0, 5.0, 25.0, 100.0, 500.0, 2500.0])?
        .install_recorder()?;

    let mut consumer = Consumer::builder("billing", broker.bootstrap_servers(), &broker.name("billing-group"))
        .topics([&orders])
        .on_error(OnError::retry(Backoff { attempts: 2, ..Backoff::default() }).then(GiveUp::DeadLetter))
        .python_metrics(true) // for dashboards that know the Python library's names
        .build()?;
    consumer.stop_on_signals()?;

    let listener = TcpListener::bind(env::var("METRICS_ADDRESS").as_deref().unwrap_or("127.0.0.1:9464"))?;
    println!("{broker}");
    println!("http://{}/metrics, /healthz and /readyz, until Ctrl-C", listener.local_addr()?);
    let (health, rendered) = (consumer.health(), exporter.clone());
    thread::spawn(move || serve(&listener, &health, &rendered));
    // The exporter collects until it is asked, or does this.
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(5));
            exporter.run_upkeep();
        }
    });
    let shop = Producer::new("shop", broker.bootstrap_servers())?;
    let (close, is_closed) = channel();
    let selling = thread::spawn(move || sell(&shop, &orders, &is_closed));

    let summary = consumer.run(|batch: &Batch<Order>| {
        batch.each(|order| match order.payload.quantity {
            0 => Err("an order of nothing".into()),
            _ => Ok(()),
        })
    })?;
    consumer.close(Duration::from_secs(5))?;
    drop(close);
    selling.join().map_err(|_| "the shop panicked")??;
    println!("{} orders, {} of them dead letters", summary.records, summary.dead_lettered);
    Ok(())
}

/// An order every 20 milliseconds, some of them wrong, until the shop is closed.
fn sell(shop: &Producer, orders: &str, is_closed: &Receiver<()>) -> Result<(), kafka_envelope::Error> {
    let mut number = 0u32;
    while is_closed.recv_timeout(Duration::from_millis(20)) == Err(RecvTimeoutError::Timeout) {
        let order = Order { sku: "apples".into(), quantity: number % 50 };
        shop.produce(orders, &Message::new(order).id(number.to_string()))?;
        number += 1;
    }
    Ok(())
}

/// One request after the other: nobody asks often.
fn serve(listener: &TcpListener, health: &Health, exporter: &PrometheusHandle) {
    for stream in listener.incoming() {
        if let Err(error) = stream.and_then(|stream| answer(stream, health, exporter)) {
            eprintln!("a request failed: {error}");
        }
    }
}

fn answer(mut stream: TcpStream, health: &Health, exporter: &PrometheusHandle) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    // The rest of the request: closing the connection on unread bytes would cut the answer off.
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let told = |is_well: bool| match is_well {
        true => ("200 OK", "ok\n".to_owned()),
        false => ("503 Service Unavailable", format!("{health:?}\n")),
    };
    let (status, body) = match request.split(' ').nth(1) {
        Some("/metrics") => ("200 OK", exporter.render()),
        Some("/healthz") => told(is_alive(health)),
        Some("/readyz") => told(health.is_healthy()),
        _ => ("404 Not Found", "not found\n".to_owned()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

/// Whether there is nothing wrong that another start could mend: what brokers refuse, or do not send, would be the same.
fn is_alive(health: &Health) -> bool {
    let (stalls, refusals) = (health.stalls(), health.refusals());
    let is_for_brokers = !(stalls.is_empty() && refusals.is_empty())
        && stalls.iter().all(|stall| stall.cause == StallCause::Broker)
        && health.handler_overdue().is_none();
    health.is_healthy() || is_for_brokers
}
