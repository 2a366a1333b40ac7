//! Gives records to the first agent.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::panic_text;
use crate::message::Record;
use crate::stream::origin::Origins;
use crate::stream::queue::{CHUNK, Item, Message, Sender};
use crate::stream::read::Read;
use serde::de::Error as _;

/// Records of so many bytes go on at once, or a single one.
const CHUNK_BYTES: usize = 1 << 20;

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The way to the first agent, whatever it gets.
pub(super) trait Feed: Send {
    /// Adds what a record says to what waits.
    ///
    /// # Errors
    /// The record cannot be read.
    fn read(&mut self, record: &Record, origins: &Origins) -> Result<(), serde_json::Error>;

    /// Behind what waits, all batches are to be released.
    fn flush(&mut self);

    /// Nothing waits.
    fn is_empty(&self) -> bool;

    /// Sends the first of what waits. False: the first agent has ended. Dropping the future loses nothing.
    fn send(&mut self) -> BoxFuture<'_, bool>;
}

pub(super) struct Typed<T> {
    pub(super) sender: Sender<T>,
    pub(super) read: Read<T>,
    pub(super) waiting: VecDeque<Message<T>>,
}

impl<T: Send + 'static> Feed for Typed<T> {
    fn read(&mut self, record: &Record, origins: &Origins) -> Result<(), serde_json::Error> {
        let values = catch_unwind(AssertUnwindSafe(|| (self.read)(record)));
        let values = values.unwrap_or_else(|panic| {
            Err(serde_json::Error::custom(format!("the deserializer panicked: {}", panic_text(&*panic))))
        })?;
        // Queues hold so many chunks: those of large records are shorter.
        let bytes = record.value().unwrap_or_default().len() / values.len().max(1);
        let room = (CHUNK_BYTES / bytes.max(1)).clamp(1, CHUNK);
        for value in values {
            let item = Item { value, origins: origins.clone() };
            match self.waiting.back_mut() {
                Some(Message::Items(items)) if items.len() < room => items.push(item),
                _ => self.waiting.push_back(Message::Items(vec![item])),
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        self.waiting.push_back(Message::Flush);
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn send(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(async {
            let Some(place) = self.sender.room().await else { return false };
            if let Some(message) = self.waiting.pop_front() {
                place.send(message);
            }
            true
        })
    }
}
