//! From a message to the filters that match it, without looking at the others.
//!
//! Filters with the same identifier keys make up a key set. Within one, filters that give values for the same of its
//! keys make up a pattern: a table from those values to filters. A message is looked up in one key set, once in each of
//! its patterns.

use std::borrow::Cow;
use std::sync::Arc;

use crate::export::fields::Fields;
use crate::export::filter::{Filter, Identifier};
use crate::export::python;
use crate::export::shared_map::SharedMap;

type Key = Arc<str>;
/// Filters in the order in which they came.
type Bucket = Arc<Vec<Arc<Filter>>>;

/// See the module's own words. Clones share what did not change.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// The filters without identifiers, by source.
    by_source: SharedMap<Key, Bucket>,
    /// Each key set stands under one of its keys: that under which the fewest stand. So a message with a key that many
    /// key sets share is not compared with all of them.
    key_sets: SharedMap<Key, Arc<Vec<Arc<KeySet>>>>,
    /// How many key sets have each key: they share its text.
    keys: SharedMap<Key, usize>,
    /// Key sets so far.
    registered: u64,
}

#[derive(Clone, Debug)]
struct KeySet {
    /// Sorted.
    keys: Arc<[Key]>,
    /// Which key set it is, counted from the first.
    registered: u64,
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    /// Which of the keys have a value.
    valued: Arc<[bool]>,
    /// The filters by their values, as [`write_value`] writes them.
    filters: SharedMap<Arc<[u8]>, Bucket>,
}

/// Puts a value behind others, so that no two lists of values read the same.
fn write_value(values: &mut Vec<u8>, value: &str) {
    values.extend_from_slice(&value.len().to_ne_bytes());
    values.extend_from_slice(value.as_bytes());
}

impl KeySet {
    fn has_keys(&self, identifiers: &[Identifier]) -> bool {
        self.keys.iter().eq(identifiers.iter().map(|identifier| &identifier.key))
    }

    fn fits(&self, message: &Fields<'_>) -> bool {
        self.keys.iter().all(|key| message.get(key).is_some())
    }

    fn is_better_than(&self, other: &Self) -> bool {
        let size = |set: &Self| set.keys.len();
        size(self) > size(other) || (size(self) == size(other) && self.registered < other.registered)
    }
}

impl Pattern {
    fn is_of(&self, identifiers: &[Identifier]) -> bool {
        self.valued.iter().copied().eq(identifiers.iter().map(|identifier| identifier.value.is_some()))
    }
}

/// The values of identifiers, as a key.
fn values_of(identifiers: &[Identifier]) -> Arc<[u8]> {
    let mut values = Vec::new();
    for value in identifiers.iter().filter_map(|identifier| identifier.value.as_deref()) {
        write_value(&mut values, value);
    }
    values.into()
}

/// Most of these lists have one entry, for which `Vec` alone would take memory for four.
fn push<T>(list: &mut Vec<T>, item: T) {
    if list.is_empty() {
        list.reserve_exact(1);
    }
    list.push(item);
}

impl Index {
    pub(super) fn insert(&mut self, filter: Arc<Filter>) {
        let identifiers = &filter.identifiers;
        let bucket = if identifiers.is_empty() {
            self.by_source.entry(&filter.source, Bucket::default)
        } else {
            let set = self.key_set(identifiers);
            let place = set.patterns.iter().position(|pattern| pattern.is_of(identifiers)).unwrap_or_else(|| {
                let valued = identifiers.iter().map(|identifier| identifier.value.is_some()).collect();
                push(&mut set.patterns, Pattern { valued, filters: SharedMap::default() });
                set.patterns.len() - 1
            });
            set.patterns[place].filters.entry(&values_of(identifiers), Bucket::default)
        };
        push(Arc::make_mut(bucket), filter);
    }

