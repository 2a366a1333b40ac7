//! What can go wrong, and what a handler answers when it does.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::refusal::{Refusal, advice};

/// A result whose error is [`Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// What failed, why, and where there is one: which record or batch.
///
/// A text shows at most a short excerpt of a payload, where serde says what it did not expect, and never the value of a
/// secret setting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting, a topic, a group, a service or a list of brokers that cannot work. Found before anything connects.
    #[error("setting `{key}`: {reason}")]
    Setting {
        /// The setting's name, as librdkafka or the builder spells it.
        key: String,
        /// Why it is refused. Never holds the value of a secret key.
        reason: String,
    },

    /// A text is not an envelope, or an envelope's item does not fit the wanted type.
    #[error("cannot decode: {source}")]
    Decode {
        /// The rule that failed, and the line and column where.
        source: serde_json::Error,
    },

    /// A record from Kafka is not an envelope, or its item does not fit the wanted type.
    #[error("cannot decode {topic}:{partition}:{offset}:{}: {source}", key.as_deref().unwrap_or(""))]
    Undecodable {
        /// The record's topic.
        topic: String,
        /// The record's partition.
        partition: i32,
        /// The record's offset.
        offset: i64,
        /// The record's key where it has one, bytes that are not UTF-8 replaced.
        key: Option<String>,
        /// The rule that failed, and the line and column where.
        source: serde_json::Error,
    },

    /// A payload cannot be written as JSON.
    #[error("cannot encode the payload as JSON: {source}")]
    Encode {
        /// What the payload's `Serialize` said.
        source: serde_json::Error,
    },

    /// More of something than an envelope may hold.
    #[error("{what}: {actual} is more than the limit of {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        actual: usize,
        /// How much there may be.
        limit: usize,
    },

    /// A message is larger than the producer's `message.max.bytes`. Nothing of its batch was sent.
    #[error(
        "message {index} of the batch takes {bytes} bytes, `message.max.bytes` allows {limit}: nothing of the batch was sent"
    )]
    Oversize {
        /// The message's place in the batch, 0 for a message on its own.
        index: usize,
        /// Its size on the wire before compression, with key, headers and overhead.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },

    /// Messages of a batch were not acknowledged.
    #[error("{} of {total} messages were not acknowledged, {} of them possibly persisted; first: {}{}", failed.len(), possibly_persisted.len(), First(failed), Because(refusal))]
    NotDelivered {
        /// How many messages the batch had.
        total: usize,
        /// The place in the batch of each message without an acknowledgement, in order, and why.
        failed: Vec<(usize, KafkaError)>,
        /// Those places among `failed` whose message may stand in the log all the same: it was on its way when the
        /// answer was lost. All others in `failed` are not in the log.
        possibly_persisted: Vec<usize>,
        /// Whether the producer is beyond use: its guarantee that nothing is repeated or reordered is broken.
        fatal: bool,
        /// What brokers refuse the producer, where that is why.
        refusal: Option<Box<Refusal>>,
    },

    /// The handler failed. Nothing of the batch is committed but what stands before [`HandlerError::at`]'s index.
    #[error("handler failed on {batch}: {source}")]
    Handler {
        /// The batch, as `topic[partition=first:next,…],…`.
        batch: String,
        /// The handler's own error, or what its panic said.
        source: BoxError,
    },

    /// A record was to be given up, and its dead letter could not be written. The record is not committed.
    #[error("dead letter of {record} cannot be written to `{topic}`, so the record is kept: {source}")]
    DeadLetter {
        /// The record, as `topic:partition:offset:key`.
        record: String,
        /// The dead-letter topic.
        topic: String,
        /// What the producer said.
        source: Box<Error>,
    },

    /// A stream worker's Kafka sink did not get a message there.
    #[error("sink `{id}` did not deliver to `{topic}`: {source}")]
    Sink {
        /// The sink's id.
        id: String,
        /// The topic that the message was for.
        topic: String,
        /// What the producer said.
        source: Box<Error>,
    },

    /// A batch was handled, but whether its offsets are committed is not known: it may be delivered again.
    #[error("offsets of {partitions} were handled but not confirmed as committed: {reason}")]
    NotCommitted {
        /// The partitions and offsets, as `topic[partition=first:next,…],…`.
        partitions: String,
        /// Why: the deadline passed, or what the broker answered.
        reason: String,
    },

    /// A transaction was not committed, or it is not known whether it was.
    #[error("transaction of `{transactional_id}`: {step}: {}; {outcome}", reason(source))]
    Transaction {
        /// The `transactional.id`.
        transactional_id: Box<str>,
        /// The call of Kafka's that failed, `commit_transaction` for one.
        step: &'static str,
        /// What became of the transaction.
        outcome: TransactionOutcome,
        /// What librdkafka or the broker said.
        source: KafkaError,
    },

    /// A filter that is refused. The filters are as they were.
    #[error("filter{}: `{field}` {reason}", Quoted(id))]
    Filter {
        /// The filter's id, empty where it has none.
        id: String,
        /// The field that is wrong.
        field: String,
        /// Why it is refused.
        reason: String,
    },

    /// A record does not give what a filter maps. Concerns the one result that carries it.
    #[error("cannot map {topic}:{partition}:{offset} to `{target}`: {reason}")]
    Mapping {
        /// The record's topic.
        topic: String,
        /// The record's partition.
        partition: i32,
        /// The record's offset.
        offset: i64,
        /// The mapping's target, `level:data` for one; `data` or `extra` where these could not be put together.
        target: String,
        /// Which path is missing or leads nowhere, or what a builder of one's own said.
        reason: String,
    },

    /// A question that was not answered, or not so that it could be read.
    #[error("no response to the event sent to `{topic}`, event_id {event_id}: {reason}")]
    NoResponse {
        /// The topic that the question went to.
        topic: String,
        /// The question's `event_id`.
        event_id: String,
        /// Why: the time was up, the cache failed, or the answer does not fit the wanted type.
        reason: String,
    },

    /// A Redis does not answer, or not as it should.
    #[error("Redis at {address}: {reason}")]
    Redis {
        /// Where it was looked for: `host:port`, or the path of a socket.
        address: String,
        /// Why it is of no use.
        reason: String,
        /// Whether it would say the same again: it refused the command, or its answer is of another type. What passes is
        /// no refusal, as that its memory is full.
        refused: bool,
    },

    /// Brokers do not let this client in, or do not do what it asks for: TLS, the log-in, or a missing right.
    #[error("{refusal}")]
    Refused {
        /// What, why, and what to do.
        refusal: Box<Refusal>,
    },

    /// No broker answers.
    #[error("no broker of `{brokers}` answers: {reason}")]
    Unreachable {
        /// The brokers that were asked first, as the builder was told.
        brokers: String,
        /// What the client last said of it.
        reason: String,
    },

    /// A partition cannot be read on.
    #[error("partition {topic}:{partition} stopped at offset {offset}: {source}")]
    Partition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The next offset that would have been read.
        offset: i64,
        /// What librdkafka reported.
        source: KafkaError,
    },

    /// What all else needs has ended, cannot begin, or did not end in time: a client's thread, a task, a sink. The text
    /// says which. Build a new one.
    #[error("cannot go on: {0}")]
    Closed(String),

    /// An error of the Kafka client itself.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

