//! Holds what is in the log, what was acknowledged, what services wrote down and what was seen committed against each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::history::{Line, Micros, What};
use super::service::PARTITIONS;

/// In what the library logs where it reads a partition from an earlier offset on.
const STARTS_AGAIN: &str = "made anew";

/// A partition and an offset in it.
pub(super) type Place = (i32, i64);

/// All that is known of a run.
#[derive(Clone, Default)]
pub(super) struct Evidence {
    /// What is in the log at the end, markers and aborted records not counted.
    pub(super) log: Vec<Place>,
    /// What the producer was told to be in the log.
    pub(super) acknowledged: Vec<Place>,
    /// How many more are in the log as it was told, and not where.
    pub(super) unplaced: usize,
    /// The lines of each service.
    pub(super) services: Vec<Vec<Line>>,
    /// What was committed of which partition, when it was seen. It was looked at between the one before and this one.
    pub(super) committed: Vec<Seen>,
    /// What the broker wrote down of commits, in their order, where that was read: what went back is looked for in it.
    pub(super) accepted: Option<Vec<Place>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// When it was asked for, and when the answer was there.
    pub(super) asked: Micros,
    pub(super) told: Micros,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    /// How many the log has.
    pub(super) records: usize,
    /// Acknowledged records that the log does not have, and records of the log that nobody handled.
    pub(super) lost: Vec<Place>,
    /// So many acknowledged records whose places are not told cannot all be in the log.
    pub(super) unfound: usize,
    /// How often records were handled again.
    pub(super) duplicates: u64,
    /// Offsets that were committed before a record below them was handled: `(record, committed)`.
    pub(super) early: Vec<(Place, i64)>,
    /// Commits that went back: `(partition, from, to)`.
    pub(super) rewound: Vec<(i32, i64, i64)>,
    /// The same where the broker told less than it had told before, and nobody had committed that since. No fault of services.
    pub(super) forgotten: Vec<(i32, i64, i64)>,
    /// Commits of one whose partition had gone to another: `(partition, committed)`.
    pub(super) overlapping: Vec<Place>,
    /// Records that came after a higher offset of the same partition, within one ownership.
    pub(super) disordered: Vec<Place>,
    /// Records that an ownership left out, and that nobody had handled by then.
    pub(super) skipped: Vec<Place>,
    /// The longest time without a batch that was handled, in microseconds.
    pub(super) longest_stall: Micros,
}

impl Verdict {
    /// What may never be, whatever the fault was.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut say = |what: &str, count: usize, some: String| {
            if count > 0 {
                faults.push(format!("{count} {what}, such as {some}"));
            }
        };
        let few = |places: &[Place]| format!("{:?}", &places[..places.len().min(5)]);
        say("lost", self.lost.len(), few(&self.lost));
        say("lost", self.unfound, "one whose place is not told".into());
        say("committed before they were handled", self.early.len(), format!("{:?}", self.early.first()));
        say("commits went back", self.rewound.len(), format!("{:?}", self.rewound));
        say("commits without the partition", self.overlapping.len(), few(&self.overlapping));
        say("skipped", self.skipped.len(), few(&self.skipped));
        say("out of order", self.disordered.len(), few(&self.disordered));
        faults
    }
}

impl Evidence {
    /// Of the services only what they handled of one generation of records.
    pub(super) fn of_generation(mut self, generation: i32) -> Evidence {
        for line in self.services.iter_mut().flatten() {
            if let What::Handled { records, .. } = &mut line.what {
                records.retain(|(partition, _)| partition / PARTITIONS == generation);
                records.iter_mut().for_each(|(partition, _)| *partition %= PARTITIONS);
            }
        }
        let is_other = |line: &Line| matches!(&line.what, What::Handled { records, .. } if records.is_empty());
        self.services.iter_mut().for_each(|lines| lines.retain(|line| !is_other(line)));
        self
    }

    /// How many records were handled, each as often as it was, up to then.
    pub(super) fn handled_until(&self, until: Micros) -> usize {
        let lines = self.services.iter().flatten().filter(|line| line.at <= until);
        let records = lines.filter_map(|line| match &line.what {
            What::Handled { records, .. } => Some(records),
            _ => None,
        });
        records.flatten().map(|(_, (first, last))| (last - first + 1) as usize).sum()
    }

