//! What needs no broker: envelopes, batches, the ledger, filters.
//!
//! ```text
//! cargo bench --bench pure                    all but the filters
//! cargo bench --bench pure --features export  all
//! ```
#![allow(missing_docs)]

#[cfg(feature = "export")]
#[path = "common/filters.rs"]
mod filters;
#[path = "common/ledger.rs"]
mod ledger;
#[path = "common/orders.rs"]
mod orders;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use kafka_envelope::{Error, unpack};
use ledger::{BATCH, Book};
use orders::{Borrowed, DEPTHS, Order, batch, deep_cart, pack_order, packed};
use serde::de::IgnoredAny;

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    envelopes(&mut criterion)?;
    batches(&mut criterion);
    ledgers(&mut criterion);
    #[cfg(feature = "export")]
    exports(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

fn envelopes(criterion: &mut Criterion) -> Result<(), Error> {
    let order = Order::new(1);
    for name in ["pack", "unpack", "payload", "payload-borrowed"] {
        let mut group = criterion.benchmark_group(name);
        for depth in DEPTHS {
            let (value, refs) = (packed(depth)?, [deep_cart(1, depth)?]);
            let mut buffer = Vec::new();
            group.throughput(Throughput::Bytes(value.len() as u64));
            group.bench_function(BenchmarkId::from_parameter(depth), |bencher| match name {
                "pack" => bencher.iter(|| pack_order(black_box(&mut buffer), black_box(&order), &refs)),
                "unpack" => bencher.iter(|| unpack(black_box(&value)).map(|envelope| envelope.history().is_some())),
                "payload" => bencher.iter(|| unpack(black_box(&value))?.payload::<Order>()),
                _ => bencher.iter(|| unpack(black_box(&value))?.payload::<Borrowed<'_>>().map(|order| order.total())),
            });
        }
    }
    Ok(())
}

/// What [`kafka_envelope::testing`] makes a batch from is what a consumer does. How threads hand it over is no part of it.
fn batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(BATCH));
    let records = batch(BATCH);
    group.bench_function("decoded", |bencher| {
        bencher.iter(|| black_box(&records).batch::<Order>().map(|batch| batch.len()))
    });
    group.bench_function("raw", |bencher| bencher.iter(|| black_box(&records).raw_batch().map(|batch| batch.len())));
    group.bench_function("borrowed", |bencher| {
        bencher.iter(|| {
            let batch = black_box(&records).raw_batch()?;
            batch.iter().try_fold(0.0, |sum, record| Ok::<_, Error>(sum + record.decode::<Borrowed<'_>>()?.total()))
        });
    });
    group.bench_function("skipped", |bencher| {
        bencher.iter(|| black_box(&records).batch::<IgnoredAny>().map(|batch| batch.len()));
    });
}

fn ledgers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(BATCH));
    for partitions in [1, 6] {
        for (name, batch) in [("in-order", Book::batch as fn(&mut Book) -> usize), ("scattered", Book::scattered)] {
            let mut book = Book::new(partitions);
            group.bench_function(BenchmarkId::new(name, partitions), |bencher| bencher.iter(|| batch(&mut book)));
        }
    }
}

#[cfg(feature = "export")]
fn exports(criterion: &mut Criterion) -> Result<(), Error> {
    use filters::{CASES, filter, message};
    use kafka_envelope::Ref;
    use kafka_envelope::export::{Filters, Form};

    let form = Form::default();
    for case in &CASES {
        let mut group = criterion.benchmark_group(format!("filters with {}", case.name));
        for size in [10, 1_000] {
            let mut filters = Filters::default();
            for number in 0..size {
                filters.put(&filter(case, number))?;
            }
            let messages: Vec<_> = (0..100).map(|number| message(number * 7_919 % (size / 3))).collect();
            let mut next = (0..).zip(messages.iter().cycle());
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                bencher.iter(|| {
                    let (offset, message) = next.next()?;
                    Some(filters.export(Ref::new("readings", 0, offset), black_box(message), &form).results.len())
                });
            });
        }
    }
    Ok(())
}
