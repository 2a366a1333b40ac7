//! Where an element came from: records are done once nothing is left of them.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::envelope::BatchRef;
use crate::message::Record;
use crate::metrics::{Fate, Fates};
use crate::sync::lock;

/// Where one element came from: a record, or those of a batch. Cheap to clone, for elements that are made of one.
///
/// A record is done once [`Origins::done`] was said of all its elements. An element that is only dropped is lost, by a
/// failure or the worker's end: its records are not done, and come again.
#[derive(Clone, Debug)]
pub(super) struct Origins(Option<Source>);

#[derive(Clone, Debug)]
enum Source {
    One(Arc<Origin>),
    Many(Arc<Merged>),
}

/// A record that something is left of.
struct Origin {
    record: Record,
    done: Arc<Done>,
    is_lost: AtomicBool,
    is_given_up: AtomicBool,
}

/// Elements that became one.
#[derive(Debug)]
struct Merged {
    all: Vec<Origins>,
    is_lost: AtomicBool,
}

/// The records of which nothing is left, until somebody takes them.
#[derive(Debug, Default)]
pub(super) struct Done {
    ended: Mutex<Ended>,
    changed: Notify,
}

/// Records of which nothing is left.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// The ownership of each.
    pub(super) tags: Vec<u64>,
    /// Those that are done: ownerships and offsets.
    pub(super) done: Vec<(u64, i64)>,
    /// Those that are done and were not given up.
    pub(super) fates: Fates,
}

impl Done {
    /// A record begins.
    pub(super) fn origin(self: &Arc<Self>, record: Record) -> Origins {
        let (is_lost, is_given_up) = (AtomicBool::new(false), AtomicBool::new(false));
        let origin = Origin { record, done: Arc::clone(self), is_lost, is_given_up };
        Origins(Some(Source::One(Arc::new(origin))))
    }

    /// What has ended since the last time.
    pub(super) fn take(&self) -> Ended {
        std::mem::take(&mut lock(&self.ended))
    }

    /// Waits until there is something to take.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let is_first = {
            let mut ended = lock(&self.done.ended);
            ended.tags.push(self.record.tag());
            if !*self.is_lost.get_mut() {
                ended.done.push((self.record.tag(), self.record.offset()));
                if !*self.is_given_up.get_mut() {
                    ended.fates.add(self.record.topic(), Fate::Handled, 1);
                }
            }
            ended.tags.len() == 1
        };
        if is_first {
            self.done.changed.notify_one();
        }
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        if !*self.is_lost.get_mut() {
            self.all.drain(..).for_each(Origins::done);
        }
    }
}

impl Drop for Origins {
    fn drop(&mut self) {
        // The count of the last clone that goes orders this before it is read.
        match &self.0 {
            Some(Source::One(origin)) => origin.is_lost.store(true, Ordering::Relaxed),
            Some(Source::Many(merged)) => merged.is_lost.store(true, Ordering::Relaxed),
            None => {}
        }
    }
}

impl Origins {
    /// Those of elements that become one.
    pub(super) fn merged(all: Vec<Self>) -> Self {
        Self(Some(Source::Many(Arc::new(Merged { all, is_lost: AtomicBool::new(false) }))))
    }

    /// Nothing is to be done any more with this element.
    pub(super) fn done(mut self) {
        self.0 = None;
    }

    /// The records. What elements have in common is looked at once: batches made of the elements of batches would be
    /// as many as their sizes multiplied.
    fn each(&self, seen: &mut HashSet<*const ()>, call: &mut impl FnMut(&Origin)) {
        match &self.0 {
            Some(Source::One(origin)) if seen.insert(Arc::as_ptr(origin).cast()) => call(origin),
            Some(Source::Many(merged)) if seen.insert(Arc::as_ptr(merged).cast()) => {
                merged.all.iter().for_each(|origins| origins.each(seen, call));
            }
            _ => {}
        }
    }

    /// The first element's record, the first of them where that came of several.
    pub(super) fn first(&self) -> Option<Record> {
        match self.0.as_ref()? {
            Source::One(origin) => Some(origin.record.clone()),
            Source::Many(merged) => merged.all.first()?.first(),
        }
    }

    /// The records, once each, in the order of their offsets.
    pub(super) fn records(&self) -> Vec<Record> {
        self.filtered(|_| true)
    }

    /// Gives up the records. Gives those of which no other element did so before, in the order of their offsets.
    pub(super) fn give_up(&self) -> Vec<Record> {
        self.filtered(|origin| !origin.is_given_up.swap(true, Ordering::Relaxed))
    }

    fn filtered(&self, wanted: impl Fn(&Origin) -> bool) -> Vec<Record> {
        let mut records = Vec::new();
        self.each(&mut HashSet::new(), &mut |origin| {
            if wanted(origin) {
                records.push(origin.record.clone());
            }
        });
        records.sort_by(|one, other| {
            (one.topic(), one.partition(), one.offset()).cmp(&(other.topic(), other.partition(), other.offset()))
        });
        records
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::message::arena::{Arena, NewRecord, Source, TimestampType};
    use crate::message::record::Parts;

    /// Of no record in particular.
    pub(crate) fn origins() -> Origins {
        Origins(None)
    }

    fn record(offset: i64) -> Record {
        let mut arena = Arena::default();
        let source = arena.source_index(|_| false, || Source { topic: "topic".into(), partition: 0, tag: 7 });
        let (timestamp, timestamp_type) = (None, TimestampType::NotAvailable);
        arena.push(source, &NewRecord { offset, timestamp, timestamp_type, key: None, value: None }, |_| {});
        Parts::of(&arena, &arena.records()[0]).share()
    }

    #[test]
    fn batches_of_the_elements_of_batches_have_each_record_once() {
        let done = Arc::new(Done::default());
        let mut origins = Origins::merged((0..3).map(|offset| done.origin(record(offset))).collect());
        for _ in 0..10 {
            let elements = vec![origins.clone(), origins.clone(), origins.clone()];
            origins.done();
            origins = Origins::merged(elements);
        }
        let mut offsets = Vec::new();
        origins.each(&mut HashSet::new(), &mut |origin| offsets.push(origin.record.offset()));
        assert_eq!(offsets, [0, 1, 2]);
        assert_eq!(origins.reference().to_string(), "topic[0=0:3]");
        origins.done();
        assert_eq!(done.take().done, [(7, 0), (7, 1), (7, 2)]);
    }
}
