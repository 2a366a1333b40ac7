//! Which letters of a partition are done, so that another run does not put them back again.
//!
//! All before the committed offset are. Of those behind it the commit's metadata tells: a run with filters leaves gaps.

use std::fmt;
use std::str::FromStr;

/// The most bytes of metadata that brokers take by default (`offset.metadata.max.bytes`).
const MOST: usize = 4096;

/// The offsets of a partition that are done: ranges that do not touch, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Progress(Vec<(i64, i64)>);

impl Progress {
    /// As committed: an offset and its metadata.
    ///
    /// # Errors
    /// Somebody else's metadata.
    pub(crate) fn of(committed: i64, metadata: &str) -> Result<Self, String> {
        let mut progress = Self(Vec::new());
        if committed > 0 {
            progress.0.push((0, committed));
        }
        let mut at = committed;
        let steps = metadata.split(',').filter(|step| !step.is_empty());
        let steps: Vec<i64> =
            steps.map(i64::from_str).collect::<Result<_, _>>().map_err(|_| "is not this program's")?;
        for step in steps.chunks(2) {
            let [gap, length] = *step else { return Err("is not this program's".into()) };
            if gap <= 0 || length <= 0 {
                return Err("is not this program's".into());
            }
            let start = at + gap;
            at = start + length;
            progress.0.push((start, at));
        }
        Ok(progress)
    }

    pub(crate) fn is_done(&self, offset: i64) -> bool {
        let after = self.0.partition_point(|(start, _)| *start <= offset);
        after > 0 && offset < self.0[after - 1].1
    }

    /// That offset is done, and with it those back to `since`, which hold no record: markers of transactions, and what was
    /// compacted away. As gaps between letters that are done they would only fill the metadata.
    pub(crate) fn done(&mut self, since: i64, offset: i64) {
        let (mut start, mut end) = (since.min(offset), offset + 1);
        // Those that it touches become one with it.
        let from = self.0.partition_point(|range| range.1 < start);
        let to = self.0.partition_point(|range| range.0 <= end);
        if from < to {
            start = start.min(self.0[from].0);
            end = end.max(self.0[to - 1].1);
        }
        self.0.splice(from..to, [(start, end)]);
    }

    /// The first offset that is not done.
    pub(crate) fn next(&self) -> i64 {
        self.0.first().filter(|(start, _)| *start == 0).map_or(0, |(_, end)| *end)
    }

    /// Offsets before this hold no record any more.
    pub(crate) fn forget_before(&mut self, low: i64) {
        for offset in [low - 1].into_iter().filter(|offset| *offset >= 0) {
            self.0.retain(|(_, end)| *end > offset + 1);
            let is_joined = self.0.first().is_some_and(|(start, _)| *start <= offset + 1);
            match is_joined {
                true => self.0[0].0 = 0,
                false => self.0.insert(0, (0, offset + 1)),
            }
        }
    }

    /// What a commit at [`Progress::next`] says of what is behind it. None: that is too much for a commit.
    pub(crate) fn metadata(&self) -> Option<String> {
        let text = self.to_string();
        (text.len() <= MOST).then_some(text)
    }
}

/// Gaps and lengths in turn, from the first offset that is not done.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut at = self.next();
        for (index, (start, end)) in self.0.iter().filter(|(start, _)| *start > 0).enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{},{}", start - at, end - start)?;
            at = *end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(offsets: &[i64]) -> Progress {
        let mut progress = Progress::default();
        offsets.iter().for_each(|offset| progress.done(*offset, *offset));
        progress
    }

    #[test]
    fn what_is_done_comes_back_from_a_commit() {
        for (offsets, next, metadata) in [
            (&[][..], 0, ""),
            (&[0, 1, 2], 3, ""),
            (&[2, 0, 1], 3, ""),
            (&[0, 5, 6, 9], 1, "4,2,2,1"),
            (&[3], 0, "3,1"),
            (&[7, 5, 6, 5], 0, "5,3"),
        ] {
            let progress = with(offsets);
            assert_eq!((progress.next(), &*progress.metadata().unwrap()), (next, metadata), "{offsets:?}");
            assert_eq!(Progress::of(next, metadata).unwrap(), progress);
            for offset in 0..12 {
                assert_eq!(progress.is_done(offset), offsets.contains(&offset), "{offset} of {offsets:?}");
            }
        }
    }

    #[test]
    fn what_holds_no_record_is_done_with_the_letter_behind_it() {
        for (since, offset, expected) in [
            (8, 8, "5,2,1,1,1,1,9,1"),
            (7, 9, "5,6,9,1"),
            (8, 9, "5,2,1,3,9,1"),
            (5, 10, "5,6,9,1"),
            (1, 3, "1,3,1,2,3,1,9,1"),
            (0, 4, "3,1,9,1"),
            (2, 30, "2,29"),
            (40, 41, "5,2,3,1,9,1,19,2"),
        ] {
            let mut progress = with(&[5, 6, 10, 20]);
            progress.done(since, offset);
            assert_eq!(progress.to_string(), expected, "{since} to {offset}");
        }
    }

    #[test]
    fn what_is_gone_needs_no_more_mention() {
        let mut progress = with(&[5, 6, 9, 20]);
        progress.forget_before(8);
        assert_eq!((progress.next(), progress.to_string()), (8, "1,1,10,1".into()));
        progress.forget_before(9);
        assert_eq!((progress.next(), progress.to_string()), (10, "10,1".into()));
        progress.forget_before(0);
        progress.forget_before(3);
        assert_eq!(progress.next(), 10);
        progress.forget_before(30);
        assert_eq!((progress.next(), progress.to_string()), (30, String::new()));
    }

    #[test]
    fn foreign_metadata_and_too_much_of_ones_own_are_told() {
        for metadata in ["x", "1", "1,2,3", "0,1", "3,-1", "{}"] {
            assert!(Progress::of(0, metadata).is_err(), "{metadata}");
        }
        let scattered: Vec<i64> = (0..5_000).map(|number| number * 2 + 1).collect();
        assert_eq!(with(&scattered).metadata(), None);
    }
}
