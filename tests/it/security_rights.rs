//! A right that is missing is named, and whoever waits for it goes on once it is granted.

use std::thread;
use std::time::{Duration, Instant};

use kafka_envelope::{Batch, Consumer, Error, Message, Outbox, Producer, RefusalKind, TransactionalProducer};

use crate::support::acls::{May, On, grant, revoke};
use crate::support::secured::{SASL_SSL, login, secured_broker, until};
use crate::support::{PATIENCE, committed, create_topic, keep_logs, logged, produce_numbers, unique};

/// A consumer with no right at all gets one after the other, and handles every record in the end.
#[test]
fn a_consumer_says_which_right_it_lacks() {
    keep_logs();
    let secured = secured_broker();
    let (bootstrap, address) = (secured.bootstrap(), secured.address(SASL_SSL));
    let (topic, group) = (create_topic(bootstrap, 2), unique("group"));
    (0..2).for_each(|partition| produce_numbers(bootstrap, &topic, partition, 0..5));
    let builder = Consumer::builder("reader", &address, &group).topics([&topic]).config(login("bob"));
    let builder = builder.config([("topic.metadata.refresh.interval.ms", "1000")]);
    let mut consumer = builder.idle_timeout(PATIENCE * 2).stall_timeout(Duration::from_secs(2)).build().unwrap();
    let (health, stopper) = (consumer.health(), consumer.stopper());
    let mut handled = Vec::new();
    let reader = thread::spawn(move || {
        let run = consumer.run(|batch: &Batch<u64>| {
            handled.extend(batch.iter().map(|record| (record.partition(), record.payload)));
            if handled.len() >= 10 {
                stopper.stop();
            }
            Ok(())
        });
        run.map(|_| handled)
    });
    let refused = |kind, name: &str| {
        until(&format!("{kind:?} {name}"), || {
            let refusals = health.refusals();
            !health.is_healthy() && refusals.iter().any(|it| it.kind == kind && it.subject.as_deref() == Some(name))
        });
    };
    refused(RefusalKind::Group, &group);
    grant(bootstrap, "bob", May::Read, On::Group(&group));
    refused(RefusalKind::Topic, &topic);
    grant(bootstrap, "bob", May::Describe, On::Topic(&topic));
    // Assigned by now, it is refused to read.
    until("it stalls", || !health.stalls().is_empty());
    refused(RefusalKind::Topic, &topic);
    grant(bootstrap, "bob", May::Read, On::Topic(&topic));
    let mut handled = reader.join().unwrap().unwrap();
    handled.sort_unstable();
    assert_eq!(handled, (0..2).flat_map(|partition| (0..5).map(move |n| (partition, n))).collect::<Vec<_>>());
    assert_eq!(health.refusals(), []);
    assert_eq!(logged(&["ERROR", &group, "ask for an ACL that allows Read on it"]).len(), 1);
    let told = logged(&["ERROR", &topic, "ask for an ACL that allows Read to consume"]);
    assert!((1..=3).contains(&told.len()), "{told:#?}");
}

/// Where the broker assigns, it does not say which topic it refuses.
#[test]
fn a_topic_that_is_refused_without_a_name_is_told_and_untold() {
    let secured = secured_broker();
    let (bootstrap, address) = (secured.bootstrap(), secured.address(SASL_SSL));
    let (topic, group) = (create_topic(bootstrap, 1), unique("group"));
    produce_numbers(bootstrap, &topic, 0, 0..5);
    grant(bootstrap, "grace", May::Read, On::Group(&group));
    let builder = Consumer::builder("reader", &address, &group).topics([&topic]).config(login("grace"));
    let mut consumer = builder.config([("group.protocol", "consumer")]).idle_timeout(PATIENCE * 2).build().unwrap();
    let (health, stopper) = (consumer.health(), consumer.stopper());
    let reader = thread::spawn(move || consumer.run(|_: &Batch<u64>| Ok(())).unwrap().records);
    until("it is refused", || health.refusals().iter().any(|it| it.kind == RefusalKind::Topic));
    grant(bootstrap, "grace", May::Read, On::Topic(&topic));
    until("all is committed", || committed(bootstrap, &group, &topic, 0) == Some(5));
    until("it is refused no more", || health.refusals().is_empty() && health.is_healthy());
    stopper.stop();
    assert_eq!(reader.join().unwrap(), 5);
}

