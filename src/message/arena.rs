//! One batch of records, copied into one reused buffer, so that librdkafka gets its memory back at once and the
//! handler's thread never frees what another thread allocated.

use std::ops::Range;
use std::sync::Arc;

use crate::envelope::BatchRef;

/// A buffer that held one huge record is given back to the allocator down to this size.
const KEEP_BYTES: usize = 1 << 20;

/// A null key, value or header value.
const NULL: u32 = u32::MAX;

/// Where a record came from: a partition, in one ownership of it. `tag` is the owner's own mark for that.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) tag: u64,
}

/// What a record's timestamp means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The record has no timestamp.
    #[default]
    NotAvailable,
    /// It says when the record was made.
    CreateTime,
    /// It says when the broker appended the record.
    LogAppendTime,
}

/// A record's place in the buffer: key, value and headers stand there one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    source: u32,
    start: usize,
    key: u32,
    value: u32,
    headers: u32,
    pub(crate) offset: i64,
    /// Milliseconds since 1970, negative for none.
    timestamp: i64,
    timestamp_type: TimestampType,
    /// How often a handler failed on it.
    pub(crate) failures: u32,
}

/// A record as it is put in. Headers come already encoded, see [`encode_header`].
#[derive(Debug, Default)]
pub(crate) struct NewRecord<'a> {
    pub(crate) offset: i64,
    pub(crate) timestamp: Option<i64>,
    pub(crate) timestamp_type: TimestampType,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
}

/// A batch of records.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    bytes: Vec<u8>,
    records: Vec<Record>,
    sources: Vec<Source>,
    /// The records before this one are done.
    from: usize,
    /// The records from this one on are not handed over yet. None: all are.
    until: Option<usize>,
}

/// Appends a header in the form that [`Headers`](super::Headers) reads.
pub(crate) fn encode_header(bytes: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(NULL - 1);
    bytes.extend_from_slice(&length(name.as_bytes()).to_ne_bytes());
    bytes.extend_from_slice(&value.map_or(NULL, length).to_ne_bytes());
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(value.unwrap_or_default());
}

/// The first header of an encoded list, and the rest.
pub(crate) fn decode_header(bytes: &[u8]) -> Option<(&str, Option<&[u8]>, &[u8])> {
    let (name_length, rest) = bytes.split_first_chunk()?;
    let (value_length, rest) = rest.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(u32::from_ne_bytes(*name_length) as usize)?;
    let name = std::str::from_utf8(name).ok()?;
    match u32::from_ne_bytes(*value_length) {
        NULL => Some((name, None, rest)),
        length => rest.split_at_checked(length as usize).map(|(value, rest)| (name, Some(value), rest)),
    }
}

impl Arena {
    /// The records to be handed over: what is left of the batch, or the first part of that.
    pub(crate) fn records(&self) -> &[Record] {
        &self.records[self.from..self.until.unwrap_or(self.records.len())]
    }

    /// Whether nothing is left of the batch.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many records are left of the batch.
    pub(crate) fn len(&self) -> usize {
        self.records.len() - self.from
    }

    /// How many records the batch had, those that are done included.
    pub(crate) fn total(&self) -> usize {
        self.records.len()
    }

    /// Only so many of the records that are left are handed over; none: all of them.
    pub(crate) fn narrow(&mut self, count: Option<usize>) {
        self.until = count.map(|count| (self.from + count).min(self.records.len()));
    }

    /// A handler failed on the record at this place among those handed over.
    pub(crate) fn blame(&mut self, place: usize) {
        let failures = &mut self.records[self.from + place].failures;
        *failures = failures.saturating_add(1);
    }

    /// Whether a handler sees the record: not where its value is null, a tombstone, or empty.
    pub(crate) fn is_seen(&self, record: &Record) -> bool {
        self.value(record).is_some_and(|value| !value.is_empty())
    }

    /// Which attempt it is to hand these records over, 1 for the first: that of the record which failed most.
    pub(crate) fn attempt(&self) -> u32 {
        self.records().iter().map(|record| record.failures).max().unwrap_or(0).saturating_add(1)
    }

    /// Takes out single records of those handed over, by their places in ascending order.
    pub(crate) fn remove(&mut self, places: &[usize]) {
        for place in places.iter().rev() {
            self.records.remove(self.from + place);
        }
        self.until = self.until.map(|until| until - places.len());
    }

