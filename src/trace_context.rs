//! W3C Trace Context in records' headers: `traceparent` and `tracestate`, which go from a message to those made from it.
//!
//! Nothing here traces. What is no trace context is treated as if it were not there.

use std::str;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// `00-<trace id>-<span id>-<flags>`. Later versions may be longer.
const LENGTH: usize = 55;
/// The recommendation lets a longer one be dropped, and no message is to become too large by it.
const MOST: usize = 512;

/// The trace context of a record's headers, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traced<'a> {
    parent: &'a str,
    state: Option<&'a str>,
}

/// The same, kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    parent: Box<str>,
    state: Option<Box<str>>,
}

/// What a record that is to be sent says of a trace before anything is added.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Carried<'a> {
    Nothing,
    /// Whoever sends it has given it such headers, good or bad: they stay, and nothing is added.
    Given(#[cfg_attr(not(feature = "otel"), allow(dead_code))] Option<Traced<'a>>),
    /// Of what caused it.
    Caused(&'a TraceContext),
}

/// The last headers of the two names, as Kafka's own clients look them up.
fn values<'a>(headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> [Option<Option<&'a [u8]>>; 2] {
    let mut found = [None; 2];
    for (name, value) in headers {
        // Most headers are neither.
        match name {
            PARENT => found[0] = Some(value),
            STATE => found[1] = Some(value),
            _ => {}
        }
    }
    found
}

impl<'a> Traced<'a> {
    /// That of these headers, where it is one.
    pub(crate) fn of(headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> Option<Self> {
        let [parent, state] = values(headers);
        Self::checked(parent.flatten()?, state.flatten())
    }

    fn checked(parent: &'a [u8], state: Option<&'a [u8]>) -> Option<Self> {
        let is_version_0 = parent.starts_with(b"00");
        let is_long_enough = parent.len() == LENGTH || !is_version_0 && parent.get(LENGTH) == Some(&b'-');
        if !is_long_enough || parent.starts_with(b"ff") || !parent.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_id = |part: &[u8]| is_hex(part) && part.iter().any(|digit| *digit != b'0');
        let is_dashed = [2, 35, 52].iter().all(|place| parent[*place] == b'-');
        let is_whole =
            is_hex(&parent[..2]) && is_id(&parent[3..35]) && is_id(&parent[36..52]) && is_hex(&parent[53..55]);
        if !(is_dashed && is_whole) {
            return None;
        }
        let is_state = |state: &&[u8]| {
            let is_text = state.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
            is_text && !state.is_empty() && state.len() <= MOST
        };
        let state = state.filter(is_state).and_then(|state| str::from_utf8(state).ok());
        Some(Self { parent: str::from_utf8(parent).ok()?, state })
    }

    pub(crate) fn to_owned(self) -> TraceContext {
        TraceContext { parent: self.parent.into(), state: self.state.map(Into::into) }
    }
}

#[cfg(feature = "otel")]
impl<'a> Traced<'a> {
    /// 32 hexadecimal digits.
    pub(crate) fn trace_id(&self) -> &'a str {
        &self.parent[3..35]
    }

    /// 16 hexadecimal digits.
    pub(crate) fn span_id(&self) -> &'a str {
        &self.parent[36..52]
    }

    /// 2 hexadecimal digits.
    pub(crate) fn flags(&self) -> &'a str {
        &self.parent[53..55]
    }

    pub(crate) fn state(&self) -> Option<&'a str> {
        self.state
    }
}

impl TraceContext {
    /// From a `traceparent` and a `tracestate`, which may be empty.
    #[cfg(feature = "otel")]
    pub(crate) fn new(parent: String, state: String) -> Self {
        let state = Some(state).filter(|state| !state.is_empty());
        Self { parent: parent.into(), state: state.map(Into::into) }
    }

