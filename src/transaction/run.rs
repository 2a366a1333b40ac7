//! Exactly-once runs of a consumer.

use rdkafka::TopicPartitionList;
use serde::de::DeserializeOwned;

use super::{Cause, Outbox, TransactionFailure, TransactionalProducer};
use crate::consumer::{Consumer, Failed, Membership, Outcome, Summary, Transactions, attempt};
use crate::error::{HandlerError, Result};
use crate::message::Batch;
use crate::message::arena::Arena;

impl Consumer {
    /// As [`Consumer::run`], with what the handler puts into the outbox and the batch's offsets committed in one
    /// transaction: whatever happens, a reader of committed records (`isolation.level=read_committed`, librdkafka's
    /// default) sees what each record was made into once.
    ///
    /// ```no_run
    /// use kafka_envelope::{Batch, Consumer, Message, TransactionalProducer};
    ///
    /// # fn main() -> Result<(), kafka_envelope::Error> {
    /// # let brokers = "localhost:9092";
    /// let mut producer = TransactionalProducer::new("billing", brokers, "billing-1")?;
    /// let mut consumer = Consumer::builder("billing", brokers, "billing-group").topics(["orders"]).build()?;
    /// consumer.run_exactly_once(&mut producer, |batch: &Batch<u32>, outbox| {
    ///     for order in batch {
    ///         outbox.send("invoices", &Message::new(order.payload * 3).caused_by(order))?;
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// This holds for what goes through the outbox, and for nothing else that the handler does: the handler itself may
    /// be called again with the same records.
    ///
    /// - An attempt that fails leaves nothing: its outbox is forgotten, what [`HandlerError::at`] says is done as well.
    ///   [`ConsumerBuilder::on_error`](crate::ConsumerBuilder::on_error) applies as in any run. Dead letters and skipped
    ///   records are committed outside of transactions: they come at least once.
    /// - What Kafka refuses of the outbox is the handler's failure, too.
    /// - A transaction that a rebalance or an outage breaks is aborted, and the records that this consumer still has are
    ///   handled again.
    /// - Where the result of a commit cannot be known, a new client takes over the `transactional.id`, and all
    ///   partitions start again from the group's committed offsets, which tell.
    ///
    /// Every batch waits for its transaction: larger batches are the way to more throughput.
    ///
    /// # Errors
    /// As [`Consumer::process`], and [`Error::Transaction`](crate::Error::Transaction) where another producer has taken
    /// over the `transactional.id` or a right is missing; [`Error::Setting`](crate::Error::Setting) where the consumer
    /// reads uncommitted records or starts at the log's end (`auto.offset.reset`).
    pub fn run_exactly_once<T, F>(&mut self, producer: &mut TransactionalProducer, handler: F) -> Result<Summary>
    where
        T: DeserializeOwned,
        F: FnMut(&Batch<'_, T>, &mut Outbox<'_>) -> Result<(), HandlerError>,
    {
        self.run_transactions(&mut Run { producer, attempt: with_outbox(handler) })
    }
}

/// A run's producer, and its handler with the decoding around it.
struct Run<'p, F> {
    producer: &'p mut TransactionalProducer,
    attempt: F,
}

fn with_outbox<T, F>(mut handler: F) -> impl FnMut(&Arena, &mut Outbox<'_>) -> Result<(), Failed>
where
    T: DeserializeOwned,
    F: FnMut(&Batch<'_, T>, &mut Outbox<'_>) -> Result<(), HandlerError>,
{
    move |arena, outbox| attempt(arena, |batch: &Batch<'_, T>| handler(batch, outbox))
}

impl<F: FnMut(&Arena, &mut Outbox<'_>) -> Result<(), Failed>> Transactions for Run<'_, F> {
    fn attempt(&mut self, arena: &Arena) -> Result<(), Failed> {
        (self.attempt)(arena, &mut self.producer.outbox())
    }

    fn commit(&mut self, offsets: &TopicPartitionList, member: &Membership) -> Outcome {
        outcome(self.producer.commit(offsets, member))
    }

    fn settle(&mut self) -> Outcome {
        outcome(self.producer.ready())
    }
}

fn outcome(result: Result<(), TransactionFailure>) -> Outcome {
    match result {
        Ok(()) => Outcome::Committed,
        Err(TransactionFailure::Aborted { error, cause: Cause::Refused }) => Outcome::Refused(error),
        Err(TransactionFailure::Aborted { error, cause: Cause::Group | Cause::Passing }) => Outcome::Aborted(*error),
        Err(TransactionFailure::Unknown(error)) => Outcome::Unknown(*error),
        Err(TransactionFailure::Aborted { error, cause: Cause::Denied } | TransactionFailure::Fenced(error)) => {
            Outcome::Failed(*error)
        }
    }
}
