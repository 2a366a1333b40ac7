//! What is known of single keys: aliases, managed keys, secrets. All else librdkafka knows better.

use super::Side;

/// librdkafka's pairs of names for one property, the right one as Kafka itself spells it.
const ALIASES: &[(&str, &str)] = &[
    ("auto.commit.enable", "enable.auto.commit"),
    ("compression.codec", "compression.type"),
    ("fetch.message.max.bytes", "max.partition.fetch.bytes"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("message.send.max.retries", "retries"),
    ("message.timeout.ms", "delivery.timeout.ms"),
    ("metadata.broker.list", "bootstrap.servers"),
    ("queue.buffering.max.ms", "linger.ms"),
    ("request.required.acks", "acks"),
    ("sasl.mechanisms", "sasl.mechanism"),
    ("sasl.oauthbearer.client.credentials.client.id", "sasl.oauthbearer.client.id"),
    ("sasl.oauthbearer.client.credentials.client.secret", "sasl.oauthbearer.client.secret"),
];

/// The one spelling under which a property is kept, so that an override meets its default.
pub(super) fn canonical(key: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == key).map_or(key, |(_, canonical)| canonical)
}

/// Why a property may not be overridden, by its canonical key.
pub(super) fn managed(side: Side, key: &str) -> Option<&'static str> {
    let reason = match (side, key) {
        (_, "bootstrap.servers") => "the brokers are an argument of the constructor",
        (_, "log_level") => "the level of the `log` crate for the target `librdkafka` decides",
        (_, "log.queue" | "enabled_events" | "interceptors" | "opaque" | "default_topic_conf") => {
            "it is internal: the client's events would not arrive"
        }
        (Side::Consumer, "group.id") => "the group is an argument of the constructor",
        (Side::Consumer, "enable.auto.commit" | "enable.auto.offset.store") => {
            "it stays false: offsets are committed after the handler returned `Ok`, or by your own loop's commits"
        }
        (Side::Consumer, "enable.partition.eof") => "it stays false: such an event makes librdkafka skip records later",
        (Side::Consumer, "offset.store.method") => "offsets are committed to the broker",
        (Side::Producer, "delivery.report.only.error") => "it stays false: every record's delivery report is checked",
        (Side::Producer, "transactional.id") => "it belongs to a transactional producer, whose builder takes it",
        _ => return None,
    };
    Some(reason)
}

/// Whether a key's value must not be shown. Rather one too many: a path or a user name is no loss in a log.
pub(crate) fn is_secret(key: &str) -> bool {
    const PARTS: &[&str] = &["password", "passphrase", "secret", "token", "credential", "private", "jaas", ".pem"];
    let key = key.to_ascii_lowercase().replace('_', ".");
    PARTS.iter().any(|part| key.contains(part))
        || ["sasl.username", "sasl.oauthbearer.config", "sasl.oauthbearer.extensions"].contains(&key.as_str())
}

/// A key as an error may show it. What does not look like one may be a piece of a secret's value.
pub(super) fn shown(key: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if (1..=80).contains(&key.len()) && key.bytes().all(plain) { key } else { "(not a property name)" }
}

/// With what the names of those properties start that decide how a client reaches its brokers, whatever it does there.
pub(super) const CONNECTION: [&str; 11] = [
    "broker.address.",
    "client.dns.",
    "connections.",
    "enable.sasl.",
    "enable.ssl.",
    "https.",
    "reconnect.",
    "sasl.",
    "security.",
    "socket.",
    "ssl.",
];

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;

    use super::*;

    #[test]
    fn librdkafka_has_these_aliases() {
        for (alias, canonical) in ALIASES {
            let Ok(native) = ["7", "true", "snappy", "a"]
                .iter()
                .find_map(|value| ClientConfig::new().set(*alias, *value).create_native_config().ok())
                .ok_or(())
            else {
                // Not built in: librdkafka says so under both names.
                let error = ClientConfig::new().set(*canonical, "a").create_native_config().err().unwrap();
                assert!(error.to_string().contains("not supported in this build"), "{canonical}: {error}");
                continue;
            };
            assert_eq!(native.get(alias).unwrap(), native.get(canonical).unwrap(), "{alias}");
        }
    }

    #[test]
    fn secrets() {
        for key in [
            "sasl.password",
            "SASL.PASSWORD",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.keystore.password",
            "ssl.truststore.password",
            "sasl.jaas.config",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.client.credentials.client.secret",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "ssl_key_password",
        ] {
            assert!(is_secret(key), "{key}");
        }
        for key in ["acks", "group.id", "ssl.key.location", "partition.assignment.strategy", "sasl.mechanism"] {
            assert!(!is_secret(key), "{key}");
        }
    }

    #[test]
    fn only_property_names_are_shown() {
        assert_eq!(shown("linger.ms"), "linger.ms");
        for key in ["", "MIIEvQIBADANBg", "a b", "-----BEGIN", "ü"] {
            assert_eq!(shown(key), "(not a property name)");
        }
    }
}
