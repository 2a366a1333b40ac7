//! Records: taken into the next batch, in the order of each partition, and from where they should come.
//!
//! Errors of single partitions come between the records; after one of them librdkafka's own position is off by it
//! (librdkafka #4844), and at the next rebalance records would be skipped. So such a partition is sought to its true next
//! offset before anything more of it is taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::consumer::fetch::resets::Gap;
use crate::consumer::fetch::{Fetch, is_of_topic};
use crate::consumer::lanes::Lane;
use crate::consumer::ledger::{Ledger, PartitionId};
use crate::consumer::ready::Ready;
use crate::message::arena::{Arena, NewRecord, Source, TimestampType, encode_header};
use crate::native::{self, Taken};
use crate::refusal::Refusal;

/// The most records taken at once, so that a huge `batch_size` needs no huge list of pointers.
const CHUNK: usize = 1_024;
/// How long a seek may take. It is answered by librdkafka itself, without a broker.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);
/// A partition with an error is read on after this long, so that one that lasts is not met at the broker's speed.
const ERROR_PAUSE: Duration = Duration::from_millis(500);

/// An error that came in the place of a partition's records.
struct PartitionError {
    topic: String,
    partition: i32,
    offset: i64,
    code: Code,
    reason: String,
}

/// A run of records of one partition.
#[derive(Clone, Copy)]
struct Run {
    topic: usize,
    partition: i32,
    id: PartitionId,
    carried: bool,
    source: u32,
}

impl Fetch {
    /// Puts partitions whose position is wrong right again.
    pub(super) fn seek(&mut self) {
        let now = Instant::now();
        let is_due = |lane: &&mut Lane| lane.awaits_id.is_none() && lane.seek_at.is_none_or(|at| at <= now);
        for lane in self.lanes.out_of_place().filter(is_due) {
            let Some(offset) = lane.seek else { continue };
            let mut target = TopicPartitionList::new();
            let added = match lane.seek_epoch {
                Some(epoch) => {
                    native::add_with_epoch(&mut target, &lane.topic, lane.partition, offset, epoch);
                    Ok(())
                }
                None => target.add_partition_offset(&lane.topic, lane.partition, Offset::from_raw(offset)),
            };
            let sought = added
                .and_then(|()| self.reader.consumer().seek_partitions(target, SEEK_TIMEOUT))
                .and_then(|sought| sought.elements().iter().try_for_each(|element| element.error()));
            match sought {
                Ok(()) => (lane.seek, lane.seek_epoch) = (None, None),
                // Not being fetched yet, or not any more: a later turn tries again.
                Err(error) => log::debug!("seek of {}:{} to {offset}: {error}", lane.topic, lane.partition),
            }
        }
    }

    /// Fills the next batch, and makes it ready. Returns whether there may be records for another.
    pub(super) fn take(&mut self) -> bool {
        let (mut arena, since) = {
            let mut state = self.link.lock();
            match state.ready.pop_open() {
                Some(ready) => (ready.arena, Some(ready.since)),
                None if !state.ready.has_room(self.options.ready_batches()) => {
                    self.is_drained = false;
                    return false;
                }
                None => (state.spare.pop().unwrap_or_default(), None),
            }
        };
        let (most_records, most_bytes) = (self.options.batch_size, self.options.batch_bytes);
        arena.refill(&mut self.carry, |records, bytes| records <= most_records && bytes <= most_bytes);
        let mut errors = Vec::new();
        let is_full = loop {
            // Also where some were taken from its front meanwhile: their memory is still in use.
            let room = self.options.batch_size.saturating_sub(arena.total());
            if room == 0 || arena.bytes() >= self.options.batch_bytes || !self.carry.is_empty() {
                break true;
            }
            let wanted = room.min(CHUNK);
            if self.take_round(&mut arena, wanted, &mut errors) < wanted {
                // What it has no room for is the next one's.
                break !self.carry.is_empty();
            }
        };
        self.is_drained = !is_full;
        if arena.is_empty() {
            self.link.lock().recycle(arena);
        } else {
            let ready = Ready { arena, is_full, since: since.unwrap_or_else(Instant::now) };
            self.link.lock().ready.push(ready);
            self.link.wake_caller();
        }
        for error in errors {
            self.partition_error(error);
        }
        is_full
    }

