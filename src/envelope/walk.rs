//! One pass over a history's text: is it built as a history is, and how deep and wide is it?
//!
//! The same pass sees whether it is JSON. Open levels wait on a heap stack, because histories nest deeper than a thread's
//! stack could follow.

use std::ops::Range;

use super::cursor::{BROKEN, Cursor, Fault};
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

    /// A bit of [`Open::seen`]. Unknown keys may repeat.
    const fn bit(self) -> u8 {
        match self {
            Self::Unknown => 0,
            known => 1 << (known as u8),
        }
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
    has_members: bool,
    seen: u8,
    refs: u32,
}

impl Open {
    const LEVEL: Self = Self { is_ref: false, has_members: false, seen: 0, refs: 0 };
    const REF: Self = Self { is_ref: true, has_members: false, seen: 0, refs: 0 };

    const USUAL_LEVEL: u8 = Member::Svc.bit() | Member::Dt.bit() | Member::Refs.bit();
    const USUAL_REF: u8 =
        Member::Topic.bit() | Member::Partition.bit() | Member::Offset.bit() | Member::Key.bit() | Member::Hist.bit();

    /// What a ref may not close without.
    fn missing(self) -> Option<&'static str> {
        if !self.is_ref {
            return None;
        }
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

/// Walks through `text`.
pub(super) fn walk<L: Levels>(text: &str, levels: &mut L) -> Result<Shape, Fault> {
    let mut cursor = Cursor::new(text);
    let shape = walk_from(&mut cursor, levels)?;
    if cursor.is_at_end() { Ok(shape) } else { Err(cursor.fault(BROKEN)) }
}

/// Walks through the history that starts at the cursor, and moves that to its end.
pub(super) fn walk_from<L: Levels>(cursor: &mut Cursor<'_>, levels: &mut L) -> Result<Shape, Fault> {
    if cursor.token() != b'{' {
        return Err(cursor.fault("`hist` must be an object or null"));
    }
    let mut walk = Walk {
        cursor,
        levels,
        shape: Shape { depth: 1, ..Shape::default() },
        depth: 1,
        current: Open::LEVEL,
        outer: Vec::new(),
    };
    let mut step = Step::Level;
    loop {
        step = match step {
            Step::Level => walk.open_level()?,
            Step::Ref => walk.open_ref()?,
            Step::Member => match walk.cursor.token() {
                b'}' => match walk.close()? {
                    Some(step) => step,
                    None => return Ok(walk.shape),
                },
                b',' if walk.current.has_members => {
                    walk.cursor.at += 1;
                    if walk.cursor.token() != b'"' {
                        return Err(walk.cursor.fault(BROKEN));
                    }
                    walk.member()?
                }
                b'"' if !walk.current.has_members => walk.member()?,
                _ => return Err(walk.cursor.fault(BROKEN)),
            },
        }
    }
}

/// What comes next: the brace of a level, that of a ref, or within either a member or the end.
enum Step {
    Level,
    Ref,
    Member,
}

struct Walk<'c, 't, 'l, L> {
    cursor: &'c mut Cursor<'t>,
    levels: &'l mut L,
    shape: Shape,
    depth: usize,
    current: Open,
    /// What `current` is in.
    outer: Vec<Open>,
}

