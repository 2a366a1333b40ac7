//! TLS and SASL: who may comes in, who may not is told why, and comes in once that is mended.

use std::io::Read as _;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use kafka_envelope::{Batch, Consumer, Error, Message, Producer, RefusalKind};

use crate::support::acls::{May, On, grant};
use crate::support::certificates::{Days, encrypted_key};
use crate::support::secured::{
    ELSEWHERE, EXPIRED, MARK, MUTUAL, SASL_SSL, STRANGER, Secured, User, login, secured_broker, until,
};
use crate::support::{PATIENCE, committed, create_topic, keep_logs, logged, logged_by_all, produce_numbers, unique};

type Config = Vec<(String, String)>;

/// What a consumer of its own group says, of which every user may be a member.
fn consume(address: &str, topic: &str, config: &Config) -> Result<u64, Error> {
    let group = unique("group");
    let builder = Consumer::builder("reader", address, &group).topics([topic]).config(config.clone());
    let mut consumer = builder.idle_timeout(Duration::from_secs(6)).build()?;
    let stopper = consumer.stopper();
    let health = consumer.health();
    let run = consumer.run(|_: &Batch<u64>| {
        stopper.stop();
        Ok(())
    });
    assert_eq!(health.is_healthy(), run.is_ok(), "{health:?} {run:?}");
    run.map(|summary| summary.records)
}

fn produce(address: &str, topic: &str, config: &Config) -> Result<(), Error> {
    let timeout = [("delivery.timeout.ms", "6000")];
    let producer = Producer::builder("writer", address).config(config.clone()).config(timeout).build()?;
    let produced = producer.produce(topic, &Message::new(1u64)).map(|_| ());
    assert_eq!(producer.refusal().is_some(), produced.is_err());
    produced
}

/// A topic with records.
fn topic_with_records() -> String {
    let topic = create_topic(secured_broker().bootstrap(), 1);
    produce_numbers(secured_broker().bootstrap(), &topic, 0, 0..5);
    topic
}

#[test]
fn who_may_comes_in() {
    let secured = secured_broker();
    let scram = User::scram(secured);
    let mine = secured.authority.issue("client", "DNS:client.example", Days(30));
    let mut mutual = secured.tls();
    let location = |path: &std::path::Path| path.display().to_string();
    mutual.push(("ssl.certificate.location".into(), location(&mine)));
    let mut locked = mutual.clone();
    mutual.push(("ssl.key.location".into(), location(&mine)));
    let password = format!("{MARK}-key");
    locked.push(("ssl.key.location".into(), location(&encrypted_key(&mine, &password))));
    locked.push(("ssl.key.password".into(), password));
    for (user, listener, config) in [
        ("alice", SASL_SSL, login("alice")),
        (&scram.name, SASL_SSL, secured.login("SCRAM-SHA-512", &scram.name, &scram.password)),
        ("CN=client", MUTUAL, mutual),
        ("CN=client", MUTUAL, locked),
    ] {
        let (topic, address) = (topic_with_records(), secured.address(listener));
        grant(secured.bootstrap(), user, May::All, On::Topic(&topic));
        grant(secured.bootstrap(), user, May::Read, On::Group("*"));
        produce(&address, &topic, &config).unwrap();
        assert!(consume(&address, &topic, &config).unwrap() > 0, "{user}");
    }
}

