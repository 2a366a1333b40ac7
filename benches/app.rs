//! The event app: handler throughput with few and many registered events, beside a plain loop of the same work, and the
//! round trip of a question and its response beside the same two hops with plain rdkafka.
//!
//! `bash scripts/bench.sh app` starts a broker where `KAFKA_BOOTSTRAP_SERVERS` names none. What is compared takes turns
//! within one run: a ratio means something, figures of different runs or machines do not.

mod common;

use std::collections::HashMap;
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::turns::spread;
use common::{Outcome, create_topic, number, unique};
use kafka_envelope::HandlerError;
use kafka_envelope::app::{App, Context, Event};
use kafka_envelope::settings;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore};

/// How many events are registered.
const EVENTS: [u64; 3] = [1, 100, 10_000];
const KEYS: u64 = 1_000;
const PER_SECOND: u64 = 100;

#[derive(Serialize, Deserialize)]
struct Order {
    sku: String,
    quantity: u32,
    unit_price: f64,
}

/// As an expert would decode it who wants the event first and the rest later.
#[derive(Deserialize)]
struct Named<'a> {
    event: &'a str,
}

fn main() -> Outcome<()> {
    let brokers = env::var("KAFKA_BOOTSTRAP_SERVERS").map_err(|_| "run it by `bash scripts/bench.sh app`")?;
    let (records, rounds) = (number("RECORDS", 300_000)?, number("ROUNDS", 3)?);
    let questions = number("QUESTIONS", 1_000)?;
    throughput(&brokers, records, rounds)?;
    latency(&brokers, questions, rounds)
}

fn plain_producer(brokers: &str) -> Outcome<BaseProducer> {
    let mut config = ClientConfig::new();
    config.extend(settings::producer_defaults());
    Ok(config.set("bootstrap.servers", brokers).set("linger.ms", "0").create()?)
}

fn plain_config(brokers: &str, group: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.extend(settings::consumer_defaults());
    config.set("bootstrap.servers", brokers).set("group.id", group);
    config
}

fn throughput(brokers: &str, records: u64, rounds: u64) -> Outcome<()> {
    let mut topics = Vec::new();
    for events in EVENTS {
        let topic = unique("bench-app")?;
        create_topic(brokers, &topic)?;
        let producer = plain_producer(brokers)?;
        for number in 0..records {
            let value = format!(
                r#"{{"event": "event-{}", "sku": "sku-{:06}", "quantity": {}, "unit_price": {:?}}}"#,
                number * 7_919 % events,
                number % 100_000,
                number % 17 + 1,
                (number % 9_973) as f64 / 100.0
            );
            let key = format!("key-{}", number % KEYS);
            while let Err((_, _)) = producer.send(BaseRecord::to(&topic).key(&key).payload(&value)) {
                producer.poll(Duration::from_millis(10));
            }
            if number % 1_000 == 0 {
                producer.poll(Duration::ZERO);
            }
        }
        producer.flush(Duration::from_secs(60))?;
        topics.push(topic);
    }
    println!("handlers, {records} records with {KEYS} keys, {rounds} rounds: median (lowest to highest)\n");
    let mut figures: HashMap<String, Vec<f64>> = HashMap::new();
    for _ in 0..rounds {
        for (events, topic) in EVENTS.iter().zip(&topics) {
            figures.entry(format!("app, {events} events")).or_default().push(app(brokers, topic, *events, records)?);
        }
        figures.entry("plain loop".into()).or_default().push(own_loop(brokers, &topics[0], records)?);
    }
    let median = |name: &str| spread(figures.get(name).into_iter().flatten().copied());
    let [one, ..] = median("app, 1 events");
    for name in EVENTS.iter().map(|events| format!("app, {events} events")).chain(["plain loop".into()]) {
        let [middle, low, high] = median(&name);
        println!("{name:<20} {middle:>9.0} ({low:.0} to {high:.0}) records/s, {:.2}x", middle / one);
    }
    println!(
        "plain loop: rdkafka's BaseConsumer, a hash map of events, a task each, 100 at a time, no order, commit every 500\n"
    );
    Ok(())
}

