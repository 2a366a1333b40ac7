//! One pass over a history's text: is it built as a history is, and how deep and wide is it?
//!
//! The text is JSON already, so only the structure is looked at. Open levels wait on a heap stack, because histories
//! nest deeper than a thread's stack could follow.

use std::ops::Range;

use super::{MAX_HISTORY_DEPTH, MAX_REFS};

/// How large a history is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Shape {
    /// Levels along the longest branch, 1 for a history without refs.
    pub(super) depth: usize,
    /// The most refs in one level.
    pub(super) widest: usize,
    /// Some `refs` is one object instead of a list.
    pub(super) legacy: bool,
}

impl Shape {
    /// Whether a reader drops such a history.
    pub(super) fn too_long(&self) -> bool {
        self.depth >= MAX_HISTORY_DEPTH || self.widest > MAX_REFS || self.legacy
    }
}

/// Which rule a history breaks, and at which byte of its text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fault {
    pub(super) rule: &'static str,
    pub(super) at: usize,
}

/// Is told of each level as the walk goes through it. Ranges are those of the JSON values in the text.
pub(super) trait Levels {
    fn enter(&mut self) {}
    fn service(&mut self, _json: Range<usize>) {}
    fn time(&mut self, _json: Range<usize>) {}
    fn leave(&mut self) {}
}

/// Only the shape is wanted.
impl Levels for () {}

#[derive(Clone, Copy, PartialEq)]
enum Member {
    Svc,
    Dt,
    Refs,
    Topic,
    Partition,
    Offset,
    Key,
    Hist,
    Unknown,
}

impl Member {
    fn of_level(name: &[u8]) -> Self {
        match name {
            b"svc" => Self::Svc,
            b"dt" => Self::Dt,
            b"refs" => Self::Refs,
            _ => Self::Unknown,
        }
    }

    fn of_ref(name: &[u8]) -> Self {
        match name {
            b"topic" => Self::Topic,
            b"partition" => Self::Partition,
            b"offset" => Self::Offset,
            b"key" => Self::Key,
            b"hist" => Self::Hist,
            _ => Self::Unknown,
        }
    }

    /// The key as it is written without escapes.
    fn quoted(self) -> &'static [u8] {
        match self {
            Self::Svc => b"\"svc\"",
            Self::Dt => b"\"dt\"",
            Self::Refs => b"\"refs\"",
            Self::Topic => b"\"topic\"",
            Self::Partition => b"\"partition\"",
            Self::Offset => b"\"offset\"",
            Self::Key => b"\"key\"",
            Self::Hist => b"\"hist\"",
            // Nothing starts like this where a key stands.
            Self::Unknown => b",",
        }
    }

    /// The key that follows in what this crate and the Python library write: a guess that saves the search.
    fn successor(self) -> Self {
        match self {
            Self::Svc => Self::Dt,
            Self::Dt => Self::Refs,
            Self::Topic => Self::Partition,
            Self::Partition => Self::Offset,
            Self::Offset => Self::Key,
            Self::Key => Self::Hist,
            Self::Refs | Self::Hist | Self::Unknown => Self::Unknown,
        }
    }

    /// A bit of [`Open::seen`]. Unknown keys may repeat.
    fn bit(self) -> u8 {
        if self == Self::Unknown { 0 } else { 1 << (self as u8) }
    }

    fn duplicate(self) -> &'static str {
        match self {
            Self::Svc => "duplicate key `svc` in a history",
            Self::Dt => "duplicate key `dt` in a history",
            Self::Refs => "duplicate key `refs` in a history",
            Self::Topic => "duplicate key `topic` in a ref",
            Self::Partition => "duplicate key `partition` in a ref",
            Self::Offset => "duplicate key `offset` in a ref",
            Self::Key => "duplicate key `key` in a ref",
            Self::Hist => "duplicate key `hist` in a ref",
            Self::Unknown => "duplicate key",
        }
    }
}

