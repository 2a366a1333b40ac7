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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Entry<'a> {
    pub(super) half: Half,
    pub(super) target: &'a str,
    /// Keys with dots between.
    pub(super) path: &'a str,
}

impl<'a> Entry<'a> {
    fn keys(self) -> impl Iterator<Item = &'a str> {
        self.path.split('.')
    }

    /// How many keys both start with.
    fn shared_with(self, other: Option<Self>) -> u32 {
        let Some(other) = other else { return 0 };
        self.keys().zip(other.keys()).take_while(|(one, other)| one == other).fold(0, |count, _| count + 1)
    }
}

/// A filter's mappings. Equal where they have the same entries, in whatever order.
#[derive(Debug)]
pub(super) struct Mapping {
    /// All targets and paths, one behind the other: few places in memory to go to.
    text: Box<str>,
    /// In the filter's order.
    places: Box<[Place]>,
}

/// An entry's texts: where the target starts, the path, and what is behind it. And, since what stands in one place in
/// memory is found faster: which entry comes here in the order of paths.
#[derive(Debug)]
struct Place {
    half: Half,
    target: u32,
    path: u32,
    end: u32,
    /// Its number. Sorted key by key, paths that share a way stand together, so each object on it is read once.
    by_path: u32,
    /// How many keys it shares with the one before it in that order.
    shared: u32,
}

/// What stands on the way of a path.
enum Step<'a> {
    Object(Fields<'a>),
    NoMap,
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
    pub(super) fn new<'a>(entries: impl IntoIterator<Item = Entry<'a>>) -> Self {
        let (mut text, mut places) = (String::new(), Vec::new());
        // A filter is no larger than a record.
        let length = |text: &String| u32::try_from(text.len()).unwrap_or(u32::MAX);
        for Entry { half, target, path } in entries {
            let target_at = length(&text);
            text.push_str(target);
            let path_at = length(&text);
            text.push_str(path);
            places.push(Place { half, target: target_at, path: path_at, end: length(&text), by_path: 0, shared: 0 });
        }
        let mut mapping = Self { text: text.into(), places: places.into() };
        let mut sorted: Vec<_> = (0u32..).zip(mapping.entries()).collect();
        sorted.sort_by(|(_, one), (_, other)| one.keys().cmp(other.keys()));
        let before = std::iter::once(None).chain(sorted.iter().map(|(_, entry)| Some(*entry)));
        let order = sorted.iter().zip(before).map(|((number, entry), before)| (*number, entry.shared_with(before)));
        let order: Vec<_> = order.collect();
        for (place, (number, shared)) in mapping.places.iter_mut().zip(order) {
            (place.by_path, place.shared) = (number, shared);
        }
        mapping
    }

    fn entry(&self, number: u32) -> Entry<'_> {
        let &Place { half, target, path, end, .. } = &self.places[number as usize];
        let text = |from: u32, to: u32| &self.text[from as usize..to as usize];
        Entry { half, target: text(target, path), path: text(path, end) }
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        (0u32..).take(self.places.len()).map(|number| self.entry(number))
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
        let mut found = vec![Found::Missing; self.places.len()];
        // What the keys of the path before led to, one by one.
        let mut way: Vec<Step<'_>> = Vec::new();
        for Place { by_path: number, shared, .. } in &self.places {
            way.truncate(*shared as usize);
            let mut keys = self.entry(*number).keys().skip(way.len()).peekable();
            found[*number as usize] = loop {
                let object = match way.last() {
                    None => message,
                    Some(Step::Object(fields)) => fields,
                    Some(Step::NoMap) => break Found::NoMap,
                };
                let Some(value) = keys.next().and_then(|key| object.get(key)) else { break Found::Missing };
                if keys.peek().is_none() {
                    break Found::Value(value);
                }
                // It was read as JSON before: what cannot be read as an object is none.
                way.push(Fields::of(value.get()).ok().flatten().map_or(Step::NoMap, Step::Object));
            };
        }
        let mut mapped = Mapped::default();
        for (entry, found) in self.entries().zip(found) {
            let fault = |reason: String| Fault { half: entry.half, target: Some(entry.target.into()), reason };
            let path = entry.path;
            let value = match found {
                Found::Value(raw) => serde_json::from_str(raw.get())
                    .map_err(|error| fault(format!("`{path}` cannot be read: {error}")))?,
                Found::Missing if ignore_missing(entry.half) => continue,
                Found::Missing => return Err(fault(format!("`{path}` is missing"))),
                Found::NoMap => return Err(fault(format!("`{path}` leads through what is no map"))),
            };
            match entry.half {
                Half::Data => mapped.data.push((entry.target, value)),
                Half::Extra => mapped.extra.push((entry.target, value)),
            }
        }
        Ok(mapped)
    }

    fn sorted(&self) -> Vec<Entry<'_>> {
        let mut entries: Vec<_> = self.entries().collect();
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

impl PartialEq for Mapping {
    fn eq(&self, other: &Self) -> bool {
        self.places.len() == other.places.len() && self.sorted() == other.sorted()
    }
}

impl Eq for Mapping {}

impl Hash for Mapping {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sorted().hash(state);
    }
}