/// A name in quotes after a blank, where there is one.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " `{}`", self.0) }
    }
}

/// Enough of a key to find it, however long it is.
pub(crate) fn excerpt(key: &[u8]) -> String {
    const LONGEST: usize = 100;
    let text = String::from_utf8_lossy(key);
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

/// What became of a transaction that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransactionOutcome {
    /// Nothing of it counts: no reader of committed records sees it, and no offset was committed.
    Aborted,
    /// Whether it was committed is not known. The group's committed offsets say, once a new client has taken over the
    /// `transactional.id`.
    Unknown,
    /// Another producer with the same `transactional.id` has taken over. If the transaction was about to be committed,
    /// only the group's committed offsets say whether it was.
    Fenced,
}

impl fmt::Display for TransactionOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aborted => "aborted, it can be run again",
            Self::Unknown => "it may be committed: go on from the committed offsets",
            Self::Fenced => {
                "another producer with this id has taken over: give each process an id of its own, or let this one end"
            }
        })
    }
}

/// What went wrong in a transaction. Its error's own text leaves out why.
fn reason(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(inner) => {
            let advice = advice(error.rdkafka_error_code()).map(|advice| format!("; {advice}")).unwrap_or_default();
            format!("{} ({}){advice}", inner.string(), inner.name())
        }
        error => error.to_string(),
    }
}

