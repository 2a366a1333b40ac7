//! Timestamps of filter messages: numbers, or texts in a format whose terms are those of Python's `strptime`.

use chrono::format::{Item, Parsed, StrftimeItems, parse_and_remainder};
use chrono::{DateTime, Local, NaiveDateTime, TimeDelta, TimeZone};

use crate::error::{Error, Result};

/// How timestamps are written that are texts.
#[derive(Clone, Debug)]
pub(super) struct TimeFormat {
    parts: Vec<Part>,
    utc: bool,
}

#[derive(Clone, Debug)]
enum Part {
    /// What chrono reads as Python does.
    Item(Item<'static>),
    /// `%f`: one to six digits of a second's fraction. chrono's own is a whole number of nanoseconds.
    Fraction,
    /// `%z`, which may be a `Z` too.
    Offset,
}

impl TimeFormat {
    /// Without an offset in the text it tells UTC or local time.
    ///
    /// # Errors
    /// [`Error::Setting`] where the format cannot be read, or does not tell a day.
    pub(super) fn new(format: &str, utc: bool) -> Result<Self> {
        let refused = |reason: String| Error::setting("time_format", reason);
        let mut parts = Vec::new();
        let mut rest = format.chars();
        while let Some(char) = rest.next() {
            match char {
                '%' => {
                    let directive = rest.next().ok_or_else(|| refused("ends with a single `%`".into()))?;
                    directive_parts(directive, &mut parts).map_err(refused)?;
                }
                blank if blank.is_whitespace() => parts.push(Part::Item(Item::Space(" "))),
                char => parts.push(Part::Item(Item::OwnedLiteral(char.to_string().into()))),
            }
        }
        let format = Self { parts, utc };
        // A text of its own has to be understood.
        let text = format.sample().ok_or_else(|| refused("cannot be used".into()))?;
        format.read(&text).ok_or_else(|| refused("does not tell a day, or not the hour of one".into()))?;
        Ok(format)
    }

    /// Seconds since 1970. None: the text is not in this format, or there is no such moment.
    pub(super) fn read(&self, text: &str) -> Option<f64> {
        let mut parsed = Parsed::new();
        let mut rest = text.trim();
        for part in &self.parts {
            rest = match part {
                Part::Item(item) => parse_and_remainder(&mut parsed, rest, std::iter::once(item)).ok()?,
                Part::Fraction => {
                    let digits = rest.bytes().take(6).take_while(u8::is_ascii_digit).count();
                    let (fraction, rest) = rest.split_at(digits);
                    parsed.set_nanosecond(format!("{fraction:0<9}").parse().ok().filter(|_| digits > 0)?).ok()?;
                    rest
                }
                Part::Offset => match rest.strip_prefix('Z') {
                    Some(rest) => {
                        parsed.set_offset(0).ok()?;
                        rest
                    }
                    None => parse_and_remainder(&mut parsed, rest, StrftimeItems::new("%z")).ok()?,
                },
            };
        }
        rest.is_empty().then(|| self.moment(parsed)).flatten()
    }

    fn moment(&self, mut parsed: Parsed) -> Option<f64> {
        // For Python 69 to 99 are years of the last century, for chrono 70 to 99.
        if parsed.year().is_none() && parsed.year_mod_100() == Some(69) {
            parsed.set_year(1969).ok()?;
        }
        // What the format does not have begins.
        if parsed.hour_div_12().is_none() && parsed.hour_mod_12().is_none() {
            parsed.set_hour(0).ok()?;
        }
        if parsed.minute().is_none() {
            parsed.set_minute(0).ok()?;
        }
        if parsed.second().is_none() {
            parsed.set_second(0).ok()?;
        }
        let offset = parsed.offset();
        let time = NaiveDateTime::new(parsed.to_naive_date().ok()?, parsed.to_naive_time().ok()?);
        let moment = match offset {
            Some(offset) => time.and_utc() - TimeDelta::seconds(offset.into()),
            None if self.utc => time.and_utc(),
            None => local(time)?.to_utc(),
        };
        Some(moment.timestamp() as f64 + f64::from(moment.timestamp_subsec_micros()) / 1e6)
    }

    /// A moment in this format.
    fn sample(&self) -> Option<String> {
        use std::fmt::Write as _;
        let moment = DateTime::from_timestamp(1_646_145_513, 0)?;
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Item(item) => write!(text, "{}", moment.format_with_items(std::iter::once(item))).ok()?,
                Part::Fraction => text.push_str("123456"),
                Part::Offset => text.push('Z'),
            }
        }
        Some(text)
    }
}

