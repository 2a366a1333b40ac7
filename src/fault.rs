//! What went wrong, as metrics and spans tell it.

#[cfg(any(feature = "metrics", feature = "otel"))]
use std::borrow::Cow;
use std::error::Error as StdError;

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::error::Error;

/// Why something was not handled, not committed or not sent.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(any(feature = "metrics", feature = "otel")), allow(dead_code))]
pub(crate) enum Fault<'a> {
    /// A record cannot be read. Nothing is told of it: its text may show some of the payload.
    Unreadable,
    /// The handler failed.
    Handler(#[cfg_attr(not(feature = "otel"), allow(dead_code))] &'a (dyn StdError + Send + Sync + 'static)),
    /// librdkafka or a broker says so, where it says what.
    Code(Option<Code>),
    Error(&'a Error),
}

#[cfg(any(feature = "metrics", feature = "otel"))]
impl Fault<'_> {
    /// The attribute `error.type`. These are few.
    pub(crate) fn kind(self) -> Cow<'static, str> {
        let code = match self {
            Self::Unreadable => return "undecodable".into(),
            Self::Handler(_) => return "handler".into(),
            Self::Code(code) => code,
            Self::Error(error) => match error {
                Error::Setting { .. } => return "setting".into(),
                Error::Encode { .. } => return "encode".into(),
                Error::Limit { .. } => return "limit".into(),
                Error::Oversize { .. } => return "oversize".into(),
                Error::Refused { .. } => return "refused".into(),
                Error::Kafka(error) => error.rdkafka_error_code(),
                Error::Partition { source, .. } | Error::Transaction { source, .. } => source.rdkafka_error_code(),
                Error::NotDelivered { failed, .. } => failed.first().and_then(|(_, error)| error.rdkafka_error_code()),
                _ => None,
            },
        };
        code.map_or("_OTHER".into(), |code| name(code).into())
    }
}

#[cfg(feature = "otel")]
impl Fault<'_> {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Unreadable => String::new(),
            Self::Handler(error) => error.to_string(),
            Self::Code(code) => code.map(|code| code.to_string()).unwrap_or_default(),
            Self::Error(error) => error.to_string(),
        }
    }
}

/// A broker's own word for what went wrong: `UNKNOWN_TOPIC_OR_PARTITION`.
#[cfg(any(feature = "metrics", feature = "otel"))]
fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(all(test, any(feature = "metrics", feature = "otel")))]
mod tests {
    use rdkafka::error::KafkaError;

    use super::*;

    #[test]
    fn kinds_are_few_and_kafkas_own_where_it_has_one() {
        let not_delivered = |failed| Error::NotDelivered {
            total: 1,
            failed,
            possibly_persisted: Vec::new(),
            fatal: false,
            refusal: None,
        };
        let of = |error: &Error| Fault::Error(error).kind().into_owned();
        assert_eq!(of(&Error::Oversize { index: 0, bytes: 2, limit: 1 }), "oversize");
        assert_eq!(of(&Error::Closed("secret".into())), "_OTHER");
        assert_eq!(of(&not_delivered(Vec::new())), "_OTHER");
        let unknown = KafkaError::MessageProduction(Code::UnknownTopicOrPartition);
        assert_eq!(of(&not_delivered(vec![(0, unknown)])), "UNKNOWN_TOPIC_OR_PARTITION");
        assert_eq!(Fault::Code(Some(Code::RebalanceInProgress)).kind(), "REBALANCE_IN_PROGRESS");
        assert_eq!(Fault::Code(None).kind(), "_OTHER");
    }
}
