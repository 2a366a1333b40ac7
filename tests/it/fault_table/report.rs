//! One line a row, for people and for `scripts/faults.sh`.

use std::env;
use std::time::Duration;

use super::checker::Verdict;

/// Whether the long forms are asked for.
pub(super) fn is_long() -> bool {
    env::var_os("KAFKA_ENVELOPE_FAULTS_LONG").is_some_and(|value| value == "1")
}

/// The first in the short form, the second in the long one.
pub(super) fn by_length<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// What a row showed.
#[derive(Default)]
pub(super) struct Report {
    pub(super) row: u32,
    pub(super) fault: &'static str,
    /// How often the fault was injected.
    pub(super) times: usize,
    pub(super) records: usize,
    pub(super) lost: usize,
    pub(super) duplicates: u64,
    /// So many duplicates are allowed.
    pub(super) bound: u64,
    /// Zero where nobody looked.
    pub(super) longest_stall: Duration,
    /// All that may not be, in words.
    pub(super) wrong: Vec<String>,
}

impl Report {
    /// Of a verdict, where so many duplicates are allowed.
    pub(super) fn of(
        row: u32,
        fault: &'static str,
        times: usize,
        records: usize,
        verdict: &Verdict,
        bound: u64,
    ) -> Report {
        Report {
            row,
            fault,
            times,
            records,
            lost: verdict.lost.len() + verdict.unfound,
            duplicates: verdict.duplicates,
            bound,
            longest_stall: Duration::from_micros(verdict.longest_stall),
            wrong: verdict.faults(),
        }
    }

    /// The line of a row that this machine cannot run. Fails where `scripts/test.sh` is told that nothing may be left out.
    #[track_caller]
    pub(super) fn cannot(row: u32, fault: &str, why: &str) {
        println!("| {row} | {fault} | 0 | 0 | - | - | - | - | not run: {why} |");
        let is_required = env::var_os("KAFKA_ENVELOPE_TESTS_REQUIRED").is_some_and(|value| value == "1");
        assert!(!is_required, "row {row}, {fault}: not run: {why}");
    }

    /// Prints the line, and fails where the promise does not hold.
    #[track_caller]
    pub(super) fn file(mut self) {
        if self.duplicates > self.bound {
            self.wrong.push(format!("{} duplicates, {} at the most", self.duplicates, self.bound));
        }
        let Report { row, fault, times, records, lost, duplicates, bound, longest_stall, wrong } = &self;
        let stall = match longest_stall.as_secs_f64() {
            0.0 => "-".to_owned(),
            seconds => format!("{seconds:.1} s"),
        };
        let holds = if wrong.is_empty() { "holds" } else { "BROKEN" };
        println!("| {row} | {fault} | {times} | {records} | {lost} | {duplicates} | {bound} | {stall} | {holds} |");
        assert!(wrong.is_empty(), "row {row}, {fault}: {wrong:#?}");
    }
}
