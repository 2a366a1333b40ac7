//! Which of the records that were taken come next: those of one key one after the other, all others beside one another.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use slab::Slab;

use crate::app::task::{Kind, Tasks};
use crate::error::Error;
use crate::message::record::Record;

/// So many records may be taken and not done, or so many bytes of them; then no more are taken.
const MOST_RECORDS: usize = 10_000;
const MOST_BYTES: usize = 64 << 20;

/// A record that was taken and is not done.
pub(super) struct Job {
    pub(super) record: Record,
    pub(super) tasks: Tasks,
    /// How often each task failed, and last the gate. Empty as long as none has.
    failures: Vec<u32>,
    /// How many tasks have no end yet.
    open: usize,
    /// Those of one lane are handled one after the other.
    lane: Option<u64>,
    /// Why it is not done when all its tasks have ended.
    pub(super) end: End,
}

/// What a job comes to.
#[derive(Debug, Default)]
pub(super) enum End {
    #[default]
    Done,
    /// Of one task that is given up, and whether with a dead letter.
    GivenUp { error: Error, is_letter: bool },
    /// The gate stayed shut.
    Rejected,
    /// It is somebody else's by now.
    Gone,
}

/// One task of a job; behind the last the gate, which comes before all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unit {
    pub(super) job: usize,
    pub(super) task: usize,
}

impl Job {
    /// The task has failed once more. Returns how often it has in all.
    pub(super) fn failed(&mut self, unit: Unit) -> u32 {
        self.failures.resize(self.tasks.len() + 1, 0);
        let failures = &mut self.failures[unit.task];
        *failures = failures.saturating_add(1);
        *failures
    }

    /// How often this task has failed.
    pub(super) fn failures(&self, unit: Unit) -> u32 {
        self.failures.get(unit.task).copied().unwrap_or(0)
    }

    /// How often the task has failed that failed most.
    pub(super) fn most_failures(&self) -> u32 {
        self.failures.iter().copied().max().unwrap_or(0)
    }
}

/// See the module's own words.
pub(super) struct Schedule {
    /// Whether a whole partition is one lane.
    in_order: bool,
    /// Whether jobs have a gate.
    has_gate: bool,
    hasher: RandomState,
    jobs: Slab<Job>,
    bytes: usize,
    /// The jobs that wait behind one that is being handled.
    lanes: HashMap<u64, VecDeque<usize>>,
    /// What may begin once there is a place for it.
    handlers: VecDeque<Unit>,
    pipelines: VecDeque<Unit>,
}

impl Schedule {
    pub(super) fn new(in_order: bool, has_gate: bool) -> Self {
        Self {
            in_order,
            has_gate,
            hasher: RandomState::new(),
            jobs: Slab::new(),
            bytes: 0,
            lanes: HashMap::new(),
            handlers: VecDeque::new(),
            pipelines: VecDeque::new(),
        }
    }

    /// How many more records may be taken.
    pub(super) fn room(&self) -> usize {
        if self.bytes >= MOST_BYTES { 0 } else { MOST_RECORDS.saturating_sub(self.jobs.len()) }
    }

    /// Adds a record with what there is to do with it, which is something.
    pub(super) fn push(&mut self, record: Record, tasks: Tasks) {
        let lane = match (self.in_order, record.key()) {
            (true, _) => Some(self.hasher.hash_one(record.tag())),
            // Two keys with one hash share a lane: in order, if more so than they need be.
            (false, Some(key)) => Some(self.hasher.hash_one((record.tag(), key))),
            (false, None) => None,
        };
        self.bytes += record.size();
        let open = tasks.len();
        let job = self.jobs.insert(Job { record, tasks, failures: Vec::new(), open, lane, end: End::Done });
        match lane.map(|lane| self.lanes.entry(lane)) {
            Some(Entry::Occupied(mut queue)) => {
                queue.get_mut().push_back(job);
                return;
            }
            Some(Entry::Vacant(queue)) => drop(queue.insert_entry(VecDeque::new())),
            None => {}
        }
        self.release(job);
    }

    /// The job is the first of its lane.
    fn release(&mut self, id: usize) {
        let Some(job) = self.jobs.get(id) else { return };
        match self.has_gate {
            true => self.handlers.push_back(Unit { job: id, task: job.tasks.len() }),
            false => self.open_gate(id),
        }
    }

    /// All tasks of the job may begin.
    pub(super) fn open_gate(&mut self, id: usize) {
        let Some(job) = self.jobs.get(id) else { return };
        for task in 0..job.tasks.len() {
            let unit = Unit { job: id, task };
            match job.tasks.kind(task) {
                Kind::Handler => self.handlers.push_back(unit),
                Kind::Pipeline => self.pipelines.push_back(unit),
            }
        }
    }

    pub(super) fn is_gate(&self, unit: Unit) -> bool {
        self.jobs.get(unit.job).is_some_and(|job| unit.task == job.tasks.len())
    }

    /// Whether something of this kind may begin.
    pub(super) fn is_ready(&self, kind: Kind) -> bool {
        !self.queue(kind).is_empty()
    }

    /// What begins next.
    pub(super) fn pop(&mut self, kind: Kind) -> Option<Unit> {
        match kind {
            Kind::Handler => self.handlers.pop_front(),
            Kind::Pipeline => self.pipelines.pop_front(),
        }
    }

    /// It may begin again, before others of its kind.
    pub(super) fn again(&mut self, unit: Unit) {
        match self.jobs.get(unit.job).map_or(Kind::Handler, |job| job.tasks.kind(unit.task)) {
            Kind::Handler => self.handlers.push_front(unit),
            Kind::Pipeline => self.pipelines.push_front(unit),
        }
    }

    fn queue(&self, kind: Kind) -> &VecDeque<Unit> {
        match kind {
            Kind::Handler => &self.handlers,
            Kind::Pipeline => &self.pipelines,
        }
    }

    pub(super) fn job_mut(&mut self, id: usize) -> Option<&mut Job> {
        self.jobs.get_mut(id)
    }

    /// A task has ended for good. Whether it was the job's last.
    pub(super) fn ended(&mut self, unit: Unit) -> bool {
        let Some(job) = self.jobs.get_mut(unit.job) else { return false };
        // Where the gate stays shut nothing else begins.
        job.open = if unit.task == job.tasks.len() { 0 } else { job.open.saturating_sub(1) };
        job.open == 0
    }

    /// The job is done with: the next of its lane may begin.
    pub(super) fn remove(&mut self, id: usize) -> Option<Job> {
        let job = self.jobs.try_remove(id)?;
        self.bytes -= job.record.size();
        if let Some(lane) = job.lane {
            match self.lanes.get_mut(&lane).and_then(VecDeque::pop_front) {
                Some(next) => self.release(next),
                None => {
                    self.lanes.remove(&lane);
                }
            }
        }
        Some(job)
    }

    /// Nothing begins any more.
    pub(super) fn clear(&mut self) {
        self.handlers.clear();
        self.pipelines.clear();
        self.lanes.clear();
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
