//! A broker with listeners for TLS and SASL, with certificates, users and rights of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::broker::{Broker, free_port};
use super::certificates::{Authority, Days};
use super::{eventually, unique};

/// What users log in with: all that has to be found nowhere else.
pub(crate) const MARK: &str = "s3cr3t";

const HERE: &str = "IP:127.0.0.1";

/// One broker, and what of it a test needs.
///
/// Its plain listener is for the test itself: who comes there may do everything.
pub(crate) struct Secured {
    pub(crate) broker: Broker,
    pub(crate) authority: Authority,
    listeners: Vec<(&'static str, u16)>,
    dir: PathBuf,
    plain: Vec<(String, String)>,
}

/// The listeners beside the plain one.
pub(crate) const SASL_SSL: &str = "SASLSSL";
/// With an expired certificate, one of another authority, one for another host.
pub(crate) const EXPIRED: &str = "EXPIRED";
pub(crate) const STRANGER: &str = "STRANGER";
pub(crate) const ELSEWHERE: &str = "ELSEWHERE";
/// It wants a certificate of the client, too, which is its user then.
pub(crate) const MUTUAL: &str = "MUTUAL";

impl Secured {
    /// `users` log in with PLAIN. `settings` as for [`Broker::start_with`].
    pub(crate) fn start(users: &[(&str, &str)], settings: &[(&str, &str)]) -> Secured {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("secured"));
        fs::create_dir_all(&dir).unwrap();
        let authority = Authority::make(&dir, "authority");
        let stranger = Authority::make(&dir, "stranger");
        let kept = |pem: PathBuf| pem.display().to_string();
        let listeners: Vec<_> = [SASL_SSL, EXPIRED, STRANGER, ELSEWHERE, MUTUAL].map(|name| (name, free_port())).into();
        let stores = [
            (SASL_SSL, kept(authority.issue("saslssl", HERE, Days(30)))),
            (EXPIRED, kept(authority.issue("expired", HERE, Days(-1)))),
            (STRANGER, kept(stranger.issue("stranger", HERE, Days(30)))),
            (ELSEWHERE, kept(authority.issue("elsewhere", "DNS:elsewhere.example", Days(30)))),
            (MUTUAL, kept(authority.issue("mutual", HERE, Days(30)))),
        ];
        let plain: Vec<(String, String)> =
            users.iter().map(|(user, password)| (user.to_string(), password.to_string())).collect();
        let protocols: Vec<_> = listeners
            .iter()
            .map(|(name, _)| format!("{name}:{}", if *name == SASL_SSL { "SASL_SSL" } else { "SSL" }))
            .collect();
        let mut all = vec![
            (
                "listener.security.protocol.map".to_owned(),
                format!("CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,{}", protocols.join(",")),
            ),
            ("authorizer.class.name".to_owned(), "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned()),
            ("super.users".to_owned(), "User:ANONYMOUS".to_owned()),
            ("sasl.enabled.mechanisms".to_owned(), "PLAIN,SCRAM-SHA-512".to_owned()),
        ];
        for (name, store) in stores {
            let key = |key: &str| format!("listener.name.{}.{key}", name.to_lowercase());
            all.push((key("ssl.keystore.type"), "PEM".to_owned()));
            all.push((key("ssl.keystore.location"), store));
        }
        all.push(("listener.name.mutual.ssl.client.auth".to_owned(), "required".to_owned()));
        all.push(("listener.name.mutual.ssl.truststore.type".to_owned(), "PEM".to_owned()));
        all.push(("listener.name.mutual.ssl.truststore.location".to_owned(), kept(authority.certificate())));
        all.push((plain_key(), plain_jaas(&plain)));
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        all.push(("listener.name.saslssl.scram-sha-512.sasl.jaas.config".to_owned(), scram.to_owned()));
        all.extend(settings.iter().map(|(key, value)| (key.to_string(), value.to_string())));
        let all: Vec<_> = all.iter().map(|(key, value)| (&**key, &**value)).collect();
        let broker = Broker::start_listening(&listeners, &all);
        Secured { broker, authority, listeners, dir, plain }
    }

    /// Where the test itself goes.
    pub(crate) fn bootstrap(&self) -> &str {
        self.broker.bootstrap()
    }

