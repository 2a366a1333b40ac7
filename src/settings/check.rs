//! Checks of what builders are given beside settings: service, brokers, group, topics.

use std::net::Ipv6Addr;

use crate::error::{Error, Result};

/// Text that goes to librdkafka as it is: not blank, and without the byte that would cut it off there.
pub(crate) fn non_empty(key: &str, value: &str) -> Result<()> {
    if value.trim().is_empty() {
        return Err(Error::setting(key, "is empty"));
    }
    if value.contains('\0') {
        return Err(Error::setting(key, "contains a NUL byte"));
    }
    Ok(())
}

/// The name of a service.
pub(crate) fn service(name: &str) -> Result<()> {
    non_empty("service", name)
}

/// The name of a consumer group.
pub(crate) fn group(name: &str) -> Result<()> {
    non_empty("group.id", name)
}

/// A list of brokers, as librdkafka reads it: `host`, `host:port`, `protocol://host:port`, with commas between.
pub(crate) fn brokers(list: &str) -> Result<()> {
    const KEY: &str = "bootstrap.servers";
    non_empty(KEY, list)?;
    for (number, entry) in (1..).zip(list.split(',')) {
        broker(entry.trim_start_matches(' '))
            .map_err(|reason| Error::setting(KEY, format!("entry {number} of the list {reason}")))?;
    }
    Ok(())
}

fn broker(entry: &str) -> Result<(), &'static str> {
    const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
    if entry.is_empty() {
        return Err("is empty");
    }
    let address = match entry.split_once("://") {
        None => entry,
        Some((protocol, address)) if PROTOCOLS.iter().any(|known| protocol.eq_ignore_ascii_case(known)) => address,
        Some(_) => return Err("has a protocol that is none of plaintext, ssl, sasl_plaintext, sasl_ssl"),
    };
    if address.contains(|c: char| c.is_whitespace() || c.is_control() || "/@".contains(c)) {
        return Err("has a blank or a character that no host has");
    }
    let bracketed = address.strip_prefix('[').map(|rest| rest.split_once(']').ok_or("lacks a `]`")).transpose()?;
    let (host, port) = match bracketed {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or("has no `:` between host and port")?)),
        None if address.parse::<Ipv6Addr>().is_ok() => (address, None),
        None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("has no host");
    }
    // `u16` alone would take `+1`.
    let valid = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port > 0);
    if port.is_some_and(|port| !valid(port)) {
        return Err("has a port that is no number from 1 to 65535");
    }
    Ok(())
}

/// The name of one topic.
pub(crate) fn topic(name: &str) -> Result<()> {
    /// Kafka's own limit: name and partition make up a directory's name.
    const MAX: usize = 249;
    let reason = match name {
        "" => "is empty".to_owned(),
        "." | ".." => format!("`{name}` is no topic's name"),
        _ if name.len() > MAX => format!("has {} bytes, Kafka allows {MAX}", name.len()),
        _ if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) => {
            format!("{name:?} has more than the letters, digits, `.`, `_` and `-` that Kafka allows")
        }
        _ => return Ok(()),
    };
    Err(Error::setting("topic", reason))
}

/// What a consumer subscribes to: names, and patterns that start with `^`.
pub(crate) fn topics<T: AsRef<str>>(names: &[T]) -> Result<()> {
    if names.is_empty() {
        return Err(Error::setting("topics", "there is none"));
    }
    names.iter().map(AsRef::as_ref).try_for_each(|name| match name.strip_prefix('^') {
        Some(pattern) => non_empty("topics", pattern),
        None => topic(name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_brokers() {
        for list in [
            "localhost:9092",
            "localhost",
            "a:1,b:65535",
            "a:1, b:2",
            "SASL_SSL://a.example.com:9093",
            "[::1]:9092",
            "[::1]",
            "::1",
            "plaintext://[fe80::1]:9092,10.0.0.1:9092",
        ] {
            assert!(brokers(list).is_ok(), "{list}");
        }
        for list in [
            "",
            " ",
            ",",
            "a:1,",
            "a:1,,b:2",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:x",
            ":9092",
            "a:1:2",
            "http://a:1",
            "://a:1",
            "ssl://",
            "a:1 ",
            "a b:1",
            "a:1/path",
            "me:pw@a:1",
            "[::1",
            "[::1]9092",
            "[]:1",
            "a:1\n",
            "a\0:1",
        ] {
            let error = brokers(list).unwrap_err().to_string();
            assert!(error.starts_with("setting `bootstrap.servers`: "), "{list}: {error}");
            assert!(!error.contains("pw"));
        }
    }

    #[test]
    fn names() {
        assert!(service("billing é").is_ok() && group("billing-group").is_ok());
        assert!(service("").is_err() && service("\t").is_err() && group("").is_err() && group("a\0b").is_err());
        let long = "x".repeat(249);
        assert!(topics(&["orders", "a.b_c-D9", "^orders-.*", long.as_str()]).is_ok());
        assert!(topics::<&str>(&[]).is_err());
        let too_long = "x".repeat(250);
        for name in ["", ".", "..", "a b", "é", "a/b", "^", "^\0", too_long.as_str()] {
            assert!(topics(&["orders", name]).is_err(), "{name}");
        }
        assert!(topic("^orders").is_err(), "one topic is never a pattern");
    }
}