    /// Takes up to so many records. Returns how many entries the queue gave.
    fn take_round(&mut self, arena: &mut Arena, wanted: usize, errors: &mut Vec<PartitionError>) -> usize {
        let Self { reader, lanes, carry, round, gaps, options, link, topic_ids, .. } = self;
        // Where the last record belonged: records come in runs of one partition.
        let mut run: Option<Run> = None;
        let mut rewound = Vec::new();
        let mut is_start = false;
        let count = reader.take(wanted, |taken| {
            let record = match taken {
                Taken::Record(record) => record,
                Taken::Error { topic, partition, offset, code, reason } => {
                    let topic = topic.unwrap_or_default();
                    if let Some(lane) = lanes.named(&topic, partition) {
                        lane.progress.failed(offset);
                        // Where nothing was taken yet, the error stands where the next record would: at an offset, or
                        // at the beginning or the end where that could not be looked up.
                        let next = lane.next.unwrap_or(offset);
                        if code != Code::AutoOffsetReset && Offset::from_raw(next) != Offset::Invalid {
                            lane.seek.get_or_insert(next);
                            lane.seek_at = Some(Instant::now() + ERROR_PAUSE);
                        }
                    }
                    errors.push(PartitionError { topic, partition, offset, code, reason });
                    return;
                }
            };
            let (topic, partition, offset) = (record.topic_handle(), record.partition(), record.offset());
            let leader_epoch = record.leader_epoch();
            let known = run.filter(|run| run.topic == topic && run.partition == partition);
            let id = known.map(|run| run.id).or_else(|| lanes.find(&record.topic(), partition));
            // Not ours any more: it comes to somebody else.
            let Some(lane) = id.and_then(|id| lanes.get_mut(id)) else { return };
            if let Some(target) = &mut lane.seek {
                // Read before the seek: it comes again. It stands where a logical offset could only guess.
                if *target < 0 {
                    *target = offset;
                }
                return;
            }
            if lane.next.is_none() {
                if let Some((from, epoch)) = lane.start.look_from(offset, leader_epoch) {
                    (lane.seek, lane.seek_epoch) = (Some(from), Some(epoch));
                    return;
                }
            }
            if lane.doubts(offset, leader_epoch) {
                return;
            }
            if lane.next.is_some_and(|next| offset < next) {
                if lane.is_misled(topic_ids, offset, leader_epoch) {
                    return;
                }
                lane.seek = Some(offset);
                rewound.push((lane.id, offset));
                return;
            }
            let too_much = !arena.is_empty() && arena.bytes() + record.len() > options.batch_bytes;
            let carried = too_much || !carry.is_empty();
            let target = if carried { &mut *carry } else { &mut *arena };
            let source = known.filter(|run| run.carried == carried).map_or_else(
                || {
                    let tag = Ledger::tag(lane.id, lane.epoch);
                    let make = || Source { topic: Arc::clone(&lane.topic), partition, tag };
                    target.source_index(|found| found == tag, make)
                },
                |run| run.source,
            );
            run = Some(Run { topic, partition, id: lane.id, carried, source });
            let (timestamp, timestamp_type) = match record.timestamp() {
                Some((millis, true)) => (Some(millis), TimestampType::LogAppendTime),
                Some((millis, false)) => (Some(millis), TimestampType::CreateTime),
                None => (None, TimestampType::NotAvailable),
            };
            let new = NewRecord { offset, timestamp, timestamp_type, key: record.key(), value: record.value() };
            target.push(source, &new, |bytes| {
                record.headers(|name, value| encode_header(bytes, name, value));
            });
            match lane.next {
                Some(wanted) if wanted == offset => {}
                Some(wanted) => gaps.push(Gap { id: lane.id, wanted, came: offset }),
                None => {
                    lane.start.first.get_or_insert(offset);
                    is_start = true;
                }
            }
            (lane.next, lane.leader_epoch) = (Some(offset + 1), leader_epoch);
            round.push((lane.id, offset, leader_epoch));
        });
        if !round.is_empty() {
            let refusals = &reader.consumer().context().trouble.refusals;
            if refusals.any() {
                let is_read = |lane: &&Lane| round.iter().any(|(id, ..)| *id == lane.id);
                let topics: Vec<_> = lanes.iter().filter(is_read).map(|lane| Arc::clone(&lane.topic)).collect();
                let is_over = |refusal: &Refusal| topics.iter().any(|topic| is_of_topic(refusal, topic));
                refusals.over(is_over);
            }
            Self::measure_round(lanes, round);
            let mut state = link.lock();
            // What is read on stands still no more.
            state.stopped.retain(|(id, ..)| !round.iter().any(|(read, ..)| read == id));
            for (id, offset, leader_epoch) in round.drain(..) {
                state.ledger.delivered(id, offset, leader_epoch);
            }
        }
        if !rewound.is_empty() {
            self.rewind(rewound, "the log lost its end, or the topic was made anew");
        }
        if !self.gaps.is_empty() {
            let mut gaps = std::mem::take(&mut self.gaps);
            self.check_gaps(gaps.drain(..));
            self.gaps = gaps;
        }
        if is_start {
            self.check_starts();
        }
        count
    }

    /// librdkafka goes on by itself after most of these, and the partition is sought to where it was.
    fn partition_error(&mut self, error: PartitionError) {
        let PartitionError { topic, partition, offset, code, reason } = error;
        match code {
            Code::PartitionEOF => {}
            // The partition stands still until somebody decides: the log no longer has the offset and
            // `auto.offset.reset=error`, or what it has there cannot be read.
            Code::AutoOffsetReset | Code::BadMessage | Code::InvalidMessage | Code::BadCompression => {
                if let Some(id) = self.lanes.find(&topic, partition) {
                    let mut state = self.link.lock();
                    if !state.stopped.iter().any(|(stopped, ..)| *stopped == id) {
                        state.stopped.push((id, offset, code));
                    }
                    self.link.wake_caller();
                }
            }
            _ => {
                match Refusal::of_right(code, &topic) {
                    Some(refusal) => self.refusals().met(refusal),
                    None => log::error!("{topic}:{partition} at offset {offset}: {reason}"),
                }
                self.client_error(KafkaError::MessageConsumption(code));
            }
        }
    }
}
