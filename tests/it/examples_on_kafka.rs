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

/// Every reading is scored and read back from the topic; Redis has what is unusual, and not for ever.
#[cfg(all(feature = "redis", feature = "stream"))]
#[test]
fn the_stream_worker_does_the_same_on_apache_kafka_and_redis() {
    use std::collections::BTreeMap;

    use crate::examples::run_with;
    use crate::support::redis::Redis;

    let redis = Redis::start();
    let url = redis.url();
    let variables = [("KAFKA_BOOTSTRAP_SERVERS", shared_broker()), ("REDIS_URL", &url)];
    let printed = run_with("stream_worker", variables);
    assert!(printed.contains("\n1000 readings sent\n1000 scores in scores-"), "{printed}");
    for sensor in ["sensor-2", "sensor-5", "sensor-6"] {
        let lines: Vec<_> = printed.lines().filter(|line| line.starts_with(sensor)).collect();
        assert!(matches!(&lines[..], [line] if line.contains(": 95.0 degrees are ")), "{printed}");
    }
    let committed = printed.lines().find_map(|line| line.strip_prefix("committed: ")).unwrap();
    let offsets = committed.split([',', ']']).filter_map(|part| part.split_once('=')?.1.parse::<u32>().ok());
    assert_eq!(offsets.sum::<u32>(), 100, "{printed}");

    let hashes: Vec<String> = redis.ask(&["KEYS", "*"]);
    assert!(matches!(&hashes[..], [hash] if hash.starts_with("alarms-") && printed.contains(hash)), "{hashes:?}");
    let alarms: BTreeMap<String, f64> = redis.ask(&["HGETALL", &hashes[0]]);
    let expected = ["sensor-2", "sensor-5", "sensor-6"].map(|sensor| (sensor.to_owned(), 95.0));
    assert_eq!(alarms, BTreeMap::from(expected));
    let seconds: i64 = redis.ask(&["TTL", &hashes[0]]);
    assert!((1..=600).contains(&seconds), "{seconds}");
}
