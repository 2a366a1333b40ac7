//! Gives records to the first agent.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::Error as _;

use crate::error::panic_text;
use crate::message::Record;
use crate::stream::origin::Origins;
use crate::stream::queue::{Item, Sender};
use crate::stream::read::Read;

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

    /// So much waits that no more should be read.
    fn is_full(&self) -> bool;

    /// Sends the first of what waits. False: the first agent has ended. Dropping the future loses nothing.
    fn send(&mut self) -> BoxFuture<'_, bool>;
}

pub(super) struct Typed<T> {
    sender: Sender<T>,
    read: Read<T>,
    /// Behind what waits, batches are to be released.
    is_flushing: bool,
}

impl<T> Typed<T> {
    pub(super) fn new(sender: Sender<T>, read: Read<T>) -> Self {
        Self { sender, read, is_flushing: false }
    }
}

impl<T: Send + 'static> Feed for Typed<T> {
    fn read(&mut self, record: &Record, origins: &Origins) -> Result<(), serde_json::Error> {
        let values = catch_unwind(AssertUnwindSafe(|| (self.read)(record)));
        let values = values.unwrap_or_else(|panic| {
            Err(serde_json::Error::custom(format!("the deserializer panicked: {}", panic_text(&*panic))))
        })?;
        let bytes = record.value().unwrap_or_default().len() / values.len().max(1);
        for value in values {
            self.sender.push(Item { value, origins: origins.clone(), bytes });
        }
        Ok(())
    }

    fn flush(&mut self) {
        self.is_flushing = true;
    }

    fn is_empty(&self) -> bool {
        self.sender.is_empty() && !self.is_flushing
    }

    fn is_full(&self) -> bool {
        self.sender.is_full()
    }

    fn send(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(async {
            if !self.sender.is_empty() {
                return self.sender.send().await;
            }
            let is_sent = self.sender.flush().await;
            self.is_flushing = false;
            is_sent
        })
    }
}
