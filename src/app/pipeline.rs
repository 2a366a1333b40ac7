//! Messages through a chain of transactions.

use std::marker::PhantomData;

/// A chain of transactions.
#[must_use]
pub struct Pipeline<In, Out = In>(PhantomData<fn(In) -> Out>);
