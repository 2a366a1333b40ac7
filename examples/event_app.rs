//! Two services that talk through Kafka: a shop, which asks a warehouse about each order and waits for the answer, and
//! the warehouse. What is reserved goes through a pipeline: priced, invoiced, packed by the warehouse, shipped. Needs the
//! feature `app`.
//!
//! ```text
//! cargo run --release --features app --example event_app
//! KAFKA_BOOTSTRAP_SERVERS=localhost:9092 cargo run --release --features app --example event_app
//! ```

mod common;

use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::Broker;
use kafka_envelope::app::{App, Context, Event, Pipeline};
use kafka_envelope::{Error, HandlerError};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const ORDERS: u32 = 200;
const IN_STOCK: u32 = 180;
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Serialize, Deserialize)]
struct Order {
    id: u32,
    sku: String,
}

#[derive(Serialize, Deserialize)]
struct Stock {
    is_reserved: bool,
}

#[derive(Serialize)]
struct Invoice {
    id: u32,
    total: f64,
}

#[derive(Serialize, Deserialize)]
struct Parcel {
    id: u32,
}

/// How an order ended.
enum Outcome {
    Shipped,
    SoldOut,
}

type Outcomes = mpsc::UnboundedSender<Outcome>;

/// Where the services meet.
#[derive(Clone)]
struct Topics {
    orders: String,
    stock: String,
    answers: String,
    invoices: String,
}

/// Answers what it is asked on `stock`.
fn warehouse(name: &str, brokers: &str, topics: &Topics) -> Result<App, Error> {
    // What handlers need beside the message, their closures bring.
    let left = Arc::new(AtomicU32::new(IN_STOCK));
    let answers = topics.answers.clone();
    let reserve = move |_: Order, context: Context| {
        let (left, answers) = (Arc::clone(&left), answers.clone());
        async move {
            let take_one = |left: u32| left.checked_sub(1);
            let is_reserved = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one).is_ok();
            // `respond` says to whose question this is the answer.
            context.respond(&answers, Event::new("reserved", Stock { is_reserved })).await?;
            Ok::<(), HandlerError>(())
        }
    };
    let answers = topics.answers.clone();
    let pack = move |parcel: Parcel, context: Context| {
        let answers = answers.clone();
        async move {
            context.respond(&answers, Event::new("packed", parcel)).await?;
            Ok::<(), HandlerError>(())
        }
    };
    App::builder(name, brokers).listen([&topics.stock]).on("reserve", reserve).on("pack", pack).build()
}

/// Handles orders.
fn shop(name: &str, brokers: &str, topics: &Topics, outcomes: Outcomes) -> Result<App, Error> {
    let for_placing = topics.clone();
    let sold_out = outcomes.clone();
    let shipping = Pipeline::new("shipping")
        .then(price(1.25))
        .pipe(&topics.invoices, "invoice")
        .pipe_and_wait(&topics.stock, "pack", (&topics.answers, "packed"), PATIENCE)
        .then(move |parcel, context| ship(parcel, context, outcomes.clone()));
    App::builder(name, brokers)
        .listen([&topics.orders])
        .answers([(&topics.answers, "reserved")])
        .on("order_placed", move |order, context| place(order, context, for_placing.clone()))
        .on("order_refused", move |_: Order, _: Context| Ok::<(), HandlerError>(sold_out.send(Outcome::SoldOut)?))
        .pipeline("order_reserved", shipping)
        .build()
}

/// Asks the warehouse. Meanwhile other orders are handled.
async fn place(order: Order, context: Context, topics: Topics) -> Result<(), HandlerError> {
    let stock: Stock = context.emit_with_response(&topics.stock, Event::new("reserve", &order), PATIENCE).await?;
    let event = if stock.is_reserved { "order_reserved" } else { "order_refused" };
    context.emit(&topics.orders, Event::new(event, &order).key(order.id.to_string())).await?;
    Ok(())
}

/// A transaction with an argument of its own. It may block.
fn price(price: f64) -> impl Fn(Order, Context) -> Result<Invoice, HandlerError> {
    move |order, _| Ok(Invoice { id: order.id, total: price })
}

/// The last transaction: it gets the warehouse's answer.
async fn ship(parcel: Parcel, context: Context, outcomes: Outcomes) -> Result<(), HandlerError> {
    log::info!("{}: parcel {} is on its way", context.pipeline().unwrap_or_default(), parcel.id);
    Ok(outcomes.send(Outcome::Shipped)?)
}

fn main() -> Result<(), Box<dyn StdError>> {
    let broker = Broker::from_env()?;
    let topics = Topics {
        orders: broker.topic("orders", 4)?,
        stock: broker.topic("stock", 4)?,
        answers: broker.topic("stock.answers", 2)?,
        invoices: broker.topic("invoices", 1)?,
    };
    println!("{broker}");
    let (name, brokers) = (broker.name("shop"), broker.bootstrap_servers());
    tokio::runtime::Runtime::new()?.block_on(orders(&name, &broker.name("warehouse"), brokers, &topics))?;
    println!("committed: {}", broker.committed(&name, &topics.orders, 4)?);
    Ok(())
}

/// Both services, which are two processes as a rule, and customers.
async fn orders(
    shop_name: &str,
    warehouse_name: &str,
    brokers: &str,
    topics: &Topics,
) -> Result<(), Box<dyn StdError>> {
    let (outcome, mut outcomes) = mpsc::unbounded_channel();
    let shop = shop(shop_name, brokers, topics, outcome)?;
    let warehouse = warehouse(warehouse_name, brokers, topics)?;
    let (emitter, counts) = (shop.emitter(), [("shop", shop.counts()), ("warehouse", warehouse.counts())]);

    // The shutdown is any future. In a service: `kafka_envelope::shutdown_signal()`.
    let (shut, shutdown) = watch::channel(());
    let shutdown = || {
        let mut shutdown = shutdown.clone();
        async move { _ = shutdown.changed().await }
    };
    let services = [tokio::spawn(shop.run_until(shutdown())), tokio::spawn(warehouse.run_until(shutdown()))];

    let start = Instant::now();
    for id in 1..=ORDERS {
        let order = Order { id, sku: "apple".into() };
        emitter.emit(&topics.orders, Event::new("order_placed", order).key(id.to_string())).await?;
    }
    let (mut shipped, mut sold_out) = (0, 0);
    for _ in 0..ORDERS {
        match timeout(PATIENCE, outcomes.recv()).await? {
            Some(Outcome::Shipped) => shipped += 1,
            Some(Outcome::SoldOut) => sold_out += 1,
            None => break,
        }
    }
    let took = start.elapsed().as_millis();
    println!("{ORDERS} orders placed, {shipped} shipped, {sold_out} sold out, in {took} ms");

    shut.send(())?;
    for service in services {
        service.await??;
    }
    for (name, counts) in counts {
        println!(
            "{name}: {} records handled, {} again, {} late",
            counts.handled(),
            counts.retried(),
            counts.late_responses()
        );
    }
    Ok(())
}