/// Why a client got nothing done, where that is known.
struct Because<'a>(&'a Option<Box<Refusal>>);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |refusal| write!(f, "; {refusal}"))
    }
}

/// The first undelivered message, for [`Error::NotDelivered`]'s text.
struct First<'a>(&'a [(usize, KafkaError)]);

impl fmt::Display for First<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.first() {
            Some((index, error)) => write!(f, "message {index}: {error}"),
            None => f.write_str("none"),
        }
    }
}

impl Error {
    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self::Refused { refusal: Box::new(refusal) }
    }

    pub(crate) fn setting(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Setting { key: key.into(), reason: reason.into() }
    }

    /// A record at this place cannot be read.
    pub(crate) fn undecodable(
        topic: &str,
        partition: i32,
        offset: i64,
        key: Option<&[u8]>,
        source: serde_json::Error,
    ) -> Self {
        Self::Undecodable { topic: topic.to_owned(), partition, offset, key: key.map(excerpt), source }
    }

    /// Whether the client that answered this is beyond use: a new one has to be built.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        match self {
            // librdkafka marks these itself: a fenced instance, a broken idempotence guarantee.
            Self::Kafka(error) | Self::Partition { source: error, .. } => {
                matches!(error, KafkaError::MessageConsumptionFatal(_))
                    || matches!(error.rdkafka_error_code(), Some(Code::Fatal | Code::Fenced | Code::FencedInstanceId))
            }
            Self::NotDelivered { failed, fatal, .. } => {
                *fatal || failed.iter().any(|(_, e)| matches!(e.rdkafka_error_code(), Some(Code::Fatal | Code::Fenced)))
            }
            Self::DeadLetter { source, .. } | Self::Sink { source, .. } => source.is_fatal(),
            // Any other failed client is replaced by the producer itself; here that would fence the one that took over.
            Self::Transaction { outcome, .. } => *outcome == TransactionOutcome::Fenced,
            Self::Closed(_) => true,
            _ => false,
        }
    }

    /// Whether the same call may succeed when it is made again, without anything being changed first.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            // What the handler could not do now, it may do later; the batch is kept and handed over again.
            Self::Handler { .. } => true,
            // The watermark is sent again with the next commit.
            Self::NotCommitted { .. } => true,
            Self::DeadLetter { source, .. } | Self::Sink { source, .. } => source.is_retriable(),
            // Outages end. A message that is too large, or a topic that does not exist, stays so.
            Self::NotDelivered { failed, fatal, .. } => !fatal && failed.iter().all(|(_, error)| is_transient(error)),
            Self::Kafka(error) => is_transient(error),
            // A server may be on its way up.
            Self::Unreachable { .. } => true,
            // It may be on its way up. A command that it refuses, for the type of a key or missing rights, it will again.
            Self::Redis { refused, .. } => !refused,
            // So may whoever is to answer.
            Self::NoResponse { .. } => true,
            // What a rebalance took away the group gives to somebody; an outage ends. Missing rights stay missing.
            Self::Transaction { outcome, source, .. } => {
                *outcome != TransactionOutcome::Fenced && (is_transient(source) || is_group_fencing(source))
            }
            // The text, the setting or the payload itself has to change.
            _ => false,
        }
    }
}

/// Errors of the network, the queue and a broker on its way up or down.
fn is_transient(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::QueueFull
                | Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::MessageTimedOut
                | Code::WaitingForCoordinator
                | Code::RequestTimedOut
                | Code::CoordinatorLoadInProgress
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::NotEnoughReplicas
                | Code::NotEnoughReplicasAfterAppend
                | Code::NetworkException
        )
    )
}

/// The consumer whose offsets were to be committed is, or may be, no longer the one of its partitions.
pub(crate) fn is_group_fencing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::IllegalGeneration
                | Code::UnknownMemberId
                | Code::StaleMemberEpoch
                | Code::FencedMemberEpoch
                | Code::RebalanceInProgress
                | Code::FencedInstanceId
        )
    )
}

