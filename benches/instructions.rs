//! How many instructions packing, unpacking, the ledger and a batch's way to its handler take, as callgrind counts them:
//! the same on a busy machine and on a quiet one, so that a regression is seen where times would hide it.
//!
//! ```text
//! bash scripts/instructions.sh          compares with benches/instructions.txt, and fails beyond a tolerance
//! bash scripts/instructions.sh write    writes it
//! ```
//!
//! A case runs twice, once without its loop: what start and preparation cost falls out.

#[path = "common/ledger.rs"]
mod ledger;
#[path = "common/orders.rs"]
mod orders;

use std::env;
use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::process::Command;

use kafka_envelope::testing::Records;
use kafka_envelope::unpack;
use ledger::{BATCH, Book};
use orders::{Order, batch, deep_cart, pack_order, packed};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// More than a change elsewhere in the crate brings about by what the compiler inlines; less than one that is felt.
const TOLERANCE_PERCENT: f64 = 5.0;
/// Where the C library copies and compares with what newer processors have besides, each kind would have its own counts.
const PLAIN_PROCESSOR: &str = "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX_Usable,-AVX2_Usable,-AVX_Fast_Unaligned_Load,-ERMS";
/// Cargo runs a bench in the directory of its package.
const FILE: &str = "benches/instructions.txt";

/// A name, how often it runs, and what it does so often.
const CASES: [(&str, u64, fn(u64) -> Outcome<()>); 13] = [
    ("pack, history depth 0", 200, |times| pack(0, times)),
    ("pack, history depth 5", 200, |times| pack(5, times)),
    ("pack, history depth 50", 200, |times| pack(50, times)),
    ("unpack, history depth 0", 200, |times| unpacked(0, times)),
    ("unpack, history depth 5", 200, |times| unpacked(5, times)),
    ("unpack, history depth 50", 200, |times| unpacked(50, times)),
    ("payload", 200, payload),
    ("batch of 500, filled", 10, filled),
    ("batch of 500, decoded", 10, decoded),
    ("batch of 500, raw", 10, raw),
    ("ledger, batch of 500", 50, |times| ledger(1, Book::batch, times)),
    ("ledger, batch of 500 from 6 partitions", 50, |times| ledger(6, Book::batch, times)),
    ("ledger, batch of 500 done out of order", 50, |times| ledger(1, Book::scattered, times)),
];

/// Once before it counts, so that buffers have grown and functions are linked; then so often.
fn repeat<R>(times: u64, mut work: impl FnMut() -> Outcome<R>) -> Outcome<()> {
    for _ in 0..=times {
        black_box(work()?);
    }
    Ok(())
}

fn pack(levels: usize, times: u64) -> Outcome<()> {
    let (order, refs, mut buffer) = (Order::new(1), [deep_cart(1, levels)?], Vec::new());
    repeat(times, || Ok(pack_order(black_box(&mut buffer), &order, &refs)?))
}

fn unpacked(levels: usize, times: u64) -> Outcome<()> {
    let value = packed(levels)?;
    repeat(times, || Ok(unpack(black_box(&value))?.history().is_some()))
}

fn payload(times: u64) -> Outcome<()> {
    let value = packed(0)?;
    repeat(times, || Ok(unpack(black_box(&value))?.payload::<Order>()?))
}

fn filled(times: u64) -> Outcome<()> {
    let (key, value) = (orders::id(1), packed(0)?);
    let push = |records: Records, _| records.raw(Some(key.as_bytes()), Some(black_box(&value)));
    repeat(times, || Ok((0..BATCH).fold(Records::new("orders"), push)))
}

fn decoded(times: u64) -> Outcome<()> {
    let records = batch(BATCH);
    repeat(times, || Ok(black_box(&records).batch::<Order>()?.len()))
}

fn raw(times: u64) -> Outcome<()> {
    let records = batch(BATCH);
    repeat(times, || Ok(black_box(&records).raw_batch()?.len()))
}

fn ledger(partitions: i32, batch: fn(&mut Book) -> usize, times: u64) -> Outcome<()> {
    let mut book = Book::new(partitions);
    repeat(times, || match batch(&mut book) {
        0 => Err("nothing to commit".into()),
        offsets => Ok(offsets),
    })
}

fn main() -> Outcome<()> {
    let words: Vec<_> = env::args().skip(1).filter(|word| word != "--bench").collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["check"] => check(),
        ["write"] => write(),
        [name, times] => {
            let (.., work) = CASES.iter().find(|(case, ..)| case == name).ok_or("no such case")?;
            work(times.parse()?)
        }
        _ => Err("run it by `bash scripts/instructions.sh`".into()),
    }
}

/// Of one run of a case.
fn count() -> Outcome<Vec<(&'static str, f64)>> {
    let of = |name: &str, times: u64| -> Outcome<f64> {
        let mut valgrind = Command::new("valgrind");
        valgrind.env("GLIBC_TUNABLES", PLAIN_PROCESSOR);
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(env::current_exe()?);
        let output = valgrind.args([name, &times.to_string()]).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("{name}: {text}").into());
        }
        let line = text.lines().find_map(|line| line.split_once("Collected : ")).ok_or("callgrind counted nothing")?;
        Ok(line.1.trim().parse()?)
    };
    let each =
        |&(name, times, _): &(&'static str, u64, _)| Ok((name, (of(name, times)? - of(name, 0)?) / times as f64));
    CASES.iter().map(each).collect()
}

/// What the counts hang on besides this crate.
fn compiler() -> Outcome<String> {
    let version = String::from_utf8(Command::new("rustc").arg("--version").output()?.stdout)?;
    Ok(format!("{} on {}", version.trim(), env::consts::ARCH))
}

fn write() -> Outcome<()> {
    let mut text = format!("# Written by `bash scripts/instructions.sh write`.\n# {}\n", compiler()?);
    for (name, count) in count()? {
        text += &format!("{count:>10.0} {name}\n");
    }
    print!("{text}");
    Ok(fs::write(FILE, text)?)
}

fn check() -> Outcome<()> {
    let (text, now) = (fs::read_to_string(FILE)?, compiler()?);
    let then =
        text.lines().find_map(|line| line.strip_prefix("# rustc")).map_or(String::new(), |line| format!("rustc{line}"));
    let is_comparable = then.ends_with(env::consts::ARCH);
    let known = |name: &str| -> Option<f64> {
        let mut lines = text.lines().filter_map(|line| line.trim().split_once(' '));
        lines.find(|(_, case)| *case == name).and_then(|(count, _)| count.parse().ok())
    };
    let mut beyond = Vec::new();
    println!("{:>10} {:>10}", "before", "now");
    for (name, count) in count()? {
        let before = known(name);
        let percent = before.map_or(f64::INFINITY, |before| (count / before - 1.0) * 100.0);
        println!("{:>10.0} {count:>10.0} {percent:>+7.1}%  {name}", before.unwrap_or_default());
        if percent.abs() > TOLERANCE_PERCENT {
            beyond.push(name);
        }
    }
    if beyond.is_empty() {
        return Ok(());
    }
    if !is_comparable {
        println!("not compared: the file's counts are those of {then}, these of {now}");
        return Ok(());
    }
    let other = if then == now { String::new() } else { format!(" (by {then}; this is {now})") };
    Err(format!(
        "more than {TOLERANCE_PERCENT}% away from benches/instructions.txt{other}: {}. If it is meant to be so, also where \
         it is fewer, `bash scripts/instructions.sh write` writes the new counts; commit them and say why.",
        beyond.join("; ")
    )
    .into())
}