    /// When services logged lines with this part, and the lines.
    pub(super) fn logged(&self, part: &str) -> Vec<(Micros, String)> {
        let lines = self.services.iter().flatten();
        let logged = lines.filter_map(|line| match &line.what {
            What::Logged { line: text } if text.contains(part) => Some((line.at, text.clone())),
            _ => None,
        });
        logged.collect()
    }

    pub(super) fn check(&self) -> Verdict {
        let mut verdict = Verdict { records: self.log.len(), ..Verdict::default() };
        let handled = self.handled();

        let in_log: BTreeSet<Place> = self.log.iter().copied().collect();
        verdict.lost = self.log.iter().filter(|place| !handled.contains_key(place)).copied().collect();
        verdict.lost.extend(self.acknowledged.iter().filter(|place| !in_log.contains(place)));
        if self.unplaced > 0 {
            verdict.unfound = (self.acknowledged.len() + self.unplaced).saturating_sub(in_log.len());
        }
        verdict.duplicates = handled.values().map(|times| times.len() as u64 - 1).sum();
        verdict.longest_stall = self.longest_stall();
        self.check_commits(&handled, &mut verdict);
        self.check_accepted(&mut verdict);
        self.check_order(&handled, &mut verdict);
        verdict
    }

    /// When each record was handled, and by whom.
    fn handled(&self) -> BTreeMap<Place, Vec<(Micros, usize)>> {
        let mut handled: BTreeMap<Place, Vec<(Micros, usize)>> = BTreeMap::new();
        for (service, lines) in self.services.iter().enumerate() {
            for line in lines {
                let What::Handled { records, .. } = &line.what else { continue };
                for (partition, (first, last)) in records {
                    for offset in *first..=*last {
                        handled.entry((*partition, offset)).or_default().push((line.at, service));
                    }
                }
            }
        }
        handled.values_mut().for_each(|times| times.sort_unstable());
        handled
    }

