//! What brokers refuse: a connection, a log-in, a right. In words that tell which, and what to do.

#[cfg(feature = "ssl")]
mod certificate;
mod standing;

use std::fmt;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

pub(crate) use standing::Standing;

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The TLS handshake: one side does not accept the other's certificate.
    Tls,
    /// The log-in: a wrong user, password or mechanism, or credentials that have expired.
    Authentication,
    /// A right on a topic.
    Topic,
    /// A right on the consumer's group.
    Group,
    /// A right on the `transactional.id`.
    TransactionalId,
    /// A right on the cluster.
    Cluster,
}

/// Why brokers do not let a client in, or do not do what it asks for.
///
/// The client tries again by itself, and goes on once the cause is gone. As text it says what was refused, why, and what
/// to do. It shows no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// What was refused.
    pub kind: RefusalKind,
    /// The broker, the topic or the group, where it is known.
    pub subject: Option<String>,
    /// What the broker or the client said.
    pub reason: String,
    /// What to do about it.
    pub advice: &'static str,
}

const BROKERS_CERTIFICATE: &str = "`ssl.ca.location` has to name the authority that signed the broker's certificate, the \
                                   list of brokers a host that stands in it, and it must not have expired";
const OWN_CERTIFICATE: &str = "give a certificate that the broker trusts and that has not expired: `ssl.certificate.location` \
                               and `ssl.key.location`, or `ssl.keystore.location`";
const LOG_IN: &str =
    "user or password are wrong or have expired: check `sasl.username`, `sasl.password` and `sasl.mechanism`";
const MECHANISM: &str = "set `sasl.mechanism` to one that the broker has";
const TOPIC: &str = "the user lacks a right on the topic: ask for an ACL that allows Read to consume, Write to produce";
const GROUP: &str = "the user lacks a right on the group: ask for an ACL that allows Read on it";
const TRANSACTIONAL_ID: &str =
    "the user lacks a right on the transactional.id: ask for an ACL that allows Write and Describe on it";
const CLUSTER: &str = "the user lacks a right on the cluster; a producer needs an ACL that allows Write on one topic at \
                       least, or sets `enable.idempotence=false`";

impl Refusal {
    /// Whether an error of a client is a refusal. `said` is what came with it, as rdkafka gives it to
    /// `ClientContext::error`.
    #[must_use]
    pub fn of(error: &KafkaError, said: &str) -> Option<Self> {
        let code = error.rdkafka_error_code()?;
        let text = said.split(" (after ").next().unwrap_or(said).trim();
        let (broker, text) = without_broker(text);
        let kind = match code {
            Code::BrokerTransportFailure if is_about_certificates(text) => RefusalKind::Tls,
            // A connection that broke in the middle of the log-in or of the handshake, as where a broker ends.
            Code::Authentication if text.contains("Local: Broker transport failure") => return None,
            Code::SSL if text.contains("SSL transport error") => return None,
            code => kind_of(code)?,
        };
        let subject = match kind {
            RefusalKind::Tls | RefusalKind::Authentication => broker.map(str::to_owned),
            // "Subscribed topic not available: orders: Broker: Topic authorization failed"
            RefusalKind::Topic => text
                .strip_prefix("Subscribed topic not available: ")
                .and_then(|rest| rest.split(": ").next())
                .map(str::to_owned),
            _ => None,
        };
        let advice = match kind {
            RefusalKind::Tls if text.contains("alert") => OWN_CERTIFICATE,
            RefusalKind::Authentication if text.contains("nsupported SASL mechanism") => MECHANISM,
            _ => advice_of(kind),
        };
        let reason = match kind {
            RefusalKind::Tls => tls_reason(text),
            _ => text.to_owned(),
        };
        Some(Self { kind, subject, reason, advice })
    }

    /// Of a right on something that has a name.
    pub(crate) fn of_right(code: Code, subject: &str) -> Option<Self> {
        let kind = kind_of(code).filter(|kind| !kind.is_of_connection())?;
        let reason = KafkaError::Global(code).to_string();
        let reason = reason.split_once(": ").map_or(&*reason, |(_, rest)| rest).to_owned();
        Some(Self { kind, subject: Some(subject.to_owned()), reason, advice: advice_of(kind) })
    }

