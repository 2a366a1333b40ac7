//! One attempt to handle a batch: it is decoded, the handler is called, and what goes wrong is told by its kind.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;

use crate::error::{BoxError, Error, HandlerError, Result, panic_text};
use crate::message::arena::Arena;
use crate::message::{Batch, Unreadable, decode};

/// A handler with its decoding around it.
pub(super) type Attempt<'h> = dyn FnMut(&Arena) -> Result<(), Failed> + 'h;

/// An attempt that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// So many of the records handed over are done all the same.
    pub(in crate::consumer) done: usize,
    pub(in crate::consumer) cause: Cause,
}

#[derive(Debug)]
pub(crate) enum Cause {
    /// These of the records handed over cannot be read.
    Unreadable(Unreadable),
    /// The handler failed: on the record at this place among those handed over, or on all that it saw of them.
    Handler { at: Option<usize>, seen: Option<Vec<usize>>, source: BoxError },
}

/// What a handler gets of the records that are handed over.
pub(crate) trait Portion {
    /// There is nothing for the handler to do: the records are done.
    fn is_empty(&self) -> bool;

    /// How many of the records handed over are done when those before this index are. None: there is no such index.
    fn records_before(&self, index: usize) -> Option<usize>;

    /// The places of the records that the handler sees. None: all but tombstones.
    fn seen(&self) -> Option<Vec<usize>> {
        None
    }
}

impl<T> Portion for Batch<'_, T> {
    fn is_empty(&self) -> bool {
        <[_]>::is_empty(self)
    }

    fn records_before(&self, index: usize) -> Option<usize> {
        self.records_before(index)
    }
}

/// Decodes what the arena hands over and gives it to the handler. A panic of either is a failure.
pub(crate) fn attempt<'a, T: Deserialize<'a>>(
    arena: &'a Arena,
    handler: impl FnOnce(&Batch<'a, T>) -> Result<(), HandlerError>,
) -> Result<(), Failed> {
    attempt_with(arena, decode, handler)
}

/// The same with a decoder of one's own.
pub(crate) fn attempt_with<'a, P: Portion>(
    arena: &'a Arena,
    decode: impl FnOnce(&'a Arena) -> Result<P, Unreadable>,
    handler: impl FnOnce(&P) -> Result<(), HandlerError>,
) -> Result<(), Failed> {
    let attempt = || {
        let portion = decode(arena).map_err(unreadable)?;
        if portion.is_empty() {
            return Ok(());
        }
        match catch_unwind(AssertUnwindSafe(|| handler(&portion))) {
            Ok(answer) => answer.map_err(|error| refused(&portion, error, arena)),
            Err(panic) => Err(panicked(&*panic, portion.seen())),
        }
    };
    catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|panic| Err(panicked(&*panic, None)))
}

#[cfg(feature = "tokio")]
pub(super) fn decoded<'a, T: Deserialize<'a>>(arena: &'a Arena) -> Result<Batch<'a, T>, Failed> {
    decode(arena).map_err(unreadable)
}

fn unreadable(unreadable: Unreadable) -> Failed {
    Failed { done: 0, cause: Cause::Unreadable(unreadable) }
}

/// The handler answered with this.
pub(super) fn refused(portion: &impl Portion, error: HandlerError, arena: &Arena) -> Failed {
    let at = error.index().and_then(|index| portion.records_before(index));
    let cause = match error.into_inner().downcast::<Error>() {
        Ok(error) => match unreadable_place(arena, &error) {
            // It is what it is, also where the handler itself read it. Unless it says that the record is done.
            Some(place) if at.is_none_or(|at| at <= place) => Cause::Unreadable(vec![(place, *error)]),
            _ => Cause::Handler { at, seen: portion.seen(), source: error },
        },
        Err(source) => Cause::Handler { at, seen: portion.seen(), source },
    };
    Failed { done: at.unwrap_or(0), cause }
}

pub(super) fn panicked(panic: &(dyn Any + Send), seen: Option<Vec<usize>>) -> Failed {
    let source = format!("it panicked: {}", panic_text(panic)).into();
    Failed { done: 0, cause: Cause::Handler { at: None, seen, source } }
}

/// The place of the record that the error says cannot be read.
fn unreadable_place(arena: &Arena, error: &Error) -> Option<usize> {
    let Error::Undecodable { topic, partition, offset, .. } = error else { return None };
    arena.records().iter().position(|record| {
        let source = arena.source(record);
        record.offset == *offset && source.partition == *partition && *source.topic == **topic
    })
}
