//! Which letters of a partition are done, so that another run does not put them back again.
//!
//! All before the committed offset are. Of those behind it the commit's metadata tells: a run with filters leaves gaps.

use std::fmt::Write as _;
use std::str::FromStr;

/// The most bytes of metadata that brokers take by default (`offset.metadata.max.bytes`).
const MOST: usize = 4096;

/// What the metadata begins with: other programs' offsets do not say what is done.
const MARK: &str = "kafka-envelope:";
/// Before a bitmap, where that is shorter than ranges: a letter for each 6 offsets.
const BITMAP: &str = "b:";
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

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
        let foreign = || "is not this program's".to_owned();
        let behind = metadata.strip_prefix(MARK).ok_or_else(foreign)?;
        match behind.strip_prefix(BITMAP) {
            Some(bitmap) => progress.read_bitmap(committed, bitmap),
            None => progress.read_ranges(committed, behind),
        }
        .ok_or_else(foreign)?;
        Ok(progress)
    }

    fn read_ranges(&mut self, mut at: i64, ranges: &str) -> Option<()> {
        let steps = ranges.split(',').filter(|step| !step.is_empty());
        let steps: Vec<i64> = steps.map(i64::from_str).collect::<Result<_, _>>().ok()?;
        for step in steps.chunks(2) {
            let [gap, length] = *step else { return None };
            if gap <= 0 || length <= 0 {
                return None;
            }
            let start = at.checked_add(gap)?;
            at = start.checked_add(length)?;
            self.0.push((start, at));
        }
        Some(())
    }

    fn read_bitmap(&mut self, mut at: i64, bitmap: &str) -> Option<()> {
        for letter in bitmap.bytes() {
            let bits = LETTERS.iter().position(|known| *known == letter)?;
            for bit in 0..6 {
                if bits & (1 << bit) != 0 {
                    self.done(at, at);
                }
                at = at.checked_add(1)?;
            }
        }
        Some(())
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
        let ranges = self.ranges();
        let behind = match self.bitmap(ranges.len()) {
            Some(bitmap) => bitmap,
            None => ranges,
        };
        (MARK.len() + behind.len() <= MOST).then(|| format!("{MARK}{behind}"))
    }

    fn behind(&self) -> impl Iterator<Item = &(i64, i64)> {
        self.0.iter().filter(|(start, _)| *start > 0)
    }

    /// Gaps and lengths in turn, from the first offset that is not done.
    fn ranges(&self) -> String {
        let mut text = String::new();
        let mut at = self.next();
        for (index, (start, end)) in self.behind().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            // To a String it cannot fail.
            let _ = write!(text, "{comma}{},{}", start - at, end - start);
            at = *end;
        }
        text
    }

    /// A bit for each offset, from the first that is not done. None: it is no shorter than this.
    fn bitmap(&self, than: usize) -> Option<String> {
        let first = self.next();
        let count = usize::try_from(self.0.last()?.1.checked_sub(first)?).ok()?;
        let letters = count.div_ceil(6);
        if BITMAP.len() + letters >= than {
            return None;
        }
        let mut bits = vec![0_usize; letters];
        for offset in self.behind().flat_map(|(start, end)| *start..*end) {
            let at = usize::try_from(offset - first).ok()?;
            bits[at / 6] |= 1 << (at % 6);
        }
        Some(BITMAP.chars().chain(bits.into_iter().map(|bits| char::from(LETTERS[bits]))).collect())
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
            assert_eq!((progress.next(), &*progress.ranges()), (next, metadata), "{offsets:?}");
            assert_eq!(Progress::of(next, &progress.metadata().unwrap()).unwrap(), progress);
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
            assert_eq!(progress.ranges(), expected, "{since} to {offset}");
        }
    }

    #[test]
    fn what_is_gone_needs_no_more_mention() {
        let mut progress = with(&[5, 6, 9, 20]);
        progress.forget_before(8);
        assert_eq!((progress.next(), progress.ranges()), (8, "1,1,10,1".into()));
        progress.forget_before(9);
        assert_eq!((progress.next(), progress.ranges()), (10, "10,1".into()));
        progress.forget_before(0);
        progress.forget_before(3);
        assert_eq!(progress.next(), 10);
        progress.forget_before(30);
        assert_eq!((progress.next(), progress.ranges()), (30, String::new()));
    }

    #[test]
    fn what_is_scattered_is_a_bitmap() {
        for (offsets, metadata) in [
            (vec![0, 5, 6, 9], "kafka-envelope:b:wE"),
            (vec![0, 5, 6, 900], "kafka-envelope:4,2,893,1"),
            (vec![0, 1, 2], "kafka-envelope:"),
            (vec![], "kafka-envelope:"),
        ] {
            assert_eq!(with(&offsets).metadata().as_deref(), Some(metadata), "{offsets:?}");
        }
        for count in [1, 2, 100, 5_000, 12_000] {
            let progress = with(&(0..count).map(|number| number * 2 + 1).collect::<Vec<_>>());
            let metadata = progress.metadata().unwrap();
            assert_eq!(Progress::of(0, &metadata).unwrap(), progress, "{metadata}");
        }
    }

    #[test]
    fn foreign_metadata_and_too_much_of_ones_own_are_told() {
        for metadata in ["", "x", "1", "1,2"] {
            assert!(Progress::of(0, metadata).is_err(), "{metadata}");
        }
        for behind in ["x", "1", "1,2,3", "0,1", "3,-1", "{}", "b:?", "9223372036854775807,1"] {
            assert!(Progress::of(0, &format!("{MARK}{behind}")).is_err(), "{behind}");
        }
        let scattered: Vec<i64> = (0..13_000).map(|number| number * 2 + 1).collect();
        assert_eq!(with(&scattered).metadata(), None);
    }
}