    pub(super) fn remove(&mut self, filter: &Filter) {
        let identifiers = &filter.identifiers;
        let remove = |bucket: &mut Bucket| {
            let bucket = Arc::make_mut(bucket);
            // In order, and there may be many: to look at each would cost more than to move those behind.
            if let Ok(place) = bucket.binary_search_by_key(&filter.order, |found| found.order) {
                bucket.remove(place);
            }
            !bucket.is_empty()
        };
        if identifiers.is_empty() {
            return self.by_source.update(&filter.source, remove);
        }
        let Some(under) = self.stands_under(identifiers) else { return };
        let Self { key_sets, keys, .. } = self;
        key_sets.update(&under, |sets| {
            let sets = Arc::make_mut(sets);
            sets.retain_mut(|set| {
                if !set.has_keys(identifiers) {
                    return true;
                }
                let set = Arc::make_mut(set);
                set.patterns.retain_mut(|pattern| {
                    if pattern.is_of(identifiers) {
                        pattern.filters.update(&values_of(identifiers), remove);
                    }
                    !pattern.filters.is_empty()
                });
                if set.patterns.is_empty() {
                    set.keys.iter().for_each(|key| keys.give_back(key));
                }
                !set.patterns.is_empty()
            });
            !sets.is_empty()
        });
    }

    /// The key under which the key set of these identifiers stands.
    fn stands_under(&self, identifiers: &[Identifier]) -> Option<Key> {
        let has_set =
            |key: &Key| self.key_sets.get(key).is_some_and(|sets| sets.iter().any(|set| set.has_keys(identifiers)));
        identifiers.iter().map(|identifier| &identifier.key).find(|key| has_set(key)).cloned()
    }

    /// The key set of these identifiers, made where there is none.
    fn key_set(&mut self, identifiers: &[Identifier]) -> &mut KeySet {
        let under = self.stands_under(identifiers).unwrap_or_else(|| {
            let others = |key: &Key| self.key_sets.get(key).map_or(0, |sets| sets.len());
            let keys = identifiers.iter().map(|identifier| &identifier.key);
            keys.min_by_key(|key| others(key)).cloned().unwrap_or_default()
        });
        let Self { key_sets, keys, .. } = self;
        let sets = Arc::make_mut(key_sets.entry(&under, Arc::default));
        let place = sets.iter().position(|set| set.has_keys(identifiers)).unwrap_or_else(|| {
            let keys = identifiers.iter().map(|identifier| keys.take(identifier.key.clone())).collect();
            self.registered += 1;
            push(sets, Arc::new(KeySet { keys, registered: self.registered, patterns: Vec::new() }));
            sets.len() - 1
        });
        Arc::make_mut(&mut sets[place])
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_source.is_empty() && self.key_sets.is_empty() && self.keys.is_empty()
    }

    /// The filters that match a message from this topic, in the order in which they came.
    pub(super) fn find<'i>(&'i self, topic: &str, message: &Fields<'_>) -> Vec<&'i Filter> {
        let mut best: Option<&KeySet> = None;
        for (key, _) in message.iter() {
            for set in self.key_sets.get(key).into_iter().flat_map(|sets| sets.iter()) {
                if best.is_none_or(|best| set.is_better_than(best)) && set.fits(message) {
                    best = Some(set);
                }
            }
        }
        let filters =
            |bucket: Option<&'i Bucket>| bucket.into_iter().flat_map(|bucket| bucket.iter().map(|filter| &**filter));
        let Some(set) = best else { return filters(self.by_source.get(topic)).collect() };
        // Of what nests too deep to be spelled, no filter can have the value.
        let text = |key: &Key| message.get(key).and_then(python::text_of).unwrap_or(Cow::Borrowed("\0"));
        let mut matched = Vec::new();
        let mut values = Vec::new();
        for pattern in &set.patterns {
            values.clear();
            for (key, _) in set.keys.iter().zip(&*pattern.valued).filter(|(_, valued)| **valued) {
                write_value(&mut values, &text(key));
            }
            matched.extend(filters(pattern.filters.get(&*values)));
        }
        if set.patterns.len() > 1 {
            matched.sort_unstable_by_key(|filter| filter.order);
        }
        matched
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
