//! What lies between two agents: elements on their way, so many and no more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::stream::origin::Origins;

/// The most elements that go from one agent to the next at once, and the most bytes of records that they came of; and how
/// often so much may wait.
const CHUNK: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;
const WAITING: usize = 4;

/// What goes from one agent to the next.
pub(super) enum Message<T> {
    Items(Vec<Item<T>>),
    /// What is kept back for a batch is to be released.
    Flush,
}

/// An element on its way.
pub(super) struct Item<T> {
    pub(super) value: T,
    pub(super) origins: Origins,
    /// Its part of the records that it came of, as a measure of what it may take.
    pub(super) bytes: usize,
}

/// One side: what waits for room in the queue is here.
pub(super) struct Sender<T> {
    messages: mpsc::Sender<Message<T>>,
    items: VecDeque<Item<T>>,
    bytes: usize,
    /// How many elements are in the queue.
    queued: Arc<AtomicUsize>,
}

pub(super) struct Receiver<T> {
    messages: mpsc::Receiver<Message<T>>,
    queued: Arc<AtomicUsize>,
}

pub(super) fn queue<T>() -> (Sender<T>, Receiver<T>) {
    let (sender, messages) = mpsc::channel(WAITING);
    let queued = Arc::new(AtomicUsize::new(0));
    let sender = Sender { messages: sender, items: VecDeque::new(), bytes: 0, queued: Arc::clone(&queued) };
    (sender, Receiver { messages, queued })
}

impl<T> Sender<T> {
    /// Adds to what waits for room, however much that is.
    pub(super) fn push(&mut self, item: Item<T>) {
        self.bytes += item.bytes;
        self.items.push_back(item);
    }

    /// So much waits that nothing should be added.
    pub(super) fn is_full(&self) -> bool {
        self.items.len() >= CHUNK || self.bytes >= CHUNK_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Waits for room, and sends of what waits as much as goes at once. False: the other side has ended. Dropping the
    /// future loses nothing.
    pub(super) async fn send(&mut self) -> bool {
        let Ok(place) = self.messages.reserve().await else { return false };
        let (mut count, mut bytes) = (0, 0);
        for item in &self.items {
            if count > 0 && (count == CHUNK || bytes + item.bytes > CHUNK_BYTES) {
                break;
            }
            (count, bytes) = (count + 1, bytes + item.bytes);
        }
        self.bytes -= bytes;
        self.queued.fetch_add(count, Ordering::Relaxed);
        place.send(Message::Items(self.items.drain(..count).collect()));
        true
    }

    /// Waits for room, and sends that all batches are to be released. Nothing may wait. False: the other side has ended.
    /// Dropping the future loses nothing.
    pub(super) async fn flush(&mut self) -> bool {
        self.messages.send(Message::Flush).await.is_ok()
    }
}

impl<T> Receiver<T> {
    /// The next message. None: the other side has ended. Dropping the future loses nothing.
    pub(super) async fn recv(&mut self) -> Option<Message<T>> {
        let message = self.messages.recv().await?;
        if let Message::Items(items) = &message {
            self.queued.fetch_sub(items.len(), Ordering::Relaxed);
        }
        Some(message)
    }

    /// How many elements wait.
    pub(super) fn waiting(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::origin::tests::origins;

    async fn lengths(bytes: &[usize]) -> Vec<usize> {
        let (mut sender, mut receiver) = queue();
        for bytes in bytes {
            sender.push(Item { value: (), origins: origins(), bytes: *bytes });
        }
        let mut lengths = Vec::new();
        while !sender.is_empty() {
            assert!(sender.send().await);
            assert_eq!(receiver.waiting(), bytes.len() - sender.items.len() - lengths.iter().sum::<usize>());
            match receiver.recv().await {
                Some(Message::Items(items)) => lengths.push(items.len()),
                _ => panic!("no items"),
            }
        }
        assert_eq!((sender.bytes, receiver.waiting()), (0, 0));
        lengths
    }

    #[tokio::test]
    async fn chunks_hold_so_many_elements_and_bytes() {
        assert_eq!(lengths(&[1; 600]).await, [256, 256, 88]);
        assert_eq!(lengths(&[CHUNK_BYTES / 4; 10]).await, [4, 4, 2]);
        assert_eq!(lengths(&[CHUNK_BYTES * 3, 1, CHUNK_BYTES]).await, [1, 1, 1]);
    }
}
