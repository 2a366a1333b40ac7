//! What handles a message.

use std::marker::{self, PhantomData};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;

use crate::app::context::Context;
use crate::app::read;
use crate::app::task::{BoxFuture, Kind, Task};
use crate::error::HandlerError;
use crate::message::record::Record;
use crate::otel;

/// Marks a handler that is async.
#[derive(Debug)]
pub enum Async {}

/// Marks a handler that is not async. It runs on a thread that may block.
#[derive(Debug)]
pub enum Blocking {}

/// What handles an event or takes part in a pipeline: a function of a message and a [`Context`], async or not.
///
/// ```
/// use kafka_envelope::HandlerError;
/// use kafka_envelope::app::{Context, Event, Handler};
///
/// async fn place(order: String, context: Context) -> Result<(), HandlerError> {
///     context.emit("invoices", Event::new("invoice", &order)).await?;
///     Ok(())
/// }
///
/// fn count(order: String, _: Context) -> Result<usize, HandlerError> {
///     Ok(order.len())
/// }
///
/// fn check<M, H: Handler<M, Input = String>>(_: H) {}
/// check(place);
/// check(count);
///
/// // What a handler needs beside, its closure brings. It is cloned for each call, because a call may outlive the next.
/// let prices = std::sync::Arc::new([1.25]);
/// check(move |order: String, _: Context| {
///     let prices = prices.clone();
///     async move { Ok::<f64, HandlerError>(prices[0] * order.len() as f64) }
/// });
/// ```
///
/// Whatever does not fit does not compile. A handler of an event makes nothing of it:
///
/// ```compile_fail,E0271
/// # use kafka_envelope::HandlerError;
/// # use kafka_envelope::app::{App, Context};
/// async fn count(order: String, _: Context) -> Result<usize, HandlerError> {
///     Ok(order.len())
/// }
/// let builder = App::builder("shop", "localhost:9092").listen(["orders"]).on("order_placed", count);
/// ```
///
/// Its message can be read from JSON, and outlives the record:
///
/// ```compile_fail,E0277
/// # use kafka_envelope::HandlerError;
/// # use kafka_envelope::app::{App, Context};
/// struct Order(String);
///
/// async fn place(order: Order, _: Context) -> Result<(), HandlerError> {
///     Ok(println!("{}", order.0))
/// }
/// let builder = App::builder("shop", "localhost:9092").listen(["orders"]).on("order_placed", place);
/// ```
///
/// Its error is one that an app knows what to do with:
///
/// ```compile_fail,E0277
/// # use kafka_envelope::app::{App, Context};
/// async fn place(_: String, _: Context) {}
/// let builder = App::builder("shop", "localhost:9092").listen(["orders"]).on("order_placed", place);
/// ```
///
/// Implemented for these functions alone. `Marker` tells the two kinds apart and is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler",
    note = "a handler is `async fn(T, Context) -> Result<O, HandlerError>`, or the same without `async`"
)]
pub trait Handler<Marker>: Send + marker::Sync + 'static {
    /// The message.
    type Input: Send + 'static;
    /// What it makes of it: `()` for a handler of an event, the next message in a pipeline.
    type Output: Send + 'static;

    /// Handles a message.
    fn call(
        self: &Arc<Self>,
        message: Self::Input,
        context: Context,
    ) -> impl Future<Output = Result<Self::Output, HandlerError>> + Send + 'static;
}

impl<F, T, O, Fut> Handler<(Async, T)> for F
where
    F: Fn(T, Context) -> Fut + Send + marker::Sync + 'static,
    Fut: Future<Output = Result<O, HandlerError>> + Send + 'static,
    T: Send + 'static,
    O: Send + 'static,
{
    type Input = T;
    type Output = O;

    fn call(
        self: &Arc<Self>,
        message: T,
        context: Context,
    ) -> impl Future<Output = Result<O, HandlerError>> + Send + 'static {
        self(message, context)
    }
}

impl<F, T, O> Handler<(Blocking, T)> for F
where
    F: Fn(T, Context) -> Result<O, HandlerError> + Send + marker::Sync + 'static,
    T: Send + 'static,
    O: Send + 'static,
{
    type Input = T;
    type Output = O;

    fn call(
        self: &Arc<Self>,
        message: T,
        context: Context,
    ) -> impl Future<Output = Result<O, HandlerError>> + Send + 'static {
        let handler = Arc::clone(self);
        blocking(move || handler(message, context))
    }
}

/// Runs on a thread that may block. A panic goes on in the task that waits for it.
pub(super) async fn blocking<O: Send + 'static>(
    call: impl FnOnce() -> Result<O, HandlerError> + Send + 'static,
) -> Result<O, HandlerError> {
    match spawn_blocking(otel::here(call)).await {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(error.into()),
        },
    }
}

/// A handler of an event, whatever its types.
pub(super) fn handler_task<M: 'static, H>(handler: H) -> Arc<dyn Task>
where
    H: Handler<M, Output = ()>,
    H::Input: DeserializeOwned,
{
    Arc::new(Typed { handler: Arc::new(handler), marker: PhantomData })
}

struct Typed<M, H> {
    handler: Arc<H>,
    marker: PhantomData<fn() -> M>,
}

impl<M: 'static, H> Task for Typed<M, H>
where
    H: Handler<M, Output = ()>,
    H::Input: DeserializeOwned,
{
    fn kind(&self) -> Kind {
        Kind::Handler
    }

    fn start(
        &self,
        record: &Record,
        context: Context,
    ) -> Result<BoxFuture<Result<(), HandlerError>>, serde_json::Error> {
        let message = read::message(record)?;
        let handler = Arc::clone(&self.handler);
        // Called within the future: what a function does before its first await belongs to the task as well.
        Ok(Box::pin(async move { handler.call(message, context).await }))
    }
}