/// An object that is not closed yet: a level of history, or a ref.
#[derive(Clone, Copy)]
struct Open {
    is_ref: bool,
    seen: u8,
    refs: u32,
    /// The likely next key.
    likely: Member,
}

impl Open {
    const LEVEL: Self = Self { is_ref: false, seen: 0, refs: 0, likely: Member::Svc };
    const REF: Self = Self { is_ref: true, seen: 0, refs: 0, likely: Member::Topic };

    fn missing(self) -> Option<&'static str> {
        let lacks = |key: Member| self.seen & key.bit() == 0;
        if lacks(Member::Topic) {
            Some("a ref without `topic`")
        } else if lacks(Member::Partition) {
            Some("a ref without `partition`")
        } else if lacks(Member::Offset) {
            Some("a ref without `offset`")
        } else {
            None
        }
    }
}

/// Walks through `text`, which is JSON.
pub(super) fn walk<L: Levels>(text: &str, levels: &mut L) -> Result<Shape, Fault> {
    let mut cursor = Cursor { bytes: text.as_bytes(), at: 0 };
    if cursor.token() != b'{' {
        return Err(cursor.fault("`hist` must be an object or null"));
    }
    cursor.at += 1;
    levels.enter();
    let mut shape = Shape { depth: 1, ..Shape::default() };
    let mut depth = 1;
    let mut current = Open::LEVEL;
    let mut outer: Vec<Open> = Vec::new();
    loop {
        // Whether the cursor stands in the list of `current`'s refs, else among its members.
        let mut in_refs = false;
        match cursor.token() {
            b',' => cursor.at += 1,
            b'}' if current.is_ref => {
                if let Some(rule) = current.missing() {
                    return Err(cursor.fault(rule));
                }
                cursor.at += 1;
                current = outer.pop().ok_or(cursor.fault(BROKEN))?;
                in_refs = true;
            }
            b'}' => {
                cursor.at += 1;
                levels.leave();
                shape.widest = shape.widest.max(current.refs as usize);
                depth -= 1;
                match outer.pop() {
                    Some(parent) => current = parent,
                    None => return Ok(shape),
                }
            }
            b'"' => {
                let start = cursor.at;
                let key = cursor.key(current)?;
                current.likely = key.successor();
                if current.seen & key.bit() != 0 {
                    return Err(Fault { rule: key.duplicate(), at: start });
                }
                current.seen |= key.bit();
                if cursor.token() != b':' {
                    return Err(cursor.fault(BROKEN));
                }
                cursor.at += 1;
                let first = cursor.token();
                match key {
                    Member::Svc => levels.service(cursor.skip()?),
                    Member::Dt => levels.time(cursor.skip()?),
                    Member::Refs if first == b'[' => {
                        cursor.at += 1;
                        in_refs = true;
                    }
                    Member::Refs if first == b'{' => {
                        shape.legacy = true;
                        cursor.skip()?;
                    }
                    Member::Refs if first != b'n' => return Err(cursor.fault("`refs` must be a list or null")),
                    Member::Topic if first != b'"' => return Err(cursor.fault("`topic` of a ref must be a text")),
                    Member::Partition => cursor.integer::<i32>("`partition` of a ref must be a 32-bit integer")?,
                    Member::Offset => cursor.integer::<i64>("`offset` of a ref must be a 64-bit integer")?,
                    Member::Key if first != b'"' && first != b'n' => {
                        return Err(cursor.fault("`key` of a ref must be a text or null"));
                    }
                    Member::Hist if first == b'{' => {
                        cursor.at += 1;
                        levels.enter();
                        depth += 1;
                        shape.depth = shape.depth.max(depth);
                        outer.push(current);
                        current = Open::LEVEL;
                    }
                    Member::Hist if first != b'n' => {
                        return Err(cursor.fault("`hist` of a ref must be an object or null"));
                    }
                    _ if first == b'"' => {
                        cursor.text()?;
                    }
                    _ if cursor.null() => {}
                    _ => {
                        cursor.skip()?;
                    }
                }
            }
            _ => return Err(cursor.fault(BROKEN)),
        }
        if in_refs {
            if cursor.token() == b',' {
                cursor.at += 1;
            }
            match cursor.token() {
                b']' => cursor.at += 1,
                b'{' => {
                    cursor.at += 1;
                    current.refs = current.refs.saturating_add(1);
                    outer.push(current);
                    current = Open::REF;
                }
                _ => return Err(cursor.fault("an entry of `refs` must be an object")),
            }
        }
    }
}

