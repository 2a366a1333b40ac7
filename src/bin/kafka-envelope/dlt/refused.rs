//! Why letters do not go back.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::failure::Failure;

/// Why a batch was not put back.
pub(crate) enum Refused {
    /// This letter of it cannot.
    One(usize, KafkaError),
    /// Some of it cannot, at least one: one by one they tell which.
    Some,
    /// No letter can, so far.
    All(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::All(failure)
    }
}

/// Whether it is about what was sent and where to, so that others may still go.
pub(crate) fn is_of_letter(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::MessageSizeTooLarge
                | Code::MessageBatchTooLarge
                | Code::InvalidMessage
                | Code::InvalidMessageSize
                | Code::InvalidRecord
                | Code::InvalidTimestamp
                | Code::InvalidTopic
                | Code::PolicyViolation
                | Code::TopicAuthorizationFailed
                | Code::UnknownPartition
                | Code::UnknownTopic
                | Code::UnknownTopicOrPartition
        )
    )
}
