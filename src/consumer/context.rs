//! What librdkafka tells the consumer.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use crate::bootstrap::Bootstrap;
use crate::client;
use crate::metrics::Statistics;
use crate::sync::lock;

/// A change of the assignment that waits for an answer.
#[derive(Debug)]
pub(super) enum Rebalance {
    Assign(TopicPartitionList),
    Revoke(TopicPartitionList),
}

/// Keeps rebalances for the fetch thread, which answers them right after the poll that brought them: there it may
/// wait for the handler and for commits, which inside the callback would poll a queue that is being polled.
#[derive(Debug, Default)]
pub(super) struct Context {
    rebalances: Mutex<VecDeque<Rebalance>>,
    closing: AtomicBool,
    pub(super) trouble: client::Trouble,
    pub(super) bootstrap: Bootstrap,
    pub(super) statistics: Statistics,
}

impl Context {
    pub(super) fn of_group(group: &str) -> Self {
        Self { trouble: client::Trouble::of_group(group), ..Self::default() }
    }

    pub(super) fn heard_by(self, statistics: Statistics) -> Self {
        Self { statistics, ..self }
    }

    pub(super) fn next_rebalance(&self) -> Option<Rebalance> {
        lock(&self.rebalances).pop_front()
    }

    pub(super) fn has_rebalance(&self) -> bool {
        !lock(&self.rebalances).is_empty()
    }

    /// From now on nobody asks for rebalances: they are answered at once.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }
}

client::client_context!(Context);

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let partitions = partitions.clone();
        let rebalance = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assign(partitions),
            _ => Rebalance::Revoke(partitions),
        };
        if !self.closing.load(Ordering::SeqCst) {
            lock(&self.rebalances).push_back(rebalance);
        } else if let Err(error) = answer(consumer, &rebalance) {
            log::warn!("a rebalance during close could not be answered: {error}");
        }
    }
}

/// Tells librdkafka that the rebalance is done.
pub(super) fn answer(consumer: &BaseConsumer<Context>, rebalance: &Rebalance) -> KafkaResult<()> {
    match (rebalance, consumer.rebalance_protocol()) {
        (Rebalance::Assign(partitions), RebalanceProtocol::Cooperative) => consumer.incremental_assign(partitions),
        (Rebalance::Assign(partitions), _) => consumer.assign(partitions),
        (Rebalance::Revoke(partitions), RebalanceProtocol::Cooperative) => consumer.incremental_unassign(partitions),
        (Rebalance::Revoke(_), _) => consumer.unassign(),
    }
}