/// What a handler answers when it could not handle its batch.
///
/// `?` turns any error into one, `Err("text".into())` too. [`HandlerError::at`] says how far the handler came. Like
/// `anyhow::Error` it does not implement [`std::error::Error`] itself, because then `?` could not convert every error.
///
/// ```
/// use kafka_envelope::HandlerError;
///
/// fn handle(lines: &[&str]) -> Result<(), HandlerError> {
///     for (index, line) in lines.iter().enumerate() {
///         let _: u32 = line.parse().map_err(|error: std::num::ParseIntError| HandlerError::at(index, error))?;
///     }
///     Ok(())
/// }
/// assert_eq!(handle(&["1", "2", "x"]).unwrap_err().index(), Some(2));
/// ```
#[derive(Debug)]
pub struct HandlerError {
    index: Option<usize>,
    source: BoxError,
}

impl HandlerError {
    /// An error about the batch as a whole: nothing of it is done.
    pub fn new(error: impl Into<BoxError>) -> Self {
        Self { index: None, source: error.into() }
    }

    /// An error at the record with this index in the batch: all records before it are done, and are committed. Where
    /// the handler is one of exports, it is the index of a result, and the records before that of the result are done.
    ///
    /// An index that the batch does not have says nothing, so nothing is committed.
    pub fn at(index: usize, error: impl Into<HandlerError>) -> Self {
        Self { index: Some(index), source: error.into().source }
    }

    /// The index given to [`HandlerError::at`].
    #[must_use]
    pub fn index(&self) -> Option<usize> {
        self.index
    }

    /// The error itself.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.source
    }

    /// The error itself, by value.
    #[must_use]
    pub fn into_inner(self) -> BoxError {
        self.source
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "index {index} of the batch: {}", self.source),
            None => self.source.fmt(f),
        }
    }
}

impl<E: Into<BoxError>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

impl From<HandlerError> for Box<dyn StdError> {
    fn from(error: HandlerError) -> Self {
        error.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_becomes_a_handler_error() {
        fn parse() -> Result<u32, HandlerError> {
            Ok("x".parse::<u32>()?)
        }
        assert!(parse().unwrap_err().to_string().contains("invalid digit"));
        let text: HandlerError = "nothing left".into();
        assert_eq!(text.to_string(), "nothing left");
        let outer = HandlerError::at(3, HandlerError::at(1, "inner"));
        assert_eq!((outer.index(), outer.to_string().as_str()), (Some(3), "index 3 of the batch: inner"));
    }

    #[test]
    fn an_error_names_its_record() {
        let source = <serde_json::Error as serde::de::Error>::custom("no `item`");
        let error =
            Error::Undecodable { topic: "orders".into(), partition: 3, offset: 42, key: Some("k".into()), source };
        assert_eq!(error.to_string(), "cannot decode orders:3:42:k: no `item`");
        assert!(!error.is_retriable() && !error.is_fatal());
    }

    #[test]
    fn a_redis_that_does_not_answer_is_asked_again_and_one_that_refuses_is_not() {
        let redis = |refused| Error::Redis { address: "redis:6379".into(), reason: "why".into(), refused };
        assert_eq!(redis(false).to_string(), "Redis at redis:6379: why");
        assert!(redis(false).is_retriable() && !redis(false).is_fatal());
        assert!(!redis(true).is_retriable() && !redis(true).is_fatal());
    }

    #[test]
    fn whatever_is_closed_says_so_itself() {
        let closed = Error::Closed("the sink `cache` did not close within 5s".into());
        assert_eq!(closed.to_string(), "cannot go on: the sink `cache` did not close within 5s");
        assert!(closed.is_fatal() && !closed.is_retriable());
    }

    #[test]
    fn outages_are_retriable_and_fences_are_fatal() {
        let produced = |code| KafkaError::MessageProduction(code);
        let failed = |code| Error::NotDelivered {
            total: 2,
            failed: vec![(1, produced(code))],
            possibly_persisted: Vec::new(),
            fatal: false,
            refusal: None,
        };
        assert!(failed(Code::MessageTimedOut).is_retriable());
        assert!(!failed(Code::MessageSizeTooLarge).is_retriable());
        assert!(failed(Code::Fenced).is_fatal());
        assert!(failed(Code::MessageTimedOut).to_string().contains("1 of 2"));
    }
}
