//! Goes through a text by JSON's rules, token by token: what it moved past is JSON.

use std::ops::Range;

use serde::de::{Deserialize, IgnoredAny};
use serde_json::value::RawValue;

use super::raw::raw_of_checked;

/// What does not go on as JSON does.
pub(super) const BROKEN: &str = "not valid JSON";

/// Which rule a text breaks, and at which byte.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fault {
    pub(super) rule: &'static str,
    pub(super) at: usize,
}

pub(super) struct Cursor<'a> {
    text: &'a str,
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn fault(&self, rule: &'static str) -> Fault {
        Fault { rule, at: self.at }
    }

    /// What the cursor has not passed yet.
    #[inline]
    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    #[inline]
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// The next byte that is not a blank, which the cursor then stands on; 0 at the end.
    #[inline]
    pub(super) fn token(&mut self) -> u8 {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
        self.peek()
    }

    /// Whether nothing but blanks is left.
    pub(super) fn is_at_end(&mut self) -> bool {
        self.token() == 0 && self.at == self.text.len()
    }

    /// Moves past blanks and this byte.
    #[inline]
    pub(super) fn expect(&mut self, wanted: u8) -> Result<(), Fault> {
        if self.token() != wanted {
            return Err(self.fault(BROKEN));
        }
        self.at += 1;
        Ok(())
    }

    /// Moves past blanks, these bytes and more blanks, where they stand here.
    #[inline(always)]
    pub(super) fn eat_key(&mut self, wanted: &[u8]) -> bool {
        self.token();
        let found = self.eat(wanted);
        self.token();
        found
    }

    /// Moves past the text that starts here, and gives its place; nothing else starts here.
    #[inline]
    pub(super) fn token_text(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        (self.peek() == b'"').then_some(())?;
        self.text().ok()?;
        Some(start..self.at)
    }

    /// Moves past a small number of digits only, fewer than the longest 32-bit integer has: there is nothing to check.
    #[inline]
    pub(super) fn digits(&mut self) -> bool {
        let rest = self.rest();
        let digits = rest.iter().take(10).take_while(|byte| byte.is_ascii_digit()).count();
        let is_usual = (1..10).contains(&digits) && (rest[0] != b'0' || digits == 1);
        self.at += if is_usual { digits } else { 0 };
        is_usual && matches!(self.peek(), b',' | b'}')
    }

    /// Moves past these bytes, where they stand here.
    #[inline(always)]
    pub(super) fn eat(&mut self, wanted: &[u8]) -> bool {
        let found = self.rest().starts_with(wanted);
        self.at += if found { wanted.len() } else { 0 };
        found
    }

    /// Moves past the text that starts here, and says whether it has escapes.
    #[inline]
    pub(super) fn text(&mut self) -> Result<bool, Fault> {
        let bytes = self.text.as_bytes();
        let mut at = self.at + 1;
        let mut escapes = false;
        loop {
            // Most of a history is within texts, so eight bytes at a time.
            let byte = loop {
                let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) else {
                    break bytes.get(at).copied();
                };
                let found = ends_or_breaks(u64::from_le_bytes(*eight));
                if found != 0 {
                    at += found.trailing_zeros() as usize / 8;
                    break Some(bytes[at]);
                }
                at += 8;
            };
            match byte {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(escapes);
                }
                Some(b'\\') => {
                    escapes = true;
                    self.at = at;
                    self.escape()?;
                    at = self.at;
                }
                Some(..0x20) => return Err(Fault { rule: BROKEN, at }),
                Some(_) => at += 1,
                None => return Err(self.fault(BROKEN)),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let rest = self.rest();
        self.at += match (rest.get(1), unit(rest)) {
            (Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't'), _) => 2,
            (_, Some(0xD800..=0xDBFF)) if matches!(rest.get(6..).and_then(unit), Some(0xDC00..=0xDFFF)) => 12,
            (_, Some(0xD800..=0xDFFF)) => return Err(self.fault(HALF)),
            (_, Some(_)) => 6,
            _ => return Err(self.fault(BROKEN)),
        };
        Ok(())
    }

    pub(super) fn bytes(&self, range: Range<usize>) -> &'a [u8] {
        self.text.as_bytes().get(range).unwrap_or_default()
    }

    /// The text that stands here, without its escapes.
    pub(super) fn name(&self, range: Range<usize>) -> Option<String> {
        serde_json::from_str(self.text.get(range)?).ok()
    }

    /// Moves past the value that starts here, and gives what serde makes of it.
    pub(super) fn value<T: Deserialize<'a>>(&mut self) -> Result<T, Fault> {
        let fault = self.fault(BROKEN);
        let rest = self.text.get(self.at..).ok_or(fault)?;
        let mut values = serde_json::Deserializer::from_str(rest).into_iter();
        let value = values.next().and_then(Result::ok).ok_or(fault)?;
        let (passed, _) = rest.split_at_checked(values.byte_offset()).ok_or(fault)?;
        if let Some(at) = lone_surrogate(passed) {
            return Err(Fault { rule: HALF, at: self.at + at });
        }
        self.at += passed.len();
        Ok(value)
    }

    /// Moves past the value that starts here, and gives its text.
    pub(super) fn raw(&mut self) -> Result<&'a RawValue, Fault> {
        let fault = self.fault(BROKEN);
        let range = self.skip()?;
        self.text.get(range).and_then(raw_of_checked).ok_or(fault)
    }

    /// Moves past the value that starts here, however deep it is. What follows it is for the caller to check: of `01` the `0` is
    /// passed.
    pub(super) fn skip(&mut self) -> Result<Range<usize>, Fault> {
        self.token();
        let start = self.at;
        // How many brackets are open, and of which kind, the innermost in the lowest bit: 1 for an object, 0 for a list.
        let (mut open, mut objects) = (0, 0_u64);
        loop {
            match self.token() {
                b'"' => self.text().map(drop)?,
                b'{' | b'[' if open == u64::BITS => self.value::<IgnoredAny>().map(drop)?,
                first @ (b'{' | b'[') => {
                    self.at += 1;
                    let is_object = first == b'{';
                    if self.token() == closing(is_object) {
                        self.at += 1;
                    } else {
                        open += 1;
                        objects = objects << 1 | u64::from(is_object);
                        self.key_of(is_object)?;
                        continue;
                    }
                }
                b'-' | b'0'..=b'9' => self.number()?,
                first => self.word(first)?,
            }
            // The value is passed, and with it what ends here.
            loop {
                if open == 0 {
                    return Ok(start..self.at);
                }
                let is_object = objects & 1 == 1;
                let next = self.token();
                if next == b',' {
                    self.at += 1;
                    self.key_of(is_object)?;
                    break;
                }
                if next != closing(is_object) {
                    return Err(self.fault(BROKEN));
                }
                self.at += 1;
                open -= 1;
                objects >>= 1;
            }
        }
    }

    /// Moves past the key and the colon of an object's next member; a list's has none.
    #[inline]
    fn key_of(&mut self, is_object: bool) -> Result<(), Fault> {
        if !is_object {
            return Ok(());
        }
        if self.token() != b'"' {
            return Err(self.fault(BROKEN));
        }
        self.text()?;
        self.expect(b':')
    }

    /// Moves past the number that starts here.
    #[inline]
    fn number(&mut self) -> Result<(), Fault> {
        self.eat(b"-");
        if !self.eat(b"0") {
            self.some_digits()?;
        }
        if self.eat(b".") {
            self.some_digits()?;
        }
        if self.eat(b"e") || self.eat(b"E") {
            let _ = self.eat(b"+") || self.eat(b"-");
            self.some_digits()?;
        }
        Ok(())
    }

    /// Moves past digits, at least one.
    #[inline]
    fn some_digits(&mut self) -> Result<(), Fault> {
        let before = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        if self.at == before { Err(self.fault(BROKEN)) } else { Ok(()) }
    }

    /// Moves past `true`, `false` or `null`.
    fn word(&mut self, first: u8) -> Result<(), Fault> {
        let is_there = match first {
            b't' => self.eat(b"true"),
            b'f' => self.eat(b"false"),
            _ => self.eat(b"null"),
        };
        if is_there { Ok(()) } else { Err(self.fault(BROKEN)) }
    }

    /// Moves past an integer that an `N` can hold.
    pub(super) fn integer<N: std::str::FromStr>(&mut self, rule: &'static str) -> Result<(), Fault> {
        let fault = self.fault(rule);
        if self.digits() {
            return Ok(());
        }
        self.at = fault.at;
        let range = self.skip()?;
        let number = self.text.get(range).and_then(|text| text.parse::<N>().ok());
        number.map(drop).ok_or(fault)
    }
}

