//! What lies between two agents: elements on their way, so many and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::stream::origin::Origins;

/// The most elements that go from one agent to the next at once, and how often so many may wait.
pub(super) const CHUNK: usize = 256;
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
}

pub(super) struct Sender<T> {
    messages: mpsc::Sender<Message<T>>,
    waiting: Arc<AtomicUsize>,
}

pub(super) struct Receiver<T> {
    messages: mpsc::Receiver<Message<T>>,
    waiting: Arc<AtomicUsize>,
}

/// Room for one message.
pub(super) struct Place<'a, T> {
    permit: mpsc::Permit<'a, Message<T>>,
    waiting: &'a AtomicUsize,
}

pub(super) fn queue<T>() -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let waiting = Arc::new(AtomicUsize::new(0));
    (Sender { messages: sender, waiting: Arc::clone(&waiting) }, Receiver { messages: receiver, waiting })
}

impl<T> Sender<T> {
    /// Waits for room. None: the other side has ended. Dropping the future loses nothing.
    pub(super) async fn room(&self) -> Option<Place<'_, T>> {
        let permit = self.messages.reserve().await.ok()?;
        Some(Place { permit, waiting: &self.waiting })
    }
}

impl<T> Place<'_, T> {
    pub(super) fn send(self, message: Message<T>) {
        self.waiting.fetch_add(message.len(), Ordering::Relaxed);
        self.permit.send(message);
    }
}

impl<T> Receiver<T> {
    /// The next message. None: the other side has ended. Dropping the future loses nothing.
    pub(super) async fn recv(&mut self) -> Option<Message<T>> {
        let message = self.messages.recv().await?;
        self.waiting.fetch_sub(message.len(), Ordering::Relaxed);
        Some(message)
    }

    /// How many elements wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl<T> Message<T> {
    fn len(&self) -> usize {
        match self {
            Self::Items(items) => items.len(),
            Self::Flush => 0,
        }
    }
}
