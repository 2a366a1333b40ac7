//! TLS and SASL.

use std::time::{Duration, Instant};

use kafka_envelope::{Batch, Consumer, Message, Producer, TransactionalProducer};

use crate::support::acls::{May, On, grant, revoke};
use crate::support::secured::*;
use crate::support::*;

fn consume(s: &Secured, listener: &str, group: &str, topic: &str, config: Vec<(String, String)>, secs: u64) {
    let address = s.address(listener);
    println!("---- {listener} {:?}", config.iter().map(|c| c.1.clone()).collect::<Vec<_>>());
    let before = logged_by_all(&[]).len();
    let mut c = Consumer::builder("t", &address, group).topics([topic]).config(config)
        .idle_timeout(Duration::from_secs(secs)).stall_timeout(Duration::from_secs(2)).build().unwrap();
    let h = c.health();
    let start = Instant::now();
    let r = c.run(|b: &Batch<u64>| { println!("got {}", b.len()); Ok(()) });
    println!("{:?} {:?} {r:?}", start.elapsed(), h);
    let _ = c.close(Duration::from_secs(3));
    for l in &logged_by_all(&[])[before..] { println!("   {l}"); }
}

fn produce(s: &Secured, listener: &str, topic: &str, config: Vec<(String, String)>) {
    println!("---- produce {listener} {:?}", config.iter().map(|c| c.1.clone()).collect::<Vec<_>>());
    let before = logged_by_all(&[]).len();
    let mut config = config; config.push(("delivery.timeout.ms".into(), "6000".into()));
    let p = Producer::builder("t", &s.address(listener)).config(config).build().unwrap();
    match p.produce(topic, &Message::new(1u64)) { Ok(d) => println!("{d:?}"), Err(e) => println!("{e}\n{e:?}") }
    drop(p);
    for l in &logged_by_all(&[])[before..] { println!("   {l}"); }
}

#[test]
fn explore() {
    keep_logs();
    let t = Instant::now();
    let mut s = Secured::start(&[("alice", "s3cr3t-alice"), ("bob", "s3cr3t-bob")], &[]);
    println!("started {:?}", t.elapsed());
    let topic = create_topic(s.bootstrap(), 2);
    produce_numbers(s.bootstrap(), &topic, 0, 0..5);
    let alice = s.login("PLAIN", "alice", "s3cr3t-alice");
    consume(&s, SASL_SSL, "g", &topic, alice.clone(), 8);
    produce(&s, SASL_SSL, &topic, alice.clone());
    grant(s.bootstrap(), "alice", May::Describe, On::Topic(&topic));
    grant(s.bootstrap(), "alice", May::Read, On::Group("g"));
    consume(&s, SASL_SSL, "g", &topic, alice.clone(), 8);
    produce(&s, SASL_SSL, &topic, alice.clone());
    let mut tp = TransactionalProducer::builder("t", &s.address(SASL_SSL), "txn").config(alice.clone()).build().unwrap();
    let mut c = Consumer::builder("t", s.bootstrap(), "other").topics([&topic]).idle_timeout(Duration::from_secs(5)).build().unwrap();
    println!("{:?}", c.run_exactly_once(&mut tp, |_b: &Batch<u64>, _o: &mut kafka_envelope::Outbox<'_>| Ok(())).map_err(|e| format!("{e}\n{e:?}")));
    grant(s.bootstrap(), "alice", May::Read, On::Topic(&topic));
    grant(s.bootstrap(), "alice", May::Write, On::Topic(&topic));
    consume(&s, SASL_SSL, "g", &topic, alice.clone(), 3);
    produce(&s, SASL_SSL, &topic, alice.clone());
    revoke(s.bootstrap(), "alice", May::Read, On::Group("g"));
    consume(&s, SASL_SSL, "g", &topic, alice.clone(), 8);
    consume(&s, SASL_SSL, "g", &topic, s.login("PLAIN", "alice", "s3cr3t-wrong"), 12);
    produce(&s, SASL_SSL, &topic, s.login("PLAIN", "alice", "s3cr3t-wrong"));
    consume(&s, SASL_SSL, "g", &topic, s.login("SCRAM-SHA-512", "alice", "s3cr3t-wrong"), 3);
    for l in [EXPIRED, STRANGER, ELSEWHERE, MUTUAL] { consume(&s, l, "g", &topic, s.tls(), 3); }
    produce(&s, EXPIRED, &topic, s.tls());
    consume(&s, SASL_SSL, "g", &topic, s.tls(), 3);
    let mut plain = s.tls(); plain[0].1 = "plaintext".into();
    consume(&s, SASL_SSL, "g", &topic, plain, 3);
    consume(&s, SASL_SSL, "g", &topic, s.login("GSSAPI", "alice", "s3cr3t-wrong"), 3);
    consume(&s, SASL_SSL, "g", &topic, s.login("OAUTHBEARER", "alice", "s3cr3t-wrong"), 3);
    let t = Instant::now();
    s.set_scram("carol", "s3cr3t-carol");
    println!("scram {:?}", t.elapsed());
    consume(&s, SASL_SSL, "g", &topic, s.login("SCRAM-SHA-512", "carol", "s3cr3t-carol"), 3);
    s.set_plain("alice", "s3cr3t-new");
    consume(&s, SASL_SSL, "g", &topic, s.login("PLAIN", "alice", "s3cr3t-new"), 3);
    s.show(EXPIRED, kafka_days());
    consume(&s, EXPIRED, "g", &topic, s.tls(), 3);
}
fn kafka_days() -> crate::support::certificates::Days { crate::support::certificates::Days(30) }
