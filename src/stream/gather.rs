//! What an agent's next call gets: an element, or a batch of them.

use std::time::Duration;
use std::vec::IntoIter;

use tokio::time::Instant;

use crate::stream::origin::Origins;
use crate::stream::queue::Item;

/// One call's input.
pub(super) struct Portion<I> {
    pub(super) input: I,
    pub(super) share: Share,
}

/// How much of what comes is in one call.
pub(super) struct Share {
    pub(super) origins: Origins,
    pub(super) elements: usize,
    /// See [`Item::bytes`].
    pub(super) bytes: usize,
}

/// Makes an agent's input of the elements that come.
pub(super) trait Gather<T> {
    type Input;

    /// Whether there is room for more.
    fn has_room(&self) -> bool;

    /// Takes what came, where there is room.
    fn add(&mut self, items: Vec<Item<T>>);

    /// The next call's input, if there is one. Where it is to be `released` whatever there is.
    fn next(&mut self, released: bool) -> Option<Portion<Self::Input>>;

    /// When it has to be asked again at the latest.
    fn due(&self) -> Option<Instant>;
}

/// One element after the other.
pub(super) struct Each<T>(IntoIter<Item<T>>);

impl<T> Each<T> {
    pub(super) fn new() -> Self {
        Self(Vec::new().into_iter())
    }
}

impl<T> Gather<T> for Each<T> {
    type Input = T;

    fn has_room(&self) -> bool {
        self.0.len() == 0
    }

    fn add(&mut self, items: Vec<Item<T>>) {
        self.0 = items.into_iter();
    }

    fn next(&mut self, _: bool) -> Option<Portion<T>> {
        let Item { value: input, origins, bytes } = self.0.next()?;
        Some(Portion { input, share: Share { origins, elements: 1, bytes } })
    }

    fn due(&self) -> Option<Instant> {
        None
    }
}

/// Batches that are kept back until they are full, or their time is up.
pub(super) struct Batches<T> {
    size: usize,
    timeout: Option<Duration>,
    max_age: Option<Duration>,
    values: Vec<T>,
    origins: Vec<Origins>,
    bytes: usize,
    /// When the batch's first and last element came.
    first: Option<Instant>,
    last: Option<Instant>,
    /// What did not fit. Without it the batch is not full.
    rest: IntoIter<Item<T>>,
}

impl<T> Batches<T> {
    pub(super) fn new(size: usize, timeout: Option<Duration>, max_age: Option<Duration>) -> Self {
        let rest = Vec::new().into_iter();
        let (values, origins) = (Vec::new(), Vec::new());
        Self { size, timeout, max_age, values, origins, bytes: 0, first: None, last: None, rest }
    }

    fn is_full(&self) -> bool {
        self.values.len() >= self.size
    }

    fn fill(&mut self) {
        let fitting = self.size - self.values.len();
        let mut came = false;
        for Item { value, origins, bytes } in self.rest.by_ref().take(fitting) {
            self.values.push(value);
            self.origins.push(origins);
            self.bytes += bytes;
            came = true;
        }
        if came {
            let now = Instant::now();
            self.first.get_or_insert(now);
            self.last = Some(now);
        }
    }
}

impl<T> Gather<T> for Batches<T> {
    type Input = Vec<T>;

    fn has_room(&self) -> bool {
        !self.is_full()
    }

    fn add(&mut self, items: Vec<Item<T>>) {
        self.rest = items.into_iter();
        self.fill();
    }

    fn next(&mut self, released: bool) -> Option<Portion<Vec<T>>> {
        let is_over = || self.due().is_some_and(|due| due <= Instant::now());
        if self.values.is_empty() || !(released || self.is_full() || is_over()) {
            return None;
        }
        (self.first, self.last) = (None, None);
        let (input, origins) = (std::mem::take(&mut self.values), std::mem::take(&mut self.origins));
        let bytes = std::mem::take(&mut self.bytes);
        self.fill();
        let share = Share { origins: Origins::merged(origins), elements: input.len(), bytes };
        Some(Portion { input, share })
    }

    fn due(&self) -> Option<Instant> {
        let by = |since: Option<Instant>, time: Option<Duration>| since?.checked_add(time?);
        by(self.last, self.timeout).into_iter().chain(by(self.first, self.max_age)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::origin::tests::origins;

    fn items(values: std::ops::Range<u32>) -> Vec<Item<u32>> {
        values.map(|value| Item { value, origins: origins(), bytes: 10 }).collect()
    }

    fn next(batches: &mut Batches<u32>, released: bool) -> Option<Vec<u32>> {
        let Portion { input, share } = batches.next(released)?;
        assert_eq!((share.elements, share.bytes), (input.len(), 10 * input.len()));
        share.origins.done();
        Some(input)
    }

    #[test]
    fn a_batch_is_there_as_soon_as_it_is_full() {
        let mut batches = Batches::new(3, None, None);
        batches.add(items(0..2));
        assert!(batches.has_room());
        assert_eq!(next(&mut batches, false), None);
        batches.add(items(2..8));
        assert!(!batches.has_room());
        assert_eq!(next(&mut batches, false), Some(vec![0, 1, 2]));
        assert_eq!(next(&mut batches, false), Some(vec![3, 4, 5]));
        assert!(batches.has_room());
        assert_eq!(next(&mut batches, false), None);
        assert_eq!(next(&mut batches, true), Some(vec![6, 7]));
        assert_eq!(next(&mut batches, true), None);
        assert_eq!(batches.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_due_after_its_last_or_its_first_element() {
        let second = Duration::from_secs(1);
        let mut batches = Batches::new(100, Some(second * 2), Some(second * 5));
        let start = Instant::now();
        for count in 0..4 {
            batches.add(items(count..count + 1));
            assert_eq!(batches.due(), Some((start + second * (count + 2)).min(start + second * 5)));
            assert_eq!(next(&mut batches, false), None);
            tokio::time::advance(second).await;
        }
        assert_eq!(next(&mut batches, false), None);
        tokio::time::advance(second).await;
        assert_eq!(next(&mut batches, false), Some(vec![0, 1, 2, 3]));
    }
}
