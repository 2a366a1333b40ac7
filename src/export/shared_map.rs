//! A hash map that is cheap to clone: clones share what did not change since.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// A change copies one shard, a clone the list of shards: both stay small when neither grows faster than the root of
/// all. So the number of shards doubles beyond this many entries times its square.
const ENTRIES: usize = 16;

/// See the module's own words.
#[derive(Clone, Debug)]
pub(super) struct SharedMap<K, V> {
    /// With the others a power of two of shards; an entry's hash says in which it stands. Most maps have this one alone.
    first: Arc<HashMap<K, V>>,
    others: Vec<Arc<HashMap<K, V>>>,
    hasher: RandomState,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { first: Arc::default(), others: Vec::new(), hasher: RandomState::new(), len: 0 }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> SharedMap<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards().flat_map(|shard| shard.iter())
    }

    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shard(self.place(key)).get(key)
    }

    /// The value of a key, to be changed. Made where there is none.
    pub(super) fn entry(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        if !self.shard(self.place(key)).contains_key(key) {
            self.len += 1;
            if self.len > ENTRIES * self.count() * self.count() {
                self.grow();
            }
        }
        let place = self.place(key);
        self.shard_mut(place).entry(key.clone()).or_insert_with(make)
    }

    /// Changes the value of a key that is there. `change` says whether the entry stays.
    pub(super) fn update<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, change: impl FnOnce(&mut V) -> bool)
    where
        K: Borrow<Q>,
    {
        let place = self.place(key);
        if !self.shard(place).contains_key(key) {
            return;
        }
        let shard = self.shard_mut(place);
        if !shard.get_mut(key).is_some_and(change) {
            shard.remove(key);
            self.len -= 1;
        }
    }

    fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// In which shard a key stands.
    fn place<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        match self.count() {
            1 => 0,
            // The low bits: the shard's own table hashes with a state of its own.
            shards => self.hasher.hash_one(key) as usize & (shards - 1),
        }
    }

    fn shards(&self) -> impl Iterator<Item = &Arc<HashMap<K, V>>> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn shard(&self, place: usize) -> &HashMap<K, V> {
        place.checked_sub(1).map_or(&self.first, |other| &self.others[other])
    }

    fn shard_mut(&mut self, place: usize) -> &mut HashMap<K, V> {
        Arc::make_mut(place.checked_sub(1).map_or(&mut self.first, |other| &mut self.others[other]))
    }

    fn grow(&mut self) {
        let more = self.count() * 2;
        let first = std::mem::take(&mut self.first);
        let others = std::mem::replace(&mut self.others, (1..more).map(|_| Arc::default()).collect());
        for shard in std::iter::once(first).chain(others) {
            for (key, value) in Arc::unwrap_or_clone(shard) {
                let place = self.place(&key);
                self.shard_mut(place).insert(key, value);
            }
        }
    }
}

/// How many users each key has.
impl<K: Hash + Eq + Clone> SharedMap<K, usize> {
    /// One user more. Answers with the key that all of them share.
    pub(super) fn take(&mut self, key: K) -> K {
        *self.entry(&key, || 0) += 1;
        self.shard(self.place(&key)).get_key_value(&key).map_or(key, |(shared, _)| shared.clone())
    }

    /// One user less. Without one the key goes.
    pub(super) fn give_back(&mut self, key: &K) {
        self.update(key, |users| {
            *users -= 1;
            *users > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_what_it_was() {
        let mut map = SharedMap::default();
        for number in 0..5_000u32 {
            *map.entry(&number, || 0) = number;
        }
        assert!(map.count() > 8 && map.len() == 5_000);
        let before = map.clone();
        for number in (0..5_000).step_by(2) {
            map.update(&number, |value| {
                *value += 1;
                number % 4 == 0
            });
        }
        map.update(&9_999, |_| panic!("is not there"));
        assert_eq!((map.len(), map.iter().count()), (3_750, 3_750));
        assert_eq!((map.get(&4), map.get(&2), map.get(&1)), (Some(&5), None, Some(&1)));
        assert_eq!((before.len(), before.get(&4), before.get(&2)), (5_000, Some(&4), Some(&2)));
        assert_eq!(before.get(&3), Some(&3));
    }

    #[test]
    fn users_share_a_key_until_the_last_gives_it_back() {
        let mut map = SharedMap::<Arc<str>, usize>::default();
        let (first, second) = (map.take("a".into()), map.take("a".into()));
        assert!(Arc::ptr_eq(&first, &second));
        map.give_back(&first);
        assert_eq!((map.len(), map.get("a")), (1, Some(&1)));
        map.give_back(&second);
        assert!(map.is_empty());
    }

    #[test]
    fn a_change_copies_one_shard() {
        let mut map = SharedMap::default();
        for number in 0..10_000u32 {
            map.entry(&number, || 0);
        }
        let before = map.clone();
        *map.entry(&1, || 0) = 7;
        let copied = map.shards().zip(before.shards()).filter(|(one, other)| !Arc::ptr_eq(one, other)).count();
        assert_eq!(copied, 1);
    }
}
