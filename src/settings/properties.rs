//! Properties files as Java writes them.

/// One `key=value`, with the number of the line on which it starts.
pub(super) struct Entry {
    pub(super) line: usize,
    pub(super) key: String,
    pub(super) value: String,
}

/// A line that is no `key=value`. It may hold part of a secret, so only its number is told.
#[derive(Debug, PartialEq)]
pub(super) struct Malformed {
    pub(super) line: usize,
    pub(super) reason: &'static str,
}

const BLANK: [char; 3] = [' ', '\t', '\x0c'];

/// Parses a whole file. Unlike Java's it is UTF-8, blanks at the end of a line do not count, and a key without a
/// separator is refused.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Entry>, Malformed> {
    let text = std::str::from_utf8(bytes).map_err(|error| Malformed {
        line: 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count(),
        reason: "is not UTF-8",
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    let mut lines = (1..).zip(text.split('\n').map(|line| line.trim_start_matches(BLANK)));
    let mut entries = Vec::new();
    while let Some((line, start)) = lines.next() {
        if start.is_empty() || start.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = start.to_owned();
        while ends_in_escape(&logical) {
            logical.pop();
            match lines.next() {
                Some((_, next)) => logical.push_str(next),
                None => break,
            }
        }
        if logical.is_empty() {
            continue;
        }
        let (key, value) = split(&logical).map_err(|reason| Malformed { line, reason })?;
        entries.push(Entry { line, key, value });
    }
    Ok(entries)
}

/// Whether the last backslash stands for itself, not for the second half of an escaped one.
fn ends_in_escape(text: &str) -> bool {
    text.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

fn split(line: &str) -> Result<(String, String), &'static str> {
    let mut end = line.trim_end_matches(BLANK).len();
    if end < line.len() && ends_in_escape(&line[..end]) {
        end += 1; // an escaped blank stays
    }
    let line = &line[..end];
    let mut escaped = false;
    let key_end = line.find(|c: char| {
        let separator = !escaped && (matches!(c, '=' | ':') || BLANK.contains(&c));
        escaped = !escaped && c == '\\';
        separator
    });
    let key_end = key_end.ok_or("has no `=`")?;
    let rest = line[key_end..].trim_start_matches(BLANK);
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches(BLANK);
    let key = unescape(&line[..key_end])?;
    if key.is_empty() {
        return Err("has no key");
    }
    Ok((key, unescape(value)?))
}

fn unescape(text: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c == '\\').then(|| chars.next()).flatten() {
            None if c == '\\' => {}
            None => out.push(c),
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\x0c'),
            Some('u') => {
                let mut units = vec![unit(&mut chars)?];
                // Outside the basic plane Java writes two units, each with its own `\u`.
                if (0xd800..0xdc00).contains(&units[0]) && chars.as_str().starts_with("\\u") {
                    chars.nth(1);
                    units.push(unit(&mut chars)?);
                }
                out.push_str(&String::from_utf16(&units).map_err(|_| "has half of a surrogate pair")?);
            }
            Some(other) => out.push(other),
        }
    }
    Ok(out)
}

fn unit(chars: &mut std::str::Chars<'_>) -> Result<u16, &'static str> {
    let mut unit = 0;
    for _ in 0..4 {
        let digit = chars.next().and_then(|c| c.to_digit(16)).ok_or("has a `\\u` without four hexadecimal digits")?;
        unit = unit << 4 | digit as u16;
    }
    Ok(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(usize, String, String)> {
        parse(text.as_bytes()).unwrap().into_iter().map(|entry| (entry.line, entry.key, entry.value)).collect()
    }

    #[test]
    fn one_line() {
        for (line, key, value) in [
            ("a=b", "a", "b"),
            ("a:b", "a", "b"),
            ("a b", "a", "b"),
            ("a\tb c", "a", "b c"),
            ("  a \t= b", "a", "b"),
            ("a : =b", "a", "=b"),
            ("a==b", "a", "=b"),
            ("a=b=c:d", "a", "b=c:d"),
            ("a=", "a", ""),
            ("a = b \t", "a", "b"),
            ("a = b\\ ", "a", "b "),
            ("a=b\\  ", "a", "b "),
            ("a=\\ b", "a", " b"),
            ("a\\=b\\:c\\ d=e", "a=b:c d", "e"),
            ("a=#b!", "a", "#b!"),
            ("a=C:\\\\dir\\\\", "a", "C:\\dir\\"),
            ("a=\\t\\n\\r\\f\\q", "a", "\t\n\r\x0cq"),
            ("a=\\u00e9\\u20AC", "a", "é€"),
            ("a=\\uD83D\\uDE00!", "a", "😀!"),
            ("a=é", "a", "é"),
            ("a=b\\", "a", "b"),
            ("\u{feff}a=b", "a", "b"),
        ] {
            assert_eq!(pairs(line), [(1, key.to_owned(), value.to_owned())], "{line:?}");
        }
    }

    #[test]
    fn several_lines() {
        let text = "# one\r\n! two \\\r\n\r\n a=1\rb = x,\\\n   y,\\\r\n\t# z\n\\\n\nc=2\nc=3";
        let expected = [(4, "a", "1"), (5, "b", "x,y,# z"), (10, "c", "2"), (11, "c", "3")];
        assert_eq!(pairs(text), expected.map(|(line, key, value)| (line, key.to_owned(), value.to_owned())));
        assert!(pairs("").is_empty() && pairs("\n#\n").is_empty());
    }

    #[test]
    fn malformed() {
        for (bytes, line) in [
            (&b"a=1\nsecret"[..], 2),
            (b"secret   ", 1),
            (b"=secret", 1),
            (b"a=\\u12", 1),
            (b"a=\\u12g4", 1),
            (b"a=\\ud83d", 1),
            (b"a=\\ud83dx\\ude00", 1),
            (b"a=\\ude00", 1),
            (b"a=1\nb=\xff", 2),
        ] {
            let error = parse(bytes).err().unwrap();
            assert_eq!(error.line, line, "{error:?}");
            assert!(!error.reason.contains("secret"));
        }
    }
}
