//! A record as a line of JSON.

use std::io::Write as _;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

/// A record's place, time and key.
pub(crate) struct Place<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// In milliseconds since 1970.
    pub(crate) timestamp: Option<i64>,
    pub(crate) key: Option<&'a [u8]>,
}

/// What a line shows of the value.
pub(crate) enum Shown<'a> {
    /// An envelope's item, and its history where that is wanted.
    Envelope { item: &'a RawValue, history: Option<Option<&'a RawValue>> },
    /// A tombstone, or an empty value.
    Tombstone,
    /// The value as it is.
    Raw(Option<&'a [u8]>),
}

/// Writes lines, one at a time, into memory that is kept.
#[derive(Default)]
pub(crate) struct Writer {
    line: Vec<u8>,
    /// The second that was last written as a text, and that text.
    second: Option<i64>,
    text: String,
}

impl Writer {
    pub(crate) fn line<'a>(
        &mut self,
        place: &Place<'_>,
        shown: &Shown<'_>,
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> &[u8] {
        let Place { topic, partition, offset, timestamp, key } = place;
        let line = &mut self.line;
        line.clear();
        line.extend_from_slice(b"{\"id\":");
        let id = line.len();
        bytes(line, *key);
        let id = id..line.len();
        match shown {
            Shown::Envelope { item, .. } => {
                line.extend_from_slice(b",\"payload\":");
                json(line, item);
            }
            Shown::Tombstone => line.extend_from_slice(b",\"payload\":null,\"tombstone\":true"),
            Shown::Raw(value) => {
                line.extend_from_slice(b",\"value\":");
                bytes(line, *value);
            }
        }
        line.extend_from_slice(b",\"ref\":\"");
        // A topic's name has nothing that JSON escapes.
        let _ = write!(line, "{topic}:{partition}:{offset}:");
        if line[id.start] == b'"' {
            line.extend_from_within(id.start + 1..id.end);
        } else {
            line.push(b'"');
        }
        let _ = write!(line, ",\"topic\":\"{topic}\",\"partition\":{partition},\"offset\":{offset},\"timestamp\":");
        self.time(*timestamp);
        let line = &mut self.line;
        line.extend_from_slice(b",\"headers\":");
        write_headers(line, headers);
        if let Shown::Envelope { history: Some(history), .. } = shown {
            line.extend_from_slice(b",\"hist\":");
            match history {
                Some(history) => json(line, history),
                None => line.extend_from_slice(b"null"),
            }
        }
        line.extend_from_slice(b"}\n");
        line
    }

    /// RFC 3339 with milliseconds, in UTC. Of records in a row most are of the same second.
    fn time(&mut self, timestamp: Option<i64>) {
        let Some(millis) = timestamp else { return self.line.extend_from_slice(b"null") };
        let second = millis.div_euclid(1_000);
        if self.second != Some(second) {
            let Some(time) = DateTime::<Utc>::from_timestamp(second, 0) else {
                return self.line.extend_from_slice(b"null");
            };
            self.text = time.format("%Y-%m-%dT%H:%M:%S").to_string();
            self.second = Some(second);
        }
        let _ = write!(self.line, "\"{}.{:03}Z\"", self.text, millis.rem_euclid(1_000));
    }
}

/// JSON on one line. Line breaks stand only between its tokens.
fn json(line: &mut Vec<u8>, json: &RawValue) {
    let text = json.get().as_bytes();
    if text.contains(&b'\n') || text.contains(&b'\r') {
        line.extend(text.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    } else {
        line.extend_from_slice(text);
    }
}

/// A text, or what is none as `{"base64": "…"}`.
fn bytes(line: &mut Vec<u8>, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else { return line.extend_from_slice(b"null") };
    match std::str::from_utf8(bytes) {
        Ok(text) => text_of(line, text),
        Err(_) => {
            line.extend_from_slice(b"{\"base64\":\"");
            base64(line, bytes);
            line.extend_from_slice(b"\"}");
        }
    }
}

fn text_of(line: &mut Vec<u8>, text: &str) {
    // A text into memory does not fail.
    let _ = serde_json::to_writer(line, text);
}

/// An object by name. A name that comes more than once has a list.
fn write_headers<'a>(line: &mut Vec<u8>, headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) {
    let mut headers: Vec<_> = headers.collect();
    line.push(b'{');
    let mut is_first = true;
    while let Some((name, _)) = headers.first().copied() {
        if !std::mem::take(&mut is_first) {
            line.push(b',');
        }
        text_of(line, name);
        line.push(b':');
        let is_list = headers.iter().filter(|(other, _)| *other == name).count() > 1;
        if is_list {
            line.push(b'[');
        }
        let mut is_next = false;
        headers.retain(|(other, value)| {
            if *other != name {
                return true;
            }
            if std::mem::replace(&mut is_next, true) {
                line.push(b',');
            }
            bytes(line, *value);
            false
        });
        if is_list {
            line.push(b']');
        }
    }
    line.push(b'}');
}

fn base64(line: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for three in bytes.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for index in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * index) & 63) as usize];
            line.push(if index <= three.len() { digit } else { b'=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(place: &Place<'_>, shown: &Shown<'_>, headers: &[(&str, Option<&[u8]>)]) -> String {
        let mut writer = Writer::default();
        let line = writer.line(place, shown, headers.iter().copied());
        String::from_utf8(line.to_vec()).unwrap()
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            let mut line = Vec::new();
            base64(&mut line, bytes.as_bytes());
            assert_eq!(line, text.as_bytes());
        }
    }

    #[test]
    fn an_envelope_is_one_line_whatever_stands_in_it() {
        let item = RawValue::from_string("{\n \"a\":\r\n 1.50}".into()).unwrap();
        let place =
            Place { topic: "t", partition: 1, offset: 7, timestamp: Some(1_767_323_045_006), key: Some(b"a\"b") };
        let headers: [(&str, Option<&[u8]>); 4] =
            [("x", Some(b"1")), ("y", None), ("x", Some(b"2")), ("\"", Some(b"\xff"))];
        assert_eq!(
            line(&place, &Shown::Envelope { item: &item, history: Some(None) }, &headers),
            r#"{"id":"a\"b","payload":{  "a":   1.50},"ref":"t:1:7:a\"b","topic":"t","partition":1,"offset":7,"#
                .to_owned()
                + r#""timestamp":"2026-01-02T03:04:05.006Z","#
                + r#""headers":{"x":["1","2"],"y":null,"\"":{"base64":"/w=="}},"hist":null}"#
                + "\n"
        );
    }

    #[test]
    fn what_is_no_text_is_base64_and_what_is_not_there_null() {
        let place = Place { topic: "t", partition: 0, offset: 0, timestamp: None, key: None };
        let start = r#"{"id":null,"value":{"base64":"/wA="},"ref":"t:0:0:","topic":"t","#;
        assert!(line(&place, &Shown::Raw(Some(b"\xff\0")), &[]).starts_with(start));
        assert!(line(&place, &Shown::Raw(None), &[]).contains(r#""value":null"#));
        let tombstone = line(&place, &Shown::Tombstone, &[]);
        assert!(tombstone.contains(r#""payload":null,"tombstone":true,"#) && tombstone.contains(r#""timestamp":null"#));
    }
}