/// The first `\uXXXX` of half a surrogate pair, in a text that is JSON otherwise.
///
/// serde_json only looks at the escapes of texts that it decodes, not of those that it keeps raw or skips.
pub(super) fn lone_surrogate(text: &str) -> Option<usize> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut from = 0;
    while let Some(found) = text.get(from..).and_then(|rest| rest.find('\\')) {
        let at = from + found;
        from = match unit(at) {
            Some(0xD800..=0xDBFF) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => at + 12,
            Some(0xD800..=0xDFFF) => return Some(at),
            Some(_) => at + 6,
            // An escape of one letter, which is ASCII.
            None => at + 2,
        };
    }
    None
}

const BROKEN: &str = "a history is not valid JSON";

/// Not 0 where a byte of `word` is `wanted`; the lowest bit that is set is then in the first such byte.
#[inline]
fn holds(word: u64, wanted: u8) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let zero_where_equal = word ^ (ONES * u64::from(wanted));
    zero_where_equal.wrapping_sub(ONES) & !zero_where_equal & (ONES << 7)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn fault(&self, rule: &'static str) -> Fault {
        Fault { rule, at: self.at }
    }

    #[inline]
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// The next byte that is not a blank, which the cursor then stands on; 0 at the end.
    #[inline]
    fn token(&mut self) -> u8 {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
        self.peek()
    }

    /// Moves past the text that starts here, and says whether it has escapes.
    #[inline]
    fn text(&mut self) -> Result<bool, Fault> {
        let start = self.at;
        let mut escapes = false;
        self.at += 1;
        loop {
            // Most of a history is within texts, so eight bytes at a time.
            while let Some(eight) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<8>) {
                let word = u64::from_le_bytes(*eight);
                let found = holds(word, b'"') | holds(word, b'\\');
                if found != 0 {
                    self.at += found.trailing_zeros() as usize / 8;
                    break;
                }
                self.at += 8;
            }
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escapes);
                }
                Some(b'\\') => {
                    escapes = true;
                    self.at += 2;
                }
                Some(_) => self.at += 1,
                None => return Err(Fault { rule: BROKEN, at: start }),
            }
        }
    }

    fn key(&mut self, of: Open) -> Result<Member, Fault> {
        let start = self.at;
        let likely = of.likely.quoted();
        if self.bytes[start..].starts_with(likely) {
            self.at += likely.len();
            return Ok(of.likely);
        }
        let escapes = self.text()?;
        let known = if of.is_ref { Member::of_ref } else { Member::of_level };
        if !escapes {
            return Ok(known(&self.bytes[start + 1..self.at - 1]));
        }
        let name: Result<String, _> = serde_json::from_slice(&self.bytes[start..self.at]);
        Ok(name.map_or(Member::Unknown, |name| known(name.as_bytes())))
    }

    /// Moves past the value that starts here, however deep it is.
    fn skip(&mut self) -> Result<Range<usize>, Fault> {
        let first = self.token();
        let start = self.at;
        if first == b'"' {
            self.text()?;
            return Ok(start..self.at);
        }
        let mut open = 0_usize;
        loop {
            match self.token() {
                b'"' => {
                    self.text()?;
                }
                b'{' | b'[' => {
                    open += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' if open > 0 => {
                    open -= 1;
                    self.at += 1;
                }
                b',' | b':' if open > 0 => {
                    self.at += 1;
                    continue;
                }
                0 | b'}' | b']' | b',' | b':' => return Err(self.fault(BROKEN)),
                _ => {
                    while !matches!(self.peek(), 0 | b',' | b':' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t') {
                        self.at += 1;
                    }
                }
            }
            if open == 0 {
                return Ok(start..self.at);
            }
        }
    }

    /// Moves past a null, where one starts here.
    fn null(&mut self) -> bool {
        let found = self.bytes[self.at..].starts_with(b"null");
        self.at += if found { 4 } else { 0 };
        found
    }

    fn integer<N: std::str::FromStr>(&mut self, rule: &'static str) -> Result<(), Fault> {
        let fault = Fault { rule, at: self.at };
        // Fewer digits than the longest 32-bit integer has: the usual case, in which there is nothing to check.
        let digits = self.bytes[self.at..].iter().take(10).take_while(|byte| byte.is_ascii_digit()).count();
        if (1..10).contains(&digits) && matches!(self.bytes.get(self.at + digits), Some(b',' | b'}')) {
            self.at += digits;
            return Ok(());
        }
        let range = self.skip()?;
        let number = std::str::from_utf8(&self.bytes[range]).ok().and_then(|text| text.parse::<N>().ok());
        number.map(drop).ok_or(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Shape {
        walk(text, &mut ()).unwrap()
    }

    #[test]
    fn depth_is_that_of_the_longest_branch() {
        assert_eq!(shape("{}"), Shape { depth: 1, widest: 0, legacy: false });
        let text = r#"{"refs":[{"topic":"t","partition":0,"offset":0,"hist":{"refs":[]}},
            {"topic":"t","partition":0,"offset":0,"hist":{"x":{"refs":[[{}]]},"refs":[{"offset":-1,"topic":"","partition":1,"hist":{}}]}},
            {"topic":"t","partition":0,"offset":0,"hist":null}]}"#;
        assert_eq!(shape(text), Shape { depth: 3, widest: 3, legacy: false });
        assert!(shape(r#"{"refs":{"topic":1}}"#).too_long());
    }

    #[test]
    fn a_key_may_be_spelled_with_escapes() {
        let fault = walk(r#"{"r\u0065fs":5}"#, &mut ()).unwrap_err();
        assert_eq!(fault, Fault { rule: "`refs` must be a list or null", at: 13 });
        assert_eq!(walk(r#"{"refs":null,"ref\u0073":[]}"#, &mut ()).unwrap_err().rule, Member::Refs.duplicate());
    }

    #[test]
    fn a_text_ends_at_its_quote_wherever_it_stands() {
        for blanks in 0..10 {
            for letters in 0..20 {
                for end in ["", "\\\"", "\\\\", "é\\n", "!#[]"] {
                    let text = format!("{}{{\"{}{end}\":{{}},\"refs\":5}}", " ".repeat(blanks), "a".repeat(letters));
                    let fault = walk(&text, &mut ()).unwrap_err();
                    assert_eq!(fault, Fault { rule: "`refs` must be a list or null", at: text.len() - 2 }, "{text}");
                }
            }
        }
    }

    #[test]
    fn text_that_is_not_json_does_not_panic() {
        for text in [
            "",
            "{",
            "{\"",
            "{\"\\",
            "{\"refs",
            "{\"refs\":[",
            "{\"refs\":[{",
            "{\"x\":[",
            "{\"x\"",
            "{\"x\":}",
            "[",
            "}",
        ] {
            assert!(walk(text, &mut ()).is_err(), "{text}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_found() {
        assert_eq!(lone_surrogate(r#""\ud83d\ude00\\ud800\n\u00e9é""#), None);
        assert_eq!(lone_surrogate(r#""é\ud83d""#), Some(3));
        assert_eq!(lone_surrogate(r#""\ude00\ud83d""#), Some(1));
        assert_eq!(lone_surrogate(r#""\ud83d\u0041""#), Some(1));
        assert_eq!(lone_surrogate("\"\\"), None);
    }
}
