//! Every example runs as it stands and ends by itself, without a broker.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use crate::support::leash::Leashed;
use crate::support::unique;

const DEADLINE: Duration = Duration::from_secs(60);

/// The example's own tests belong to these.
#[allow(dead_code)]
#[path = "../../examples/testing_a_service.rs"]
mod testing_a_service;

/// An example that `cargo test` has built; with `--test it` it builds none.
pub(crate) fn program(name: &str) -> PathBuf {
    // This binary is target/<profile>/deps/it-<hash>.
    let mut program = env::current_exe().unwrap();
    program.pop();
    program.pop();
    program.extend(["examples", name]);
    assert!(program.exists(), "{} is missing: `cargo build --examples --all-features` makes it", program.display());
    program
}

/// Runs an example, and returns what it printed. Panics if it fails or does not end.
pub(crate) fn run(name: &str, bootstrap: Option<&str>) -> String {
    run_with(name, bootstrap.map(|bootstrap| ("KAFKA_BOOTSTRAP_SERVERS", bootstrap)))
}

/// The same with variables of the environment.
pub(crate) fn run_with<'a>(name: &str, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique(name));
    let mut command = Command::new(program(name));
    command.env_remove("RUST_LOG").env_remove("KAFKA_BOOTSTRAP_SERVERS").env_remove("REDIS_URL");
    command.envs(variables);
    let mut process = Leashed::spawn(&command, Some(fs::File::create(&log).unwrap()), None);
    let status = process.wait(DEADLINE, name);
    let printed = fs::read_to_string(&log).unwrap();
    fs::remove_file(&log).unwrap();
    assert!(status.success(), "{name}: {status}\n{printed}");
    printed
}

#[test]
fn the_examples_run_without_a_broker() {
    let mut names: Vec<_> = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    if !cfg!(feature = "tokio") {
        names.retain(|name| name != "async_service");
    }
    if !cfg!(feature = "app") {
        names.retain(|name| name != "event_app");
    }
    if !cfg!(all(feature = "redis", feature = "stream")) {
        names.retain(|name| name != "stream_worker");
    }
    if !cfg!(feature = "export") {
        names.retain(|name| name != "export_to_sqlite");
    }
    // Ends only where it is told to: `metrics_dashboards` does.
    names.retain(|name| name != "metrics");
    for (name, text) in [
        #[cfg(feature = "tokio")]
        ("async_service", "shut down: 400 orders in "),
        ("consumer_config", "sum 50005000"),
        #[cfg(feature = "app")]
        ("event_app", "200 orders placed, 180 shipped, 20 sold out, "),
        #[cfg(feature = "export")]
        ("export_to_sqlite", "3300 rows of 3300, 0 of them twice"),
        ("exactly_once", "1000 invoices of 1000 orders: 0 orders have none, 1000 have one"),
        ("low_level", "3 orders billed"),
        ("producer", "stream:  1000 acknowledged"),
        ("quickstart", "1000 orders in, 1000 invoices out, "),
        ("retry_and_dead_letter", "60 records = 57 handled + 3 dead letters"),
        #[cfg(all(feature = "redis", feature = "stream"))]
        ("stream_worker", "1000 scores in scores, from windows of 50\n"),
        ("testing_a_service", "2 orders looked at"),
    ] {
        let printed = run(name, None);
        assert!(printed.contains(text), "{name}:\n{printed}");
        names.retain(|other| other != name);
    }
    assert!(names.is_empty(), "nothing is expected of {names:?}");
}

#[test]
fn the_quickstart_shows_what_it_promises() {
    check_quickstart(&run("quickstart", None));
}

/// Nothing of the batch that fails is committed, and it comes again.
pub(crate) fn check_quickstart(printed: &str) {
    let starting = |start: &str| -> Vec<&str> {
        printed.lines().map(str::trim_start).filter_map(|line| line.strip_prefix(start)).map(str::trim).collect()
    };
    let committed = starting("committed:");
    assert_eq!(committed.len(), 3, "{printed}");
    assert_eq!(committed[0], committed[1], "{printed}");
    assert_ne!(committed[1], committed[2], "{printed}");
    let (failed, again) = (starting("batch 2    FAILS"), starting("batch 2    ok"));
    assert_eq!(format!("{}  (again)", failed[0]), again[0], "{printed}");
    assert!(printed.contains("\n1000 orders in, 1000 invoices out, "), "{printed}");
    assert!(printed.contains("\n1000 invoices read in "), "{printed}");
    assert_eq!(starting("from orders").len(), 1, "{printed}");
    for stage in ["billing  ", "ledger   ", "total    "] {
        assert_eq!(starting(stage).len(), 1, "{printed}");
    }
}
