//! Examples on Apache Kafka. Apart from the test of all examples, which needs no Kafka.

use crate::examples::{check_quickstart, run};
use crate::support::shared_broker;

#[test]
fn the_quickstart_does_the_same_on_apache_kafka() {
    check_quickstart(&run("quickstart", Some(shared_broker())));
}

/// What only Kafka shows: letters and offsets after failures, and outputs of transactions.
#[test]
fn policies_and_transactions_do_what_their_examples_say() {
    let printed = run("retry_and_dead_letter", Some(shared_broker()));
    assert!(printed.contains("60 records = 57 handled + 3 dead letters"), "{printed}");
    let printed = run("exactly_once", Some(shared_broker()));
    let [once, exactly] = printed.split("== Exactly once").collect::<Vec<_>>()[..] else { panic!("{printed}") };
    assert!(once.contains("have more") && !once.contains(" 0 have more"), "{printed}");
    assert!(
        exactly.contains("1000 invoices of 1000 orders: 0 orders have none, 1000 have one, 0 have more"),
        "{printed}"
    );
    assert_eq!(exactly.matches("=1000]").count(), 1, "{printed}");
}

#[cfg(feature = "app")]
#[test]
fn the_event_app_does_the_same_on_apache_kafka() {
    let printed = run("event_app", Some(shared_broker()));
    assert!(printed.contains("200 orders placed, 180 shipped, 20 sold out, "), "{printed}");
    assert!(printed.contains("shop: 400 records handled, 0 again, 0 late"), "{printed}");
    assert!(printed.contains("warehouse: 380 records handled, 0 again, 0 late"), "{printed}");
}