    /// The bytes copied in so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn source(&self, record: &Record) -> &Source {
        &self.sources[record.source as usize]
    }

    pub(crate) fn key(&self, record: &Record) -> Option<&[u8]> {
        (record.key != NULL).then(|| &self.bytes[record.start..][..record.key as usize])
    }

    /// None: a tombstone.
    pub(crate) fn value(&self, record: &Record) -> Option<&[u8]> {
        (record.value != NULL).then(|| &self.bytes[record.key_end()..][..record.value as usize])
    }

    pub(crate) fn headers(&self, record: &Record) -> &[u8] {
        &self.bytes[record.value_end()..][..record.headers as usize]
    }

    /// The place among this arena's sources of one with the wanted mark, made where there is none.
    pub(crate) fn source_index(&mut self, found: impl Fn(u64) -> bool, make: impl FnOnce() -> Source) -> u32 {
        let index = self.sources.iter().position(|source| found(source.tag)).unwrap_or_else(|| {
            self.sources.push(make());
            self.sources.len() - 1
        });
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// Copies a record in; `headers` appends its headers with [`encode_header`].
    pub(crate) fn push(&mut self, source: u32, record: &NewRecord<'_>, headers: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        let mut copy = |bytes: Option<&[u8]>| {
            self.bytes.extend_from_slice(bytes.unwrap_or_default());
            bytes.map_or(NULL, |bytes| u32::try_from(bytes.len()).unwrap_or(NULL))
        };
        let (key, value) = (copy(record.key), copy(record.value));
        let before = self.bytes.len();
        headers(&mut self.bytes);
        let headers = u32::try_from(self.bytes.len() - before).unwrap_or(0);
        let timestamp = record.timestamp.unwrap_or(-1);
        let (offset, timestamp_type, failures) = (record.offset, record.timestamp_type, 0);
        self.records.push(Record { source, start, key, value, headers, offset, timestamp, timestamp_type, failures });
    }

    /// Moves records from the front of `other` to the end of this one, as long as `fits` says so of this one's length
    /// and bytes, each with the next record's.
    pub(crate) fn refill(&mut self, other: &mut Self, fits: impl Fn(usize, usize) -> bool) {
        while let Some(record) = other.records().first() {
            let bytes = record.value_end() - record.start + record.headers as usize;
            if !self.is_empty() && !fits(self.len() + 1, self.bytes() + bytes) {
                return;
            }
            let from = other.source(record);
            let source = self.source_index(|tag| tag == from.tag, || from.clone());
            let start = self.bytes.len();
            self.bytes.extend_from_slice(&other.bytes[record.start..][..bytes]);
            self.records.push(Record { source, start, ..*record });
            other.advance(1);
        }
        other.clear();
    }

    /// Groups the records by source, in the order in which the sources came first.
    pub(crate) fn group(&mut self) {
        if !self.records.is_sorted_by_key(|record| record.source) {
            self.records[self.from..].sort_by_key(|record| record.source);
        }
    }

    /// Drops the records of sources that `keep` refuses. Answers whether there were any; then whatever is left is to be
    /// handed over.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Source) -> bool) -> bool {
        if self.sources.iter().all(&keep) {
            return false;
        }
        let done = std::mem::take(&mut self.from);
        self.records.drain(..done);
        self.until = self.until.map(|until| until - done);
        let before = self.records.len();
        self.records.retain(|record| keep(&self.sources[record.source as usize]));
        let is_less = self.records.len() < before;
        if is_less {
            self.until = None;
        }
        is_less
    }

    /// The first `count` of the remaining records are done.
    pub(crate) fn advance(&mut self, count: usize) {
        self.from = (self.from + count).min(self.records.len());
        self.until = self.until.map(|until| until.max(self.from));
    }

    /// The offsets of the first `count` records handed over: a range for each run of one source. They are ranges over
    /// records only: what stands between two offsets of a range belongs to no record of another batch.
    pub(crate) fn ranges(&self, count: usize) -> impl Iterator<Item = (&Source, Range<i64>)> + '_ {
        self.runs(count).filter_map(|run| {
            let (first, last) = (run.first()?, run.last()?);
            Some((self.source(first), first.offset..last.offset + 1))
        })
    }

    /// How many of the first `count` records handed over come from where, run by run.
    pub(crate) fn counts(&self, count: usize) -> impl Iterator<Item = (&Source, usize)> + '_ {
        self.runs(count).filter_map(|run| Some((self.source(run.first()?), run.len())))
    }

    /// The first `count` records handed over, cut where the source changes.
    fn runs(&self, count: usize) -> impl Iterator<Item = &[Record]> + '_ {
        self.records()[..count].chunk_by(|one, next| one.source == next.source)
    }

    /// The records handed over, as `topic[partition=first:next,…],…`.
    pub(crate) fn reference(&self) -> BatchRef {
        let ranges = self.ranges(self.records().len());
        BatchRef::from_ranges(ranges.map(|(from, offsets)| (&*from.topic, from.partition, offsets.start, offsets.end)))
    }

    /// Empties the arena and keeps its memory for the next batch, within reason.
    pub(crate) fn clear(&mut self) {
        let used = self.bytes.len();
        self.bytes.clear();
        if self.bytes.capacity() > KEEP_BYTES.max(4 * used) {
            self.bytes.shrink_to(KEEP_BYTES);
        }
        self.records.clear();
        self.sources.clear();
        self.from = 0;
        self.until = None;
    }
}

