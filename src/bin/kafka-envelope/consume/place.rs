//! From where on partitions are read.

use std::str::FromStr;

use chrono::DateTime;

use crate::failure::Result;
use crate::reader::{Position, Reader};

/// `--from`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum From {
    Beginning,
    End,
    Offset(i64),
    /// So many before the end.
    Last(i64),
    /// In milliseconds since 1970.
    Time(i64),
}

impl FromStr for From {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse::<i64>()) {
            ("beginning", _) => Ok(Self::Beginning),
            ("end", _) => Ok(Self::End),
            (_, Ok(offset @ 0..)) => Ok(Self::Offset(offset)),
            (_, Ok(last)) => Ok(Self::Last(last.saturating_neg())),
            (_, Err(_)) => DateTime::parse_from_rfc3339(text)
                // Kafka takes what is below 0 for something else.
                .map(|time| Self::Time(time.timestamp_millis().max(0)))
                .map_err(|_| "is none of: beginning, end, an offset, -N, a time as 2026-01-31T09:00:00Z"),
        }
    }
}

impl From {
    pub(crate) fn positions(self, reader: &Reader<'_>, topic: &str, partitions: &[i32]) -> Result<Vec<Position>> {
        if let Self::Time(millis) = self {
            return reader.offsets_at(topic, partitions, millis);
        }
        let position = |partition: &i32| {
            let ends = reader.ends(topic, *partition)?;
            let offset = match self {
                Self::Beginning | Self::Time(_) => ends.low,
                Self::End => ends.high,
                Self::Offset(offset) => offset.max(ends.low).min(ends.high),
                Self::Last(count) => ends.high.saturating_sub(count).max(ends.low),
            };
            Ok(Position { partition: *partition, offset })
        };
        partitions.iter().map(position).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_words_numbers_or_times() {
        let from = |text: &str| text.parse::<From>().ok();
        assert_eq!(from("beginning"), Some(From::Beginning));
        assert_eq!(from("end"), Some(From::End));
        assert_eq!(from("0"), Some(From::Offset(0)));
        assert_eq!(from("-10"), Some(From::Last(10)));
        assert_eq!(from("1970-01-01T01:00:00.5+01:00"), Some(From::Time(500)));
        assert_eq!(from("1960-01-01T00:00:00Z"), Some(From::Time(0)));
        for text in ["", "start", "1.5", "2026-01-31", "2026-01-31T09:00:00"] {
            assert_eq!(from(text), None, "{text}");
        }
    }
}
