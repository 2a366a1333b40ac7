//! What was read of the filter topic, and what it makes of the filters. Knows nothing of Kafka's client.

use crate::envelope::Ref;
use crate::error::excerpt;
use crate::export::filter_message::{Change, FilterMessage};
use crate::export::filters::Filters;
use crate::export::timestamp::TimeFormat;

/// A filter that was put or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    Put(String),
    Deleted(String),
}

/// A partition of the filter topic.
#[derive(Debug, Default)]
struct Lane {
    /// None: nothing was read yet, not even the partition's end.
    next_offset: Option<i64>,
    /// Whether what stood in it when reading began was read.
    is_caught_up: bool,
    /// The last put before the log was found to lack offsets, by its place in the order of all puts.
    last_before_gap: u64,
}

/// The filters as far as they were read.
#[derive(Debug)]
pub(super) struct Reading {
    topic: String,
    format: Option<TimeFormat>,
    filters: Filters,
    /// By partition.
    lanes: Vec<Lane>,
    /// When reading from the topic's beginning began, in seconds since 1970.
    since: f64,
    /// A partition's log is not the one that was read, so what was made of it is void.
    is_void: bool,
    /// The topic is read once more from its beginning, and readers keep the filters of before until that is done.
    is_rebuilding: bool,
    has_changed: bool,
    changes: Vec<Changed>,
    skipped: u64,
}

/// What is new since it was last asked.
#[derive(Debug)]
pub(super) struct News {
    /// None: the filters are those of before.
    pub(super) filters: Option<Filters>,
    /// Whether they come from another log than those of before, whose deletes it does not have.
    pub(super) is_anew: bool,
    pub(super) changes: Vec<Changed>,
}