/// Records per second from the first that is handled to the last.
fn app(brokers: &str, topic: &str, events: u64, records: u64) -> Outcome<f64> {
    let (handled, start) = (Arc::new(AtomicU64::new(0)), Arc::new(std::sync::OnceLock::new()));
    let over = Arc::new(Notify::new());
    let mut builder = App::builder(&unique("bench")?, brokers).listen([topic]);
    for event in 0..events {
        let (handled, start, over) = (Arc::clone(&handled), Arc::clone(&start), Arc::clone(&over));
        let handler = move |order: Order, _: Context| {
            start.get_or_init(Instant::now);
            std::hint::black_box(order.unit_price * f64::from(order.quantity));
            if handled.fetch_add(1, Ordering::Relaxed) + 1 == records {
                over.notify_one();
            }
            std::future::ready(Ok::<(), HandlerError>(()))
        };
        builder = builder.on(format!("event-{event}"), handler);
    }
    let app = builder.build()?;
    let ended = Runtime::new()?.block_on(async {
        let mut ended = None;
        let shutdown = async {
            over.notified().await;
            ended = Some(Instant::now());
        };
        app.run_until(shutdown).await?;
        Ok::<_, kafka_envelope::Error>(ended)
    })?;
    let (start, ended) = (start.get().ok_or("nothing came")?, ended.ok_or("it ended early")?);
    Ok(records as f64 / ended.duration_since(*start).as_secs_f64())
}

/// What somebody might write without this crate. It commits what it has not handled.
fn own_loop(brokers: &str, topic: &str, records: u64) -> Outcome<f64> {
    let runtime = Runtime::new()?;
    let consumer: BaseConsumer = plain_config(brokers, &unique("bench")?).create()?;
    consumer.subscribe(&[topic])?;
    let total = |order: Order| order.unit_price * f64::from(order.quantity);
    let handlers = Arc::new(HashMap::from([("event-0".to_owned(), total as fn(Order) -> f64)]));
    let (places, handled) = (Arc::new(Semaphore::new(100)), Arc::new(AtomicU64::new(0)));
    let over = Arc::new(Notify::new());
    let (mut start, mut seen) = (None, 0);
    while seen < records {
        let Some(record) = consumer.poll(Duration::from_secs(1)) else { continue };
        let record = record?;
        start.get_or_insert_with(Instant::now);
        let value = record.payload().unwrap_or_default().to_vec();
        let place = runtime.block_on(Arc::clone(&places).acquire_owned())?;
        let (handlers, handled, over) = (Arc::clone(&handlers), Arc::clone(&handled), Arc::clone(&over));
        runtime.spawn(async move {
            let named: Named<'_> = serde_json::from_slice(&value)?;
            if let Some(handler) = handlers.get(named.event) {
                std::hint::black_box(handler(serde_json::from_slice(&value)?));
            }
            drop(place);
            if handled.fetch_add(1, Ordering::Relaxed) + 1 == records {
                over.notify_one();
            }
            Ok::<(), serde_json::Error>(())
        });
        seen += 1;
        if seen % 500 == 0 {
            let mut next = TopicPartitionList::new();
            next.add_partition_offset(topic, record.partition(), Offset::Offset(record.offset() + 1))?;
            consumer.commit(&next, CommitMode::Async)?;
        }
    }
    runtime.block_on(over.notified());
    Ok(records as f64 / start.ok_or("nothing came")?.elapsed().as_secs_f64())
}

fn latency(brokers: &str, questions: u64, rounds: u64) -> Outcome<()> {
    println!("question and response, {PER_SECOND} a second, {questions} each round, {rounds} rounds\n");
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(quantiles(round_trips(brokers, questions)?));
        plain.push(quantiles(two_hops(brokers, questions)?));
    }
    for (name, at) in [("p50", 0), ("p99", 1)] {
        let of = |figures: &[[f64; 2]]| spread(figures.iter().map(|figures| figures[at]));
        let ([ours, low, high], [plain, plain_low, plain_high]) = (of(&ours), of(&plain));
        println!(
            "{name}: emit_with_response {ours:.2} ms ({low:.2} to {high:.2}), plain rdkafka {plain:.2} ms ({plain_low:.2} to \
             {plain_high:.2}), {:.2}x",
            ours / plain
        );
    }
    Ok(())
}

/// p50 and p99 in milliseconds.
fn quantiles(mut all: Vec<Duration>) -> [f64; 2] {
    all.sort();
    [50, 99].map(|percent| all[(all.len() - 1) * percent / 100].as_secs_f64() * 1e3)
}

fn question(number: u64) -> Order {
    Order { sku: format!("sku-{number:06}"), quantity: 3, unit_price: 1.25 }
}

