//! What is sent: orders in envelopes of two sizes.

use std::time::Duration;

use kafka_envelope::{Message, Producer, Ref, pack, unpack};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::common::{Outcome, create_topic_of, unique};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Size {
    /// About 380 bytes, one ref without a history.
    Small,
    /// About 1.5 KB, most of it a history of five levels.
    Large,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) sku: String,
    pub(crate) customer: String,
    pub(crate) quantity: u32,
    pub(crate) unit_price: f64,
    pub(crate) currency: String,
    pub(crate) note: String,
}

/// The same, borrowed from the record.
#[derive(Deserialize)]
pub(crate) struct Borrowed<'a> {
    #[allow(dead_code)]
    pub(crate) sku: &'a str,
    #[allow(dead_code)]
    pub(crate) customer: &'a str,
    pub(crate) quantity: u32,
    pub(crate) unit_price: f64,
    #[allow(dead_code)]
    pub(crate) currency: &'a str,
    #[allow(dead_code)]
    pub(crate) note: &'a str,
}

/// What an expert without this crate would decode into: history as text, not looked at.
#[derive(Deserialize)]
pub(crate) struct Plain<'a> {
    pub(crate) item: Order,
    #[serde(borrow)]
    pub(crate) hist: Option<&'a RawValue>,
}

/// What an expert without this crate would serialize.
#[derive(Serialize)]
pub(crate) struct Written<'a> {
    item: &'a Order,
    hist: Level<'a>,
}

#[derive(Serialize)]
struct Level<'a> {
    svc: &'a str,
    dt: String,
    refs: [Cause<'a>; 1],
}

#[derive(Serialize)]
struct Cause<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    key: Option<&'a str>,
    hist: Option<()>,
}

impl<'a> Written<'a> {
    pub(crate) fn new(item: &'a Order, number: u64) -> Written<'a> {
        let dt = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S+00:00").to_string();
        let from = Cause { topic: "carts", partition: (number % 6) as i32, offset: number as i64, key: None, hist: None };
        Written { item, hist: Level { svc: "bench", dt, refs: [from] } }
    }
}

impl Order {
    pub(crate) fn new(number: u64) -> Order {
        Order {
            sku: format!("sku-{:06}", number % 100_000),
            customer: format!("customer-{:08}", number * 7_919 % 10_000_000),
            quantity: (number % 17) as u32 + 1,
            unit_price: (number % 9_973) as f64 / 100.0,
            currency: "EUR".into(),
            note: "leave it with the neighbours if nobody is at home, or behind the second gate on the left; the dog is \
                   friendly, the bell is not, ring twice"
                .into(),
        }
    }
}

/// The cart that an order was made from.
pub(crate) fn cart(number: u64) -> Ref {
    Ref::new("carts", (number % 6) as i32, number as i64)
}

pub(crate) fn id(number: u64) -> String {
    format!("order-{number:09}")
}

/// A ref whose message went through four services before.
fn travelled(number: u64) -> Outcome<Ref> {
    let mut from = cart(number);
    for service in ["shop", "stock", "pricing", "delivery"] {
        let key = Some(id(number));
        let value = pack(service, &(), &[Ref { key: key.clone(), ..from.clone() }, Ref { key, ..cart(number + 1) }])?;
        let history = unpack(&value)?.history().map(|text| serde_json::from_str(text.get())).transpose()?;
        from = Ref { history, ..Ref::new(format!("{service}-events"), (number % 6) as i32, number as i64) };
    }
    Ok(from)
}

/// A topic with so many envelopes, spread over its partitions by their keys.
pub(crate) fn load(brokers: &str, size: Size, partitions: i32, records: u64) -> Outcome<String> {
    let topic = unique("bench")?;
    create_topic_of(brokers, &topic, partitions)?;
    let producer = Producer::new("bench", brokers)?;
    let far = (0..100).map(travelled).collect::<Outcome<Vec<_>>>()?;
    let mut bytes = 0;
    for number in 0..records {
        let from = match size {
            Size::Small => cart(number),
            Size::Large => far[number as usize % far.len()].clone(),
        };
        let message = Message::new(Order::new(number)).id(id(number)).caused_by(from);
        if number == 0 {
            bytes = pack("bench", &message.payload, &message.refs)?.len();
        }
        drop(producer.send(&topic, &message)?);
    }
    producer.flush(Duration::from_secs(60))?;
    eprintln!("{records} envelopes of {bytes} bytes are in {partitions} partitions of {topic}");
    Ok(topic)
}