/// Each of these says one thing once, by the consumer's error and by the producer's.
#[test]
fn who_may_not_is_told_why() {
    keep_logs();
    let secured = secured_broker();
    let topic = topic_with_records();
    let wrong = |mechanism, user| secured.login(mechanism, user, &format!("{MARK}-wrong"));
    let cases = [
        (
            SASL_SSL,
            wrong("PLAIN", "alice"),
            RefusalKind::Authentication,
            "Invalid username or password; user or password are wrong",
        ),
        (
            SASL_SSL,
            wrong("PLAIN", "nobody"),
            RefusalKind::Authentication,
            "Invalid username or password; user or password are wrong",
        ),
        (SASL_SSL, wrong("SCRAM-SHA-512", "nobody"), RefusalKind::Authentication, "invalid credentials"),
        (
            SASL_SSL,
            wrong("SCRAM-SHA-256", "alice"),
            RefusalKind::Authentication,
            "set `sasl.mechanism` to one that the broker has",
        ),
        (EXPIRED, secured.tls(), RefusalKind::Tls, "the broker's certificate has expired, on "),
        (
            STRANGER,
            secured.tls(),
            RefusalKind::Tls,
            "signed by an authority that is not known here: stranger; `ssl.ca.location`",
        ),
        (ELSEWHERE, secured.tls(), RefusalKind::Tls, "is for another host: elsewhere.example, and not for 127.0.0.1"),
        (MUTUAL, secured.tls(), RefusalKind::Tls, "the broker refuses the handshake: "),
    ];
    thread::scope(|scope| {
        for (listener, config, wanted, part) in &cases {
            let (address, topic) = (secured.address(listener), &topic);
            scope.spawn(move || {
                let error = consume(&address, topic, config).unwrap_err();
                let Error::Refused { refusal } = &error else { panic!("{part}: {error}") };
                let text = error.to_string();
                assert_eq!((refusal.kind, refusal.subject.as_deref()), (*wanted, Some(&*address)), "{text}");
                assert!(text.contains(part), "{text}");
                let error = produce(&address, topic, config).unwrap_err();
                assert!(matches!(&error, Error::NotDelivered { refusal: Some(_), .. }), "{error:?}");
                assert!(error.to_string().contains(part), "{error}");
                assert!((1..=2).contains(&logged(&["ERROR", &text]).len()), "{:#?}", logged(&[&address]));
            });
        }
    });
    // A client, a broker and six seconds each: what librdkafka says at every try is not repeated.
    for (listener, ..) in &cases {
        let lines = logged_by_all(&[&secured.address(listener)]);
        let loud: Vec<_> =
            lines.iter().filter(|line| !line.starts_with("DEBUG") && !line.starts_with("INFO")).collect();
        assert!(loud.len() <= 12, "{loud:#?}");
    }
}

#[test]
fn what_the_client_itself_does_not_know_is_a_setting() {
    let config = secured_broker().login("MAGIC", "alice", &format!("{MARK}-magic"));
    for error in [consume("127.0.0.1:1", "t", &config).map(|_| ()), produce("127.0.0.1:1", "t", &config)] {
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "setting `sasl.mechanism`: Unsupported SASL mechanism: MAGIC");
    }
}

/// A consumer that is let in only later handles everything, without anybody starting it again.
#[test]
fn who_is_let_in_later_goes_on() {
    keep_logs();
    let mut secured = Secured::start(&[("late", &format!("{MARK}-old"))], &[]);
    let topic = create_topic(secured.bootstrap(), 1);
    produce_numbers(secured.bootstrap(), &topic, 0, 0..5);
    for user in ["late", "ANONYMOUS"] {
        grant(secured.bootstrap(), user, May::Read, On::Topic(&topic));
        grant(secured.bootstrap(), user, May::Read, On::Group("*"));
    }
    let password = format!("{MARK}-new");
    let plain = secured.login("PLAIN", "late", &password);
    let tls = secured.tls();
    for (listener, config) in [(SASL_SSL, plain), (EXPIRED, tls)] {
        let address = secured.address(listener);
        let group = unique("group");
        let builder = Consumer::builder("reader", &address, &group).topics([&topic]).config(config);
        let mut consumer = builder.idle_timeout(PATIENCE * 2).build().unwrap();
        let (health, stopper) = (consumer.health(), consumer.stopper());
        let reader = thread::spawn(move || consumer.run(|_: &Batch<u64>| Ok(())).unwrap().records);
        until("it is refused", || !health.refusals().is_empty() && !health.is_healthy());
        match listener {
            SASL_SSL => secured.set_plain("late", &password),
            _ => secured.show(listener, Days(30)),
        }
        until("all is committed", || committed(secured.bootstrap(), &group, &topic, 0) == Some(5));
        until("it is refused no more", || health.refusals().is_empty());
        stopper.stop();
        assert_eq!(reader.join().unwrap(), 5);
        assert_eq!(logged(&["INFO", "no longer refused", &address]).len(), 1, "{:#?}", logged(&[&address]));
    }
}

