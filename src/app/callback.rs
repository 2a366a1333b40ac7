//! What is called with one thing and answers with nothing: middleware, and the callback of a listener.

use std::marker;
use std::sync::Arc;

use crate::app::handler::{Async, Blocking, blocking};
use crate::error::HandlerError;

/// A function of one argument, async or not, that may fail: [middleware](crate::app::AppBuilder::middleware), or what a
/// [listener](crate::app::connector) calls.
///
/// Implemented for these functions alone. `Marker` tells the two kinds apart and is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be called here",
    note = "it has to be `async fn({Argument}) -> Result<(), HandlerError>`, or the same without `async`"
)]
pub trait Callback<Argument, Marker>: Send + marker::Sync + 'static {
    /// Whether it is async.
    const IS_ASYNC: bool;

    /// Calls it. What is not async runs on a thread that may block.
    fn call(self: &Arc<Self>, argument: Argument) -> impl Future<Output = Result<(), HandlerError>> + Send + 'static;
}

impl<F, A, Fut> Callback<A, Async> for F
where
    F: Fn(A) -> Fut + Send + marker::Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    A: Send + 'static,
{
    const IS_ASYNC: bool = true;

    fn call(self: &Arc<Self>, argument: A) -> impl Future<Output = Result<(), HandlerError>> + Send + 'static {
        self(argument)
    }
}

impl<F, A> Callback<A, Blocking> for F
where
    F: Fn(A) -> Result<(), HandlerError> + Send + marker::Sync + 'static,
    A: Send + 'static,
{
    const IS_ASYNC: bool = false;

    fn call(self: &Arc<Self>, argument: A) -> impl Future<Output = Result<(), HandlerError>> + Send + 'static {
        let callback = Arc::clone(self);
        blocking(move || callback(argument))
    }
}
