//! Loops that take turns, each in a process of its own, and the table of what they did.

use std::collections::BTreeMap;
use std::env;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

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
}

impl Figures {
    /// Of this process, which took so long for its records.
    pub(crate) fn of(records: u64, took: Duration) -> Outcome<Figures> {
        Ok(Figures {
            records_per_second: records as f64 / took.as_secs_f64(),
            cpu_seconds_per_million: cpu()?.as_secs_f64() * 1e6 / records as f64,
            peak_rss_mib: memory_mib("VmHWM")?,
            latency_ms: None,
        })
    }

    fn columns(&self) -> Vec<f64> {
        let mut columns = vec![self.records_per_second, self.cpu_seconds_per_million, self.peak_rss_mib];
        columns.extend(self.latency_ms.into_iter().flatten());
        columns
    }
}

const COLUMNS: [(&str, usize); 6] = [
    ("records/s", 0),
    ("CPU s/M", 2),
    ("peak MiB", 1),
    ("p50 ms", 2),
    ("p99 ms", 2),
    ("p99.9 ms", 2),
];

/// All turns of one contest, by loop.
#[derive(Debug, Serialize)]
pub(crate) struct Contest {
    pub(crate) name: String,
    loops: Vec<(String, Vec<Figures>)>,
}

impl Contest {
    /// Runs this program once for each loop and round, with the arguments of the loop: it writes its figures as JSON.
    /// Round after round, so that what else the machine does hits all of them.
    pub(crate) fn run(name: &str, loops: &[(String, Vec<String>)], rounds: u64) -> Outcome<Contest> {
        let mut contest = Contest { name: name.into(), loops: Vec::new() };
        contest.loops.extend(loops.iter().map(|(name, _)| (name.clone(), Vec::new())));
        for round in 1..=rounds {
            for ((which, arguments), (_, turns)) in loops.iter().zip(&mut contest.loops) {
                let output = Command::new(env::current_exe()?).args(arguments).output()?;
                if !output.status.success() {
                    return Err(format!("{name}, {which}: {}", String::from_utf8_lossy(&output.stderr)).into());
                }
                let figures: Figures = serde_json::from_slice(&output.stdout)?;
                eprintln!("{name}, round {round}, {which}: {:.0} records/s", figures.records_per_second);
                turns.push(figures);
            }
        }
        Ok(contest)
    }

    /// A table for people, the first loop compared with the others.
    pub(crate) fn print(&self) {
        let medians: BTreeMap<&str, Vec<f64>> =
            self.loops.iter().map(|(which, turns)| (&**which, spread(turns).iter().map(|one| one[0]).collect())).collect();
        let Some((first, turns)) = self.loops.first() else { return };
        let count = turns.first().map_or(0, |figures| figures.columns().len());
        let header: Vec<_> = COLUMNS[..count].iter().map(|(name, _)| *name).collect();
        println!("\n### {}\n\n| loop | {} | `{first}` has of it |", self.name, header.join(" | "));
        println!("|---|{}", "---|".repeat(count + 1));
        for (which, turns) in &self.loops {
            let cell = |([median, low, high], (_, digits)): ([f64; 3], &(&str, usize))| {
                format!("{median:.digits$} ({low:.digits$} to {high:.digits$})")
            };
            let cells: Vec<_> = spread(turns).into_iter().zip(&COLUMNS).map(cell).collect();
            let ratio = |column: usize| medians[&**first][column] / medians[&**which][column];
            let mut ratios = format!("{:.2}x records/s, {:.2}x CPU", ratio(0), ratio(1));
            if count > 3 {
                ratios = format!("{:.2}x p50, {:.2}x p99", ratio(3), ratio(4));
            }
            let ratios = if which == first { String::new() } else { ratios };
            println!("| `{which}` | {} | {ratios} |", cells.join(" | "));
        }
    }
}

/// Of each column: the median, the lowest and the highest.
fn spread(turns: &[Figures]) -> Vec<[f64; 3]> {
    let count = turns.first().map_or(0, |figures| figures.columns().len());
    let of = |column: usize| {
        let mut values: Vec<f64> = turns.iter().filter_map(|turn| turn.columns().get(column).copied()).collect();
        values.sort_by(f64::total_cmp);
        [values[values.len() / 2], values[0], values[values.len() - 1]]
    };
    (0..count).map(of).collect()
}
