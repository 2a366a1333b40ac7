//! Standard input, read on a thread of its own, so that its reader has time for other things.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use kafka_envelope::envelope::MAX_VALUE_BYTES;

/// The longest line that is kept. No longer one would make an envelope.
const LONGEST: usize = MAX_VALUE_BYTES + (1 << 20);
/// How much is read at once, if so much is there.
const READ: usize = 1 << 18;
/// How many pieces wait to be taken.
const AHEAD: usize = 4;

/// Some of the input.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Whole lines. The number of the first, from 1 on.
    Lines { first: u64, bytes: Vec<u8> },
    /// The line of this number is too long to be kept.
    TooLong { line: u64 },
    /// It cannot be read on after this line.
    Broken { line: u64, error: io::Error },
}

pub(crate) fn of_stdin() -> io::Result<Receiver<Piece>> {
    let (sender, pieces) = sync_channel(AHEAD);
    let read = move || read(io::stdin().lock(), READ, LONGEST, &sender);
    thread::Builder::new().name("standard input".into()).spawn(read)?;
    Ok(pieces)
}

/// Until the input ends, or nobody listens any more.
fn read(mut input: impl Read, at_once: usize, longest: usize, pieces: &SyncSender<Piece>) {
    let mut line = 1;
    let mut bytes = Vec::new();
    let mut is_too_long = false;
    loop {
        let mut before = bytes.len();
        bytes.resize(before + at_once, 0);
        let count = match input.read(&mut bytes[before..]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                bytes.truncate(before);
                continue;
            }
            Err(error) => {
                let _ = pieces.send(Piece::Broken { line, error });
                return;
            }
        };
        bytes.truncate(before + count);
        if line == 1 && before < 3 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
            before = 0;
        }
        if is_too_long {
            match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    bytes.drain(..=end);
                    line += 1;
                    is_too_long = false;
                }
                None => bytes.clear(),
            }
        }
        // What was there before holds no end of a line.
        let new = before.min(bytes.len());
        let end = match bytes[new..].iter().rposition(|byte| *byte == b'\n') {
            _ if count == 0 => bytes.len(),
            Some(newline) => new + newline + 1,
            None => 0,
        };
        if end > 0 {
            let rest = bytes.split_off(end);
            let whole = std::mem::replace(&mut bytes, rest);
            let first = line;
            line += whole.iter().filter(|byte| **byte == b'\n').count() as u64;
            if pieces.send(Piece::Lines { first, bytes: whole }).is_err() {
                return;
            }
        }
        if bytes.len() > longest {
            bytes = Vec::new();
            is_too_long = true;
            if pieces.send(Piece::TooLong { line }).is_err() {
                return;
            }
        }
        if count == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers and texts of lines; none for one that is too long.
    fn lines(input: &[u8], at_once: usize) -> Vec<(u64, Option<String>)> {
        let (sender, pieces) = sync_channel(1_000);
        read(input, at_once, 20, &sender);
        drop(sender);
        let mut found = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Lines { first, bytes } => {
                    let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes).split(|byte| *byte == b'\n');
                    found.extend((first..).zip(lines.map(|line| Some(String::from_utf8(line.to_vec()).unwrap()))));
                }
                Piece::TooLong { line } => found.push((line, None)),
                Piece::Broken { error, .. } => panic!("{error}"),
            }
        }
        found
    }

    #[test]
    fn lines_have_their_numbers_however_they_come() {
        let input = b"\xef\xbb\xbfone\n\nthree\nfour is much too long for a line of twenty\nfive\nsix";
        for at_once in [3, 4, 7, 16, 100] {
            let text = |text: &str| Some(text.to_owned());
            let found = lines(input, at_once);
            let mut expected = vec![(1, text("one")), (2, text("")), (3, text("three"))];
            if at_once < 20 {
                expected.push((4, None));
            } else {
                expected.push((4, text("four is much too long for a line of twenty")));
            }
            expected.extend([(5, text("five")), (6, text("six"))]);
            assert_eq!(found, expected, "{at_once} at once");
        }
        assert_eq!(lines(b"", 10), []);
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        assert_eq!(lines(&[b'x'; 10_000], 10), [(1, None)]);
    }
}
