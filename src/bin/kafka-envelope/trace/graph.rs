//! Messages and what they were made of, for people and for machines. Each stands there once, however many hang on it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use chrono::{DateTime, FixedOffset, SecondsFormat};
use kafka_envelope::{History, Ref};
use serde_json::{Value, json};

use crate::failure::Result;
use crate::output::Output;
use crate::trace::Place;

/// What stands behind a longer beginning of a line is not aligned.
const WIDEST: usize = 160;

/// A message.
pub(crate) struct Node {
    place: Place,
    key: Option<String>,
    /// Which service made it, and when.
    made: Option<(String, DateTime<FixedOffset>)>,
    /// When the latest of its sources was made, as its history tells.
    since: Option<DateTime<FixedOffset>>,
    /// How much history is known of it.
    known: usize,
    /// None: it was not looked for.
    pub(crate) is_there: Option<bool>,
    sources: Vec<usize>,
}

/// The first node is the message that was asked for.
#[derive(Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    by_place: HashMap<Place, usize>,
}

impl Graph {
    /// The message's node, which may be new.
    pub(crate) fn node(&mut self, of: &Ref) -> usize {
        let place = Place::of(of);
        if let Some(index) = self.by_place.get(&place) {
            return *index;
        }
        let index = self.nodes.len();
        self.by_place.insert(place.clone(), index);
        let key = of.key.clone();
        self.nodes.push(Node { place, key, made: None, since: None, known: 0, is_there: None, sources: Vec::new() });
        index
    }

    /// What a history tells of a node, where it tells more than what is known. Those are new: they are to be looked for.
    pub(crate) fn learn(&mut self, index: usize, history: &History, is_own: bool) -> Vec<Ref> {
        let mut found = Vec::new();
        let mut left = vec![(index, history.clone(), is_own)];
        while let Some((index, history, is_own)) = left.pop() {
            let known = if is_own { usize::MAX } else { history.as_json().len() };
            let Ok(stage) = history.stage() else { continue };
            let node = &mut self.nodes[index];
            if known <= node.known {
                continue;
            }
            node.known = known;
            node.made = Some((stage.service, stage.at));
            node.since = latest(&stage.refs);
            let mut sources = Vec::new();
            for source in stage.refs {
                let count = self.nodes.len();
                let index = self.node(&source);
                if !sources.contains(&index) {
                    sources.push(index);
                }
                if let Some(history) = source.history.clone() {
                    left.push((index, history, false));
                }
                if index == count {
                    found.push(source);
                }
            }
            self.nodes[index].sources = sources;
        }
        found
    }

    /// A message and its history, and that one of its sources is in the graph.
    pub(crate) fn made_of(&mut self, message: &Ref, source: &Ref) {
        let source = self.node(source);
        let index = self.node(message);
        if let Some(history) = &message.history {
            self.tell(index, history);
        }
        let node = &mut self.nodes[index];
        if !node.sources.contains(&source) {
            node.sources.push(source);
        }
    }

    /// Who made it and when, and nothing of its sources.
    pub(crate) fn tell(&mut self, index: usize, history: &History) {
        let node = &mut self.nodes[index];
        let Some(stage) = history.stage().ok().filter(|_| node.made.is_none()) else { return };
        node.since = latest(&stage.refs);
        node.made = Some((stage.service, stage.at));
    }

    pub(crate) fn find(&self, place: &Place) -> Option<usize> {
        self.by_place.get(place).copied()
    }

    /// How long after the latest of its sources it was made, in milliseconds.
    fn latency(&self, node: &Node) -> Option<i64> {
        let (_, at) = node.made.as_ref()?;
        // What is found of a source may tell more than the history of what came of it.
        let found = node.sources.iter().filter_map(|source| Some(self.nodes[*source].made.as_ref()?.1));
        let latest = found.chain(node.since).max()?;
        Some(at.signed_duration_since(latest).num_milliseconds())
    }

    pub(crate) fn to_json(&self) -> Value {
        let nodes = self.nodes.iter().map(|node| {
            let Node { place, key, made, is_there, sources, .. } = node;
            json!({
                "topic": place.topic,
                "partition": place.partition,
                "offset": place.offset,
                "id": key,
                "service": made.as_ref().map(|(service, _)| service),
                "at": made.as_ref().map(|(_, at)| at.to_rfc3339_opts(SecondsFormat::Millis, true)),
                "latency_ms": self.latency(node),
                "found": is_there,
                "sources": sources.iter().map(|source| self.nodes[*source].place.to_string()).collect::<Vec<_>>(),
            })
        });
        nodes.collect()
    }

    /// A tree of what each was made of.
    pub(crate) fn print_sources(&self, output: &Output) -> Result {
        let below: Vec<_> = self.nodes.iter().map(|node| node.sources.clone()).collect();
        self.print(&below, output)
    }

    /// A tree of what was made of each.
    pub(crate) fn print_made(&self, output: &Output) -> Result {
        let mut below = vec![Vec::new(); self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            node.sources.iter().for_each(|source| below[*source].push(index));
        }
        self.print(&below, output)
    }

    fn print(&self, below: &[Vec<usize>], output: &Output) -> Result {
        let mut lines = Vec::new();
        let mut shown = HashSet::new();
        let mut left = vec![(0, String::new(), String::new())];
        while let Some((index, first, next)) = left.pop() {
            let Node { place, key, .. } = &self.nodes[index];
            let key = key.as_ref().map(|key| format!(":{key}")).unwrap_or_default();
            let is_again = !shown.insert(index);
            lines.push((format!("{first}{place}{key}"), self.line(index, is_again)));
            let below = if is_again { &[] } else { &*below[index] };
            for (place, index) in below.iter().enumerate().rev() {
                let (first, then) = if place + 1 == below.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
                left.push((*index, format!("{next}{first}"), format!("{next}{then}")));
            }
        }
        let width = |head: &str| head.chars().count();
        let widest = lines.iter().map(|(head, _)| width(head)).filter(|width| *width <= WIDEST).max().unwrap_or(0);
        for (head, rest) in lines {
            let gap = " ".repeat(widest.saturating_sub(width(&head)));
            output.line(format!("{head}{gap}  {rest}").trim_end())?;
        }
        Ok(())
    }

    /// What stands behind the place.
    fn line(&self, index: usize, is_again: bool) -> String {
        let node = &self.nodes[index];
        let dim = Style::new().dimmed();
        let color = Style::new().fg_color(Some(AnsiColor::Cyan.into()));
        let mut line = match &node.made {
            Some((service, at)) => {
                let at = at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
                format!("{color}{service}{color:#}  {dim}{at}{dim:#}")
            }
            None => format!("{dim}no history{dim:#}"),
        };
        if let Some(latency) = self.latency(node) {
            let sign = if latency < 0 { '-' } else { '+' };
            let latency = Duration::from_millis(latency.unsigned_abs());
            line += &if latency.is_zero() { "  +0s".into() } else { format!("  {sign}{latency:?}") };
        }
        if node.is_there == Some(false) {
            line += &format!("  {dim}gone{dim:#}");
        }
        if is_again {
            line += &format!("  {dim}as above{dim:#}");
        }
        line
    }
}

/// When the latest of these was made.
fn latest(sources: &[Ref]) -> Option<DateTime<FixedOffset>> {
    sources.iter().filter_map(|source| source.history.as_ref()?.stage().ok().map(|stage| stage.at)).max()
}