    /// Where users go.
    pub(crate) fn address(&self, listener: &str) -> String {
        let (_, port) = self.listeners.iter().find(|(name, _)| *name == listener).unwrap();
        format!("127.0.0.1:{port}")
    }

    /// What a client needs to trust this broker.
    pub(crate) fn tls(&self) -> Vec<(String, String)> {
        let ca = self.authority.certificate().display().to_string();
        // Reconnects come soon in tests.
        let settings = [
            ("security.protocol", "ssl"),
            ("ssl.ca.location", &ca),
            ("reconnect.backoff.ms", "50"),
            ("reconnect.backoff.max.ms", "500"),
        ];
        settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    /// The same for somebody who logs in.
    pub(crate) fn login(&self, mechanism: &str, user: &str, password: &str) -> Vec<(String, String)> {
        let mut settings = self.tls();
        settings[0].1 = "sasl_ssl".to_owned();
        for (key, value) in [("sasl.mechanism", mechanism), ("sasl.username", user), ("sasl.password", password)] {
            settings.push((key.to_owned(), value.to_owned()));
        }
        settings
    }

    /// From now on this user logs in with this password by SCRAM-SHA-512.
    pub(crate) fn set_scram(&self, user: &str, password: &str) {
        let change = format!("SCRAM-SHA-512=[iterations=4096,password={password}]");
        self.alter("users", user, "--add-config", &change);
    }

    pub(crate) fn forget_scram(&self, user: &str) {
        self.alter("users", user, "--delete-config", "SCRAM-SHA-512");
    }

    /// From now on this user logs in with this password by PLAIN.
    pub(crate) fn set_plain(&mut self, user: &str, password: &str) {
        self.plain.retain(|(known, _)| known != user);
        self.plain.push((user.to_owned(), password.to_owned()));
        // The broker reads this at its start only.
        self.broker.stop();
        self.broker.set(&plain_key(), &plain_jaas(&self.plain));
        self.broker.restart();
    }

    /// From now on this listener shows another certificate.
    pub(crate) fn show(&self, listener: &str, days: Days) {
        let name = listener.to_lowercase();
        // Of the same name, as the broker wants it.
        let store = self.authority.issue(&name, HERE, days);
        let change = format!("listener.name.{name}.ssl.keystore.location={}", store.display());
        self.alter("brokers", "1", "--add-config", &change);
    }

    fn alter(&self, kind: &str, name: &str, how: &str, change: &str) {
        let arguments = ["--alter", "--entity-type", kind, "--entity-name", name, how, change];
        let arguments = [&["--bootstrap-server", self.bootstrap()], &arguments[..]].concat();
        self.broker.tool("kafka.admin.ConfigCommand", &arguments);
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn plain_key() -> String {
    "listener.name.saslssl.plain.sasl.jaas.config".to_owned()
}

fn plain_jaas(users: &[(String, String)]) -> String {
    let users: String = users.iter().map(|(user, password)| format!(" user_{user}=\"{password}\"")).collect();
    format!("org.apache.kafka.common.security.plain.PlainLoginModule required{users};")
}

/// For tests that change nothing of it but rights and new users.
pub(crate) fn secured_broker() -> &'static Secured {
    static SHARED: OnceLock<Secured> = OnceLock::new();
    SHARED.get_or_init(|| {
        let users = USERS.map(|user| (user, password(user)));
        let users: Vec<_> = users.iter().map(|(user, password)| (*user, &**password)).collect();
        Secured::start(&users, &[])
    })
}

/// Each is of one test, which grants it what it may.
const USERS: [&str; 9] = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan"];

fn password(user: &str) -> String {
    format!("{MARK}-of-{user}")
}

/// How one of them logs in at the shared broker.
pub(crate) fn login(user: &str) -> Vec<(String, String)> {
    secured_broker().login("PLAIN", user, &password(user))
}

/// Somebody without rights.
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
}

impl User {
    pub(crate) fn scram(secured: &Secured) -> User {
        let user = User { name: unique("user"), password: format!("{MARK}-scram") };
        secured.set_scram(&user.name, &user.password);
        user
    }
}

/// Waits until this holds, some time.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(Duration::from_secs(60), what, || holds().then_some(()));
}