impl<L: Levels> Walk<'_, '_, '_, L> {
    /// Moves past the brace of a level, and past what a level usually has.
    fn open_level(&mut self) -> Result<Step, Fault> {
        self.cursor.at += 1;
        self.current = Open::LEVEL;
        self.levels.enter();
        let start = self.cursor.at;
        let Some((service, time)) = usual_level(self.cursor) else {
            self.cursor.at = start;
            return Ok(Step::Member);
        };
        self.levels.service(service);
        self.levels.time(time);
        self.current.has_members = true;
        self.current.seen = Open::USUAL_LEVEL;
        Ok(self.refs())
    }

    /// Moves past the first bracket of a list of refs, and past the other of an empty one.
    fn refs(&mut self) -> Step {
        self.cursor.at += 1;
        if self.cursor.token() != b']' {
            return Step::Ref;
        }
        self.cursor.at += 1;
        Step::Member
    }

    /// Moves past the brace of a ref, and past what a ref usually has.
    fn open_ref(&mut self) -> Result<Step, Fault> {
        if self.cursor.token() != b'{' {
            return Err(self.cursor.fault("an entry of `refs` must be an object"));
        }
        self.cursor.at += 1;
        self.current.refs = self.current.refs.saturating_add(1);
        self.outer.push(self.current);
        self.current = Open::REF;
        let start = self.cursor.at;
        if usual_ref(self.cursor).is_none() {
            self.cursor.at = start;
            return Ok(Step::Member);
        }
        self.current.has_members = true;
        self.current.seen = Open::USUAL_REF;
        self.history()
    }

    /// Moves past a ref's history that is null, or to one that is a level.
    fn history(&mut self) -> Result<Step, Fault> {
        match self.cursor.token() {
            b'{' => {
                self.depth += 1;
                self.shape.depth = self.shape.depth.max(self.depth);
                self.outer.push(self.current);
                Ok(Step::Level)
            }
            b'n' => self.cursor.skip().map(|_| Step::Member),
            _ => Err(self.cursor.fault("`hist` of a ref must be an object or null")),
        }
    }

    /// Moves past the brace that closes `current`. None: that was the outermost.
    fn close(&mut self) -> Result<Option<Step>, Fault> {
        if let Some(rule) = self.current.missing() {
            return Err(self.cursor.fault(rule));
        }
        self.cursor.at += 1;
        let was_ref = self.current.is_ref;
        if !was_ref {
            self.levels.leave();
            self.shape.widest = self.shape.widest.max(self.current.refs as usize);
            self.depth -= 1;
        }
        let Some(parent) = self.outer.pop() else { return Ok(None) };
        self.current = parent;
        if !was_ref {
            return Ok(Some(Step::Member));
        }
        let step = match self.cursor.token() {
            b',' => Step::Ref,
            b']' => Step::Member,
            _ => return Err(self.cursor.fault(BROKEN)),
        };
        self.cursor.at += 1;
        Ok(Some(step))
    }

    /// Moves past the key that starts at the cursor, and past its value or to within that.
    fn member(&mut self) -> Result<Step, Fault> {
        let Self { cursor, levels, shape, current, .. } = self;
        current.has_members = true;
        let start = cursor.at;
        let key = key(cursor, current.is_ref)?;
        if current.seen & key.bit() != 0 {
            return Err(Fault { rule: key.duplicate(), at: start });
        }
        current.seen |= key.bit();
        cursor.expect(b':')?;
        let first = cursor.token();
        match key {
            Member::Svc => levels.service(cursor.skip()?),
            Member::Dt => levels.time(cursor.skip()?),
            Member::Refs if first == b'[' => return Ok(self.refs()),
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
            Member::Hist => return self.history(),
            _ => cursor.skip().map(drop)?,
        }
        Ok(Step::Member)
    }
}

/// Moves past `"svc":…,"dt":…,"refs":`, which this crate and the Python library begin a level with, and gives what stands
/// there. A list starts at the cursor then.
#[inline]
fn usual_level(cursor: &mut Cursor<'_>) -> Option<(Range<usize>, Range<usize>)> {
    let service = usual_text(cursor, b"\"svc\":")?;
    let time = usual_text(cursor, b"\"dt\":")?;
    (cursor.eat_key(b"\"refs\":") && cursor.token() == b'[').then_some((service, time))
}

/// Moves past `"topic":…,"partition":…,"offset":…,"key":…,"hist":`, which is what they begin a ref with.
#[inline]
fn usual_ref(cursor: &mut Cursor<'_>) -> Option<()> {
    usual_text(cursor, b"\"topic\":")?;
    for key in [&b"\"partition\":"[..], b"\"offset\":"] {
        (cursor.eat_key(key) && cursor.digits() && cursor.eat(b",")).then_some(())?;
    }
    if !cursor.eat_key(b"\"key\":") {
        return None;
    }
    if !(cursor.eat(b"null,")) {
        cursor.token_text()?;
        cursor.expect(b',').ok()?;
    }
    cursor.eat_key(b"\"hist\":").then_some(())
}

/// Moves past this key, its text and a comma.
#[inline]
fn usual_text(cursor: &mut Cursor<'_>, key: &[u8]) -> Option<Range<usize>> {
    if !cursor.eat_key(key) {
        return None;
    }
    let text = cursor.token_text()?;
    cursor.expect(b',').ok()?;
    Some(text)
}

/// Moves past the key that starts at the cursor.
fn key(cursor: &mut Cursor<'_>, is_ref: bool) -> Result<Member, Fault> {
    let start = cursor.at;
    let escapes = cursor.text()?;
    let known = if is_ref { Member::of_ref } else { Member::of_level };
    let quoted = start..cursor.at;
    if !escapes {
        return Ok(known(cursor.bytes(quoted.start + 1..quoted.end - 1)));
    }
    Ok(cursor.name(quoted).map_or(Member::Unknown, |name| known(name.as_bytes())))
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
    fn text_that_is_not_json_is_no_history() {
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
            "{,}",
            "{}}",
            "{\"x\":1,}",
            "{\"x\":1 \"y\":1}",
            "{\"x\":01}",
            "{\"x\":nul}",
            "{\"x\":\"\t\"}",
            "{\"x\":\"\\x\"}",
            "{\"x\":\"\\u12g4\"}",
            "{\"x\":\"\\ud800\"}",
            "{\"refs\":[,]}",
            "{\"refs\":[{\"topic\":\"\",\"partition\":0,\"offset\":0},]}",
            "{\"refs\":[{\"topic\":\"\",\"partition\":0,\"offset\":0}{}]}",
            "{\"refs\":[{\"topic\":\"\",\"partition\":0,\"offset\":0}],}",
            "{\"refs\":[{\"topic\":\"\",\"partition\":00,\"offset\":0}]}",
        ] {
            assert!(walk(text, &mut ()).is_err(), "{text}");
        }
    }
}
