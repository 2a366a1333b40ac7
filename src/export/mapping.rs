//! Mappings: which fields of a message go where, compiled once.

use std::hash::{Hash, Hasher};

use serde_json::Value;
use serde_json::value::RawValue;

use crate::export::fields::Fields;

/// Into which half of a result a field goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Half {
    Data,
    Extra,
}

/// One entry of a mapping.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Entry {
    pub(super) half: Half,
    pub(super) target: Box<str>,
    /// Keys with dots between.
    pub(super) path: Box<str>,
}

/// A filter's mappings. Equal where they have the same entries, in whatever order.
#[derive(Debug)]
pub(super) struct Mapping {
    /// In the filter's order.
    entries: Box<[Entry]>,
    /// All their paths, so that each object on the way is looked at once.
    paths: Node,
}

/// What is one key further on the way.
#[derive(Debug, Default)]
struct Node {
    /// The entries whose paths end here.
    ends: Vec<u32>,
    keys: Vec<(Box<str>, Node)>,
}

/// What a path led to.
#[derive(Clone, Copy)]
enum Found<'a> {
    Missing,
    /// A key is asked of what is no map.
    NoMap,
    Value(&'a RawValue),
}

impl Mapping {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        let mut paths = Node::default();
        for (index, entry) in (0u32..).zip(&entries) {
            let mut node = &mut paths;
            for key in entry.path.split('.') {
                let place = node.keys.iter().position(|(found, _)| **found == *key).unwrap_or_else(|| {
                    node.keys.push((key.into(), Node::default()));
                    node.keys.len() - 1
                });
                node = &mut node.keys[place].1;
            }
            node.ends.push(index);
        }
        paths.shrink();
        Self { entries: entries.into(), paths }
    }

    /// The targets and values of a message, data and extra, in the mapping's order.
    ///
    /// # Errors
    /// The first entry that has no value, and why.
    pub(super) fn apply(
        &self,
        message: &Fields<'_>,
        ignore_missing: impl Fn(Half) -> bool,
    ) -> Result<Mapped<'_>, Fault> {
        let mut found = vec![Found::Missing; self.entries.len()];
        self.paths.look(message, &mut found);
        let mut mapped = Mapped::default();
        for (entry, found) in self.entries.iter().zip(found) {
            let fault = |reason: String| Fault { half: entry.half, target: Some(entry.target.clone()), reason };
            let path = &entry.path;
            let value = match found {
                Found::Value(raw) => serde_json::from_str(raw.get())
                    .map_err(|error| fault(format!("`{path}` cannot be read: {error}")))?,
                Found::Missing if ignore_missing(entry.half) => continue,
                Found::Missing => return Err(fault(format!("`{path}` is missing"))),
                Found::NoMap => return Err(fault(format!("`{path}` leads through what is no map"))),
            };
            match entry.half {
                Half::Data => mapped.data.push((&*entry.target, value)),
                Half::Extra => mapped.extra.push((&*entry.target, value)),
            }
        }
        Ok(mapped)
    }

    fn sorted(&self) -> Vec<&Entry> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_unstable();
        entries
    }
}

/// Targets and values.
#[derive(Debug, Default)]
pub(super) struct Mapped<'m> {
    pub(super) data: Vec<(&'m str, Value)>,
    pub(super) extra: Vec<(&'m str, Value)>,
}

/// Why there is no result.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) half: Half,
    /// None: the half as a whole.
    pub(super) target: Option<Box<str>>,
    pub(super) reason: String,
}

impl Fault {
    /// The target as a mapping names it.
    pub(super) fn target(&self) -> String {
        let half = match self.half {
            Half::Data => "data",
            Half::Extra => "extra",
        };
        self.target.as_ref().map_or_else(|| half.to_owned(), |target| format!("{target}:{half}"))
    }
}

impl Node {
    fn look<'a>(&self, object: &Fields<'a>, found: &mut [Found<'a>]) {
        for (key, node) in &self.keys {
            let Some(value) = object.get(key) else { continue };
            for end in &node.ends {
                found[*end as usize] = Found::Value(value);
            }
            if !node.keys.is_empty() {
                match Fields::of(value.get()) {
                    Ok(Some(fields)) => node.look(&fields, found),
                    // It was read as JSON before, so it is no object.
                    Ok(None) | Err(_) => node.keys.iter().for_each(|(_, node)| node.mark(found)),
                }
            }
        }
    }

    /// Whatever is on from here cannot be there.
    fn mark(&self, found: &mut [Found<'_>]) {
        for end in &self.ends {
            found[*end as usize] = Found::NoMap;
        }
        self.keys.iter().for_each(|(_, node)| node.mark(found));
    }

    fn shrink(&mut self) {
        self.ends.shrink_to_fit();
        self.keys.shrink_to_fit();
        self.keys.iter_mut().for_each(|(_, node)| node.shrink());
    }
}

impl PartialEq for Mapping {
    fn eq(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len() && self.sorted() == other.sorted()
    }
}

impl Eq for Mapping {}

impl Hash for Mapping {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sorted().hash(state);
    }
}
