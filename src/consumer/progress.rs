//! Whether a partition stands still, and what it waits for. Pure: the time and what librdkafka knows come from outside.

use std::time::{Duration, Instant};

/// What a partition that makes no progress waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StallCause {
    /// The broker, or the client's way to it: there is more in the log, and it does not come.
    Broker,
    /// The handler: records were taken, or could be, and are not handled.
    Handler,
}

/// Records that the log no longer had when they should have been read: a retention time that is too short, or
/// somebody's `DeleteRecords`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffsetReset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset that should have been read.
    pub wanted: i64,
    /// The offset from which reading goes on instead, as `auto.offset.reset` says.
    pub reset_to: i64,
    /// How many offsets lie between: so many records are lost to the group, or fewer where the log had gaps.
    pub lost: u64,
}

/// What is known of a partition at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) now: Instant,
    /// The offset after the last record taken.
    pub(super) next: Option<i64>,
    /// The offset after the longest completed prefix.
    pub(super) watermark: Option<i64>,
    /// Whether records were delivered and are not completed.
    pub(super) is_open: bool,
    /// Whether all that librdkafka had was taken.
    pub(super) is_drained: bool,
    /// librdkafka's own position, which also passes what is no record.
    pub(super) position: Option<i64>,
    /// Where the log starts and ends, as the last fetch told.
    pub(super) low: Option<i64>,
    pub(super) high: Option<i64>,
}

/// What a look shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It moves, or has nothing to wait for, or not for long enough yet.
    Fine,
    Stalled {
        cause: StallCause,
        next_offset: Option<i64>,
        backlog: u64,
    },
}

/// A partition's progress over time.
#[derive(Debug)]
pub(super) struct Progress {
    /// (`next`, `watermark`) at the last look.
    seen: (Option<i64>, Option<i64>),
    /// Since when they stand there, or when there was last nothing to come.
    since: Instant,
    /// When the broker was last asked for the log's end, and whether the answer is to come.
    asked: Instant,
    is_asking: bool,
    /// The last question had no answer.
    is_unanswered: bool,
    /// The log's end, and when the broker told it.
    end: Option<(i64, Instant)>,
    /// What the group had committed at the assignment; the inner none: nothing.
    committed: Option<Option<i64>>,
    /// `high` at the assignment: a fetch of an earlier one told it.
    high_before: Option<i64>,
    /// When the broker first told of the backlog.
    told_of_backlog: Option<Instant>,
    /// The offset of the last error that came in the place of records, since the partition moved.
    error: Option<i64>,
    is_stalled: bool,
}

impl Progress {
    /// At an assignment.
    pub(super) fn new(now: Instant, high: Option<i64>) -> Self {
        Self {
            seen: (None, None),
            since: now,
            asked: now,
            is_asking: false,
            is_unanswered: false,
            end: None,
            committed: None,
            high_before: high,
            told_of_backlog: None,
            error: None,
            is_stalled: false,
        }
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled
    }

    /// Whether a fetch of this assignment was answered, as far as can be told.
    pub(super) fn has_fetched(&self, high: Option<i64>) -> bool {
        high.is_some() && high != self.high_before
    }

    pub(super) fn committed(&mut self, offset: Option<i64>) {
        self.committed = Some(offset);
    }

    /// An error came in the place of the record at `offset`.
    pub(super) fn failed(&mut self, offset: i64) {
        self.error = Some(offset);
    }

    /// Whether the broker should be asked for the log's end now; then it counts as asked.
    pub(super) fn ask(&mut self, look: &Look, timeout: Duration) -> bool {
        let due = !look.is_open && !self.is_asking && look.now >= self.asked.max(self.since) + timeout / 2;
        if due {
            (self.asked, self.is_asking) = (look.now, true);
        }
        due
    }

    /// Whether a question has been open for so long.
    pub(super) fn has_asked_for(&self, patience: Duration, now: Instant) -> bool {
        self.is_asking && now >= self.asked + patience
    }

    /// The broker told the log's end, or could not.
    pub(super) fn answered(&mut self, end: Option<i64>, now: Instant) {
        if std::mem::take(&mut self.is_asking) {
            self.is_unanswered = end.is_none();
            self.end = end.map(|end| (end, now)).or(self.end);
        }
    }

