//! The program `kafka-envelope` where brokers want TLS, a log-in and rights.

use std::fs;
use std::path::PathBuf;

use crate::support::acls::{May, On, grant};
use crate::support::cli::{Ran, cli_with};
use crate::support::secured::{EXPIRED, MARK, SASL_SSL, login, secured_broker};
use crate::support::{create_topic, produce_numbers, unique};

/// A file with these properties.
struct File(PathBuf);

impl File {
    fn of(config: &[(String, String)]) -> File {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique("client.properties"));
        let lines: String = config.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        fs::write(&path, lines).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn run(listener: &str, config: &[(String, String)], arguments: &[&str]) -> Ran {
    let (file, address) = (File::of(config), secured_broker().address(listener));
    let path = file.0.display().to_string();
    let connection = ["--bootstrap-servers", &address, "--config-file", &path, "--connect-timeout", "5"];
    let input = "{\"payload\": 1}\n";
    let ran = cli_with(&[arguments, &connection].concat(), input);
    assert!(!ran.stderr.contains(MARK) && !ran.stdout.contains(MARK), "{}{}", ran.stdout, ran.stderr);
    ran
}

/// It ended with one error, which says this.
#[track_caller]
fn says(ran: Ran, parts: &[&str]) {
    let ran = ran.bad(1, parts);
    let errors = ran.stderr.lines().filter(|line| line.starts_with("error:"));
    assert_eq!(errors.count(), 1, "{}", ran.stderr);
}

#[test]
fn who_may_works_as_ever() {
    let bootstrap = secured_broker().bootstrap();
    let topic = create_topic(bootstrap, 1);
    grant(bootstrap, "frank", May::All, On::Topic(&topic));
    grant(bootstrap, "frank", May::Read, On::Group("*"));
    let frank = login("frank");
    run(SASL_SSL, &frank, &["produce", &topic]).good();
    assert_eq!(run(SASL_SSL, &frank, &["consume", &topic]).good().json().len(), 1);
    assert!(run(SASL_SSL, &frank, &["topics", "list"]).good().stdout.contains(&topic));
}

#[test]
fn who_may_not_reads_one_error() {
    let bootstrap = secured_broker().bootstrap();
    let topic = create_topic(bootstrap, 1);
    produce_numbers(bootstrap, &topic, 0, 0..3);
    let wrong = secured_broker().login("PLAIN", "frank", &format!("{MARK}-wrong"));
    let tls = secured_broker().tls();
    let timeout = ["--config", "delivery.timeout.ms=4000"];
    let produce = [&["produce", &topic], &timeout[..]].concat();
    for arguments in [&["topics", "list"][..], &["consume", &topic], &produce] {
        let text = "Invalid username or password; user or password are wrong";
        says(run(SASL_SSL, &wrong, arguments), &[text]);
        says(run(EXPIRED, &tls, arguments), &["the broker's certificate has expired, on "]);
    }
    // With all that can be logged.
    let talkative = [&["topics", "list", "-vv", "--config", "debug=all"][..]].concat();
    run(SASL_SSL, &wrong, &talkative).bad(1, &["SASL"]);

    // One who has no rights at all.
    let heidi = login("heidi");
    says(run(SASL_SSL, &heidi, &["consume", &topic]), &[&topic, "ask for an ACL"]);
    let produce = [&["produce", &topic], &timeout[..]].concat();
    says(run(SASL_SSL, &heidi, &produce), &[&topic, "ask for an ACL"]);
    says(run(SASL_SSL, &heidi, &["lag", &unique("group")]), &["ask for an ACL"]);
}