    fn longest_stall(&self) -> Micros {
        let lines = self.services.iter().flatten();
        let mut times: Vec<_> =
            lines.filter(|line| matches!(line.what, What::Handled { .. })).map(|line| line.at).collect();
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// The longest time in which a partition had no batch that was handled, though others may have had some.
    pub(super) fn longest_stall_of_a_partition(&self) -> Micros {
        let mut times: BTreeMap<i32, Vec<Micros>> = BTreeMap::new();
        for line in self.services.iter().flatten() {
            let What::Handled { records, .. } = &line.what else { continue };
            records.iter().for_each(|(partition, _)| times.entry(*partition).or_default().push(line.at));
        }
        times.values_mut().for_each(|times| times.sort_unstable());
        let gaps = times.values().flat_map(|times| times.windows(2).map(|pair| pair[1] - pair[0]));
        gaps.max().unwrap_or(0)
    }

    fn check_commits(&self, handled: &BTreeMap<Place, Vec<(Micros, usize)>>, verdict: &mut Verdict) {
        // Of each partition its offsets, and when all up to there were handled for the first time.
        let mut done: HashMap<i32, Vec<(i64, Micros)>> = HashMap::new();
        let mut log = self.log.clone();
        log.sort_unstable();
        for (partition, offset) in log {
            let first = handled.get(&(partition, offset)).map_or(Micros::MAX, |times| times[0].0);
            let done = done.entry(partition).or_default();
            let before = done.last().map_or(0, |(_, at)| *at);
            done.push((offset, before.max(first)));
        }
        let (mut before, mut highest) = (HashMap::<i32, Seen>::new(), HashMap::new());
        for seen in &self.committed {
            let below = done
                .get(&seen.partition)
                .map_or(&[][..], |done| &done[..done.partition_point(|(offset, _)| *offset < seen.offset)]);
            if below.last().is_some_and(|(_, at)| *at > seen.told) {
                let early = below.partition_point(|(_, at)| *at <= seen.told);
                verdict.early.push(((seen.partition, below[early].0), seen.offset));
            }
            if let Some(before) = before.insert(seen.partition, *seen) {
                if seen.offset < before.offset {
                    verdict.rewound.push((seen.partition, before.offset, seen.offset));
                }
                let highest = highest.entry(seen.partition).or_insert(before.offset);
                // What only comes back to where it was is not told by who had it then.
                if seen.offset > *highest {
                    *highest = seen.offset;
                    // Where there are only dead letters between the two, nobody handled what was committed.
                    if let Some((offset, _)) = below.last().filter(|(offset, _)| *offset >= before.offset) {
                        self.check_owner((seen.partition, *offset), before.asked, seen, handled, verdict);
                    }
                }
            }
        }
    }

    /// Tells the commits that went back from the answers that did.
    fn check_accepted(&self, verdict: &mut Verdict) {
        let Some(accepted) = &self.accepted else { return };
        let mut before = HashMap::new();
        let mut rewound = Vec::new();
        for (partition, offset) in accepted {
            if let Some(before) = before.insert(*partition, *offset).filter(|before| offset < before) {
                rewound.push((*partition, before, *offset));
            }
        }
        let is_committed = |told: &(i32, i64, i64)| rewound.iter().any(|(at, _, to)| (told.0, told.2) == (*at, *to));
        verdict.forgotten = std::mem::take(&mut verdict.rewound);
        verdict.forgotten.retain(|told| !is_committed(told));
        verdict.rewound = rewound;
    }

    /// Whoever handled the last record below a commit had the partition when it was committed: after `since`.
    fn check_owner(
        &self,
        last: Place,
        since: Micros,
        seen: &Seen,
        handled: &BTreeMap<Place, Vec<(Micros, usize)>>,
        verdict: &mut Verdict,
    ) {
        let owners = self.owners(last.0, since, seen.told);
        let by = handled.get(&last).map_or(&[][..], Vec::as_slice);
        let is_owned = by.iter().filter(|(at, _)| *at <= seen.told).any(|(_, service)| owners.contains(service));
        if !owners.is_empty() && !by.is_empty() && !is_owned {
            verdict.overlapping.push((last.0, seen.offset));
        }
    }

    /// Those to whom a partition was assigned last at `from`, or later up to `to`.
    fn owners(&self, partition: i32, from: Micros, to: Micros) -> Vec<usize> {
        let mut assigned: Vec<(Micros, usize)> = Vec::new();
        for (service, lines) in self.services.iter().enumerate() {
            for line in lines {
                match &line.what {
                    What::Assigned { partitions } if partitions.contains(&partition) => {
                        assigned.push((line.at, service))
                    }
                    _ => {}
                }
            }
        }
        assigned.sort_unstable();
        let first = assigned.partition_point(|(at, _)| *at <= from).saturating_sub(1);
        let end = assigned.partition_point(|(at, _)| *at <= to);
        assigned[first.min(end)..end].iter().map(|(_, service)| *service).collect()
    }

    fn check_order(&self, handled: &BTreeMap<Place, Vec<(Micros, usize)>>, verdict: &mut Verdict) {
        let log: BTreeSet<Place> = self.log.iter().copied().collect();
        for lines in &self.services {
            let mut next: HashMap<i32, i64> = HashMap::new();
            // Those that have started again, since that was told of last.
            let mut again: Option<BTreeSet<i32>> = None;
            for line in lines {
                match &line.what {
                    What::Assigned { partitions } => partitions.iter().for_each(|partition| {
                        next.remove(partition);
                    }),
                    What::Logged { line } if line.contains(STARTS_AGAIN) => again = Some(BTreeSet::new()),
                    What::Handled { records, .. } => {
                        for (partition, (first, last)) in records {
                            let next = next.entry(*partition).or_insert(*first);
                            if first < next && again.as_mut().is_some_and(|again| again.insert(*partition)) {
                                *next = *first;
                            }
                            if first < next {
                                verdict.disordered.push((*partition, *first));
                            } else {
                                let left_out = log.range((*partition, *next)..(*partition, *first));
                                let is_open =
                                    |place: &&Place| handled.get(place).is_none_or(|times| times[0].0 > line.at);
                                verdict.skipped.extend(left_out.filter(is_open));
                            }
                            *next = last + 1;
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
