//! The filters that are in force.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::envelope::Ref;
use crate::error::Result;
use crate::export::exports::{Exports, Form};
use crate::export::fields::Fields;
use crate::export::filter::{Definition, Filter, refused};
use crate::export::index::Index;
use crate::export::mapping::Mapping;
use crate::export::shared_map::SharedMap;

/// A set of filters. A clone is cheap: it shares what does not change afterwards.
///
/// A [`FilterClient`](super::FilterClient) keeps one from a topic. By itself it shows what filters make of a message,
/// without Kafka:
///
/// ```
/// use kafka_envelope::Ref;
/// use kafka_envelope::export::{Filters, Form};
/// use serde_json::json;
///
/// let mut filters = Filters::default();
/// filters.put(r#"{"id": "f", "source": "readings", "mappings": {"level:data": "tank.level"}}"#)?;
/// let exports = filters.export(Ref::new("readings", 0, 42), br#"{"tank": {"level": 3}}"#, &Form::default());
/// assert_eq!((&exports.results[0].data, &*exports.results[0].filter_ids), (&json!({"level": 3}), &["f".to_owned()][..]));
/// # Ok::<(), kafka_envelope::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Filters {
    by_id: SharedMap<Arc<str>, Arc<Filter>>,
    /// How many filters name each source.
    sources: SharedMap<Arc<str>, usize>,
    /// How many filters have each mapping.
    mappings: SharedMap<Arc<Mapping>, usize>,
    index: Index,
    /// Filters so far.
    order: u64,
}

impl Filters {
    /// Adds a filter, given as JSON, and returns its id. See the [module](super) for the form.
    ///
    /// # Errors
    /// [`Error::Filter`](crate::Error::Filter) names the filter and the field that breaks a rule; nothing is changed then.
    pub fn put(&mut self, filter: &str) -> Result<String> {
        self.put_over(filter, |_, _| false).map(|(id, _)| id)
    }

    /// The same, but a filter that is held gives way where `is_over` says so of its id and of its place in the order of
    /// all puts. With the id comes whether one did.
    pub(super) fn put_over(&mut self, filter: &str, is_over: impl FnOnce(&str, u64) -> bool) -> Result<(String, bool)> {
        let Definition { id, source, identifiers, mapping, args } = Definition::parse(filter)?;
        let held = self.by_id.get(&*id).map(|held| held.order);
        if held.is_some_and(|order| !is_over(&id, order)) {
            return Err(refused(&id, "id", "is held already: delete that filter first"));
        }
        if held.is_some() {
            self.delete(&id);
        }
        let source = self.sources.take(source.into());
        let mapping = self.mappings.take(Arc::new(mapping));
        self.order += 1;
        let filter = Arc::new(Filter {
            id: id.as_str().into(),
            source,
            identifiers: identifiers.into(),
            mapping,
            args,
            order: self.order,
        });
        self.by_id.entry(&filter.id, || Arc::clone(&filter));
        self.index.insert(filter);
        Ok((id, held.is_some()))
    }

    /// The place of the last put in the order of all.
    pub(super) fn order(&self) -> u64 {
        self.order
    }

    /// Takes a filter away. False: there was none with this id.
    pub fn delete(&mut self, id: &str) -> bool {
        let Some(filter) = self.by_id.get(id).cloned() else { return false };
        self.by_id.update(id, |_| false);
        self.sources.give_back(&filter.source);
        self.mappings.give_back(&filter.mapping);
        self.index.remove(&filter);
        true
    }

    /// How many filters there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The topics that the filters name, sorted, each once.
    #[must_use]
    pub fn sources(&self) -> Vec<String> {
        let mut sources: Vec<_> = self.sources.iter().map(|(source, _)| source.to_string()).collect();
        sources.sort_unstable();
        sources
    }

    /// A filter's `args`. `None`: there is no such filter; `Some(Value::Null)`: it has none.
    #[must_use]
    pub fn args(&self, id: &str) -> Option<Value> {
        let filter = self.by_id.get(id)?;
        // They were read once, and may only nest too deep for a `Value`.
        Some(filter.args.as_deref().and_then(|args| serde_json::from_str(args).ok()).unwrap_or_default())
    }

    /// What the filters make of one record's value.
    #[must_use]
    pub fn export(&self, record: Ref, value: &[u8], form: &Form) -> Exports {
        let mut exports = Exports::default();
        exports.add(self, record, Some(value), form);
        exports
    }

    /// The filters that match a message from this topic: those that share their mappings together, all in the order in
    /// which they were put.
    pub(super) fn find(&self, topic: &str, message: &Fields<'_>) -> Vec<Vec<&Filter>> {
        let mut matched = self.index.find(topic, message);
        // Stable: in each group the filters stay in order.
        matched.sort_by_key(|filter| Arc::as_ptr(&filter.mapping));
        let same = |one: &&Filter, next: &&Filter| Arc::ptr_eq(&one.mapping, &next.mapping);
        let mut groups: Vec<_> = matched.chunk_by(same).map(<[_]>::to_vec).collect();
        groups.sort_unstable_by_key(|group| group[0].order);
        groups
    }

    /// The ids that others do not have, sorted.
    pub(super) fn ids_beyond(&self, others: &Self) -> Vec<&str> {
        let mut ids: Vec<_> = self.by_id.iter().map(|(id, _)| &**id).collect();
        ids.retain(|id| others.by_id.get(*id).is_none());
        ids.sort_unstable();
        ids
    }

    /// Whether nothing is left of filters that were deleted.
    #[cfg(test)]
    pub(super) fn holds_nothing(&self) -> bool {
        self.sources.is_empty() && self.mappings.is_empty() && self.index.is_empty()
    }
}

impl fmt::Debug for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filters").field("len", &self.len()).field("sources", &self.sources()).finish()
    }
}

#[cfg(test)]
#[path = "filters_tests.rs"]
mod tests;