/// What a directive of Python's stands for, after its `%`.
fn directive_parts(directive: char, parts: &mut Vec<Part>) -> Result<(), String> {
    let chrono = match directive {
        'f' => {
            parts.push(Part::Fraction);
            return Ok(());
        }
        'z' => {
            parts.push(Part::Offset);
            return Ok(());
        }
        'a' => "%a",
        'A' => "%A",
        'b' => "%b",
        'B' => "%B",
        // Unless a program asks for another one, Python's locale for times is C.
        'c' => "%a %b %d %H:%M:%S %Y",
        'd' => "%d",
        'G' => "%G",
        'H' => "%H",
        'I' => "%I",
        'j' => "%j",
        'm' => "%m",
        'M' => "%M",
        'p' => "%p",
        'S' => "%S",
        'u' => "%u",
        'U' => "%U",
        'V' => "%V",
        'w' => "%w",
        'W' => "%W",
        'x' => "%m/%d/%y",
        'X' => "%H:%M:%S",
        'y' => "%y",
        'Y' => "%Y",
        '%' => "%%",
        'Z' => return Err("has `%Z`, and names of time zones are ambiguous: `%z` reads offsets".into()),
        other => return Err(format!("has `%{other}`, which Python's `strptime` does not know")),
    };
    parts.extend(StrftimeItems::new(chrono).map(Part::Item));
    Ok(())
}

/// The first of two moments where clocks are set back; where they are set forward, as if they had not been yet.
fn local(time: NaiveDateTime) -> Option<DateTime<Local>> {
    let hour = TimeDelta::hours(1);
    let skipped = || Local.from_local_datetime(&(time - hour)).earliest().map(|moment| moment + hour);
    Local.from_local_datetime(&time).earliest().or_else(skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As text, so that nothing is hidden by rounding.
    fn read(format: &str, text: &str) -> Option<String> {
        TimeFormat::new(format, true).unwrap().read(text).map(|seconds| seconds.to_string())
    }

    fn reads(format: &str, text: &str, seconds: &str) {
        assert_eq!(read(format, text).as_deref(), Some(seconds), "{format} {text}");
    }

    /// What Python's `datetime.strptime(text, format).replace(tzinfo=utc).timestamp()` answers.
    #[test]
    fn formats_are_those_of_python() {
        reads("%Y-%m-%dT%H:%M:%SZ", "2022-03-01T14:38:33Z", "1646145513");
        reads("%Y-%m-%dT%H:%M:%S.%fZ", "2022-03-01T14:38:33.5Z", "1646145513.5");
        reads("%Y-%m-%dT%H:%M:%S.%f", "2022-03-01T14:38:33.000001", "1646145513.000001");
        reads("%Y-%m-%d %H:%M:%S,%f", "2022-03-01 14:38:33,250", "1646145513.25");
        reads("%Y%m%d%H%M%S%f", "20220301143833250000", "1646145513.25");
        reads("%Y%m%d", "20220301", "1646092800");
        reads("%d.%m.%y %H:%M", "1.3.22 14:38", "1646145480");
        reads("%x %X", "03/01/22 14:38:33", "1646145513");
        reads("%c", "Tue Mar  1 14:38:33 2022", "1646145513");
        reads("%A, %d %B %Y %I:%M:%S %p", "Tuesday, 01 March 2022 02:38:33 PM", "1646145513");
        reads("%Y %j %H", "2022 060 14", "1646143200");
        reads("%G-W%V-%u", "2022-W09-2", "1646092800");
        reads("%Y-%m-%d %%", "2022-03-01 %", "1646092800");
        reads("%y-%m-%d", "69-01-01", "-31536000");
        reads("%y-%m-%d", "68-01-01", "3092601600");
    }

    #[test]
    fn an_offset_counts_and_what_is_set_does_not() {
        for utc in [true, false] {
            let format = TimeFormat::new("%Y-%m-%dT%H:%M:%S%z", utc).unwrap();
            for text in ["2022-03-01T14:38:33Z", "2022-03-01T14:38:33+0000", "2022-03-01T16:08:33+01:30"] {
                assert_eq!(format.read(text), Some(1_646_145_513.0), "{text}");
            }
            assert_eq!(format.read("2022-03-01T14:38:33"), None);
        }
    }

    #[test]
    fn local_time_is_the_systems() {
        let moment = Local.with_ymd_and_hms(2022, 3, 1, 14, 38, 33).earliest().unwrap();
        let format = TimeFormat::new("%Y-%m-%d %H:%M:%S", false).unwrap();
        assert_eq!(format.read("2022-03-01 14:38:33"), Some(moment.timestamp() as f64));
    }

    #[test]
    fn what_is_not_in_the_format_is_none() {
        let format = "%Y-%m-%d %H:%M:%S.%f";
        for text in [
            "",
            "2022-03-01",
            "2022-03-01 14:38:33",
            "2022-03-01 14:38:33.",
            "2022-03-01 14:38:33.1234567",
            "2022-02-30 14:38:33.0",
            "2022-03-01 24:38:33.0",
            "2022-03-01 14:38:33.5 x",
            "2022-03-01 14:38:33.ü",
        ] {
            assert_eq!(read(format, text), None, "{text}");
        }
    }

    #[test]
    fn formats_that_cannot_work_are_refused() {
        for format in
            ["", "%H:%M", "%Y", "%Y-%m", "%Y-%m-%d %I", "%Y-%m-%d %", "%Y-%m-%d %Z", "%s", "%Y-%m-%d %e", "%é"]
        {
            let error = TimeFormat::new(format, true).unwrap_err().to_string();
            assert!(error.starts_with("setting `time_format`: "), "{format}: {error}");
        }
    }
}
