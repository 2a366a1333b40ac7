//! Loops that take turns, each in a process of its own, and the table of what they did.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Outcome, cpu, memory_mib};

/// What one turn measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) records_per_second: f64,
    /// User and system time, of the whole process.
    pub(crate) cpu_seconds_per_million: f64,
    pub(crate) peak_rss_mib: f64,
    /// Of each record, the middle one and those that 1% and 0.1% are slower than.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) latency_ms: Option<[f64; 3]>,
    /// The shares of the processors' time that the host took, and that was spent waiting for a disk.
    pub(crate) lost: [f64; 2],
}

impl Figures {
    /// Of this process, which took so long for its records.
    pub(crate) fn of(records: u64, measured: Measured) -> Outcome<Figures> {
        Ok(Figures {
            records_per_second: records as f64 / measured.took.as_secs_f64(),
            cpu_seconds_per_million: cpu()?.as_secs_f64() * 1e6 / records as f64,
            peak_rss_mib: memory_mib("VmHWM")?,
            latency_ms: None,
            lost: measured.lost,
        })
    }

    fn columns(&self) -> Vec<f64> {
        let mut columns = vec![self.records_per_second, self.cpu_seconds_per_million, self.peak_rss_mib];
        columns.extend(self.latency_ms.into_iter().flatten());
        columns
    }
}

/// Their names, and how many digits are worth showing.
const COLUMNS: [(&str, usize); 6] =
    [("records/s", 0), ("CPU s/M", 2), ("peak MiB", 1), ("p50 ms", 2), ("p99 ms", 2), ("p99.9 ms", 2)];

/// The share of the processors' time that the host of a virtual machine may take during a turn, and that may be spent waiting
/// for a disk, for the turn to count.
const LOST: f64 = 0.02;

/// For so long turns do not count: the broker's JVM compiles what the contest needs of it, and the log comes into memory. At
/// a process's first contest it compiles the most, beside the loops, on the same processors.
const FIRST_WARM_UP: Duration = Duration::from_secs(120);
const WARM_UP: Duration = Duration::from_secs(40);
static IS_WARM: AtomicBool = AtomicBool::new(false);

/// How often a turn is tried for one that counts, and how long the host is left alone after one of which it took too much.
const TURNS: u32 = 50;
const RESPITE: Duration = Duration::from_secs(15);

/// One loop of a contest: a program that writes its figures as JSON.
#[derive(Clone, Debug)]
pub(crate) struct Entrant {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
}

impl Entrant {
    /// This program, with these arguments.
    pub(crate) fn new(name: &str, arguments: Vec<String>) -> Outcome<Entrant> {
        Ok(Entrant { name: name.into(), program: env::current_exe()?, arguments })
    }
}

/// All turns of one contest.
#[derive(Debug)]
pub(crate) struct Contest {
    name: String,
    /// So many, from the first on, are compared with the others.
    ours: usize,
    loops: Vec<Loop>,
}

#[derive(Debug)]
struct Loop {
    name: String,
    turns: Vec<Figures>,
}

impl Contest {
    /// Runs each entrant once a round. Round after round, so that what else the machine does hits all of them, every other
    /// one backwards, so that none is always the first.
    pub(crate) fn run(name: &str, ours: usize, entrants: &[Entrant], rounds: u64) -> Outcome<Contest> {
        let mut loops: Vec<_> =
            entrants.iter().map(|entrant| Loop { name: entrant.name.clone(), turns: Vec::new() }).collect();
        let begun = Instant::now();
        let warm_up = if IS_WARM.swap(true, Ordering::Relaxed) { WARM_UP } else { FIRST_WARM_UP };
        while let Some(first) = entrants.first().filter(|_| begun.elapsed() < warm_up) {
            undisturbed(&format!("{name}, not counted"), first)?;
        }
        for round in 1..=rounds {
            let mut turns: Vec<_> = loops.iter_mut().zip(entrants).collect();
            if round % 2 == 0 {
                turns.reverse();
            }
            for (one, entrant) in turns {
                one.turns.push(undisturbed(&format!("{name}, round {round}"), entrant)?);
            }
        }
        Ok(Contest { name: name.into(), ours, loops })
    }

