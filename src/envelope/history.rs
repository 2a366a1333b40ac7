//! Where a message came from.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::cursor::{HALF, lone_surrogate};
use super::decode::{bounded, fault, within};
use super::raw::raw_of_checked;
use super::walk::{Levels, Shape, walk};
use super::{MAX_HISTORY_DEPTH, Ref};
use crate::error::{Error, Result};

/// The history of a message as the JSON text that its producer wrote: never parsed into a tree, passed on byte for byte.
///
/// Cloning shares the text. A history comes from an envelope or out of a [`Ref`]'s JSON:
///
/// ```
/// use kafka_envelope::History;
///
/// let json = r#"{"svc":"shop","dt":"2026-01-02T03:04:05+00:00","refs":[]}"#;
/// let history: History = serde_json::from_str(json)?;
/// assert_eq!(history.depth(), 1);
/// assert_eq!(history.stage()?.service, "shop");
/// assert_eq!(history.as_json(), json);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct History(Arc<Checked>);

struct Checked {
    text: Box<RawValue>,
    /// Beyond the limits of an envelope.
    too_long: bool,
}

impl History {
    /// From a text that [`super::decode_raw`] let through, so it is well built and within the limits.
    pub(crate) fn from_checked(text: &RawValue) -> Self {
        Self(Arc::new(Checked { text: text.to_owned(), too_long: false }))
    }

    /// The same from a text that a [`Decoded`](super::Decoded) has.
    pub(crate) fn from_checked_text(text: &str) -> Option<Self> {
        raw_of_checked(text).map(Self::from_checked)
    }

    fn new(text: Box<RawValue>) -> Result<Self, serde_json::Error> {
        // No line and column: the deserializer around this one knows them.
        let error = |rule, at| serde_json::Error::custom(format_args!("{rule}, at byte {at} of the history"));
        if let Some(at) = lone_surrogate(text.get()) {
            return Err(error(HALF, at));
        }
        let shape = walk(text.get(), &mut ()).map_err(|fault| error(fault.rule, fault.at))?;
        Ok(Self(Arc::new(Checked { text, too_long: shape.too_long() })))
    }

    /// The JSON text, as it was written.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.text.get()
    }

    /// How many levels the longest branch has: 1 for a message made from nothing.
    ///
    /// Old data may hold one object where a list of refs belongs. Such a history counts as too long: at least
    /// [`MAX_HISTORY_DEPTH`].
    #[must_use]
    pub fn depth(&self) -> usize {
        // The text was walked before, so the walk has no fault.
        let shape = walk(self.as_json(), &mut ()).unwrap_or_default();
        match shape {
            Shape { depth, legacy: true, .. } => depth.max(MAX_HISTORY_DEPTH),
            Shape { depth, .. } => depth,
        }
    }

    /// Whether a reader would drop it, so that it is not worth writing.
    pub(super) fn is_too_long(&self) -> bool {
        self.0.too_long
    }

    /// The last stage: who made the message, when, and from which messages. Their own histories stay text.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] where `svc` or `dt` is missing or `dt` is not RFC 3339, with line and column in this history's text.
    pub fn stage(&self) -> Result<Stage> {
        #[derive(serde::Deserialize)]
        struct Level<'a> {
            svc: String,
            #[serde(borrow)]
            dt: &'a RawValue,
            #[serde(borrow)]
            refs: Option<&'a RawValue>,
        }
        #[derive(serde::Deserialize)]
        struct Source<'a> {
            topic: String,
            partition: i32,
            offset: i64,
            key: Option<String>,
            #[serde(borrow)]
            hist: Option<&'a RawValue>,
        }

        let text = self.as_json();
        let level: Level<'_> = serde_json::from_str(text).map_err(decode_error)?;
        // One object instead of a list is cut off, as in an envelope.
        let list = level.refs.map(RawValue::get).filter(|json| json.starts_with('['));
        let sources: Vec<Source<'_>> = match list {
            Some(list) => serde_json::from_str(list).map_err(|error| decode_error(within(text, list, error)))?,
            None => Vec::new(),
        };
        let own = |json: &RawValue| {
            if self.0.too_long { Self::new(json.to_owned()) } else { Ok(Self::from_checked(json)) }
        };
        let refs = sources.into_iter().map(|source| {
            let history = source.hist.map(own).transpose().map_err(decode_error)?;
            let Source { topic, partition, offset, key, .. } = source;
            Ok(Ref { topic, partition, offset, key, history })
        });
        Ok(Stage { service: level.svc, at: time(text, level.dt.get())?, refs: refs.collect::<Result<_>>()? })
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.as_json();
        match text.char_indices().nth(60) {
            Some((end, _)) => write!(f, "History({}… {} bytes)", &text[..end], text.len()),
            None => write!(f, "History({text})"),
        }
    }
}

