//! What the benches send and read: orders in envelopes of two sizes.

// Not every bench uses all of it.
#![allow(dead_code)]

use chrono::{DateTime, Utc};
use kafka_envelope::testing::Records;
use kafka_envelope::{Error, Message, Ref, pack, pack_into, unpack};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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
    pub(crate) sku: &'a str,
    pub(crate) customer: &'a str,
    pub(crate) quantity: u32,
    pub(crate) unit_price: f64,
    pub(crate) currency: &'a str,
    pub(crate) note: &'a str,
}

impl Order {
    pub(crate) fn new(number: u64) -> Order {
        Order {
            sku: format!("sku-{:06}", number % 100_000),
            customer: format!("customer-{:08}", number * 7_919 % 10_000_000),
            quantity: quantity(number),
            unit_price: unit_price(number),
            currency: "EUR".into(),
            note:
                "leave it with the neighbours if nobody is at home, or behind the second gate on the left; the dog is \
                   friendly, the bell is not, ring twice"
                    .into(),
        }
    }

    pub(crate) fn total(&self) -> f64 {
        f64::from(self.quantity) * self.unit_price
    }
}

impl Borrowed<'_> {
    pub(crate) fn total(&self) -> f64 {
        f64::from(self.quantity) * self.unit_price
    }
}

fn quantity(number: u64) -> u32 {
    (number % 17) as u32 + 1
}

fn unit_price(number: u64) -> f64 {
    (number % 9_973) as f64 / 100.0
}

/// What so many orders cost together, for who has read them all.
pub(crate) fn total(orders: u64) -> f64 {
    (0..orders).map(|number| f64::from(quantity(number)) * unit_price(number)).sum()
}

/// What an expert without this crate would decode into: history as text, which serde_json checks.
#[derive(Deserialize)]
pub(crate) struct Plain<'a, T> {
    pub(crate) item: T,
    #[serde(borrow)]
    pub(crate) hist: Option<&'a RawValue>,
}

/// What an expert without this crate would serialize.
#[derive(Serialize)]
pub(crate) struct Written<'a, T> {
    item: &'a T,
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

impl<'a, T> Written<'a, T> {
    pub(crate) fn new(item: &'a T, number: u64) -> Written<'a, T> {
        let dt = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S+00:00").to_string();
        let from =
            Cause { topic: "carts", partition: (number % 6) as i32, offset: number as i64, key: None, hist: None };
        Written { item, hist: Level { svc: "bench", dt, refs: [from] } }
    }
}

pub(crate) fn id(number: u64) -> String {
    format!("order-{number:09}")
}

/// The cart that an order was made from.
pub(crate) fn cart(number: u64) -> Ref {
    Ref::new("carts", (number % 6) as i32, number as i64)
}

/// A cart whose message has a history of so many levels, of one ref each.
pub(crate) fn deep_cart(number: u64, levels: usize) -> Result<Ref, Error> {
    let mut from = cart(number);
    for _ in 0..levels {
        let value = pack("shop", &(), &[from])?;
        let history = unpack(&value)?.history().and_then(|text| serde_json::from_str(text.get()).ok());
        from = Ref { key: Some(id(number)), history, ..cart(number) };
    }
    Ok(from)
}

/// How many levels of history stand behind a message that is packed or unpacked.
pub(crate) const DEPTHS: [usize; 3] = [0, 5, 50];

/// Into an empty buffer, always the same bytes.
pub(crate) fn pack_order(buffer: &mut Vec<u8>, order: &Order, refs: &[Ref]) -> Result<(), Error> {
    buffer.clear();
    pack_into(buffer, "bench", DateTime::<Utc>::UNIX_EPOCH, order, refs)
}

/// An order made from a cart with a history of so many levels.
pub(crate) fn packed(levels: usize) -> Result<Vec<u8>, Error> {
    let mut value = Vec::new();
    pack_order(&mut value, &Order::new(1), &[deep_cart(1, levels)?])?;
    Ok(value)
}

/// So many orders as records. What cannot be packed is an error when the batch is made.
pub(crate) fn batch(orders: u64) -> Records {
    let push = |records: Records, number| {
        let mut value = Vec::new();
        match pack_order(&mut value, &Order::new(number), &[cart(number)]) {
            Ok(()) => records.raw(Some(id(number).as_bytes()), Some(&value)),
            Err(_) => records.raw(None, Some(b"not packed")),
        }
    };
    (0..orders).fold(Records::new("orders"), push)
}

/// A cart that went through four services before, each of which made its message from three.
fn travelled_cart(number: u64) -> Result<Ref, Error> {
    let mut from = cart(number);
    for service in ["shop", "stock", "pricing", "delivery"] {
        let with_key = |from| Ref { key: Some(id(number)), ..from };
        let value = pack(service, &(), &[from, cart(number + 1), cart(number + 2)].map(with_key))?;
        let history = unpack(&value)?.history().and_then(|text| serde_json::from_str(text.get()).ok());
        from = Ref { history, ..Ref::new(format!("{service}-events"), (number % 6) as i32, number as i64) };
    }
    Ok(from)
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Size {
    /// About 380 bytes, one ref without a history.
    Small,
    /// About 1.5 KB, most of it a history of five levels.
    Large,
}

/// Messages of one size, without end.
pub(crate) fn messages(size: Size) -> Result<impl Iterator<Item = Message<Order>>, Error> {
    let far = (0..100).map(travelled_cart).collect::<Result<Vec<_>, _>>()?;
    let message = move |number: u64| {
        let from = match size {
            Size::Small => cart(number),
            Size::Large => far[number as usize % far.len()].clone(),
        };
        Message::new(Order::new(number)).id(id(number)).caused_by(from)
    };
    Ok((0..).map(message))
}
