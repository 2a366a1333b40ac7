//! From an item and its refs to an envelope's text.
//!
//! Keys are written as they stand: serde would look through each of them for characters to escape, which was a third of
//! packing a message with one ref.

use std::cell::Cell;

use chrono::{DateTime, Datelike as _, Timelike as _, Utc};
use serde::Serialize;

use super::Ref;

/// Appends an envelope. What is in the buffer after an error is a part of one.
pub(super) fn encode<T: Serialize + ?Sized>(
    buffer: &mut Vec<u8>,
    service: &str,
    at: DateTime<Utc>,
    item: &T,
    refs: &[Ref],
) -> serde_json::Result<()> {
    member(buffer, "{\"item\":", item)?;
    member(buffer, ",\"hist\":{\"svc\":", service)?;
    text(buffer, ",\"dt\":\"");
    whole_seconds(buffer, at);
    text(buffer, "\",\"refs\":[");
    for (place, from) in refs.iter().enumerate() {
        text(buffer, if place == 0 { "" } else { "," });
        reference(buffer, from)?;
    }
    text(buffer, "]}}");
    Ok(())
}

fn reference(buffer: &mut Vec<u8>, from: &Ref) -> serde_json::Result<()> {
    let history = from.history.as_ref().filter(|history| !history.is_too_long());
    if history.is_none() && from.history.is_some() {
        log::warn!("the history of {from} is too long: left out");
    }
    member(buffer, "{\"topic\":", &from.topic)?;
    member(buffer, ",\"partition\":", &from.partition)?;
    member(buffer, ",\"offset\":", &from.offset)?;
    member(buffer, ",\"key\":", &from.key)?;
    text(buffer, ",\"hist\":");
    text(buffer, history.map_or("null", |history| history.as_json()));
    text(buffer, "}");
    Ok(())
}

fn text(buffer: &mut Vec<u8>, text: &str) {
    buffer.extend_from_slice(text.as_bytes());
}

/// What stands before a value, and the value.
fn member<T: Serialize + ?Sized>(buffer: &mut Vec<u8>, before: &str, value: &T) -> serde_json::Result<()> {
    text(buffer, before);
    serde_json::to_writer(buffer, value)
}

type Digits = [u8; 25];

thread_local! {
    /// The second that was written last, and its text: the next message is most often of the same.
    static LAST: Cell<(i64, Digits)> = const { Cell::new((0, *b"1970-01-01T00:00:00+00:00")) };
}

fn whole_seconds(buffer: &mut Vec<u8>, at: DateTime<Utc>) {
    let second = at.timestamp();
    let (last, digits) = LAST.get();
    if last == second {
        return buffer.extend_from_slice(&digits);
    }
    let Some(digits) = digits_of(at) else {
        return text(buffer, &at.format("%Y-%m-%dT%H:%M:%S+00:00").to_string());
    };
    LAST.set((second, digits));
    buffer.extend_from_slice(&digits);
}

/// By hand: chrono reads its format anew for each time, which was a fifth of packing. None for a year of more digits.
fn digits_of(at: DateTime<Utc>) -> Option<Digits> {
    let year @ 0..=9999 = at.year() else { return None };
    let mut digits = *b"0000-00-00T00:00:00+00:00";
    let pairs = [
        (0, year.unsigned_abs() / 100),
        (2, year.unsigned_abs() % 100),
        (5, at.month()),
        (8, at.day()),
        (11, at.hour()),
        (14, at.minute()),
        (17, at.second()),
    ];
    for (place, number) in pairs {
        digits[place] += (number / 10) as u8;
        digits[place + 1] += (number % 10) as u8;
    }
    Some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_chrono_writes_them() {
        let seconds =
            [0, 1, 59, 951_782_399, 951_868_800, 1_767_323_045, 4_102_444_799, 253_402_300_799, 253_402_300_800, -1];
        let long_ago = [-62_167_219_200, -62_167_219_201, -99_999_999_999];
        // The second time it has been written before.
        for second in seconds.into_iter().chain(long_ago).flat_map(|second| [second, second]) {
            let at = DateTime::from_timestamp(second, 999_999_999).unwrap();
            let mut value = Vec::new();
            encode(&mut value, "s", at, &0, &[]).unwrap();
            let wanted = at.format("%Y-%m-%dT%H:%M:%S+00:00");
            assert_eq!(
                String::from_utf8(value).unwrap(),
                format!(r#"{{"item":0,"hist":{{"svc":"s","dt":"{wanted}","refs":[]}}}}"#)
            );
        }
    }

    #[test]
    fn what_names_hold_is_escaped() {
        let from = [Ref { key: Some("k\"\n".into()), ..Ref::new("t\\é", 3, i64::MAX) }, Ref::new("u", 0, 0)];
        let mut value = b"before".to_vec();
        encode(&mut value, "a \"b\"", DateTime::UNIX_EPOCH, &["x"], &from).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&value[6..]).unwrap();
        let first =
            serde_json::json!({"topic": "t\\é", "partition": 3, "offset": i64::MAX, "key": "k\"\n", "hist": null});
        let second = serde_json::json!({"topic": "u", "partition": 0, "offset": 0, "key": null, "hist": null});
        let history = serde_json::json!({"svc": "a \"b\"", "dt": "1970-01-01T00:00:00+00:00", "refs": [first, second]});
        assert_eq!(read, serde_json::json!({"item": ["x"], "hist": history}));
    }
}