/// A topic that may not even be known any more has no end that its partitions could be behind of.
#[test]
fn a_topic_that_is_hidden_stays_refused() {
    let secured = secured_broker();
    let (bootstrap, address) = (secured.bootstrap(), secured.address(SASL_SSL));
    let (topic, group) = (create_topic(bootstrap, 1), unique("group"));
    produce_numbers(bootstrap, &topic, 0, 0..5);
    grant(bootstrap, "ivan", May::Read, On::Group(&group));
    grant(bootstrap, "ivan", May::Read, On::Topic(&topic));
    let builder = Consumer::builder("reader", &address, &group).topics([&topic]).config(login("ivan"));
    let mut consumer = builder.idle_timeout(PATIENCE * 2).stall_timeout(Duration::from_secs(1)).build().unwrap();
    let (health, stopper) = (consumer.health(), consumer.stopper());
    let reader = thread::spawn(move || consumer.run(|_: &Batch<u64>| Ok(())).unwrap().records);
    until("all is committed", || committed(bootstrap, &group, &topic, 0) == Some(5));
    revoke(bootstrap, "ivan", May::Read, On::Topic(&topic));
    until("it is refused", || health.refusals().iter().any(|it| it.kind == RefusalKind::Topic));
    // Longer than what is told is taken to last.
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(15) {
        assert!(!health.is_healthy(), "after {:?}", since.elapsed());
        thread::sleep(Duration::from_millis(50));
    }
    grant(bootstrap, "ivan", May::Read, On::Topic(&topic));
    until("it is refused no more", || health.is_healthy());
    stopper.stop();
    assert_eq!(reader.join().unwrap(), 5);
}

/// Where nothing comes within the idle time because a right is missing, that is an error.
#[test]
fn an_idle_consumer_without_a_right_fails() {
    let secured = secured_broker();
    let (address, group) = (secured.address(SASL_SSL), unique("group"));
    let builder = Consumer::builder("reader", &address, &group).topics(["any"]).config(login("carol"));
    let mut consumer = builder.idle_timeout(Duration::from_secs(5)).build().unwrap();
    let error = consumer.run(|_: &Batch<u64>| Ok(())).unwrap_err();
    assert!(matches!(&error, Error::Refused { .. }) && !error.is_fatal(), "{error:?}");
    assert!(error.to_string().starts_with(&format!("no access to group `{group}`: ")), "{error}");
}

#[test]
fn a_producer_says_which_right_it_lacks() {
    let secured = secured_broker();
    let (bootstrap, address) = (secured.bootstrap(), secured.address(SASL_SSL));
    let topic = create_topic(bootstrap, 1);
    let build = |idempotent| {
        let config = [("enable.idempotence", idempotent), ("delivery.timeout.ms", "10000")];
        Producer::builder("writer", &address).config(login("dave")).config(config).build().unwrap()
    };
    let message = Message::new(1u64);
    let text = build("true").produce(&topic, &message).unwrap_err().to_string();
    assert!(text.contains(&format!("no access to topic `{topic}`: ")) && text.contains("Write to produce"), "{text}");

    grant(bootstrap, "dave", May::Describe, On::Topic(&topic));
    let plain = build("false");
    let text = plain.produce(&topic, &message).unwrap_err().to_string();
    assert!(text.contains(&format!("no access to topic `{topic}`: ")), "{text}");
    assert!(plain.refusal().is_some());
    let error = build("true").produce(&topic, &message).unwrap_err();
    assert!(error.is_fatal() && error.to_string().contains("Write on one topic at least"), "{error}");

    grant(bootstrap, "dave", May::Write, On::Topic(&topic));
    until("it may write", || plain.produce(&topic, &message).is_ok());
    assert_eq!(plain.refusal(), None);
    build("true").produce(&topic, &message).unwrap();
}

#[test]
fn a_transactional_producer_says_which_right_it_lacks() {
    let secured = secured_broker();
    let (bootstrap, address) = (secured.bootstrap(), secured.address(SASL_SSL));
    let (topic, group) = (create_topic(bootstrap, 1), unique("group"));
    produce_numbers(bootstrap, &topic, 0, 0..5);
    grant(bootstrap, "erin", May::All, On::Topic(&topic));
    grant(bootstrap, "erin", May::Read, On::Group(&group));
    let id = unique("id");
    let mut producer = TransactionalProducer::builder("writer", &address, &id).config(login("erin")).build().unwrap();
    let mut run = || {
        let builder = Consumer::builder("reader", &address, &group).topics([&topic]).config(login("erin"));
        let mut consumer = builder.idle_timeout(PATIENCE).build().unwrap();
        let stopper = consumer.stopper();
        consumer.run_exactly_once(&mut producer, |_: &Batch<u64>, _: &mut Outbox<'_>| {
            stopper.stop();
            Ok(())
        })
    };
    let error = run().unwrap_err();
    assert!(matches!(&error, Error::Transaction { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&id) && text.contains("ask for an ACL that allows Write and Describe on it"), "{text}");
    grant(bootstrap, "erin", May::All, On::TransactionalId(&id));
    assert_eq!(run().unwrap().records, 5);
}