impl PartialEq for History {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

impl Eq for History {}

impl Serialize for History {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.text.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for History {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Box::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// One level of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The service that made the message.
    pub service: String,
    /// When it did.
    pub at: DateTime<FixedOffset>,
    /// The messages it was made from.
    pub refs: Vec<Ref>,
}

/// How long each stage of a message's way took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latencies {
    /// Each service, oldest first, and the time from the end of the one before to its own end.
    pub stages: Vec<(String, TimeDelta)>,
    /// From the end of the first service to now.
    pub total: TimeDelta,
}

/// How long the stages took on the way of the message `from` to `this_service`, which ends its own stage `now`.
///
/// The way leads back from the message's history through the ref whose history is the latest, down to the oldest ancestor. With a
/// `target` it starts just before the first stage of that service; where there is no such stage, the result is empty. The
/// first service has no latency of its own, consecutive stages of one service are one. Clocks differ and jump: what would
/// be negative is zero.
///
/// # Errors
///
/// [`Error::Decode`] where a `svc` or `dt` on that way is missing or cannot be read, with line and column in the history's text.
///
/// ```
/// use kafka_envelope::{Ref, stage_latencies};
///
/// let order: Ref = serde_json::from_str(r#"{"topic": "orders", "partition": 0, "offset": 1, "hist":
///     {"svc": "orders", "dt": "2026-01-02T03:04:08Z", "refs": [{"topic": "carts", "partition": 0, "offset": 1, "hist":
///     {"svc": "shop", "dt": "2026-01-02T03:04:05Z", "refs": []}}]}}"#)?;
/// let now = "2026-01-02T03:04:10Z".parse()?;
/// let latencies = stage_latencies("billing", &order, None, now)?;
/// assert_eq!(latencies.total.num_seconds(), 5);
/// assert_eq!(latencies.stages.iter().map(|(_, took)| took.num_seconds()).collect::<Vec<_>>(), [3, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn stage_latencies(this_service: &str, from: &Ref, target: Option<&str>, now: DateTime<Utc>) -> Result<Latencies> {
    let mut way = match &from.history {
        Some(history) => way(history.as_json())?,
        None => Vec::new(),
    };
    if let Some(target) = target {
        match way.iter().position(|(service, _)| service == target) {
            Some(first) => drop(way.drain(..first.saturating_sub(1))),
            None => way.clear(),
        }
    }
    let Some((_, start)) = way.first().cloned() else {
        return Ok(Latencies { stages: Vec::new(), total: TimeDelta::zero() });
    };
    way.push((Cow::Borrowed(this_service), now.fixed_offset()));
    let mut stages: Vec<(String, TimeDelta)> = Vec::new();
    // The end of the service before the one that is being added up.
    let mut before = start;
    let mut end = start;
    for (service, at) in way.into_iter().skip(1) {
        match stages.last_mut() {
            Some((last, took)) if *last == service => *took = since(at, before),
            _ => {
                before = end;
                stages.push((service.into_owned(), since(at, before)));
            }
        }
        end = at;
    }
    Ok(Latencies { stages, total: since(now.fixed_offset(), start) })
}

fn since(end: DateTime<FixedOffset>, start: DateTime<FixedOffset>) -> TimeDelta {
    end.signed_duration_since(start).max(TimeDelta::zero())
}

/// Services and their ends, oldest first, through the latest ref of each level.
fn way(text: &str) -> Result<Vec<(Cow<'_, str>, DateTime<FixedOffset>)>> {
    let mut nodes = Nodes::default();
    walk(text, &mut nodes).map_err(|found| decode_error(fault(text, found.at, found.rule)))?;
    let nodes = nodes.list;
    let at = |index: usize| match nodes.get(index).and_then(|node| node.time.clone()) {
        Some(range) => time(text, &text[range]),
        None => Err(decode_error(serde_json::Error::missing_field("dt"))),
    };
    let mut way = Vec::new();
    let mut next = if nodes.is_empty() { None } else { Some((0, at(0)?)) };
    while let Some((index, end)) = next.take() {
        let service = match &nodes[index].service {
            Some(range) => {
                let json = &text[range.clone()];
                let service: Text<'_> =
                    serde_json::from_str(json).map_err(|error| decode_error(within(text, json, error)))?;
                service.0
            }
            None => return Err(decode_error(serde_json::Error::missing_field("svc"))),
        };
        way.push((service, end));
        let mut child = nodes[index].first_child;
        while let Some(index) = child {
            let end = at(index)?;
            if next.is_none_or(|(_, latest)| end > latest) {
                next = Some((index, end));
            }
            child = nodes[index].next_sibling;
        }
    }
    way.reverse();
    Ok(way)
}

