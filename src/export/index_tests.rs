//! The index against the rules as they are written: random filters come and go, random messages are looked up.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::export::fields::Fields;
use crate::export::{Filters, python};

/// A filter as the rules see it.
#[derive(Clone, Debug)]
struct Model {
    id: String,
    source: String,
    identifiers: BTreeMap<&'static str, Value>,
    mapping: u8,
}

impl Model {
    fn json(&self) -> String {
        let identifiers: Vec<_> =
            self.identifiers.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        let mappings = json!({format!("m{}:data", self.mapping): "x"});
        json!({"id": self.id, "source": self.source, "identifiers": identifiers, "mappings": mappings}).to_string()
    }

    fn keys(&self) -> BTreeSet<&'static str> {
        self.identifiers.keys().copied().collect()
    }
}

/// All filters in order, and the key sets in the order in which they were registered.
#[derive(Default)]
struct Models {
    filters: Vec<Model>,
    key_sets: Vec<BTreeSet<&'static str>>,
}

impl Models {
    fn put(&mut self, filter: Model) {
        let keys = filter.keys();
        if !keys.is_empty() && !self.key_sets.contains(&keys) {
            self.key_sets.push(keys);
        }
        self.filters.push(filter);
    }

    fn delete(&mut self, id: &str) {
        self.filters.retain(|filter| filter.id != id);
        self.key_sets.retain(|keys| self.filters.iter().any(|filter| filter.keys() == *keys));
    }

    fn find(&self, topic: &str, message: &Map<String, Value>) -> Vec<Vec<&str>> {
        let fits = |keys: &&BTreeSet<&str>| keys.iter().all(|key| message.contains_key(*key));
        let largest = self.key_sets.iter().filter(fits).map(BTreeSet::len).max();
        let best = self.key_sets.iter().filter(fits).find(|keys| Some(keys.len()) == largest);
        let matches = |filter: &&Model| match best {
            None => filter.identifiers.is_empty() && filter.source == topic,
            Some(keys) => {
                let holds = |(key, value): (&&str, &Value)| match value {
                    Value::String(text) if !text.is_empty() => python::text(&message[*key]) == *text,
                    _ => true,
                };
                filter.keys() == *keys && filter.identifiers.iter().all(holds)
            }
        };
        let mut groups: Vec<(u8, Vec<&str>)> = Vec::new();
        for filter in self.filters.iter().filter(matches) {
            match groups.iter_mut().find(|(mapping, _)| *mapping == filter.mapping) {
                Some((_, ids)) => ids.push(&filter.id),
                None => groups.push((filter.mapping, vec![&filter.id])),
            }
        }
        groups.into_iter().map(|(_, ids)| ids).collect()
    }
}

const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const SOURCES: [&str; 2] = ["s", "t"];

fn filter() -> impl Strategy<Value = Model> {
    let value = prop::sample::select(vec![json!("1"), json!("2.0"), json!("True"), json!(""), json!(0), json!(null)]);
    let identifiers = prop::collection::btree_map(prop::sample::select(&KEYS[..]), value, 0..4);
    (0..8u8, prop::sample::select(&SOURCES[..]), identifiers, 0..3u8).prop_map(|(id, source, identifiers, mapping)| {
        Model { id: format!("f{id}"), source: source.into(), identifiers, mapping }
    })
}

fn message() -> impl Strategy<Value = Map<String, Value>> {
    let value = prop::sample::select(vec![json!("1"), json!(1), json!("2.0"), json!(2.0), json!(true), json!(null)]);
    prop::collection::btree_map(prop::sample::select(&KEYS[..]), value, 0..4)
        .prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

#[derive(Clone, Debug)]
enum Step {
    Put(Model),
    Delete(u8),
    Find(&'static str, Map<String, Value>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => filter().prop_map(Step::Put),
        1 => (0..8u8).prop_map(Step::Delete),
        4 => (prop::sample::select(&SOURCES[..]), message()).prop_map(|(topic, message)| Step::Find(topic, message)),
    ]
}

fn found<'f>(filters: &'f Filters, topic: &str, message: &Map<String, Value>) -> Vec<Vec<&'f str>> {
    let text = Value::from(message.clone()).to_string();
    let fields = Fields::of(&text).unwrap().unwrap();
    let groups = filters.find(topic, &fields);
    groups.into_iter().map(|group| group.into_iter().map(|filter| &*filter.id).collect()).collect()
}