    /// Of a topic that is not named. With KIP-848 a group refuses all topics together.
    pub(crate) fn is_of_some_topic(&self) -> bool {
        self.kind == RefusalKind::Topic && self.subject.is_none()
    }

    /// With what is wrong with the broker's certificate, where that is what is refused: looks at it, which may take
    /// some seconds. Needs the feature `ssl`.
    #[must_use]
    pub fn examined(self) -> Self {
        #[cfg(feature = "ssl")]
        if let Some(reason) = self.address().and_then(certificate::fault) {
            return Self { reason, ..self };
        }
        self
    }

    /// Where to look at the certificate that is refused.
    #[cfg(feature = "ssl")]
    fn address(&self) -> Option<&str> {
        let is_brokers = self.kind == RefusalKind::Tls && self.advice == BROKERS_CERTIFICATE;
        self.subject.as_deref().filter(|_| is_brokers)
    }
}

impl RefusalKind {
    pub(crate) fn is_of_connection(self) -> bool {
        matches!(self, Self::Tls | Self::Authentication)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, subject, reason, advice } = self;
        let (verb, noun) = match kind {
            RefusalKind::Tls => ("no TLS connection", " to broker"),
            RefusalKind::Authentication => ("not logged in", " at broker"),
            RefusalKind::Topic => ("no access", " to topic"),
            RefusalKind::Group => ("no access", " to group"),
            RefusalKind::TransactionalId => ("no access", " to transactional.id"),
            RefusalKind::Cluster => ("no access", " to the cluster"),
        };
        f.write_str(verb)?;
        match subject {
            Some(subject) => write!(f, "{noun} `{subject}`")?,
            None if !kind.is_of_connection() => write!(f, "{}", noun.replace("to topic", "to a topic"))?,
            None => {}
        }
        write!(f, ": {reason}; {advice}")
    }
}

fn kind_of(code: Code) -> Option<RefusalKind> {
    Some(match code {
        Code::SSL => RefusalKind::Tls,
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState => RefusalKind::Authentication,
        Code::TopicAuthorizationFailed => RefusalKind::Topic,
        Code::GroupAuthorizationFailed => RefusalKind::Group,
        Code::TransactionalIdAuthorizationFailed => RefusalKind::TransactionalId,
        Code::ClusterAuthorizationFailed => RefusalKind::Cluster,
        _ => return None,
    })
}

fn advice_of(kind: RefusalKind) -> &'static str {
    match kind {
        RefusalKind::Tls => BROKERS_CERTIFICATE,
        RefusalKind::Authentication => LOG_IN,
        RefusalKind::Topic => TOPIC,
        RefusalKind::Group => GROUP,
        RefusalKind::TransactionalId => TRANSACTIONAL_ID,
        RefusalKind::Cluster => CLUSTER,
    }
}

/// What to do where this was answered.
pub(crate) fn advice(code: Option<Code>) -> Option<&'static str> {
    kind_of(code?).map(advice_of)
}

fn is_about_certificates(text: &str) -> bool {
    ["certificate verify failed", "SSL alert"].iter().any(|part| text.contains(part))
}

/// The broker's address and what follows, of "sasl_ssl://kafka:9093/bootstrap: SSL handshake failed".
fn without_broker(text: &str) -> (Option<&str>, &str) {
    let Some((name, rest)) = text.split_once(": ").filter(|(name, _)| name.contains('/') && !name.contains(' ')) else {
        return (None, text);
    };
    let address = name.split_once("://").map_or(name, |(_, address)| address);
    (Some(address.split('/').next().unwrap_or(address)), rest)
}