    /// With `committed_only` the log's end as a fetch told it may stand behind transactions that are not decided: the
    /// broker's answer, where there is one, says better what there is to read.
    pub(super) fn judge(&mut self, look: &Look, timeout: Duration, committed_only: bool) -> Verdict {
        let seen = (look.next, look.watermark);
        if seen != self.seen {
            self.seen = seen;
            self.start_again(look.now);
        }
        let told = self.end.map(|(end, _)| end);
        let is_answered = !self.is_unanswered && self.end.is_some_and(|(_, at)| at > self.since);
        let high = look.high.filter(|_| !(committed_only && is_answered));
        let (cause, next_offset, end) = if look.is_open {
            (StallCause::Handler, look.watermark, told.max(look.high).max(look.next))
        } else {
            let committed = self.committed.flatten();
            // An error moves librdkafka's position past itself (#4844).
            let is_past_error = self.error.is_some_and(|error| look.position == Some(error + 1));
            let position = if is_past_error { self.error } else { look.position };
            let next = position.max(look.next).or(committed);
            // Before its start the log has nothing to come.
            let next = if next.is_some() || self.committed.is_some() { next.max(look.low) } else { None };
            let cause = if look.is_drained { StallCause::Broker } else { StallCause::Handler };
            (cause, next, told.max(high))
        };
        // Without a word of where it would start nothing can be said.
        let is_known = next_offset.is_some() || self.committed == Some(None);
        let backlog = end.filter(|_| is_known).map_or(0, |end| (end - next_offset.unwrap_or(0)).max(0));
        let has_backlog = backlog > 0 && !(cause == StallCause::Broker && self.is_gap(look));
        if !has_backlog {
            // At the time of the answer there was nothing to come.
            if let Some((_, at)) = self.end.filter(|(_, at)| *at > self.since) {
                self.since = at;
            }
            self.told_of_backlog = None;
            self.is_stalled = false;
        } else {
            if let Some((_, at)) = self.end.filter(|(_, at)| *at > self.since) {
                self.told_of_backlog.get_or_insert(at);
            }
            let is_late = look.now.saturating_duration_since(self.since) > timeout;
            self.is_stalled |= is_late && (cause == StallCause::Handler || self.is_sure(look.now, timeout));
        }
        match self.is_stalled {
            true => Verdict::Stalled { cause, next_offset, backlog: u64::try_from(backlog).unwrap_or(0) },
            false => Verdict::Fine,
        }
    }

    fn start_again(&mut self, now: Instant) {
        self.since = now;
        self.told_of_backlog = None;
        self.is_unanswered = false;
        self.error = None;
        self.is_stalled = false;
    }

    /// Whether up to the log's end there is no record, as after compaction: fetches are answered up to that end, without
    /// an error, and bring nothing.
    fn is_gap(&self, look: &Look) -> bool {
        let has_fetched = look.next.is_some() || self.has_fetched(look.high);
        let answered = self.end.filter(|(_, at)| *at > self.since && !self.is_unanswered);
        has_fetched
            && self.error.is_none()
            && answered.is_some_and(|(end, _)| look.high.is_some_and(|high| high >= end))
    }