/// A text that is borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The levels of a history as a flat list, because a tree would be dropped by recursion.
#[derive(Default)]
struct Nodes {
    list: Vec<Node>,
    open: Vec<usize>,
}

#[derive(Default)]
struct Node {
    service: Option<Range<usize>>,
    time: Option<Range<usize>>,
    first_child: Option<usize>,
    last_child: Option<usize>,
    next_sibling: Option<usize>,
}

impl Nodes {
    fn current(&mut self) -> Option<&mut Node> {
        self.open.last().and_then(|index| self.list.get_mut(*index))
    }
}

impl Levels for Nodes {
    fn enter(&mut self) {
        let index = self.list.len();
        self.list.push(Node::default());
        if let Some(parent) = self.current() {
            let before = parent.last_child.replace(index);
            match before {
                Some(before) => self.list[before].next_sibling = Some(index),
                None => parent.first_child = Some(index),
            }
        }
        self.open.push(index);
    }

    fn service(&mut self, json: Range<usize>) {
        if let Some(node) = self.current() {
            node.service = Some(json);
        }
    }

    fn time(&mut self, json: Range<usize>) {
        if let Some(node) = self.current() {
            node.time = Some(json);
        }
    }

    fn leave(&mut self) {
        self.open.pop();
    }
}

fn decode_error(error: serde_json::Error) -> Error {
    Error::Decode { source: bounded(error) }
}

/// The time in `json`, a part of `text`.
fn time(text: &str, json: &str) -> Result<DateTime<FixedOffset>> {
    let spelled: Text<'_> = serde_json::from_str(json).map_err(|error| decode_error(within(text, json, error)))?;
    DateTime::parse_from_rfc3339(&spelled.0).map_err(|error| {
        let at = (json.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        decode_error(fault(text, at, format_args!("`dt` is not RFC 3339: {error}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(json: &str) -> History {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn one_object_instead_of_refs_is_too_long() {
        let legacy = history(r#"{"svc":"s","dt":"2018-01-01T00:00:00Z","refs":{"topic":"t"}}"#);
        assert_eq!((legacy.depth(), legacy.is_too_long()), (MAX_HISTORY_DEPTH, true));
        assert_eq!(legacy.stage().unwrap().refs, []);
    }

    #[test]
    fn debug_is_short() {
        let long = history(&format!(r#"{{"svc":"{}"}}"#, "é".repeat(1000)));
        let text = format!("{long:?}");
        assert!(text.starts_with("History({\"svc\":\"é") && text.ends_with("… 2010 bytes)"), "{text}");
        assert_eq!(format!("{:?}", history("{}")), "History({})");
    }

    #[test]
    fn a_wrong_structure_is_refused_with_its_place() {
        let error = serde_json::from_str::<History>(r#"{"refs":[{"topic":"t"}]}"#).unwrap_err();
        assert!(error.to_string().starts_with("a ref without `partition`, at byte 21 of the history"), "{error}");
        assert!(serde_json::from_str::<History>("null").is_err());
        assert!(serde_json::from_value::<History>(serde_json::json!({"refs": [5]})).is_err());
    }

    #[test]
    fn a_stage_needs_service_and_time() {
        for (json, rule) in [
            ("{}", "missing field `svc`"),
            (r#"{"svc":"s"}"#, "missing field `dt`"),
            (r#"{"svc":"s","dt":5}"#, "invalid type: integer `5`, expected a string at line 1 column 17"),
            (r#"{"svc":"s","dt":"yesterday"}"#, "`dt` is not RFC 3339"),
        ] {
            let history = history(json);
            let error = history.stage().unwrap_err().to_string();
            assert!(error.contains(rule), "{json}: {error}");
            let from = Ref { history: Some(history), ..Ref::new("t", 0, 0) };
            assert!(stage_latencies("s", &from, None, Utc::now()).is_err(), "{json}");
        }
    }

    #[test]
    fn a_clock_that_jumped_back_gives_no_negative_latency() {
        let json = r#"{"svc":"b","dt":"2026-01-01T00:00:00Z","refs":[{"topic":"t","partition":0,"offset":0,
            "hist":{"svc":"a","dt":"2026-01-01T01:00:00Z"}}]}"#;
        let from = Ref { history: Some(history(json)), ..Ref::new("t", 0, 0) };
        let latencies = stage_latencies("c", &from, None, "2026-01-01T00:00:09Z".parse().unwrap()).unwrap();
        let seconds: Vec<_> = latencies.stages.iter().map(|(name, took)| (&**name, took.num_seconds())).collect();
        assert_eq!((seconds, latencies.total), (vec![("b", 0), ("c", 9)], TimeDelta::zero()));
    }
}