impl Reading {
    pub(super) fn new(topic: String, format: Option<TimeFormat>, since: f64) -> Self {
        Self {
            topic,
            format,
            filters: Filters::default(),
            lanes: Vec::new(),
            since,
            is_void: false,
            is_rebuilding: false,
            has_changed: false,
            changes: Vec::new(),
            skipped: 0,
        }
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Each partition with its next offset. None: the partition's beginning.
    pub(super) fn partitions(&self) -> impl Iterator<Item = (i32, Option<i64>)> {
        (0..).zip(&self.lanes).map(|(partition, lane)| (partition, lane.next_offset))
    }

    /// The topic has so many partitions. True: these are more than before.
    pub(super) fn grow(&mut self, partitions: usize) -> bool {
        let has_grown = partitions > self.lanes.len();
        if has_grown {
            self.lanes.resize_with(partitions, Lane::default);
        }
        has_grown
    }

    /// Whether everything has to be read again: to be answered with [`Reading::restart`].
    pub(super) fn is_void(&self) -> bool {
        self.is_void
    }

    /// Begins again. How many partitions there are is to be told anew.
    pub(super) fn restart(&mut self, since: f64) {
        self.filters = Filters::default();
        self.lanes.clear();
        self.since = since;
        self.is_void = false;
        self.is_rebuilding = true;
        self.changes.clear();
    }

    /// Takes a record; a bad one is skipped.
    pub(super) fn record(&mut self, partition: i32, offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        if !self.reach(partition, offset, offset.saturating_add(1)) {
            return;
        }
        let Some(value) = value else { return self.tombstone(key) };
        if let Err(reason) = self.message(partition, key, value) {
            self.skipped += 1;
            let record = Ref { key: key.map(excerpt), ..Ref::new(&*self.topic, partition, offset) };
            log::warn!("filter message {record} {reason}: it is skipped");
        }
    }

    /// The partition ends at this offset, for now.
    pub(super) fn end(&mut self, partition: i32, offset: i64) {
        if offset >= 0 && self.reach(partition, offset, offset) {
            if let Some(lane) = self.lane(partition) {
                lane.is_caught_up = true;
            }
        }
    }

    /// Notes how far the partition was read. False: nothing of this counts.
    fn reach(&mut self, partition: i32, offset: i64, next_offset: i64) -> bool {
        let (is_void, last_put) = (self.is_void, self.filters.order());
        let Some(lane) = self.lane(partition) else { return false };
        match lane.next_offset {
            _ if is_void => return false,
            Some(expected) if offset < expected => {
                log::warn!(
                    "{}:{partition} is at offset {offset} after {expected} was read up to: the log is another one, \
                     filters are read again from the beginning",
                    self.topic
                );
                self.is_void = true;
                return false;
            }
            expected => {
                // Up to a partition's end only markers of transactions are left out; and before that was reached once,
                // since compaction takes the put away with its delete.
                let has_gap = next_offset > offset && expected.is_some_and(|expected| offset > expected);
                if has_gap && lane.is_caught_up {
                    lane.last_before_gap = last_put;
                }
                lane.next_offset = Some(next_offset);
            }
        }
        true
    }

    fn lane(&mut self, partition: i32) -> Option<&mut Lane> {
        usize::try_from(partition).ok().and_then(|partition| self.lanes.get_mut(partition))
    }

    /// Does what a message says, or tells why it is bad: with nothing of the payload but what names its fault.
    fn message(&mut self, partition: i32, key: Option<&[u8]>, value: &[u8]) -> Result<(), String> {
        let message = FilterMessage::read(value, self.format.as_ref())?;
        match message.change {
            Change::Put(filter) => {
                // Compaction takes a delete away once its filter was put again, where the key is the id: where the log
                // lacks offsets since the filter was put, one may have stood there.
                let last_before_gap = self.lane(partition).map_or(0, |lane| lane.last_before_gap);
                let is_over = |id: &str, order| order <= last_before_gap && key == Some(id.as_bytes());
                let put = self.filters.put_over(filter, is_over);
                let (id, is_over) = put.map_err(|error| format!("is refused: {error}"))?;
                self.has_changed = true;
                if is_over {
                    self.changes.push(Changed::Deleted(id.clone()));
                }
                self.changes.push(Changed::Put(id));
            }
            Change::Delete(id) => {
                self.has_changed |= self.filters.delete(&id);
                self.changes.push(Changed::Deleted(id));
            }
        }
        if message.timestamp >= self.since {
            if let Some(lane) = self.lane(partition) {
                lane.is_caught_up = true;
            }
        }
        Ok(())
    }

    /// What compaction leaves of a filter that was deleted, where the key is the filter's id.
    fn tombstone(&mut self, key: Option<&[u8]>) {
        let id = key.and_then(|key| std::str::from_utf8(key).ok());
        if let Some(id) = id.filter(|id| self.filters.delete(id)) {
            self.has_changed = true;
            self.changes.push(Changed::Deleted(id.to_owned()));
        }
    }

    /// Whether all that stood in the topic when reading began was read.
    pub(super) fn is_caught_up(&self) -> bool {
        !self.lanes.is_empty() && self.lanes.iter().all(|lane| lane.is_caught_up)
    }

    /// What is new for readers. They are told nothing while filters are rebuilt, unless `now` says that they should be.
    pub(super) fn news(&mut self, now: bool) -> Option<News> {
        if self.is_rebuilding && !now && !self.is_caught_up() {
            return None;
        }
        let is_anew = std::mem::take(&mut self.is_rebuilding);
        let is_new = std::mem::take(&mut self.has_changed) | is_anew;
        let filters = is_new.then(|| self.filters.clone());
        let news = News { filters, is_anew, changes: std::mem::take(&mut self.changes) };
        (is_new || !news.changes.is_empty()).then_some(news)
    }

    /// How many messages were bad.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const START: f64 = 1_000.0;

    fn reading(partitions: usize) -> Reading {
        let mut reading = Reading::new("filters".into(), None, START);
        assert!(reading.grow(partitions) && !reading.grow(partitions));
        reading
    }

    fn put(id: &str, timestamp: f64) -> Vec<u8> {
        let filter = json!({"id": id, "source": id, "mappings": {"a:data": "a"}, "identifiers": null});
        json!({"method": "put", "payload": filter, "timestamp": timestamp}).to_string().into_bytes()
    }

    fn delete(id: &str) -> Vec<u8> {
        json!({"method": "delete", "payload": {"id": id}, "timestamp": 1}).to_string().into_bytes()
    }

    fn changes(reading: &mut Reading) -> Vec<Changed> {
        reading.news(false).map(|news| news.changes).unwrap_or_default()
    }

    #[test]
    fn a_batch_of_messages_makes_one_set_of_filters() {
        let mut reading = reading(1);
        reading.record(0, 0, None, Some(&put("a", 1.0)));
        reading.record(0, 4, None, Some(&put("b", 1.0)));
        reading.record(0, 5, None, Some(&delete("a")));
        let news = reading.news(false).unwrap();
        assert_eq!(news.filters.unwrap().sources(), ["b"]);
        let expected = [Changed::Put("a".into()), Changed::Put("b".into()), Changed::Deleted("a".into())];
        assert_eq!(news.changes, expected);
        assert!(reading.news(false).is_none());
        assert_eq!(reading.partitions().collect::<Vec<_>>(), [(0, Some(6))]);
    }

    #[test]
    fn an_unknown_id_is_told_and_changes_no_filters() {
        let mut reading = reading(1);
        reading.record(0, 0, None, Some(&delete("a")));
        let news = reading.news(false).unwrap();
        assert!(news.filters.is_none());
        assert_eq!((news.changes, reading.skipped()), (vec![Changed::Deleted("a".into())], 0));
    }

    #[test]
    fn a_bad_message_changes_nothing_and_is_counted() {
        let mut reading = reading(1);
        reading.record(0, 0, None, Some(&put("a", 1.0)));
        assert_eq!(changes(&mut reading), [Changed::Put("a".into())]);
        for bad in [&b"no JSON"[..], b"", &put("a", 1.0), &put("b", 0.0), br#"{"method":"put","timestamp":5000}"#] {
            let offset = 1 + i64::try_from(reading.skipped()).unwrap();
            reading.record(0, offset, Some(b"key"), Some(bad));
            assert!(reading.news(false).is_none(), "{bad:?}");
            assert_eq!(reading.skipped(), u64::try_from(offset).unwrap());
        }
        assert!(!reading.is_caught_up(), "the timestamp of a bad message says nothing");
    }

    #[test]
    fn a_tombstone_deletes_the_filter_of_its_key() {
        let mut reading = reading(1);
        reading.record(0, 0, Some(b"a"), Some(&put("a", 1.0)));
        reading.record(0, 1, Some(b"b"), None);
        reading.record(0, 2, None, None);
        reading.record(0, 3, Some(b"\xff"), None);
        assert_eq!(changes(&mut reading), [Changed::Put("a".into())]);
        reading.record(0, 4, Some(b"a"), None);
        assert_eq!(changes(&mut reading), [Changed::Deleted("a".into())]);
        assert_eq!(reading.skipped(), 0);
    }

    /// Where the log lacks offsets, compaction may have taken the delete away.
    #[test]
    fn a_filter_gives_way_to_the_next_of_its_key_behind_a_gap() {
        let mut reading = reading(1);
        reading.record(0, 0, Some(b"a"), Some(&put("a", 1.0)));
        reading.end(0, 1);
        reading.record(0, 1, Some(b"a"), Some(&put("a", 1.0)));
        assert_eq!(reading.skipped(), 1, "there was no delete between");
        reading.record(0, 5, Some(b"b"), Some(&put("b", 1.0)));
        reading.record(0, 6, Some(b"other"), Some(&put("a", 1.0)));
        assert_eq!(reading.skipped(), 2, "of another key compaction takes nothing away");
        reading.record(0, 7, Some(b"a"), Some(&put("a", 1.0)));
        reading.record(0, 8, Some(b"a"), Some(&put("a", 1.0)));
        assert_eq!(reading.skipped(), 3, "since it was put again there is no gap");
        // The marker of a transaction.
        reading.end(0, 10);
        reading.record(0, 10, Some(b"a"), Some(&put("a", 1.0)));
        assert_eq!(reading.skipped(), 4);
        let (put, deleted) = (|id: &str| Changed::Put(id.into()), |id: &str| Changed::Deleted(id.into()));
        assert_eq!(changes(&mut reading), [put("a"), put("b"), deleted("a"), put("a")]);
        assert_eq!(reading.filters.len(), 2);
    }

    /// Whoever starts later makes the same of a log that transactions wrote: their markers are no gaps.
    #[test]
    fn what_is_refused_is_refused_from_the_beginning_too() {
        let mut reading = reading(1);
        reading.record(0, 0, Some(b"a"), Some(&put("a", 1.0)));
        reading.record(0, 2, Some(b"a"), Some(&put("a", 1.0)));
        assert_eq!((reading.skipped(), changes(&mut reading)), (1, vec![Changed::Put("a".into())]));
    }

    #[test]
    fn every_partition_has_to_catch_up() {
        let mut reading = reading(2);
        reading.record(0, 0, None, Some(&put("a", START - 0.5)));
        assert!(!reading.is_caught_up());
        reading.record(0, 1, None, Some(&put("b", START)));
        assert!(!reading.is_caught_up(), "partition 1 may hold older ones");
        reading.end(1, 0);
        assert!(reading.is_caught_up());
        assert!(reading.grow(3));
        assert!(!reading.is_caught_up());
        reading.end(2, 7);
        assert!(reading.is_caught_up());
        assert_eq!(reading.partitions().collect::<Vec<_>>(), [(0, Some(2)), (1, Some(0)), (2, Some(7))]);
        assert!(!super::Reading::new("filters".into(), None, START).is_caught_up(), "no partition is known");
    }

    #[test]
    fn readers_keep_their_filters_while_another_log_is_read() {
        type Sign = fn(&mut Reading);
        let signs: [Sign; 2] = [|reading| reading.record(1, 2, None, None), |reading| reading.end(1, 0)];
        for sign in signs {
            let mut reading = reading(2);
            reading.record(0, 0, None, Some(&put("old", 1.0)));
            reading.end(1, 3);
            assert_eq!(changes(&mut reading), [Changed::Put("old".into())]);
            sign(&mut reading);
            assert!(reading.is_void());
            reading.record(0, 1, None, Some(&put("void", 1.0)));
            assert!(reading.news(false).is_none());

            reading.restart(START);
            assert!(reading.grow(1) && !reading.is_caught_up());
            assert_eq!(reading.partitions().collect::<Vec<_>>(), [(0, None)]);
            reading.record(0, 0, None, Some(&put("new", 1.0)));
            assert!(!reading.is_void() && reading.news(false).is_none(), "not all of it is read");
            reading.end(0, 1);
            let news = reading.news(false).unwrap();
            assert_eq!(news.filters.unwrap().sources(), ["new"]);
            assert_eq!(news.changes, [Changed::Put("new".into())]);
            reading.record(0, 1, None, Some(&put("newer", 1.0)));
            assert_eq!(changes(&mut reading), [Changed::Put("newer".into())]);
        }
    }

    #[test]
    fn an_empty_log_in_place_of_the_old_one_empties_the_filters() {
        let mut reading = reading(1);
        reading.record(0, 0, None, Some(&put("old", 1.0)));
        assert!(reading.news(false).is_some());
        reading.end(0, 0);
        reading.restart(START);
        assert!(reading.grow(1));
        reading.end(0, 0);
        assert!(reading.news(false).unwrap().filters.unwrap().is_empty());
    }
}
