//! Row 28: what a producer says of records that it could not deliver.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kafka_envelope::{Delivery, Error, Message, Pending, Producer, unpack};
use rdkafka::Message as _;

use super::load::Payload;
use super::report::{Report, by_length};
use crate::support::proxy::Proxy;
use crate::support::{Broker, PATIENCE, consume_all, create_topic, eventually};

const PARTITIONS: i32 = 3;
const WAVE: usize = 50;

/// What was said of each record, by its number.
#[derive(Default)]
struct Fates {
    delivered: BTreeMap<usize, Delivery>,
    not: BTreeSet<usize>,
    unknown: BTreeSet<usize>,
    is_beyond_use: bool,
}

impl Fates {
    fn count(&self) -> usize {
        self.delivered.len() + self.not.len() + self.unknown.len()
    }

    /// Sends some more, and waits for what becomes of them.
    fn send(fates: &Mutex<Fates>, producer: &Producer, topic: &str) {
        let first = fates.lock().unwrap().count();
        let sent = (first..first + WAVE).map(|number| {
            let message = Message::new(Payload::new(number)).partition(number as i32 % PARTITIONS);
            (number, producer.send(topic, &message))
        });
        for (number, pending) in sent.collect::<Vec<_>>() {
            let outcome = pending.and_then(Pending::wait);
            let mut fates = fates.lock().unwrap();
            match outcome {
                Ok(delivery) => drop(fates.delivered.insert(number, delivery)),
                Err(error) => {
                    fates.is_beyond_use |= error.is_fatal();
                    let is_unknown = matches!(&error, Error::NotDelivered { possibly_persisted, .. } if !possibly_persisted.is_empty());
                    if is_unknown {
                        fates.unknown.insert(number)
                    } else {
                        fates.not.insert(number)
                    };
                }
            }
        }
    }

    /// Holds against the log what was said.
    fn report(&self, fault: &'static str, times: usize, bootstrap: &str, topic: &str) -> Report {
        let mut log: BTreeMap<usize, Vec<(i32, i64)>> = BTreeMap::new();
        for record in consume_all(bootstrap, topic) {
            let Payload { number, .. } = unpack(record.payload().unwrap()).unwrap().payload().unwrap();
            log.entry(number).or_default().push((record.partition(), record.offset()));
        }
        let stands = |(number, told): &(&usize, &Delivery)| {
            let place = log.get(number).and_then(|places| places.first());
            place.is_some_and(|place| told.offset < 0 || *place == (told.partition, told.offset))
        };
        let lost: Vec<_> = self.delivered.iter().filter(|told| !stands(told)).collect();
        let denied: Vec<_> = self.not.iter().filter(|number| log.contains_key(number)).collect();
        let mut wrong = Vec::new();
        if !lost.is_empty() {
            wrong.push(format!("{} were told to be delivered and are not there: {:?}", lost.len(), lost.first()));
        }
        if !denied.is_empty() {
            wrong.push(format!("{} were told not to be delivered and are there: {denied:?}", denied.len()));
        }
        let found = self.unknown.iter().filter(|number| log.contains_key(number)).count();
        println!(
            "{} delivered, {} not, {} unknown, of which {found} are there",
            self.delivered.len(),
            self.not.len(),
            self.unknown.len()
        );
        Report {
            row: 28,
            fault,
            times,
            records: self.count(),
            lost: lost.len(),
            duplicates: log.values().map(|places| places.len() as u64 - 1).sum(),
            wrong,
            ..Report::default()
        }
    }
}

/// Sends in the background while `disturb` runs, or until the producer is beyond use.
fn sending(producer: &Producer, topic: &str, fates: &Mutex<Fates>, disturb: impl FnOnce()) {
    /// Also where the test fails.
    struct End<'a>(&'a AtomicBool);

    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let end = End(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) && !fates.lock().unwrap().is_beyond_use {
                Fates::send(fates, producer, topic);
            }
        });
        disturb();
        drop(end);
    });
}

/// A new producer delivers all that it gets.
fn send_anew(bootstrap: &str, topic: &str, fates: &Mutex<Fates>) {
    let producer = Producer::new("load", bootstrap).unwrap();
    let before = fates.lock().unwrap().delivered.len();
    (0..10).for_each(|_| Fates::send(fates, &producer, topic));
    assert_eq!(fates.lock().unwrap().delivered.len(), before + 10 * WAVE);
}

#[track_caller]
fn until(fates: &Mutex<Fates>, what: &str, is_so: impl Fn(&Fates) -> bool) {
    eventually(PATIENCE, what, || is_so(&fates.lock().unwrap()).then_some(()));
}

#[track_caller]
fn until_delivered(fates: &Mutex<Fates>, more: usize) {
    let before = fates.lock().unwrap().delivered.len();
    until(fates, "records are delivered", |fates| fates.delivered.len() >= before + more);
}

/// The broker is frozen, and killed, for longer than `delivery.timeout.ms` (3 s here). Of every record the producer says
/// whether it is delivered, is not, or may be; each that is delivered is in the log, none that is not is, and none is there
/// twice. The same producer goes on when the broker is back, and a new one works.
#[test]
fn row_28_outages() {
    let outages = by_length(1, 10);
    let mut broker = Broker::start();
    let bootstrap = broker.bootstrap().to_owned();
    let topic = create_topic(&bootstrap, PARTITIONS);
    let fates = Mutex::default();
    let config = [("delivery.timeout.ms", "3000")];
    let producer = Producer::builder("load", &bootstrap).config(config).build().unwrap();
    sending(&producer, &topic, &fates, || {
        for _ in 0..outages {
            until_delivered(&fates, 500);
            broker.freeze();
            let unknown = fates.lock().unwrap().unknown.len();
            until(&fates, "some may be delivered", |fates| fates.unknown.len() > unknown);
            broker.thaw();
            until_delivered(&fates, 500);
            broker.kill();
            let not = fates.lock().unwrap().not.len();
            until(&fates, "some are not delivered", |fates| fates.not.len() > not);
            broker.restart();
        }
        until_delivered(&fates, 500);
    });
    send_anew(&bootstrap, &topic, &fates);
    let fates = fates.into_inner().unwrap();
    assert!(!fates.is_beyond_use);
    fates.report("an outage longer than the delivery timeout", 2 * outages, &bootstrap, &topic).file();
}

/// On their way to the broker records get a sequence number that is not theirs, so that it refuses them, and the producer's
/// guarantee is broken. It says so, and of every record what became of it, as above; it takes no more, and a new one works.
#[test]
fn row_28_fatal_errors() {
    let times = by_length(3, 30);
    let (proxy, broker) = Proxy::start();
    let topic = create_topic(broker.bootstrap(), PARTITIONS);
    let fates = Mutex::default();
    for _ in 0..times {
        let producer = Producer::new("load", proxy.address()).unwrap();
        sending(&producer, &topic, &fates, || {
            until_delivered(&fates, 200);
            proxy.spoil_a_sequence();
            until(&fates, "the producer is beyond use", |fates| fates.is_beyond_use);
        });
        let refused = producer.produce(&topic, &Message::new(Payload::new(0)));
        assert!(refused.as_ref().is_err_and(Error::is_fatal), "{refused:?}");
        fates.lock().unwrap().is_beyond_use = false;
        send_anew(proxy.address(), &topic, &fates);
    }
    let fates = fates.into_inner().unwrap();
    assert!(!fates.unknown.is_empty());
    fates.report("a fatal error of an idempotent producer", times, broker.bootstrap(), &topic).file();
}
