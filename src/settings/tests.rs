use std::collections::HashMap;

use rdkafka::consumer::{BaseConsumer, DefaultConsumerContext};
use rdkafka::producer::{BaseProducer, DefaultProducerContext};

use super::*;

/// Stands for every secret: it must be in no text that this module makes.
const MARKER: &str = "hunter2-marker";

/// A properties file that goes away.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kafka-envelope-{}.properties", uuid::Uuid::new_v4()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn resolve(settings: &Settings) -> Result<Resolved> {
    settings.resolve_with(env(&[]), &[])
}

/// Key and reason of the refusal.
fn refusal(result: Result<Resolved>) -> (String, String) {
    match result {
        Err(Error::Setting { key, reason }) => (key, reason),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn every_default_has_its_reason_above_and_is_taken() {
    for (text, defaults) in [
        (CONSUMER, consumer_defaults()),
        (PRODUCER, producer_defaults()),
        #[cfg(feature = "metrics")]
        (METRICS, metrics_defaults()),
    ] {
        let lines: Vec<_> = text.lines().collect();
        let keys: Vec<_> = (0..lines.len()).filter(|i| !lines[*i].is_empty() && !lines[*i].starts_with('#')).collect();
        assert_eq!(keys.len(), defaults.len(), "a key stands once, on one line");
        for line in keys {
            assert!(line > 0 && lines[line - 1].starts_with("# "), "no reason above {}", lines[line]);
        }
        for (key, value) in &defaults {
            assert_eq!(accepted(key, value), Ok(()), "{key}");
            assert_eq!(canonical(key), key, "the map shows Kafka's own spelling");
        }
    }
}

#[cfg(feature = "metrics")]
#[test]
fn only_clients_that_are_measured_have_statistics_unless_somebody_says_otherwise() {
    let interval = |settings: &Settings| resolve(settings).unwrap().get("statistics.interval.ms").map(str::to_owned);
    assert_eq!(interval(&Settings::consumer()), None);
    for settings in [Settings::consumer(), Settings::producer()] {
        assert_eq!(interval(&settings.clone().measured()).as_deref(), Some("5000"));
        assert_eq!(interval(&settings.measured().map([("statistics.interval.ms", "0")])).as_deref(), Some("0"));
    }
}

#[test]
fn the_defaults_make_clients() {
    let managed = [("bootstrap.servers", "localhost:1"), ("group.id", "g")];
    let consumer = Settings::consumer().client_id("billing").resolve_with(env(&[]), &managed).unwrap();
    assert_eq!((consumer.get("client.id"), consumer.get("group.id")), (Some("billing"), Some("g")));
    consumer.create::<_, BaseConsumer<_>>(DefaultConsumerContext).unwrap();
    let producer = Settings::producer().resolve_with(env(&[]), &managed[..1]).unwrap();
    producer.create::<_, BaseProducer<_>>(DefaultProducerContext).unwrap();
    assert_eq!(producer.effective_number("message.timeout.ms").unwrap(), 300_000);
    assert_eq!(producer.effective_number("message.max.bytes").unwrap(), 1_000_000);
    assert!(producer.effective_number("compression.type").is_err() && producer.effective("no.such").is_err());
    // With transactions librdkafka bounds the delivery itself.
    let managed = [managed[0], ("transactional.id", "t")];
    let producer = Settings::producer().resolve_with(env(&[]), &managed).unwrap();
    producer.create::<_, BaseProducer<_>>(DefaultProducerContext).unwrap();
    let slow = Settings::producer().map([("delivery.timeout.ms", "300000")]).resolve_with(env(&[]), &managed).unwrap();
    let error = slow.create::<_, BaseProducer<_>>(DefaultProducerContext).err().unwrap();
    assert!(matches!(&error, Error::Setting { key, .. } if key == "message.timeout.ms"), "{error}");
}

#[test]
fn map_over_environment_over_file_over_defaults() {
    let file = File::new("linger.ms=11\nacks: 1\nenable.idempotence false\nclient.id=from-file\n");
    let mut settings = Settings::producer().client_id("billing");
    let variables = env(&[
        ("KAFKA_ENVELOPE_PRODUCER_LINGER_MS", "12"),
        ("KAFKA_ENVELOPE_PRODUCER_ACKS", "0"),
        ("KAFKA_ENVELOPE_CONSUMER_GROUP_ID", "the other side's"),
        ("PATH", "/bin"),
    ]);
    let get = |settings: &Settings, variables: &[(OsString, OsString)]| {
        let resolved = settings.resolve_with(variables.to_vec(), &[]).unwrap();
        ["linger.ms", "acks", "client.id", "compression.type"].map(|key| resolved.get(key).unwrap().to_owned())
    };
    assert_eq!(get(&settings, &[]), ["5", "all", "billing", "snappy"]);
    settings = settings.file(&file.0);
    assert_eq!(get(&settings, &[]), ["11", "1", "from-file", "snappy"]);
    assert_eq!(get(&settings, &variables), ["12", "0", "from-file", "snappy"]);
    settings = settings.map(HashMap::from([("linger.ms", "13")]));
    assert_eq!(get(&settings, &variables), ["13", "0", "from-file", "snappy"]);
    settings = settings.map([("linger.ms".to_owned(), "14".to_owned())]).map([("compression.type", "lz4")]);
    assert_eq!(get(&settings, &variables), ["14", "0", "from-file", "lz4"]);
    // The order of the builder's calls does not matter.
    let settings = Settings::producer().map([("linger.ms", "13")]).file(&file.0);
    assert_eq!(get(&settings, &variables[..0]), ["13", "1", "from-file", "snappy"]);
}

#[test]
fn an_alias_overrides_its_property() {
    for (alias, key, value) in [
        ("queue.buffering.max.ms", "linger.ms", "7"),
        ("message.timeout.ms", "delivery.timeout.ms", "7000"),
        ("compression.codec", "compression.type", "none"),
        ("request.required.acks", "acks", "-1"),
    ] {
        let resolved = resolve(&Settings::producer().map([(alias, value)])).unwrap();
        assert_eq!((resolved.get(key), resolved.get(alias)), (Some(value), None));
    }
    let both = Settings::producer().map([("linger.ms", "1"), ("queue.buffering.max.ms", "2")]);
    let (key, reason) = refusal(resolve(&both));
    assert!(key == "queue.buffering.max.ms" && reason.contains("`linger.ms`"), "{reason}");
    let layered = Settings::producer().map([("linger.ms", "1")]).map([("queue.buffering.max.ms", "2")]);
    assert_eq!(resolve(&layered).unwrap().get("linger.ms"), Some("2"));
    let repeated = Settings::producer().map([("linger.ms", "1"), ("linger.ms", "2")]);
    assert_eq!(resolve(&repeated).unwrap().get("linger.ms"), Some("2"));
}

#[test]
fn managed_keys_are_refused_in_every_layer() {
    let sides = [
        (
            Side::Consumer,
            &[
                "enable.auto.commit",
                "auto.commit.enable",
                "enable.auto.offset.store",
                "enable.partition.eof",
                "bootstrap.servers",
                "metadata.broker.list",
                "group.id",
                "log.queue",
                "isolation.level",
            ][..],
        ),
        (
            Side::Producer,
            &["bootstrap.servers", "metadata.broker.list", "delivery.report.only.error", "transactional.id"],
        ),
    ];
    for (side, keys) in sides {
        for key in keys {
            let file = File::new(&format!("# first\n{key}={MARKER}\n"));
            let variable = format!("{}{}", side.prefix(), key.to_uppercase().replace('.', "_"));
            let variables = env(&[(&variable, MARKER)]);
            let settings = Settings::new(side);
            // As an exactly-once run would.
            let managed = [("isolation.level", "read_committed")];
            let (_, in_file) = refusal(settings.clone().file(&file.0).resolve_with(env(&[]), &managed));
            let (_, in_env) = refusal(settings.clone().resolve_with(variables, &managed));
            let (named, in_map) = refusal(settings.map([(*key, MARKER)]).resolve_with(env(&[]), &managed));
            assert_eq!(named, *key);
            assert!(in_file.contains(&format!("line 2 of {}", file.0.display())), "{in_file}");
            assert!(in_env.contains(&variable) && in_map.contains("map"), "{in_env} {in_map}");
            for reason in [in_file, in_env, in_map] {
                assert!(reason.contains("managed") && !reason.contains(MARKER), "{reason}");
            }
        }
    }
}

#[test]
fn unknown_keys_and_bad_values() {
    for (key, value, expected) in [
        ("no.such.key", "1", "knows no such property"),
        ("linger.ms", "soon", "Invalid value"),
        ("linger.ms", "-1", "outside allowed range"),
        ("linger.ms", "", "empty value"),
        ("linger.ms", "10ms", "read it as 10"),
        ("batch.num.messages", "010", "read it as 8"),
        ("batch.num.messages", "4294967297", "read it as 1"),
        ("linger.ms", "0.5ms", "read it as 0.5"),
        ("linger.ms", "1\0", "NUL"),
        ("acks", "most", "Invalid value"),
        ("enable.idempotence", "maybe", "Expected bool"),
        ("compression.type", "rar", "Invalid value"),
        ("dr_cb", "1", "dedicated"),
        ("ssl.truststore.location", "/x", "Java TrustStores are not supported"),
        ("interceptors", "1", "internal"),
    ] {
        let (named, reason) = refusal(resolve(&Settings::producer().map([(key, value)])));
        assert_eq!(named, key);
        assert!(reason.contains(expected), "{key}={value:?}: {reason}");
    }
    for (key, value) in [
        ("linger.ms", " 7"),
        ("linger.ms", "0.50"),
        ("batch.num.messages", "+5"),
        ("client.id", "007"),
        ("client.id", "1e"),
        ("acks", "-1"),
    ] {
        let result = resolve(&Settings::producer().map([(key, value)]));
        assert!(result.is_ok(), "{key}={value:?}: {result:?}");
    }
    // A key that is a piece of something else is not repeated.
    let (key, _) = refusal(resolve(&Settings::producer().map([("MIIEvQIBADANBgkqhkiG9w0", "")])));
    assert_eq!(key, "(not a property name)");
}

#[test]
fn files_that_cannot_be_used() {
    let (key, reason) = refusal(resolve(&Settings::consumer().file("/no/such.properties")));
    assert!(key == "/no/such.properties" && reason.contains("cannot read"), "{key}: {reason}");
    let file = File::new(&format!("acks=all\n{MARKER}\n"));
    let (key, reason) = refusal(resolve(&Settings::producer().file(&file.0)));
    assert_eq!((key, reason.as_str()), (file.0.display().to_string(), "line 2 has no `=`"));
    let file = File::new("\nlinger.ms=soon\n");
    let (key, reason) = refusal(resolve(&Settings::producer().file(&file.0)));
    assert!(key == "linger.ms" && reason.contains("line 2 of"), "{reason}");
}

#[test]
fn variables_become_properties() {
    let resolve = |pairs: &[(&str, &str)]| Settings::consumer().resolve_with(env(pairs), &[]);
    let resolved = resolve(&[
        ("KAFKA_ENVELOPE_CONSUMER_SESSION_TIMEOUT_MS", "20000"),
        ("KAFKA_ENVELOPE_CONSUMER_FETCH_MESSAGE_MAX_BYTES", "2000"),
        ("KAFKA_ENVELOPE_PRODUCER_NO_SUCH", "x"),
        ("KAFKA_ENVELOPE_OTHER", "x"),
        ("KAFKA_BOOTSTRAP_SERVERS", "x"),
    ]);
    let resolved = resolved.unwrap();
    assert_eq!(resolved.get("session.timeout.ms"), Some("20000"));
    assert_eq!(resolved.get("max.partition.fetch.bytes"), Some("2000"));
    for name in ["KAFKA_ENVELOPE_CONSUMER_NO_SUCH", "KAFKA_ENVELOPE_CONSUMER_"] {
        assert_eq!(refusal(resolve(&[(name, MARKER)])).0, name);
    }
    // With its underscore kept: known, and refused as what it is.
    let (key, reason) = refusal(resolve(&[("KAFKA_ENVELOPE_CONSUMER_LOG_LEVEL", "7")]));
    assert!(key == "log_level" && reason.contains("KAFKA_ENVELOPE_CONSUMER_LOG_LEVEL"), "{key}: {reason}");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_unicode() {
    use std::os::unix::ffi::OsStringExt;

    let name = "KAFKA_ENVELOPE_CONSUMER_CLIENT_ID";
    let variables = [(name.into(), OsString::from_vec([MARKER.as_bytes(), &[0xff]].concat()))];
    let (key, reason) = refusal(Settings::consumer().resolve_with(variables, &[]));
    assert!(key == name && reason.contains("not Unicode") && !reason.contains(MARKER));
    let other = [(OsString::from_vec(vec![0xff]), OsString::from_vec(vec![0xff]))];
    assert!(Settings::consumer().resolve_with(other, &[]).is_ok(), "of no concern");
}

#[test]
fn the_consumer_protocol_takes_no_classic_settings() {
    let managed = [("bootstrap.servers", "localhost:1"), ("group.id", "g")];
    let settings = Settings::consumer().map([("group.protocol", "consumer")]);
    let resolved = settings.clone().resolve_with(env(&[]), &managed).unwrap();
    for key in ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"] {
        assert_eq!(resolved.get(key), None);
        let (named, reason) = refusal(settings.clone().map([(key, "6000")]).resolve_with(env(&[]), &managed));
        assert!(named == key && reason.contains("group.protocol=consumer"), "{reason}");
    }
    resolved.create::<_, BaseConsumer<_>>(DefaultConsumerContext).unwrap();
    let classic = Settings::consumer().map([("group.protocol", "classic")]);
    assert_eq!(resolve(&classic).unwrap().get("session.timeout.ms"), Some("45000"));
}

#[test]
fn properties_that_exclude_each_other_name_their_key() {
    let managed = [("bootstrap.servers", "localhost:1"), ("group.id", "g")];
    let settings = Settings::consumer().map([("max.poll.interval.ms", "10000")]);
    let resolved = settings.resolve_with(env(&[]), &managed).unwrap();
    let error = resolved.create::<_, BaseConsumer<_>>(DefaultConsumerContext).err().unwrap();
    assert!(matches!(&error, Error::Setting { key, .. } if key == "max.poll.interval.ms"), "{error:?}");
    let resolved = Settings::producer().map([("acks", "1")]).resolve_with(env(&[]), &managed[..1]).unwrap();
    let error = resolved.create::<_, BaseProducer<_>>(DefaultProducerContext).err().unwrap();
    assert!(matches!(&error, Error::Setting { key, .. } if key == "acks"), "{error:?}");
}

#[test]
fn secrets_are_in_no_text() {
    let long = MARKER.repeat(100);
    let mut taken = Vec::new();
    for key in [
        "sasl.password",
        "sasl.username",
        "sasl.jaas.config",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.oauthbearer.assertion.private.key.pem",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.certificate.pem",
        "ssl.keystore.password",
        "ssl.truststore.password",
        "sasl.pasword",
        "enable.sasl.oauthbearer.unsecure.jwt",
    ] {
        for value in [MARKER, &long, "hunter2-marker\0", ""] {
            for side in [Side::Consumer, Side::Producer] {
                let variable = format!("{}{}", side.prefix(), key.to_uppercase().replace('.', "_"));
                let file = File::new(&format!("{key}={value}\n"));
                let base = Settings::new(side);
                let settings = [base.clone().map([(key, value)]), base.clone().file(&file.0), base.clone()];
                let no_variables = env(&[]);
                let variables = [no_variables.clone(), no_variables, env(&[(&variable, value)])];
                for (settings, variables) in settings.iter().zip(variables) {
                    let text = match settings.resolve_with(variables, &[]) {
                        Ok(resolved) => {
                            taken.push(key);
                            assert!(value.is_empty() || resolved.get(canonical(key)) == Some(value));
                            format!("{resolved:?} {resolved:#?}")
                        }
                        // A value for a key that is no secret may be quoted, within librdkafka's own bound.
                        Err(error) => format!("{error} {error:?}"),
                    };
                    let text = text + &format!("{settings:?}");
                    assert!(!text.contains("hunter2"), "{key}: {text}");
                }
            }
        }
    }
    assert!(taken.contains(&"sasl.password"), "some of them are really held: {taken:?}");
    // What a client of rdkafka's would say by itself.
    for key in ["sasl.password", "ssl.key.pem"] {
        let error = ClientConfig::new().set(key, MARKER).set("linger.ms", MARKER).create_native_config().err().unwrap();
        assert!(matches!(not_created(error), Error::Setting { key, .. } if key == "linger.ms" || is_secret(&key)));
        let config = RDKafkaConfRes::RD_KAFKA_CONF_INVALID;
        let error = not_created(KafkaError::ClientConfig(config, MARKER.into(), key.into(), MARKER.into()));
        assert!(!format!("{error} {error:?}").contains(MARKER));
    }
}

/// Another client of the same service reaches the same brokers in the same way, and does what it does in its own.
#[test]
fn how_the_brokers_are_reached_can_be_taken_over() {
    let map = [
        ("security.protocol", "plaintext"),
        ("sasl.username", "me"),
        ("ssl.ca.location", "/ca"),
        ("socket.keepalive.enable", "true"),
        ("broker.address.family", "v4"),
        ("session.timeout.ms", "7000"),
        ("group.instance.id", "one"),
    ];
    let managed = [("bootstrap.servers", "localhost:1"), ("group.id", "g")];
    let settings = Settings::consumer().map(map).resolve_with(env(&[]), &managed).unwrap();
    let mut taken: Vec<_> = settings.connection().map(|(key, _)| key.to_owned()).collect();
    taken.sort();
    let mut expected: Vec<_> = map[..5].iter().map(|(key, _)| (*key).to_owned()).collect();
    expected.sort();
    assert_eq!(taken, expected);
}