fn closing(is_object: bool) -> u8 {
    if is_object { b'}' } else { b']' }
}

/// The first `\uXXXX` of half a surrogate pair, in a text that is JSON otherwise.
///
/// serde_json only looks at the escapes of texts that it decodes, not of those that it keeps raw or skips.
pub(super) fn lone_surrogate(text: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = text.as_bytes().get(from..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        let at = from + found;
        let mut cursor = Cursor { text, at };
        match cursor.escape() {
            Err(fault) if fault.rule == HALF => return Some(at),
            // An escape of one letter, which is ASCII.
            Err(_) => from = at + 2,
            Ok(()) => from = cursor.at,
        }
    }
    None
}

/// Why half a surrogate pair is none.
pub(super) const HALF: &str = "half a surrogate pair in a text";

/// The UTF-16 unit of the `\uXXXX` that this starts with.
fn unit(rest: &[u8]) -> Option<u16> {
    let digits = rest.get(..6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)? as u16))
}

/// Not 0 where a byte of `word` is a quote, a backslash or a control character; the lowest bit that is set is then in the
/// first such byte.
#[inline]
fn ends_or_breaks(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // Sets the high bit of each byte below the limit; of bytes from 0x80 on it says nothing, and `!word` drops them. A borrow
    // reaches only higher bytes, where another was found below.
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit));
    // With this bit flipped a quote is 0x20, right after the control characters, which only change places.
    let quote_or_control = below(word ^ (ONES * 2), b'"' - 1);
    let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
    (quote_or_control | backslash) & !word & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_texts_are_found_among_all_bytes() {
        for place in 0..8 {
            for byte in 0..=u8::MAX {
                let mut bytes = *b"ab\xffd\x80f!#";
                bytes[place] = byte;
                let first = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20));
                let found = ends_or_breaks(u64::from_le_bytes(bytes));
                assert_eq!((found != 0).then_some(found.trailing_zeros() as usize / 8), first, "{bytes:?}");
            }
        }
    }

    #[test]
    fn a_value_is_passed_that_serde_passes() {
        let deep = |levels: usize| format!("{}7{}", r#"[{"a":"#.repeat(levels), "}]".repeat(levels));
        const TEXTS: &str = r#"
            0 -0 -1.5e+3 0.0E-9 12345678901234567890 1e5 true false null "" "\\\"" [] {} [1,"a",{"b":[],"c":{},"b":null}]
            {"é":"\u00e9\ud83d\ude00"} [[],[[]]]
            - 01 1. .5 1e 1e+ +1 tru nul nulll [ ] [1 [1, [1,] [,1] { } {"a" {"a": {"a":1,} {"a":} {1:2} {,"a":1} {"a":1"b":2} {"a"}
            [} {] ["a":1] [{"a":[}] "a "\x" "\u12" [1]] {}{} 'a' NaN "\ud83d" ["a\ude00"]
        "#;
        let mut texts: Vec<String> = TEXTS.split_ascii_whitespace().map(str::to_owned).collect();
        texts.extend(["", " [ 1 ,\n{ } , {\t\"a\" :\r2 } ] ", "[1 2]", r#"{"a" 1}"#, "\"\t\""].map(str::to_owned));
        // The cursor goes through 64 levels itself, beyond them serde does.
        for levels in [31, 32, 33, 34, 500] {
            texts.extend(["{}", r#""\ud83d""#].map(|inner| deep(levels).replace('7', inner)));
            let text = deep(levels);
            texts.extend([format!("{text},"), text[..text.len() - 1].to_owned(), text.replace("7}", "7]"), text]);
        }
        for text in &texts {
            let mut cursor = Cursor::new(text);
            let passed = cursor.raw().ok().filter(|_| cursor.is_at_end()).map(RawValue::get);
            let by_serde = serde_json::from_str::<&RawValue>(text).ok().filter(|_| lone_surrogate(text).is_none());
            assert_eq!(passed, by_serde.map(RawValue::get), "{text}");
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
