//! What goes wrong, as people and scripts see it.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};

/// Why the program ends before it is done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What failed and why; and what to do about it, where that is known.
    Error { what: String, hint: Option<String> },
    /// It is done, but for so many of something; each was named.
    Incomplete(String),
    /// Whoever read the output has gone: no error.
    ClosedPipe,
}

pub(crate) type Result<T = (), E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(what: impl Display) -> Self {
        Self::Error { what: what.to_string(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Display) -> Self {
        match self {
            Self::Error { what, .. } => Self::Error { what, hint: Some(hint.to_string()) },
            other => other,
        }
    }

    /// The same in these words.
    pub(crate) fn worded(self, what: impl Display) -> Self {
        match self {
            Self::Error { hint, .. } => Self::Error { what: what.to_string(), hint },
            other => other,
        }
    }

    /// The same, with what it is about before it.
    pub(crate) fn about(self, subject: impl Display) -> Self {
        match self {
            Self::Error { what, hint } => Self::Error { what: format!("{subject}: {what}"), hint },
            other => other,
        }
    }

    /// Says it, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Error { what, hint } => {
                say(AnsiColor::Red, "error", &what);
                if let Some(hint) = hint {
                    say(AnsiColor::Cyan, "hint", &hint);
                }
                ExitCode::from(1)
            }
            Self::Incomplete(what) => {
                warn(&what);
                ExitCode::from(3)
            }
            Self::ClosedPipe => ExitCode::SUCCESS,
        }
    }
}

/// A line on standard error.
pub(crate) fn warn(what: impl Display) {
    say(AnsiColor::Yellow, "warning", what);
}

fn say(color: AnsiColor, kind: &str, what: impl Display) {
    let style = Style::new().bold().fg_color(Some(color.into()));
    // Where standard error takes nothing, the exit code still tells.
    let _ = writeln!(anstream::stderr(), "{style}{kind}:{style:#} {what}");
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::new(format_args!("cannot write: {error}")),
        }
    }
}

impl From<kafka_envelope::Error> for Failure {
    fn from(error: kafka_envelope::Error) -> Self {
        let hint = hint(&error);
        Self::Error { what: error.to_string(), hint: hint.map(str::to_owned) }
    }
}

impl From<rdkafka::error::KafkaError> for Failure {
    fn from(error: rdkafka::error::KafkaError) -> Self {
        kafka_envelope::Error::from(error).into()
    }
}

/// What helps, for what is common.
fn hint(error: &kafka_envelope::Error) -> Option<&'static str> {
    use rdkafka::error::RDKafkaErrorCode as Code;
    let code = match error {
        kafka_envelope::Error::Kafka(error) | kafka_envelope::Error::Partition { source: error, .. } => {
            error.rdkafka_error_code()?
        }
        // It says so itself.
        kafka_envelope::Error::NotDelivered { refusal: Some(_), .. } => return None,
        kafka_envelope::Error::NotDelivered { failed, .. } => failed.first()?.1.rdkafka_error_code()?,
        kafka_envelope::Error::Unreachable { .. } => Code::AllBrokersDown,
        _ => return None,
    };
    match code {
        Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::Resolve => {
            Some("is the address right, and the broker up? `--bootstrap-servers` says where it is, `-v` logs why not")
        }
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            Some("`kafka-envelope topics list` shows the topics, `topics create` makes one")
        }
        Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            Some("the user that `--config sasl.username=…` names has no right to do this: ask for an ACL")
        }
        Code::SaslAuthenticationFailed | Code::Authentication => {
            Some("user or password are wrong: `sasl.username`, `sasl.password`, `sasl.mechanism`")
        }
        _ => None,
    }
}