impl Record {
    fn key_end(&self) -> usize {
        self.start + if self.key == NULL { 0 } else { self.key as usize }
    }

    fn value_end(&self) -> usize {
        self.key_end() + if self.value == NULL { 0 } else { self.value as usize }
    }

    pub(crate) fn timestamp(&self) -> Option<i64> {
        (self.timestamp >= 0).then_some(self.timestamp)
    }

    pub(crate) fn timestamp_type(&self) -> TimestampType {
        self.timestamp_type
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(partition: i32) -> Source {
        Source { topic: "t".into(), partition, tag: 7 + partition as u64 }
    }

    fn push(arena: &mut Arena, partition: i32, offset: i64, value: Option<&[u8]>) {
        let index = arena.source_index(|tag| tag == 7 + partition as u64, || source(partition));
        let record = NewRecord { offset, key: Some(b"k"), value, ..NewRecord::default() };
        arena.push(index, &record, |bytes| encode_header(bytes, "h", value));
    }

    #[test]
    fn a_record_comes_out_as_it_went_in() {
        let mut arena = Arena::default();
        push(&mut arena, 0, 5, Some(b"value"));
        push(&mut arena, 0, 6, None);
        push(&mut arena, 0, 7, Some(b""));
        let records = arena.records();
        assert_eq!(arena.key(&records[0]), Some(&b"k"[..]));
        let values: Vec<_> = records.iter().map(|record| arena.value(record)).collect();
        assert_eq!(values, [Some(&b"value"[..]), None, Some(&b""[..])]);
        let headers: Vec<_> = records.iter().map(|record| decode_header(arena.headers(record)).unwrap().1).collect();
        assert_eq!(headers, values);
        assert_eq!(records[0].timestamp(), None);
    }

    #[test]
    fn records_are_grouped_by_first_arrival_and_keep_their_order() {
        let mut arena = Arena::default();
        for (partition, offset) in [(2, 0), (0, 0), (2, 1), (1, 0), (0, 1)] {
            push(&mut arena, partition, offset, None);
        }
        arena.group();
        assert_eq!(arena.reference().to_string(), "t[0=0:2,1=0:1,2=0:2]");
        let order: Vec<_> = arena.records().iter().map(|record| arena.source(record).partition).collect();
        assert_eq!(order, [2, 2, 0, 0, 1]);
        arena.advance(1);
        arena.retain(|source| source.partition != 0);
        assert_eq!(arena.reference().to_string(), "t[1=0:1,2=1:2]");
        let ranges: Vec<_> = arena.ranges(1).map(|(source, offsets)| (source.partition, offsets)).collect();
        assert_eq!(ranges, [(2, 1..2)]);
        let counts: Vec<_> = arena.counts(2).map(|(source, records)| (source.partition, records)).collect();
        assert_eq!(counts, [(2, 1), (1, 1)]);
    }

    #[test]
    fn what_was_carried_over_is_moved_as_far_as_it_fits() {
        let (mut carry, mut arena) = (Arena::default(), Arena::default());
        for offset in 0..5 {
            push(&mut carry, 0, offset, Some(b"value"));
        }
        arena.refill(&mut carry, |records, _| records <= 3);
        assert_eq!((arena.reference().to_string(), carry.len()), ("t[0=0:3]".into(), 2));
        assert_eq!(arena.value(&arena.records()[2]), Some(&b"value"[..]));
        let mut next = Arena::default();
        next.refill(&mut carry, |_, bytes| bytes < 1);
        assert_eq!((next.reference().to_string(), carry.len()), ("t[0=3:4]".into(), 1), "one always fits");
        next.refill(&mut carry, |_, _| true);
        assert_eq!((next.len(), carry.is_empty(), carry.bytes()), (2, true, 0));
    }

    #[test]
    fn a_huge_record_does_not_stay_in_memory() {
        let mut arena = Arena::default();
        push(&mut arena, 0, 0, Some(&vec![0; 64 << 20]));
        arena.clear();
        push(&mut arena, 0, 1, Some(b"small"));
        arena.clear();
        assert!(arena.bytes.capacity() <= KEEP_BYTES);
    }
}
