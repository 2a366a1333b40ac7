use kafka_envelope::{Batch, Consumer};
fn _spawns(mut consumer: Consumer) {
    let sum = std::sync::Arc::new(std::sync::Mutex::new(0));
    tokio::spawn(async move {
        consumer.run_async(async move |batch: &Batch<u64>| {
            for r in batch.iter() { tokio::task::yield_now().await; *sum.lock().unwrap() += r.payload; }
            Ok(())
        }).await
    });
}
fn _spawns2(mut consumer: Consumer) {
    tokio::spawn(async move {
        consumer.run_async_until(async move |batch: &Batch| {
            for r in batch.iter() { tokio::task::yield_now().await; println!("{}", r.payload); }
            Ok(())
        }, async {tokio::task::yield_now().await }).await
    });
}
