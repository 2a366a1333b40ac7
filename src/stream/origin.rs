//! Where an element came from: records are done once nothing is left of them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::consumer::lock;
use crate::envelope::BatchRef;
use crate::message::Record;

/// The records that one element came from. Cheap to clone; where the last clone goes, they are done.
#[derive(Clone, Debug)]
pub(super) enum Origins {
    One(Arc<Origin>),
    /// Those of a batch.
    Many(Arc<[Origins]>),
}

/// A record that something is left of.
pub(super) struct Origin {
    record: Record,
    done: Arc<Done>,
}

/// The records that are done, until somebody takes them.
#[derive(Debug, Default)]
pub(super) struct Done {
    records: Mutex<Vec<(u64, i64)>>,
    changed: Notify,
    /// The worker has failed: what goes now is not done.
    has_failed: AtomicBool,
}

impl Done {
    /// A record begins.
    pub(super) fn origin(self: &Arc<Self>, record: Record) -> Origins {
        Origins::One(Arc::new(Origin { record, done: Arc::clone(self) }))
    }

    /// What is done since the last time: ownerships and offsets.
    pub(super) fn take(&self) -> Vec<(u64, i64)> {
        std::mem::take(&mut lock(&self.records))
    }

    /// Waits until there is something to take.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// From now on nothing is done any more.
    pub(super) fn fail(&self) {
        self.has_failed.store(true, Ordering::Release);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if self.done.has_failed.load(Ordering::Acquire) {
            return;
        }
        let is_first = {
            let mut records = lock(&self.done.records);
            records.push((self.record.tag(), self.record.offset()));
            records.len() == 1
        };
        if is_first {
            self.done.changed.notify_one();
        }
    }
}

impl Origins {
    /// The records, each as often as elements of it are in the batch.
    pub(super) fn each(&self, call: &mut impl FnMut(&Record)) {
        match self {
            Self::One(origin) => call(&origin.record),
            Self::Many(all) => all.iter().for_each(|origins| origins.each(call)),
        }
    }

    /// The records, once each, in the order of their offsets.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        self.each(&mut |record| records.push(record.clone()));
        records.sort_by(|one, other| {
            (one.topic(), one.partition(), one.offset()).cmp(&(other.topic(), other.partition(), other.offset()))
        });
        records.dedup_by_key(|record| (record.partition(), record.offset()));
        records
    }

    /// The worker has failed on these: from now on nothing is done any more.
    pub(super) fn fail(&self) {
        match self {
            Self::One(origin) => origin.done.fail(),
            Self::Many(all) => all.iter().for_each(Self::fail),
        }
    }

    /// As `topic[partition=first:next,…],…`.
    pub(super) fn reference(&self) -> BatchRef {
        let records = self.records();
        let ranges = records.chunk_by(|one, next| one.partition() == next.partition() && one.topic() == next.topic());
        BatchRef::from_ranges(ranges.filter_map(|run| {
            let (first, last) = (run.first()?, run.last()?);
            Some((first.topic(), first.partition(), first.offset(), last.offset() + 1))
        }))
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Origin").field(&self.record).finish()
    }
}