    /// A table for people.
    pub(crate) fn print(&self) {
        let spreads: Vec<_> = self.loops.iter().map(Loop::spreads).collect();
        let Some(columns) = spreads.first().map(Vec::len) else { return };
        let mut header: Vec<_> = COLUMNS.iter().take(columns).map(|(name, _)| (*name).to_owned()).collect();
        header.extend(self.loops.iter().take(self.ours).map(|one| format!("`{}` has of it", one.name)));
        println!("\n### {}\n\n| loop | {} |", self.name, header.join(" | "));
        println!("|---|{}", "---|".repeat(header.len()));
        let compared = if columns > 3 { [3, 4] } else { [0, 1] };
        for (number, (one, theirs)) in self.loops.iter().zip(&spreads).enumerate() {
            let cell = |([median, low, high], (_, digits)): (&[f64; 3], &(&str, usize))| {
                format!("{median:.digits$} ({low:.digits$} to {high:.digits$})")
            };
            let mut cells: Vec<_> = theirs.iter().zip(&COLUMNS).map(cell).collect();
            cells.extend(spreads.iter().take(self.ours).enumerate().map(|(which, ours)| {
                let ratio =
                    |column: usize| format!("{:.2}x {}", ours[column][0] / theirs[column][0], COLUMNS[column].0);
                if which == number { String::new() } else { compared.map(ratio).join(", ") }
            }));
            println!("| `{}` | {} |", one.name, cells.join(" | "));
        }
    }

    /// All of it for programs, turn by turn.
    pub(crate) fn json(&self) -> Value {
        let of = |one: &Loop| {
            let spread = |((name, _), [median, lowest, highest]): (&(&str, usize), [f64; 3])| {
                ((*name).to_owned(), json!({ "median": median, "lowest": lowest, "highest": highest }))
            };
            let spreads: Map<_, _> = COLUMNS.iter().zip(one.spreads()).map(spread).collect();
            json!({ "name": one.name, "spread": spreads, "turns": one.turns })
        };
        json!({ "name": self.name, "loops": self.loops.iter().map(of).collect::<Vec<_>>() })
    }
}

/// A turn that lost no more than [`LOST`]. Where all lose more, that is an error.
fn undisturbed(what: &str, entrant: &Entrant) -> Outcome<Figures> {
    let what = format!("{what}, {}", entrant.name);
    for _ in 0..TURNS {
        let output = Command::new(&entrant.program).args(&entrant.arguments).output()?;
        if !output.status.success() {
            return Err(format!("{what}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let figures: Figures = serde_json::from_slice(&output.stdout)?;
        let [stolen, waited] = figures.lost;
        let counts = stolen <= LOST && waited <= LOST;
        let [taken, disk] = [stolen, waited].map(|share| share * 100.0);
        let note = match counts {
            true => String::new(),
            false => format!(", not counted: the host took {taken:.0}%, {disk:.0}% waited for a disk"),
        };
        eprintln!("{what}: {:.0} records/s{note}", figures.records_per_second);
        if counts {
            return Ok(figures);
        }
        if stolen > LOST {
            thread::sleep(RESPITE);
        }
    }
    Err(format!("{what}: {TURNS} turns lost more than {:.0}% each to the host or to a disk", LOST * 100.0).into())
}

/// Runs from the first record on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) began: Instant,
    processors: Option<ProcessorTime>,
}

/// What a clock showed at the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) took: Duration,
    lost: [f64; 2],
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { began: Instant::now(), processors: ProcessorTime::now().ok() }
    }

    pub(crate) fn stop(&self) -> Outcome<Measured> {
        let took = self.began.elapsed();
        let lost = ProcessorTime::now()?.lost_since(&self.processors.ok_or("no /proc/stat")?);
        Ok(Measured { took, lost })
    }
}

/// What a virtual machine's processors did so far, in ticks.
#[derive(Clone, Copy, Debug)]
struct ProcessorTime {
    all: u64,
    /// They were to run, and the host let others.
    stolen: u64,
    /// They had nothing to do until a disk answered.
    waited: u64,
}

impl ProcessorTime {
    fn now() -> Outcome<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        // user nice system idle iowait irq softirq steal; what comes after these is counted in user and nice, too.
        let ticks = stat.lines().next().ok_or("no processors")?.split_whitespace().skip(1).take(8);
        let ticks = ticks.map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        let of = |at: usize| ticks.get(at).copied().unwrap_or(0);
        Ok(Self { all: ticks.iter().sum(), stolen: of(7), waited: of(4) })
    }

    /// The shares that were stolen, and waited.
    fn lost_since(&self, before: &Self) -> [f64; 2] {
        let all = (self.all - before.all).max(1) as f64;
        // The kernel says that iowait may go down.
        let [stolen, waited] = [self.stolen - before.stolen, self.waited.saturating_sub(before.waited)];
        [stolen, waited].map(|ticks| ticks as f64 / all)
    }
}

impl Loop {
    /// Of each column.
    fn spreads(&self) -> Vec<[f64; 3]> {
        let columns = self.turns.first().map_or(0, |figures| figures.columns().len());
        (0..columns).map(|column| spread(self.turns.iter().map(|turn| turn.columns()[column]))).collect()
    }
}

/// The median, the lowest and the highest.
pub(crate) fn spread(values: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    let at = |at: usize| values.get(at).copied().unwrap_or(f64::NAN);
    // Of an even number, between the two in the middle.
    [f64::midpoint(at(last / 2), at(last.div_ceil(2))), at(0), at(last)]
}
