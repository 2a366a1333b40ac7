//! In whose name a transaction commits offsets.

use std::fmt;
use std::sync::Arc;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata};

use crate::native;

/// A consumer's place in its group at one moment: after the next rebalance the broker takes no offsets in its name.
#[derive(Clone)]
pub(crate) struct Membership(Arc<ConsumerGroupMetadata>);

impl Membership {
    /// None: the consumer is no member now. A transaction's offsets that come in nobody's name the broker takes, whoever
    /// has the partitions.
    #[cfg_attr(not(test), expect(dead_code, reason = "for exactly-once runs"))]
    pub(crate) fn of<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<Self> {
        // rdkafka's type does not tell whether it is a member's.
        let generation = native::generation(consumer.client())?;
        let metadata = consumer.group_metadata()?;
        (native::generation(consumer.client()) == Some(generation)).then(|| Self(Arc::new(metadata)))
    }

    pub(super) fn metadata(&self) -> Arc<ConsumerGroupMetadata> {
        Arc::clone(&self.0)
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").finish_non_exhaustive()
    }
}
