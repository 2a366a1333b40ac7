use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::*;
use crate::consumer::Membership;
use crate::error::{Error, TransactionOutcome};
use crate::message::Message;
use crate::testing::{ApiKey, EmbeddedBroker, ErrorCode};

const TOPIC: &str = "out";

/// A broker, which keeps no promise about transactions but speaks their language, and a member of a group.
struct Scene {
    broker: EmbeddedBroker,
    consumer: BaseConsumer,
    member: Membership,
}

impl Scene {
    fn new() -> Self {
        let broker = EmbeddedBroker::start().unwrap();
        broker.create_topic(TOPIC, 2).unwrap();
        broker.create_topic("in", 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", broker.bootstrap_servers()).set("group.id", "group");
        let consumer: BaseConsumer = config.create().unwrap();
        assert!(Membership::of(&consumer).is_none());
        consumer.subscribe(&["in"]).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while consumer.assignment().unwrap().count() == 0 {
            assert!(std::time::Instant::now() < deadline);
            assert!(consumer.poll(Duration::from_millis(100)).is_none());
        }
        let member = Membership::of(&consumer).unwrap();
        Self { broker, consumer, member }
    }

    fn producer(&self, id: &str) -> TransactionalProducer {
        TransactionalProducer::new("billing", self.broker.bootstrap_servers(), id).unwrap()
    }

    fn commit(&self, producer: &mut TransactionalProducer) -> Result<(), TransactionFailure> {
        for number in 0..3 {
            // Each call begins anew.
            let mut outbox = producer.outbox();
            outbox.send(TOPIC, &Message::new(number).partition(0)).unwrap();
            outbox.send(TOPIC, &Message::new(number).partition(1)).unwrap();
        }
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset("in", 0, Offset::Offset(1)).unwrap();
        producer.commit(&offsets, &self.member)
    }

    fn written(&self) -> i64 {
        let high = |partition| self.consumer.fetch_watermarks(TOPIC, partition, Duration::from_secs(10)).unwrap().1;
        high(0) + high(1)
    }
}

#[derive(Debug, PartialEq)]
enum Found {
    Committed,
    Aborted(Cause),
    Unknown,
    Fenced,
}

#[test]
fn each_error_has_its_class() {
    use ErrorCode as E;
    let scene = Scene::new();
    let cases = [
        (ApiKey::InitProducerId, E::CoordinatorLoadInProgress, Found::Committed),
        (ApiKey::InitProducerId, E::TransactionalIdAuthorizationFailed, Found::Aborted(Cause::Denied)),
        (ApiKey::AddPartitionsToTxn, E::ConcurrentTransactions, Found::Committed),
        (ApiKey::AddPartitionsToTxn, E::TopicAuthorizationFailed, Found::Aborted(Cause::Refused)),
        (ApiKey::AddPartitionsToTxn, E::InvalidProducerEpoch, Found::Fenced),
        (ApiKey::AddPartitionsToTxn, E::InvalidTransactionalState, Found::Aborted(Cause::Passing)),
        (ApiKey::Produce, E::PolicyViolation, Found::Aborted(Cause::Refused)),
        (ApiKey::Produce, E::NotLeaderForPartition, Found::Committed),
        (ApiKey::AddOffsetsToTxn, E::NotCoordinator, Found::Committed),
        (ApiKey::AddOffsetsToTxn, E::GroupAuthorizationFailed, Found::Aborted(Cause::Denied)),
        (ApiKey::AddOffsetsToTxn, E::InvalidProducerEpoch, Found::Fenced),
        (ApiKey::TxnOffsetCommit, E::CoordinatorLoadInProgress, Found::Committed),
        (ApiKey::TxnOffsetCommit, E::IllegalGeneration, Found::Aborted(Cause::Group)),
        (ApiKey::TxnOffsetCommit, E::UnknownMemberId, Found::Aborted(Cause::Group)),
        (ApiKey::TxnOffsetCommit, E::StaleMemberEpoch, Found::Aborted(Cause::Group)),
        (ApiKey::TxnOffsetCommit, E::RebalanceInProgress, Found::Aborted(Cause::Group)),
        (ApiKey::TxnOffsetCommit, E::FencedInstanceId, Found::Aborted(Cause::Group)),
        (ApiKey::EndTxn, E::NotCoordinator, Found::Committed),
        (ApiKey::EndTxn, E::ProducerFenced, Found::Fenced),
        (ApiKey::EndTxn, E::InvalidTransactionalState, Found::Unknown),
        (ApiKey::EndTxn, E::InvalidProducerIdMapping, Found::Unknown),
    ];
    for (number, (request, code, expected)) in cases.into_iter().enumerate() {
        let mut producer = scene.producer(&format!("id-{number}"));
        if request != ApiKey::InitProducerId {
            scene.commit(&mut producer).unwrap();
        }
        scene.broker.fail_next(request, [code]).unwrap();
        let failure = scene.commit(&mut producer).err();
        let found = match &failure {
            None => Found::Committed,
            Some(TransactionFailure::Aborted { cause, .. }) => Found::Aborted(*cause),
            Some(TransactionFailure::Unknown(_)) => Found::Unknown,
            Some(TransactionFailure::Fenced(_)) => Found::Fenced,
        };
        assert_eq!(found, expected, "{request:?} {code}: {failure:?}");
        scene.broker.clear_failures(request).unwrap();
        // What is over stays over, and everything else works on.
        let next = scene.commit(&mut producer);
        if let Some(TransactionFailure::Fenced(error)) = failure {
            assert!(error.is_fatal() && !error.is_retriable(), "{error}");
            assert!(matches!(next, Err(TransactionFailure::Fenced(_))), "{request:?} {code}: {next:?}");
        } else {
            next.unwrap_or_else(|failure| panic!("after {request:?} {code}: {failure:?}"));
        }
    }
}

#[test]
fn an_aborted_outbox_can_be_committed_again() {
    let scene = Scene::new();
    let mut producer = scene.producer("id");
    scene.broker.fail_next(ApiKey::TxnOffsetCommit, [ErrorCode::IllegalGeneration]).unwrap();
    let failure = scene.commit(&mut producer).unwrap_err();
    let TransactionFailure::Aborted { error, cause: Cause::Group } = failure else { panic!("{failure:?}") };
    assert!(error.is_retriable() && !error.is_fatal(), "{error}");
    let Error::Transaction { transactional_id, step, outcome, .. } = &*error else { panic!("{error}") };
    assert_eq!((&**transactional_id, *step), ("id", "send_offsets_to_transaction"));
    assert_eq!(*outcome, TransactionOutcome::Aborted);
    let before = scene.written();
    producer.commit(&TopicPartitionList::new(), &scene.member).unwrap();
    assert!(scene.written() > before);
}

#[test]
fn nothing_to_commit_begins_nothing() {
    let scene = Scene::new();
    scene.broker.set_down(1).unwrap();
    let mut producer = scene.producer("id");
    producer.outbox();
    producer.commit(&TopicPartitionList::new(), &scene.member).unwrap();
}

#[test]
fn an_answer_that_does_not_come_is_not_waited_for_long() {
    let scene = Scene::new();
    let config = [("transaction.timeout.ms", "4000")];
    let builder = TransactionalProducer::builder("billing", scene.broker.bootstrap_servers(), "id").config(config);
    let mut producer = builder.build().unwrap();
    scene.commit(&mut producer).unwrap();
    scene.broker.set_down(1).unwrap();
    let start = std::time::Instant::now();
    let failure = scene.commit(&mut producer).unwrap_err();
    assert!(matches!(failure, TransactionFailure::Aborted { cause: Cause::Passing, .. }), "{failure:?}");
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    scene.broker.set_up(1).unwrap();
    producer.ready().unwrap();
}

#[test]
fn settings_are_checked_before_anything_connects() {
    let build = |id: &str, key: &str, value: &str| match TransactionalProducer::builder("billing", "localhost:1", id)
        .config([(key, value)])
        .build()
    {
        Err(Error::Setting { key, .. }) => key,
        other => panic!("{other:?}"),
    };
    assert_eq!(build("", "linger.ms", "5"), "transactional.id");
    assert_eq!(build("id", "transactional.id", "other"), "transactional.id");
    assert_eq!(build("id", "acks", "1"), "acks");
    assert_eq!(build("id", "enable.idempotence", "false"), "transactional.id");
    assert_eq!(build("id", "no.such.key", "1"), "no.such.key");
    let producer = TransactionalProducer::new("billing", "localhost:1", "id").unwrap();
    assert_eq!(producer.limit, LIMIT);
    assert!(format!("{producer:?}").contains("\"id\""));
}