fn round_trips(brokers: &str, questions: u64) -> Outcome<Vec<Duration>> {
    let (asked, answered) = (unique("bench-asked")?, unique("bench-answered")?);
    create_topic(brokers, &asked)?;
    create_topic(brokers, &answered)?;
    let answer_to = answered.clone();
    let price = move |order: Order, context: Context| {
        let answer_to = answer_to.clone();
        async move {
            context.respond(&answer_to, Event::new("priced", &order)).await?;
            Ok::<(), HandlerError>(())
        }
    };
    let prices = App::builder(&unique("prices")?, brokers).listen([&asked]).on("price", price).build()?;
    let shop = App::builder(&unique("shop")?, brokers).answers([(&answered, "priced")]).build()?;
    let emitter = shop.emitter();
    Runtime::new()?.block_on(async {
        let over = Arc::new(Notify::new());
        let until = |over: &Arc<Notify>| {
            let over = Arc::clone(over);
            async move { over.notified().await }
        };
        let services = [tokio::spawn(prices.run_until(until(&over))), tokio::spawn(shop.run_until(until(&over)))];
        let ask = |number: u64| {
            let (emitter, asked) = (emitter.clone(), asked.clone());
            async move {
                let start = Instant::now();
                let order = question(number);
                let event = Event::new("price", &order).key(&order.sku);
                let _: Order = emitter.emit_with_response(&asked, event, Duration::from_secs(30)).await?;
                Ok::<_, kafka_envelope::Error>(start.elapsed())
            }
        };
        for number in 0..50 {
            ask(number).await?;
        }
        let mut clock = tokio::time::interval(Duration::from_secs(1) / PER_SECOND as u32);
        let mut asking = Vec::new();
        for number in 0..questions {
            clock.tick().await;
            asking.push(tokio::spawn(ask(number)));
        }
        let mut took = Vec::new();
        for one in asking {
            took.push(one.await??);
        }
        over.notify_waiters();
        for service in services {
            service.await??;
        }
        Ok(took)
    })
}

/// The same two hops as threads with plain clients: one that answers, one that reads the answers.
fn two_hops(brokers: &str, questions: u64) -> Outcome<Vec<Duration>> {
    let (asked, answered) = (unique("bench-asked")?, unique("bench-answered")?);
    create_topic(brokers, &asked)?;
    create_topic(brokers, &answered)?;
    let is_over = Arc::new(AtomicBool::new(false));
    let reader = |topic: &str| -> Outcome<BaseConsumer> {
        let consumer: BaseConsumer = plain_config(brokers, &unique("bench")?).create()?;
        consumer.subscribe(&[topic])?;
        Ok(consumer)
    };
    let (asked_reader, answered_reader) = (reader(&asked)?, reader(&answered)?);
    let answers = plain_producer(brokers)?;
    let (over, topic) = (Arc::clone(&is_over), answered.clone());
    let answering = thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            if let Some(Ok(record)) = asked_reader.poll(Duration::from_millis(100)) {
                let order: Result<Order, _> = serde_json::from_slice(record.payload().unwrap_or_default());
                let value = order.and_then(|order| serde_json::to_vec(&order)).unwrap_or_default();
                let key = record.key().unwrap_or_default();
                let _ = answers.send(BaseRecord::to(&topic).key(key).payload(&value));
                answers.poll(Duration::ZERO);
            }
        }
    });
    let (sender, arrived) = mpsc::channel();
    let over = Arc::clone(&is_over);
    let reading = thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            if let Some(Ok(record)) = answered_reader.poll(Duration::from_millis(100)) {
                let at = Instant::now();
                let key = std::str::from_utf8(record.key().unwrap_or_default()).unwrap_or_default();
                let _ = sender.send((key.parse::<u64>().unwrap_or_default(), at));
            }
        }
    });
    let producer = plain_producer(brokers)?;
    let ask = |number: u64| -> Outcome<Instant> {
        let start = Instant::now();
        let value = serde_json::to_vec(&question(number))?;
        let key = number.to_string();
        producer.send(BaseRecord::to(&asked).key(&key).payload(&value)).map_err(|(error, _)| error)?;
        producer.poll(Duration::ZERO);
        Ok(start)
    };
    for number in 0..50 {
        ask(number)?;
        arrived.recv_timeout(Duration::from_secs(30))?;
    }
    let (begin, mut starts) = (Instant::now(), HashMap::new());
    for number in 0..questions {
        let due = Duration::from_secs(1) * number as u32 / PER_SECOND as u32;
        thread::sleep(due.saturating_sub(begin.elapsed()));
        starts.insert(number, ask(number)?);
    }
    let mut took = Vec::new();
    for _ in 0..questions {
        let (number, at) = arrived.recv_timeout(Duration::from_secs(30))?;
        took.push(at.duration_since(starts[&number]));
    }
    is_over.store(true, Ordering::Relaxed);
    for thread in [answering, reading] {
        thread.join().map_err(|_| "a thread panicked")?;
    }
    Ok(took)
}
