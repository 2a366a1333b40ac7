//! A service on tokio: an async handler that asks another service about every order of its batch at once, and ends when
//! it is told to. Needs the feature `tokio`.
//!
//! ```text
//! cargo run --release --features tokio --example async_service
//! KAFKA_BOOTSTRAP_SERVERS=localhost:9092 cargo run --release --features tokio --example async_service
//! ```

mod common;

use std::error::Error as StdError;
use std::time::{Duration, Instant};

use common::Broker;
use kafka_envelope::{Backoff, Batch, Consumer, Error, HandlerError, Message, OnError, Producer, Summary};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

const ORDERS: usize = 400;
const ANSWER_TIME: Duration = Duration::from_millis(50);

#[derive(Serialize, Deserialize)]
struct Order {
    sku: String,
    quantity: u32,
}

#[derive(Serialize, Deserialize)]
struct Invoice {
    sku: String,
    total: f64,
}

/// Where the service works.
#[derive(Clone)]
struct Place {
    brokers: String,
    orders: String,
    invoices: String,
    group: String,
}

fn main() -> Result<(), Box<dyn StdError>> {
    let broker = Broker::from_env()?;
    let place = Place {
        brokers: broker.bootstrap_servers().to_owned(),
        orders: broker.topic("orders", 2)?,
        invoices: broker.topic("invoices", 1)?,
        group: broker.name("billing-group"),
    };
    println!("{broker}");
    let onlookers = broker.name("onlooker-group");
    let summary = tokio::runtime::Runtime::new()?.block_on(orders_to_invoices(&place, &onlookers))?;
    println!("shut down: {} orders in {} batches", summary.records, summary.batches);
    println!("committed: {}", broker.committed(&place.group, &place.orders, 2)?);
    Ok(())
}

/// The service from its start to its shutdown, and what is around it.
async fn orders_to_invoices(place: &Place, onlookers: &str) -> Result<Summary, Box<dyn StdError>> {
    let shop = Producer::new("shop", &place.brokers)?;
    let order = |_| Message::new(Order { sku: "apples".into(), quantity: 2 });
    shop.produce_batch_async(&place.orders, &(0..ORDERS).map(order).collect::<Vec<_>>()).await?;

    // The shutdown is any future. In a service: `async { _ = tokio::signal::ctrl_c().await }`. Here it comes once all
    // invoices are there.
    let (shut, shutdown) = oneshot::channel();
    let service = tokio::spawn(serve(place.clone(), async { _ = shutdown.await }));
    let invoices = count_invoices(place, onlookers).await?;
    println!("{invoices} invoices read");
    _ = shut.send(());
    Ok(service.await??)
}

/// The service, until `shutdown` is ready: the batch in hand is finished and committed then.
async fn serve(place: Place, shutdown: impl Future<Output = ()>) -> Result<Summary, Error> {
    let producer = Producer::new("billing", &place.brokers)?;
    let mut consumer = Consumer::builder("billing", &place.brokers, &place.group)
        .topics([&place.orders])
        .batch_size(100) // also the most requests at a time
        .on_error(OnError::retry(Backoff::default()))
        .idle_timeout(Duration::from_secs(30)) // for an example; a service runs until it is shut down
        .build()?;

    // `move`: what is captured by reference cannot be spawned.
    let mut is_busy = true;
    let handler = async move |batch: &Batch<Order>| -> Result<(), HandlerError> {
        let start = Instant::now();
        let prices = ask_prices(batch, std::mem::take(&mut is_busy)).await.inspect_err(|error| {
            println!("attempt {}: {:>3} requests, {error}", batch.attempt(), batch.len());
        })?;
        let invoice =
            |order: &Order, price| Invoice { sku: order.sku.clone(), total: f64::from(order.quantity) * price };
        let invoices: Vec<_> = batch
            .iter()
            .zip(prices)
            .map(|(order, price)| Message::new(invoice(&order.payload, price)).caused_by(order))
            .collect();
        producer.produce_batch_async(&place.invoices, &invoices).await?;
        let took = start.elapsed().as_millis();
        println!(
            "attempt {}: {:>3} requests, {:>3} invoices in {took} ms",
            batch.attempt(),
            batch.len(),
            invoices.len()
        );
        Ok(())
    };
    let summary = consumer.run_async_until(handler, shutdown).await;

    // Leaving the group blocks, so it belongs on a thread that may.
    let closed = tokio::task::spawn_blocking(move || consumer.close(Duration::from_secs(5))).await;
    closed.unwrap_or_else(|panic| Err(Error::Closed(panic.to_string())))?;
    summary
}

/// A request for each order, all at the same time. Which comes first does not matter: the batch is done when all are.
async fn ask_prices(batch: &Batch<'_, Order>, is_busy: bool) -> Result<Vec<f64>, HandlerError> {
    let mut requests = JoinSet::new();
    for (index, order) in batch.iter().enumerate() {
        let sku = order.payload.sku.clone();
        requests.spawn(async move { (index, ask_price(&sku, is_busy && index == 7).await) });
    }
    let mut prices = vec![0.0; batch.len()];
    while let Some(answer) = requests.join_next().await {
        let (index, price) = answer?;
        prices[index] = price?; // what is still under way is cancelled: the batch comes again as a whole
    }
    Ok(prices)
}

/// What would be an HTTP request.
async fn ask_price(sku: &str, is_busy: bool) -> Result<f64, HandlerError> {
    sleep(ANSWER_TIME).await;
    if is_busy { Err(format!("no price of {sku}: 503 Service Unavailable").into()) } else { Ok(1.25) }
}

/// Reads until all invoices have come.
async fn count_invoices(place: &Place, group: &str) -> Result<usize, Error> {
    let mut consumer = Consumer::builder("onlooker", &place.brokers, group)
        .topics([&place.invoices])
        .idle_timeout(Duration::from_secs(30))
        .build()?;
    let stopper = consumer.stopper();
    let mut count = 0;
    let count_them = async |batch: &Batch<Invoice>| {
        count += batch.len();
        if count >= ORDERS {
            stopper.stop();
        }
        Ok(())
    };
    consumer.run_async(count_them).await?;
    let closed = tokio::task::spawn_blocking(move || consumer.close(Duration::from_secs(5))).await;
    closed.unwrap_or_else(|panic| Err(Error::Closed(panic.to_string())))?;
    Ok(count)
}