fn owned(groups: &[Vec<&str>]) -> Vec<Vec<String>> {
    groups.iter().map(|ids| ids.iter().map(|id| (*id).to_owned()).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_index_finds_what_the_rules_say(steps in prop::collection::vec(step(), 1..60)) {
        let (mut filters, mut models) = (Filters::default(), Models::default());
        // A reader keeps what it took, whatever a writer does.
        let mut before = None;
        for step in steps {
            match step {
                Step::Put(model) => {
                    let is_held = models.filters.iter().any(|held| held.id == model.id);
                    prop_assert_eq!(filters.put(&model.json()).is_err(), is_held);
                    if !is_held {
                        models.put(model);
                    }
                }
                Step::Delete(id) => {
                    let id = format!("f{id}");
                    prop_assert_eq!(filters.delete(&id), models.filters.iter().any(|held| held.id == id));
                    models.delete(&id);
                }
                Step::Find(topic, message) => {
                    let expected = models.find(topic, &message);
                    prop_assert_eq!(&found(&filters, topic, &message), &expected);
                    if let Some((snapshot, topic, message, expected)) = before.take() {
                        prop_assert_eq!(owned(&found(&snapshot, topic, &message)), expected);
                    }
                    let expected = owned(&expected);
                    before = Some((filters.clone(), topic, message, expected));
                }
            }
            let sources: BTreeSet<_> = models.filters.iter().map(|filter| filter.source.clone()).collect();
            prop_assert_eq!(filters.sources(), Vec::from_iter(sources));
            prop_assert_eq!(filters.len(), models.filters.len());
        }
        for model in &models.filters {
            prop_assert!(filters.delete(&model.id));
        }
        prop_assert!(filters.is_empty() && filters.holds_nothing());
    }
}

#[test]
fn values_that_read_the_same_together_are_told_apart() {
    let mut filters = Filters::default();
    let identifiers = |a, b| BTreeMap::from([("a", json!(a)), ("b", json!(b))]);
    for (id, identifiers) in [("one", identifiers("1", "23")), ("other", identifiers("12", "3"))] {
        filters.put(&Model { id: id.into(), source: "s".into(), identifiers, mapping: 0 }.json()).unwrap();
    }
    let message = json!({"a": 12, "b": "3"});
    assert_eq!(found(&filters, "t", message.as_object().unwrap()), [["other"]]);
}

/// To look at all filters with the same identifiers for each that is deleted takes far longer.
#[test]
fn many_filters_alike_are_deleted_in_time() {
    const COUNT: usize = 60_000;
    let mut filters = Filters::default();
    let model = |number: usize| Model {
        id: number.to_string(),
        source: "t".into(),
        identifiers: BTreeMap::from([("k", json!("v"))]),
        mapping: 0,
    };
    (0..COUNT).for_each(|number| assert!(filters.put(&model(number).json()).is_ok()));
    let message = json!({"k": "v"}).as_object().unwrap().clone();
    let begin = std::time::Instant::now();
    (0..COUNT)
        .filter(|number| number % 1_000 != 1)
        .rev()
        .for_each(|number| assert!(filters.delete(&number.to_string())));
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
    let left: Vec<_> = (0..COUNT).filter(|number| number % 1_000 == 1).map(|number| number.to_string()).collect();
    assert_eq!(found(&filters, "t", &message), [left]);
}