/// The same text however librdkafka happened to notice it.
fn tls_reason(text: &str) -> String {
    if text.contains("certificate verify failed") {
        return "the broker's certificate cannot be verified".to_owned();
    }
    // "…error:0A000412:SSL routines::sslv3 alert bad certificate: SSL alert number 42"
    match text.split("SSL routines::").nth(1).map(|rest| rest.split(": ").next().unwrap_or(rest)) {
        Some(alert) if alert.contains("alert") => format!("the broker refuses the handshake: {alert}"),
        Some(error) => format!("the handshake failed: {error}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code, said: &str) -> Refusal {
        Refusal::of(&KafkaError::Global(code), said).unwrap()
    }

    #[test]
    fn a_certificate_is_told_alike_however_it_was_noticed() {
        let handshake = "sasl_ssl://kafka:9093/bootstrap: SSL handshake failed: ../ssl/clnt.c:1889:f error:0A000086:SSL \
                         routines::certificate verify failed: broker certificate could not be verified (after 8ms in state \
                         SSL_HANDSHAKE)";
        let plain = "sasl_ssl://kafka:9093/1: ../ssl/clnt.c:1889:f error:0A000086:SSL routines::certificate verify failed \
                     (after 6ms in state SSL_HANDSHAKE, 3 identical error(s) suppressed)";
        let refusal = of(Code::SSL, handshake);
        assert_eq!(refusal, of(Code::BrokerTransportFailure, plain));
        assert_eq!((refusal.kind, refusal.subject.as_deref()), (RefusalKind::Tls, Some("kafka:9093")));
        assert!(
            refusal.to_string().starts_with("no TLS connection to broker `kafka:9093`: the broker's cert"),
            "{refusal}"
        );
        let alert = "ssl://[::1]:9/2: Receive failed: ../ssl/r.c:1:f error:0A000412:SSL routines::sslv3 alert bad \
                     certificate: SSL alert number 42 (after 1ms in state APIVERSION_QUERY)";
        let refusal = of(Code::BrokerTransportFailure, alert);
        assert_eq!(
            (&*refusal.reason, refusal.advice),
            ("the broker refuses the handshake: sslv3 alert bad certificate", OWN_CERTIFICATE)
        );
        assert_eq!(refusal.subject.as_deref(), Some("[::1]:9"));
    }

    #[test]
    fn log_ins_and_rights() {
        let said = "sasl_ssl://a:1/bootstrap: SASL authentication error: Authentication failed: Invalid username or \
                    password (after 301ms in state AUTH_REQ)";
        let refusal = of(Code::Authentication, said);
        assert_eq!(refusal.reason, "SASL authentication error: Authentication failed: Invalid username or password");
        assert_eq!((refusal.kind, refusal.subject.as_deref()), (RefusalKind::Authentication, Some("a:1")));
        let topic = of(
            Code::TopicAuthorizationFailed,
            "Subscribed topic not available: a.b: Broker: Topic authorization failed",
        );
        assert_eq!((topic.kind, topic.subject.as_deref()), (RefusalKind::Topic, Some("a.b")));
        let group = Refusal::of_right(Code::GroupAuthorizationFailed, "g").unwrap();
        assert!(group.to_string().starts_with("no access to group `g`: GroupAuthorizationFailed"), "{group}");
        assert!(Refusal::of(&KafkaError::Global(Code::BrokerTransportFailure), "a:1/1: Connection refused").is_none());
        assert!(Refusal::of_right(Code::Authentication, "a").is_none());
        let broke = "sasl_ssl://a:1/1: SASL SCRAM-SHA-512 mechanism handshake failed: Local: Broker transport failure: broker's \
                     supported mechanisms: (n/a) (after 0ms in state DOWN)";
        assert!(Refusal::of(&KafkaError::Global(Code::Authentication), broke).is_none());
        let ended = "ssl://a:1/1: SSL handshake failed: Disconnected: connection reset by peer: connecting to a PLAINTEXT broker \
                     listener? (after 1ms in state SSL_HANDSHAKE)";
        assert!(Refusal::of(&KafkaError::Global(Code::BrokerTransportFailure), ended).is_none());
        let ended =
            "ssl://a:1/1: SSL handshake failed: SSL transport error: Broken pipe (after 1ms in state SSL_HANDSHAKE)";
        assert!(Refusal::of(&KafkaError::Global(Code::SSL), ended).is_none());
    }
}