    #[cfg(feature = "otel")]
    pub(crate) fn as_traced(&self) -> Traced<'_> {
        Traced { parent: &self.parent, state: self.state.as_deref() }
    }

    /// None where there is none.
    pub(crate) fn headers(this: Option<&Self>) -> impl Iterator<Item = (&str, Option<&[u8]>)> + Clone {
        let parent = this.map(|context| (PARENT, Some(context.parent.as_bytes())));
        let state = this.and_then(|context| context.state.as_deref()).map(|state| (STATE, Some(state.as_bytes())));
        parent.into_iter().chain(state)
    }
}

impl<'a> Carried<'a> {
    /// What a record with these headers carries, and with what caused it.
    pub(crate) fn of(
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
        caused: Option<&'a TraceContext>,
    ) -> Self {
        match (values(headers), caused) {
            ([None, None], None) => Self::Nothing,
            ([None, None], Some(context)) => Self::Caused(context),
            ([parent, state], _) => {
                Self::Given(parent.flatten().and_then(|parent| Traced::checked(parent, state.flatten())))
            }
        }
    }
}

/// Whether a header of this name is part of a trace context.
#[cfg(feature = "app")]
pub(crate) fn is_name(name: &str) -> bool {
    matches!(name, PARENT | STATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn traced<'a>(parent: &'a [u8], state: Option<&'a [u8]>) -> Option<Traced<'a>> {
        Traced::of([("a", None), (PARENT, Some(parent)), (STATE, state)].into_iter())
    }

    #[test]
    fn what_is_no_trace_context_is_not_there() {
        assert_eq!(traced(GOOD.as_bytes(), None), Some(Traced { parent: GOOD, state: None }));
        let later = GOOD.replacen("00", "cc", 1);
        for good in [later.clone(), format!("{later}-more")] {
            assert_eq!(traced(good.as_bytes(), None).map(|traced| traced.parent), Some(&*good));
        }
        let bad = [
            String::new(),
            "00-1".into(),
            GOOD[1..].into(),
            format!("{GOOD}-more"),
            format!("{GOOD} "),
            format!("{later}x"),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace("-01", "-0g"),
            GOOD.replace('-', "_"),
            "ä".repeat(27) + "1",
        ];
        for bad in &bad {
            assert_eq!(traced(bad.as_bytes(), Some(b"a=1")), None, "{bad}");
        }
        assert_eq!(traced(&[255; 55], None), None);
        assert_eq!(Traced::of([(PARENT, None)].into_iter()), None);
        assert_eq!(Traced::of([(STATE, Some(&b"a=1"[..]))].into_iter()), None);
    }

    #[test]
    fn a_state_goes_along_where_it_is_a_text_of_some_length() {
        let state = |state: &[u8]| traced(GOOD.as_bytes(), Some(state)).and_then(|traced| traced.state.map(str::len));
        assert_eq!(state(b"a=1,b=2"), Some(7));
        assert_eq!(state(&[b'a'; MOST]), Some(MOST));
        for bad in [&b""[..], b"a\n", &[0xff], &[b'a'; MOST + 1]] {
            assert_eq!(state(bad), None);
        }
    }

    #[test]
    fn of_several_the_last_counts() {
        let other = GOOD.replace("00f067", "aaaaaa");
        let headers = [(PARENT, Some(other.as_bytes())), (PARENT, Some(GOOD.as_bytes()))];
        assert_eq!(Traced::of(headers.into_iter()).map(|traced| traced.parent), Some(GOOD));
    }

    #[test]
    fn what_was_given_stays_alone() {
        let caused = traced(GOOD.as_bytes(), None).map(Traced::to_owned).unwrap();
        let of = |name| Carried::of([(name, Some(&b"garbage"[..]))].into_iter(), Some(&caused));
        assert!(matches!(of(PARENT), Carried::Given(None)));
        assert!(matches!(of(STATE), Carried::Given(None)));
        assert!(matches!(of("other"), Carried::Caused(_)));
        assert!(matches!(Carried::of(std::iter::empty(), None), Carried::Nothing));
        let headers: Vec<_> = TraceContext::headers(Some(&caused)).collect();
        assert_eq!(headers, [(PARENT, Some(GOOD.as_bytes()))]);
    }
}
