//! A tree of messages, for people and for machines.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use chrono::{DateTime, FixedOffset, SecondsFormat};
use kafka_envelope::{History, Ref, Stage};
use serde_json::{Value, json};

use crate::failure::Result;
use crate::output::Output;
use crate::trace::Place;

/// A message, and those that hang on it: its sources, or what was made of it.
pub(crate) struct Tree {
    place: Place,
    key: Option<String>,
    stage: Option<Stage>,
    /// None: it was not looked for.
    is_there: Option<bool>,
    /// What hangs on it is shown where it stands first.
    is_again: bool,
    below: Vec<Tree>,
}

impl Tree {
    pub(crate) fn new(place: Place, key: Option<String>, history: Option<&History>, is_there: Option<bool>) -> Self {
        Self {
            place,
            key,
            stage: history.and_then(|history| history.stage().ok()),
            is_there,
            is_again: false,
            below: Vec::new(),
        }
    }

    /// What `made` says was made of a message, of that, and so on.
    pub(crate) fn of_descendants(of: &Ref, made: &HashMap<Place, Vec<Ref>>) -> Self {
        Self::with_descendants(of, made, &mut HashSet::new())
    }

    fn with_descendants(of: &Ref, made: &HashMap<Place, Vec<Ref>>, shown: &mut HashSet<Place>) -> Self {
        let place = Place::of(of);
        let mut tree = Self::new(place.clone(), of.key.clone(), of.history.as_ref(), None);
        if !shown.insert(place.clone()) {
            return tree.again();
        }
        for message in made.get(&place).into_iter().flatten() {
            tree.below.push(Self::with_descendants(message, made, shown));
        }
        tree
    }

    /// The same once more.
    pub(crate) fn again(self) -> Self {
        Self { is_again: true, ..self }
    }

    /// The messages it was made from, for trees of their own.
    pub(crate) fn sources(&self) -> Vec<Ref> {
        self.stage.as_ref().map(|stage| stage.refs.clone()).unwrap_or_default()
    }

    pub(crate) fn push(&mut self, tree: Self) {
        self.below.push(tree);
    }

    /// How long after the latest of its sources it was made, in milliseconds.
    fn latency(&self) -> Option<i64> {
        let Stage { at, refs, .. } = self.stage.as_ref()?;
        let made = |source: &Ref| source.history.as_ref()?.stage().ok().map(|stage| stage.at);
        // What is found of a source may tell more than the history of what came of it.
        let is_source = |tree: &&Self| refs.iter().any(|source| Place::of(source) == tree.place);
        let found = self.below.iter().filter(is_source).filter_map(|tree| Some(tree.stage.as_ref()?.at));
        let latest: DateTime<FixedOffset> = refs.iter().filter_map(made).chain(found).max()?;
        Some(at.signed_duration_since(latest).num_milliseconds())
    }

    pub(crate) fn to_json(&self) -> Value {
        let Self { place, key, stage, is_there, is_again, below } = self;
        json!({
            "topic": place.topic,
            "partition": place.partition,
            "offset": place.offset,
            "id": key,
            "service": stage.as_ref().map(|stage| &stage.service),
            "at": stage.as_ref().map(|stage| stage.at.to_rfc3339_opts(SecondsFormat::Millis, true)),
            "latency_ms": self.latency(),
            "found": is_there,
            "again": is_again,
            "messages": below.iter().map(Self::to_json).collect::<Vec<_>>(),
        })
    }

    pub(crate) fn print(&self, output: &Output) -> Result {
        let mut lines = Vec::new();
        self.lines("", "", &mut lines);
        let width = lines.iter().map(|(head, _)| head.chars().count()).max().unwrap_or_default();
        for (head, rest) in lines {
            let gap = " ".repeat(width - head.chars().count());
            output.line(format!("{head}{gap}  {rest}").trim_end())?;
        }
        Ok(())
    }

    fn lines(&self, first: &str, next: &str, lines: &mut Vec<(String, String)>) {
        let Self { place, key, stage, is_there, is_again, below } = self;
        let key = key.as_ref().map(|key| format!(":{key}")).unwrap_or_default();
        let dim = Style::new().dimmed();
        let service = Style::new().fg_color(Some(AnsiColor::Cyan.into()));
        let mut rest = match stage {
            Some(stage) => {
                let at = stage.at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
                format!("{service}{}{service:#}  {dim}{at}{dim:#}", stage.service)
            }
            None => format!("{dim}no history{dim:#}"),
        };
        if let Some(latency) = self.latency() {
            let sign = if latency < 0 { '-' } else { '+' };
            let latency = Duration::from_millis(latency.unsigned_abs());
            rest += &if latency.is_zero() { "  +0s".into() } else { format!("  {sign}{latency:?}") };
        }
        if *is_there == Some(false) {
            rest += &format!("  {dim}gone{dim:#}");
        }
        if *is_again {
            rest += &format!("  {dim}as above{dim:#}");
        }
        lines.push((format!("{first}{place}{key}"), rest));
        for (index, tree) in below.iter().enumerate() {
            let (first, then) = if index + 1 == below.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            tree.lines(&format!("{next}{first}"), &format!("{next}{then}"), lines);
        }
    }
}
