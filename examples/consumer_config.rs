//! A consumer whose settings come from a properties file, the environment and maps. Ends after 3 seconds without a
//! record, or at Ctrl-C (feature `signal`).
//!
//! ```text
//! cargo run --release --features signal --example consumer_config
//! KAFKA_ENVELOPE_CONSUMER_FETCH_WAIT_MAX_MS=50 cargo run --release --features signal --example consumer_config
//! KAFKA_BOOTSTRAP_SERVERS=localhost:9092 cargo run --release --features signal --example consumer_config
//! ```

mod common;

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use common::Broker;
use kafka_envelope::{Batch, Commit, Consumer, Message, Producer};

const SETTINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/consumer_config.properties");

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::from_env()?;
    let topic = broker.topic("numbers", 2)?;
    let numbers: Vec<_> = (1..=10_000u64).map(Message::new).collect();
    Producer::new("counter", broker.bootstrap_servers())?.produce_batch(&topic, &numbers)?;

    // Later wins: the defaults, the properties file, the environment, the maps in their order.
    let overrides = HashMap::from([("client.rack", "north"), ("fetch.min.bytes", "1")]);
    let builder = || {
        Consumer::builder("adder", broker.bootstrap_servers(), &broker.name("adder-group"))
            .topics([&topic])
            .config_file(SETTINGS)
            .config(overrides.clone())
            .config([("max.poll.interval.ms", "120000")])
    };

    // What cannot work is refused before anything connects, and the error names the key.
    for wrong in [("enable.auto.commit", "true"), ("fetch.min.bites", "1"), ("session.timeout.ms", "soon")] {
        if let Err(error) = builder().config([wrong]).build() {
            println!("refused: {error}");
        }
    }

    let mut consumer = builder()
        .batch_size(1_000)
        .linger(Duration::from_millis(100)) // wait so long for a batch to fill
        .commit(Commit::Overlapped { max_batches: 4 }) // a crash repeats at most these and the one in hand
        .drain_budget(Duration::from_secs(20)) // a partition that moves waits so long for the handler
        .idle_timeout(Duration::from_secs(3)) // for an example; a service runs until it is stopped
        .build()?;
    #[cfg(feature = "signal")]
    consumer.stop_on_signals()?;

    let mut sum = 0;
    let summary = consumer.run(|batch: &Batch<u64>| {
        // A batch may come again, so this adds up once it is certain that nothing in it fails.
        sum += batch.iter().map(|number| number.payload).sum::<u64>();
        Ok(())
    })?;
    println!("{} records in {} batches, sum {sum}", summary.records, summary.batches);

    // Says what went wrong at the end, where dropping only logs it.
    consumer.close(Duration::from_secs(5))?;
    Ok(())
}
