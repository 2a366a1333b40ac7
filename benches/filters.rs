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

#[path = "common/filters.rs"]
mod filters;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use filters::{CASES, Case, filter, message};
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
