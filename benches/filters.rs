//! What a message costs that 3 of 10, of 1,000 and of 100,000 filters match; what a filter costs in memory; what it takes
//! to change one while messages flow.
//!
//! ```text
//! cargo bench --features export --bench filters
//! ```
//!
//! The sizes are measured in turns, so that what else the machine does hits all of them alike. Times are the median of
//! the turns; the ratio is to 10 filters in the same run.
#![allow(clippy::unwrap_used, missing_docs)]
// A counting allocator is unsafe by its trait. Nothing of it goes into the library.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kafka_envelope::Ref;
use kafka_envelope::export::{Filters, Form};

/// The system's allocator, counting the bytes that are out.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the same contract.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZES: [usize; 3] = [10, 1_000, 100_000];
const TURNS: usize = 51;
const MESSAGES: usize = 2_000;

/// One way in which filters differ. Of each three that follow each other all match the same message, two of them with the
/// same mappings.
struct Case {
    name: &'static str,
    /// The identifiers of the filters of this device.
    identifiers: fn(usize) -> String,
    /// Whether each device has mappings of its own.
    own_mappings: bool,
}

const CASES: [Case; 3] = [
    Case { name: "values of their own", identifiers: values, own_mappings: false },
    Case { name: "values and mappings of their own", identifiers: values, own_mappings: true },
    Case { name: "a key of their own", identifiers: keys, own_mappings: false },
];

fn values(device: usize) -> String {
    format!(r#"[{{"key":"device_id","value":"device-{device}"}},{{"key":"service_id","value":"service-{device}"}}]"#)
}

fn keys(device: usize) -> String {
    format!(r#"[{{"key":"device_id","value":"device-{device}"}},{{"key":"key-{device}","value":"x"}}]"#)
}

fn filter(case: &Case, number: usize) -> String {
    let identifiers = (case.identifiers)(number / 3);
    let target = if number % 3 == 0 { "other" } else { "level" };
    let target = if case.own_mappings { format!("{target}-{}", number / 3) } else { target.to_owned() };
    format!(
        r#"{{"id":"a-filter-with-a-long-id-{number:08}","source":"readings","identifiers":{identifiers},
            "mappings":{{"{target}:data":"value.root.level","unit:data":"value.root.unit","time:extra":"time"}}}}"#
    )
}

fn message(device: usize) -> Vec<u8> {
    format!(
        r#"{{"device_id":"device-{device}","service_id":"service-{device}","key-{device}":"x","time":"2026-01-02T03:04:05Z",
        "value":{{"root":{{"level":3.25,"unit":"m","name":"a tank","history":[1.5,2.5,3.5,4.5,5.5]}}}},"seq":1234567}}"#
    )
    .into()
}

/// Filters with messages of devices all over them, and what both cost.
struct Sized {
    size: usize,
    filters: Filters,
    messages: Vec<Vec<u8>>,
    bytes: usize,
    load: Duration,
    times: Vec<u128>,
}

impl Sized {
    fn new(case: &Case, size: usize) -> Self {
        let before = BYTES.load(Ordering::Relaxed);
        let start = Instant::now();
        let mut filters = Filters::default();
        for number in 0..size {
            filters.put(&filter(case, number)).unwrap();
        }
        let (bytes, load) = ((BYTES.load(Ordering::Relaxed) - before) / size, start.elapsed());
        // A prime step, so that neighbours in memory do not follow each other.
        let messages = (0..MESSAGES).map(|number| message(number * 7_919 % (size / 3))).collect();
        Self { size, filters, messages, bytes, load, times: Vec::new() }
    }

    fn turn(&mut self, form: &Form) {
        let start = Instant::now();
        for (offset, message) in (0..).zip(&self.messages) {
            let exports = self.filters.export(Ref::new("readings", 0, offset), black_box(message), form);
            assert_eq!(black_box(exports).results.len(), 2);
        }
        self.times.push(per_message(start));
    }

    /// What a change takes while readers hold the state before it.
    fn change(&mut self, case: &Case) -> Duration {
        let mut published = self.filters.clone();
        let start = Instant::now();
        for number in 0..100 {
            self.filters.put(&filter(case, self.size + number)).unwrap();
            published = self.filters.clone();
        }
        drop(published);
        start.elapsed() / 100
    }
}

/// Nanoseconds.
fn per_message(start: Instant) -> u128 {
    start.elapsed().as_nanos() / MESSAGES as u128
}

fn median(times: &mut [u128]) -> u128 {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let form = Form::default();
    for case in &CASES {
        println!("filters with {}", case.name);
        let mut sizes = SIZES.map(|size| Sized::new(case, size));
        let mut parses = Vec::new();
        for _ in 0..TURNS {
            sizes.iter_mut().for_each(|sized| sized.turn(&form));
            let start = Instant::now();
            for message in &sizes[0].messages {
                black_box(serde_json::from_slice::<serde_json::Value>(black_box(message)).unwrap());
            }
            parses.push(per_message(start));
        }
        let base = median(&mut sizes[0].times);
        println!("  {:>22}: {:>6} ns a message", "reading it as a Value", median(&mut parses));
        for mut sized in sizes {
            let time = median(&mut sized.times);
            let (size, bytes, load, change) = (sized.size, sized.bytes, sized.load, sized.change(case));
            println!(
                "  {size:>14} filters: {time:>6} ns a message, {:.2} of that with {}; {bytes} bytes a filter; all put in \
                 {load:.1?}, one more in {change:.1?}",
                time as f64 / base as f64,
                SIZES[0],
            );
        }
    }
}
