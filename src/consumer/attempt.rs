//! One attempt to handle a batch: it is decoded, the handler is called, and what goes wrong is told by its kind.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;

use crate::error::{Error, HandlerError, Result};
use crate::message::arena::Arena;
use crate::message::{Batch, decode};

/// A handler with its decoding around it.
pub(super) type Attempt<'h> = dyn FnMut(&Arena) -> Result<(), Box<Failed>> + 'h;

/// A batch that failed.
pub(super) struct Failed {
    /// So many of its records are done all the same.
    pub(super) done: usize,
    pub(super) error: Error,
}

impl Failed {
    fn new(done: usize, error: Error) -> Box<Self> {
        Box::new(Self { done, error })
    }
}

/// Decodes what the arena holds and hands it to the handler. A panic of either is a failure.
pub(super) fn attempt<'a, T: Deserialize<'a>>(
    arena: &'a Arena,
    handler: impl FnOnce(&Batch<'a, T>) -> Result<(), HandlerError>,
) -> Result<(), Box<Failed>> {
    let failed = |source| Error::Handler { batch: arena.reference().to_string(), source };
    let attempt = || {
        let batch = decode(arena).map_err(|error| Failed::new(0, error))?;
        if batch.is_empty() {
            return Ok(());
        }
        handler(&batch).map_err(|error| {
            let done = error.index().and_then(|index| batch.records_before(index)).unwrap_or(0);
            // A record that cannot be read is what it is, also where the handler itself read it.
            Failed::new(
                done,
                match error.into_inner().downcast::<Error>() {
                    Ok(error) if matches!(*error, Error::Undecodable { .. }) => *error,
                    Ok(error) => failed(error),
                    Err(source) => failed(source),
                },
            )
        })
    };
    catch_unwind(AssertUnwindSafe(attempt))
        .unwrap_or_else(|panic| Err(Failed::new(0, failed(format!("it panicked: {}", panic_text(&*panic)).into()))))
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}
