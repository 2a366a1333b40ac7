//! The batch in hand, from its first hand-over to the end of its last record.

use std::time::{Duration, Instant};

use crate::consumer::policy::OnError;
use crate::message::arena::{Arena, Source};

/// What is left of a batch, and how it goes on.
#[derive(Debug)]
pub(super) struct Hand {
    pub(super) arena: Arena,
    /// So many records at the front failed together, and those that fail alone are searched among them. 0: no search.
    suspects: usize,
    /// A pause lasts until then.
    pub(super) not_before: Option<Instant>,
    /// How often a transaction with its records was aborted.
    pub(super) aborts: u32,
    /// On which of the records handed over the last attempt failed.
    pub(super) blamed: Vec<usize>,
}

/// What comes after a failure.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// The records are handed over again after a pause, where there is one.
    Again(Option<Duration>),
    /// The records at these places among those handed over are given up.
    GiveUp(Vec<usize>),
}

impl Hand {
    pub(super) fn new(arena: Arena) -> Self {
        Self { arena, suspects: 0, not_before: None, aborts: 0, blamed: Vec::new() }
    }

    /// The first so many of the records handed over are done.
    pub(super) fn done(&mut self, count: usize) {
        self.arena.advance(count);
        self.suspects = self.suspects.saturating_sub(count);
        if self.arena.records().is_empty() {
            self.narrow();
        }
    }

    /// The handler failed on the record at this place, or on all that it saw: those at these places, in ascending
    /// order, or without them all but tombstones.
    pub(super) fn failed(&mut self, at: Option<usize>, seen: Option<&[usize]>, on_error: &OnError) -> Verdict {
        let handed = self.arena.records().len();
        let is_seen = |place: &usize| self.arena.is_seen(&self.arena.records()[*place]);
        let mut blamed: Vec<_> = match (at, seen) {
            (None, Some(seen)) => seen.to_vec(),
            (at, _) => at.map_or(0..handed, |at| at..at + 1).filter(is_seen).collect(),
        };
        if blamed.is_empty() {
            // Tombstones alone, whose offsets a transaction was to commit.
            blamed = (0..handed).collect();
        }
        for place in &blamed {
            self.arena.blame(*place);
        }
        self.blamed.clone_from(&blamed);
        let failures = |place: &usize| self.arena.records()[*place].failures;
        let is_spent = |place: &usize| failures(place) >= on_error.backoff.attempts;
        let spent: Vec<_> = blamed.iter().copied().filter(is_spent).collect();
        let is_search = on_error.bisect && blamed.len() > 1;
        if is_search && spent.len() == blamed.len() {
            self.suspects = handed;
            self.narrow();
            return Verdict::Again(None);
        }
        if !is_search && !spent.is_empty() {
            return Verdict::GiveUp(spent);
        }
        let most = blamed.iter().map(failures).max().unwrap_or(1);
        Verdict::Again(Some(on_error.backoff.pause(most)))
    }

    /// These of the records handed over are given up. All that is left comes next, since one that failed is found.
    pub(super) fn remove(&mut self, places: &[usize]) {
        self.arena.remove(places);
        self.suspects = 0;
        self.narrow();
    }

    /// Drops records of sources that `keep` refuses. Answers whether there were any.
    pub(super) fn retain(&mut self, keep: impl Fn(&Source) -> bool) -> bool {
        let is_less = self.arena.retain(keep);
        if is_less {
            self.suspects = 0;
            self.narrow();
        }
        is_less
    }

    /// Half of the suspects come next. What stands behind an innocent half is guilty without being asked, so it is
    /// halved in turn; but a single record is given up only once it failed alone.
    fn narrow(&mut self) {
        self.arena.narrow((self.suspects > 0).then(|| (self.suspects / 2).max(1)));
    }
}

#[cfg(test)]
#[path = "hand_tests.rs"]
mod tests;
