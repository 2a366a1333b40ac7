//! `kafka-envelope man`, and what the command line says of itself.

use super::support::cli::cli;
use super::support::unique;

/// What a page names is there.
#[test]
fn each_subcommand_has_a_page() {
    let dir = std::env::temp_dir().join(unique("man"));
    let written = cli(&["man", "--dir", dir.to_str().unwrap()]).good();
    assert_eq!(written.stdout, "");
    let mut pages = 0;
    for page in std::fs::read_dir(&dir).unwrap() {
        let page = page.unwrap().path();
        let text = std::fs::read_to_string(&page).unwrap().replace("\\-", "-");
        for name in text.lines().filter_map(|line| line.strip_suffix("(1)")) {
            assert!(dir.join(format!("{name}.1")).exists(), "{name} is not there, but in {page:?}");
        }
        pages += 1;
    }
    assert!(pages > 14, "{pages}");
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    assert!(read("kafka-envelope.1").replace("\\-", "-").contains("kafka-envelope-consume(1)"));
    for (arguments, name) in [
        (&["man"][..], "kafka-envelope.1"),
        (&["man", "consume"], "kafka-envelope-consume.1"),
        (&["man", "dlt", "redrive"], "kafka-envelope-dlt-redrive.1"),
    ] {
        assert_eq!(cli(arguments).good().stdout, read(name), "{arguments:?}");
    }
    std::fs::remove_dir_all(dir).unwrap();
    cli(&["man", "nothing"]).bad(1, &["there is no subcommand `nothing`"]);
    cli(&["man", "--dir", "/dev/null/x"]).bad(1, &["/dev/null/x: "]);
}

/// A password that stands behind the wrong sign.
#[test]
fn properties_are_not_repeated() {
    for arguments in [
        &["topics", "list", "--config", "sasl.password:secret"][..],
        &["--config=sasl.password:secret", "topics", "list"],
    ] {
        let ran = cli(arguments).bad(2, &["--config", "is not KEY=VALUE"]);
        assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    }
}

/// The client would count with what is left of it, and call brokers silent at once.
#[test]
fn a_timeout_longer_than_the_client_can_count_is_refused() {
    for seconds in ["3000000", "1e18", "inf"] {
        cli(&["topics", "list", "--connect-timeout", seconds]).bad(2, &["is more than 1000000"]);
    }
    cli(&["topics", "list", "--connect-timeout", "1000000"]).good();
}
