//! An event to send.

use std::marker::PhantomData;

/// An event to send.
#[derive(Debug)]
#[must_use]
pub struct Event<T>(PhantomData<T>);