/// As where a broker ends, or where the listener is one without TLS.
#[test]
fn a_connection_that_ends_in_the_handshake_is_no_refusal() {
    keep_logs();
    let tls = secured_broker().tls();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let group = unique("group");
    let consumer = Consumer::builder("reader", &address, &group).topics(["t"]).config(tls);
    let mut consumer = consumer.idle_timeout(PATIENCE).build().unwrap();
    let (health, stopper) = (consumer.health(), consumer.stopper());
    let reader = thread::spawn(move || consumer.run(|_: &Batch<u64>| Ok(())));
    for read in [false, true, true].into_iter().cycle().take(9) {
        let (mut stream, _) = listener.accept().unwrap();
        // What was not read makes an end a reset.
        if read {
            let _ = stream.read(&mut [0; 4096]);
        }
    }
    until("it is told of", || !logged_by_all(&["handshake", &address]).is_empty());
    assert_eq!(health.refusals(), []);
    stopper.stop();
    reader.join().unwrap().unwrap();
}

/// Everything that knows a secret, at its most talkative.
#[test]
fn no_secret_is_shown() {
    keep_logs();
    let secured = secured_broker();
    let topic = topic_with_records();
    grant(secured.bootstrap(), "alice", May::All, On::Topic(&topic));
    grant(secured.bootstrap(), "alice", May::Read, On::Group("*"));
    let scram = User::scram(secured);
    let mine = secured.authority.issue("talkative", "DNS:client.example", Days(30));
    let key = encrypted_key(&mine, &format!("{MARK}-key"));
    let mut mutual = secured.tls();
    for (name, value) in [
        ("ssl.certificate.location", mine.display().to_string()),
        ("ssl.key.location", key.display().to_string()),
        ("ssl.key.password", format!("{MARK}-no-key")),
    ] {
        mutual.push((name.into(), value));
    }
    let talkative = ("debug".to_owned(), "all".to_owned());
    let cases = [
        (SASL_SSL, login("alice")),
        (SASL_SSL, secured.login("PLAIN", "alice", &format!("{MARK}-wrong"))),
        (SASL_SSL, secured.login("SCRAM-SHA-512", &scram.name, &scram.password)),
        (SASL_SSL, secured.login("SCRAM-SHA-512", &scram.name, &format!("{MARK}-wrong"))),
        (SASL_SSL, secured.login("PLAIN", &format!("{MARK}-user"), MARK)),
        (MUTUAL, mutual),
    ];
    let mut shown: Vec<String> = thread::scope(|scope| {
        let running = cases.map(|(listener, mut config)| {
            let (talkative, topic) = (talkative.clone(), &topic);
            scope.spawn(move || {
                config.push(talkative);
                let address = secured.address(listener);
                let reader = Consumer::builder("reader", &address, "g").topics([topic]).config(config.clone());
                let writer = Producer::builder("writer", &address).config(config.clone());
                let errors = [consume(&address, topic, &config).map(|_| ()), produce(&address, topic, &config)];
                let errors = errors.into_iter().filter_map(Result::err).map(|error| format!("{error} {error:?}"));
                errors.chain([format!("{reader:?} {writer:?}")]).collect::<Vec<_>>()
            })
        });
        running.into_iter().flat_map(|running| running.join().unwrap()).collect()
    });
    let (address, oauth) = (secured.address(SASL_SSL), secured.login("OAUTHBEARER", "alice", MARK));
    let error = consume(&address, &topic, &oauth).unwrap_err();
    assert!(error.to_string().contains("OAUTHBEARER takes tokens"), "{error}");
    shown.push(format!("{error} {error:?}"));
    // A secret under a name that is none, one that is taken for a name, and one whose value is refused.
    let line = format!("{MARK}/A+B==");
    for (key, value) in [("sasl.passwort", MARK), (&line, "x"), ("ssl.key.pem", MARK), ("sasl.username\n", MARK)] {
        let config = [("security.protocol", "ssl"), (key, value)];
        let error = Producer::builder("writer", "127.0.0.1:1").config(config).build().unwrap_err();
        shown.push(format!("{error} {error:?}"));
    }
    let guilty: Vec<_> = shown.iter().filter(|text| text.contains(MARK)).collect();
    assert!(guilty.is_empty(), "{guilty:#?}");
    assert!(logged_by_all(&["DEBUG", "SASL"]).len() > 10, "it was not talkative");
    let guilty = logged_by_all(&[MARK]);
    assert!(guilty.is_empty(), "{guilty:#?}");
}