    /// Whether the backlog is no matter of a moment: the broker told of it a while ago, or does not answer.
    fn is_sure(&self, now: Instant, timeout: Duration) -> bool {
        let a_while_ago = |at: Instant| now.saturating_duration_since(at) >= timeout / 4;
        self.told_of_backlog.is_some_and(a_while_ago)
            || self.is_unanswered
            || (self.is_asking && a_while_ago(self.asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn look(now: Instant, next: i64, high: i64) -> Look {
        Look {
            now,
            next: Some(next),
            watermark: Some(next),
            is_open: false,
            is_drained: true,
            position: Some(next),
            low: Some(0),
            high: Some(high),
        }
    }

    /// Looks every second, answers questions with `end`, and returns after how many seconds it stalled.
    fn stalls_after(seconds: u64, end: Option<i64>, look_at: impl Fn(Instant, u64) -> Look) -> Option<u64> {
        let start = Instant::now();
        let mut progress = Progress::new(start, None);
        (0..seconds).find(|second| {
            let now = start + Duration::from_secs(*second);
            let look = look_at(now, *second);
            if progress.ask(&look, TIMEOUT) {
                progress.answered(end, now);
            }
            progress.judge(&look, TIMEOUT, false) != Verdict::Fine
        })
    }

    #[test]
    fn a_partition_at_its_end_never_stalls() {
        assert_eq!(stalls_after(1_000, Some(5), |now, _| look(now, 5, 5)), None);
        // Nor while the broker is silent.
        assert_eq!(stalls_after(1_000, None, |now, _| look(now, 5, 5)), None);
    }

    #[test]
    fn what_the_broker_has_and_fetches_do_not_know_of_is_a_stall() {
        assert_eq!(stalls_after(1_000, Some(9), |now, _| look(now, 5, 5)), Some(61));
        // With a broker that does not answer, what the last fetch told counts.
        assert_eq!(stalls_after(1_000, None, |now, _| look(now, 5, 9)), Some(61));
    }

    #[test]
    fn an_end_without_records_is_no_stall() {
        assert_eq!(stalls_after(1_000, Some(9), |now, _| look(now, 5, 9)), None);
        let behind_marks = |now, _| Look { position: Some(9), ..look(now, 5, 9) };
        assert_eq!(stalls_after(1_000, Some(9), behind_marks), None);
        assert_eq!(stalls_after(1_000, None, behind_marks), None);
    }

    #[test]
    fn an_error_makes_it_a_stall_all_the_same() {
        let start = Instant::now();
        let mut progress = Progress::new(start, None);
        for second in 0..100 {
            let look = look(start + Duration::from_secs(second), 5, 9);
            if progress.ask(&look, TIMEOUT) {
                progress.answered(Some(9), look.now);
            }
            if second == 5 {
                progress.failed(5);
            }
            progress.judge(&look, TIMEOUT, false);
        }
        assert!(progress.is_stalled());
    }

    #[test]
    fn a_partition_that_was_never_read_stalls_behind_what_is_committed() {
        let start = Instant::now();
        let unread =
            |now| Look { next: None, watermark: None, position: None, low: None, high: None, ..look(now, 0, 0) };
        for (committed, backlog) in
            [(Some(Some(3)), Some(6)), (Some(None), Some(9)), (Some(Some(9)), None), (None, None)]
        {
            let mut progress = Progress::new(start, None);
            if let Some(offset) = committed {
                progress.committed(offset);
            }
            let mut last = Verdict::Fine;
            for second in 0..100 {
                let look = unread(start + Duration::from_secs(second));
                if progress.ask(&look, TIMEOUT) {
                    progress.answered(Some(9), look.now);
                }
                last = progress.judge(&look, TIMEOUT, false);
            }
            let told = match last {
                Verdict::Stalled { backlog, .. } => Some(backlog),
                Verdict::Fine => None,
            };
            assert_eq!(told, backlog, "{committed:?}");
        }
    }

    #[test]
    fn open_records_wait_for_the_handler_and_progress_ends_it() {
        let open = |now, _| Look { watermark: Some(2), is_open: true, ..look(now, 5, 9) };
        assert_eq!(stalls_after(1_000, None, open), Some(61));
        let moving = |now, second| Look { watermark: Some(second as i64 / 50), is_open: true, ..look(now, 100, 900) };
        assert_eq!(stalls_after(1_000, None, moving), None);
        let start = Instant::now();
        let mut progress = Progress::new(start, None);
        progress.judge(&open(start, 0), TIMEOUT, false);
        let late = start + TIMEOUT * 2;
        let verdict = progress.judge(&open(late, 0), TIMEOUT, false);
        let cause = StallCause::Handler;
        assert_eq!(verdict, Verdict::Stalled { cause, next_offset: Some(2), backlog: 7 });
        assert_eq!(progress.judge(&look(late, 5, 9), TIMEOUT, false), Verdict::Fine);
        // Others' records stand before it in the queue.
        let behind = |now, _| Look { is_drained: false, ..look(now, 5, 9) };
        assert_eq!(stalls_after(1_000, Some(9), behind), Some(61));
    }

    #[test]
    fn after_a_long_rest_the_time_counts_from_the_backlog_on() {
        let start = Instant::now();
        let mut progress = Progress::new(start, None);
        let stalled = (0..1_000).find(|second| {
            let look = look(start + Duration::from_secs(*second), 5, 5);
            if progress.ask(&look, TIMEOUT) {
                progress.answered(Some(if *second < 500 { 5 } else { 9 }), look.now);
            }
            progress.judge(&look, TIMEOUT, false) != Verdict::Fine
        });
        assert!(stalled.is_some_and(|second| (530..600).contains(&second)), "{stalled:?}");
    }
}
