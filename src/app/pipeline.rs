//! Messages through a chain of transactions.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::context::Context;
use crate::app::handler::Handler;
use crate::app::read;
use crate::app::task::{BoxFuture, Kind, Task};
use crate::error::{BoxError, Error, HandlerError, Result};
use crate::message::record::Record;
use crate::settings::check;

/// A chain of transactions that an event's message goes through, registered by
/// [`AppBuilder::pipeline`](crate::app::AppBuilder::pipeline).
///
/// Each transaction is a [`Handler`]: it gets what the one before it made. What else it needs, its closure brings.
///
/// ```
/// use std::time::Duration;
///
/// use kafka_envelope::HandlerError;
/// use kafka_envelope::app::{Context, Pipeline};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize, Serialize)]
/// struct Order { sku: String, quantity: u32 }
/// #[derive(Serialize)]
/// struct Priced { sku: String, total: f64 }
/// #[derive(Deserialize)]
/// struct Stock { left: u32 }
///
/// // A transaction with an argument of its own.
/// fn price(unit: f64) -> impl Fn(Order, Context) -> Result<Priced, HandlerError> {
///     move |order, _| Ok(Priced { total: f64::from(order.quantity) * unit, sku: order.sku })
/// }
///
/// async fn ship(stock: Stock, _: Context) -> Result<(), HandlerError> {
///     if stock.left > 0 { Ok(()) } else { Err("nothing left".into()) }
/// }
///
/// let paid = Pipeline::new("paid")
///     .then(price(1.25))
///     .pipe("invoices", "order_priced") // sent on; the next one gets the same message
///     .pipe_and_wait("stock", "reserve", ("stock.answers", "reserved"), Duration::from_secs(3))
///     .then(ship); // gets the response
/// # let _: Pipeline<Order, ()> = paid;
/// ```
///
/// Transactions that do not fit one another do not compile:
///
/// ```compile_fail,E0631
/// # use kafka_envelope::HandlerError;
/// # use kafka_envelope::app::{Context, Pipeline};
/// async fn count(text: String, _: Context) -> Result<usize, HandlerError> { Ok(text.len()) }
/// async fn print(text: String, _: Context) -> Result<(), HandlerError> { Ok(println!("{text}")) }
///
/// let pipeline = Pipeline::new("text").then(count).then(print);
/// ```
///
/// # Failures
/// The first transaction that fails ends the pipeline, and so does a response that does not come. The record is then treated as
/// after a failing handler: where it is handled again, the pipeline starts anew, and what was sent on goes out once
/// more. The error says which pipeline it was and which transaction; its
/// [`source`](std::error::Error::source) is the transaction's own.
#[must_use = "a pipeline does nothing until an app has it"]
pub struct Pipeline<In, Out = In> {
    name: Arc<str>,
    /// The transactions so far.
    count: usize,
    /// The topics and events from which it awaits responses.
    answers: Vec<(String, String)>,
    /// The first thing about it that cannot work.
    fault: Option<String>,
    run: Run<In, Out>,
}

type Run<In, Out> = Arc<dyn Fn(In, Context) -> BoxFuture<Result<Out, HandlerError>> + Send + Sync>;

impl<In: Send + 'static> Pipeline<In> {
    /// A pipeline that does nothing yet. Its name is for logs and errors, and must not be empty.
    pub fn new(name: impl Into<String>) -> Self {
        let name: String = name.into();
        let fault = name.is_empty().then(|| "a pipeline has no name".to_owned());
        let run: Run<In, In> = Arc::new(|message, _| Box::pin(async { Ok(message) }));
        Self { name: name.into(), count: 0, answers: Vec::new(), fault, run }
    }
}

impl<In: Send + 'static, Out: Send + 'static> Pipeline<In, Out> {
    /// A transaction: its result is the next message.
    pub fn then<M: 'static, H: Handler<M, Input = Out>>(mut self, transaction: H) -> Pipeline<In, H::Output> {
        self.count += 1;
        let step = format!("transaction {}", self.count);
        let transaction = Arc::new(transaction);
        self.step(step, move |message, context| {
            let transaction = Arc::clone(&transaction);
            async move { transaction.call(message, context).await }
        })
    }

    /// Sends the message to a topic as this event, as [`Context::pipe`] does, and goes on with it as it was.
    pub fn pipe(mut self, topic: impl Into<String>, event: impl Into<String>) -> Self
    where
        Out: Serialize,
    {
        let target = self.target(topic.into(), event.into());
        self.step(format!("pipe of `{}` to `{}`", target.1, target.0), move |message: Out, context| {
            let target = Arc::clone(&target);
            async move {
                let piped = context.pipe(&target.0, &target.1, &message);
                piped.await?;
                Ok(message)
            }
        })
    }

    /// Sends the message to a topic as this event, as [`Context::pipe_and_wait`] does, and goes on with the response:
    /// the first answer of this topic and event that has the `event_id` that was sent.
    ///
    /// Other records are handled meanwhile, whatever the app's limits. Where no response comes within the timeout, the
    /// pipeline fails.
    pub fn pipe_and_wait<R: DeserializeOwned + Send + 'static>(
        mut self,
        topic: impl Into<String>,
        event: impl Into<String>,
        answer: (impl Into<String>, impl Into<String>),
        timeout: Duration,
    ) -> Pipeline<In, R>
    where
        Out: Serialize,
    {
        let target = self.target(topic.into(), event.into());
        let answer = self.answer(answer.0.into(), answer.1.into());
        if timeout.is_zero() {
            self.refuse(format!("waits no time for a response to `{}`", target.1));
        }
        let step = format!("pipe of `{}` to `{}` and wait for `{}` of `{}`", target.1, target.0, answer.1, answer.0);
        self.step(step, move |message: Out, context| {
            let (target, answer) = (Arc::clone(&target), Arc::clone(&answer));
            async move {
                let answered = context.pipe_and_wait(&target.0, &target.1, (&answer.0, &answer.1), &message, timeout);
                Ok(answered.await?)
            }
        })
    }

    /// A piping function of one's own. It gets a copy of the message; what it makes of it is not the next message.
    ///
    /// All that it may need is in its [`Context`]: the app's id, the pipeline's name, [`Context::pipe`] and
    /// [`Context::pipe_and_wait`], and the emitter. `answers` are the topics and events of the responses that it waits
    /// for; without any: `[("", ""); 0]`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use kafka_envelope::HandlerError;
    /// use kafka_envelope::app::{Context, Pipeline};
    /// use serde_json::Value;
    ///
    /// async fn ask_both(order: Value, context: Context) -> Result<(), HandlerError> {
    ///     let patience = Duration::from_secs(3);
    ///     let answer = ("stock.answers", "reserved");
    ///     let stock: Value = context.pipe_and_wait("stock", "reserve", answer, &order, patience).await?;
    ///     context.pipe("audit", "asked", &stock).await?;
    ///     Ok(())
    /// }
    ///
    /// let pipeline = Pipeline::new("paid").custom([("stock.answers", "reserved")], ask_both);
    /// # let _: Pipeline<Value> = pipeline;
    /// ```
    pub fn custom<M: 'static, H: Handler<M, Input = Out, Output = ()>>(
        mut self,
        answers: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
        pipe: H,
    ) -> Self
    where
        Out: Clone,
    {
        for (topic, event) in answers {
            self.answer(topic.into(), event.into());
        }
        let step = match self.count {
            0 => "custom pipe before the first transaction".to_owned(),
            count => format!("custom pipe after transaction {count}"),
        };
        let pipe = Arc::new(pipe);
        self.step(step, move |message: Out, context| {
            let pipe = Arc::clone(&pipe);
            async move {
                pipe.call(message.clone(), context).await?;
                Ok(message)
            }
        })
    }

    /// The topics and events of the responses that it awaits.
    pub(super) fn answers(&self) -> &[(String, String)] {
        &self.answers
    }

    /// As what an app runs.
    pub(super) fn into_task(self) -> Arc<dyn Task>
    where
        In: DeserializeOwned,
    {
        Arc::new(self)
    }

    /// One step more.
    fn step<Next, Fut>(
        self,
        step: String,
        run: impl Fn(Out, Context) -> Fut + Send + Sync + 'static,
    ) -> Pipeline<In, Next>
    where
        Next: Send + 'static,
        Fut: Future<Output = Result<Next, HandlerError>> + Send + 'static,
    {
        let Self { name, count, answers, fault, run: before } = self;
        let step: Arc<(Arc<str>, Box<str>)> = Arc::new((Arc::clone(&name), step.into()));
        let run = Arc::new(run);
        let run: Run<In, Next> = Arc::new(move |message, context: Context| {
            let (so_far, run, step) = (before(message, context.clone()), Arc::clone(&run), Arc::clone(&step));
            Box::pin(async move {
                let message = so_far.await?;
                run(message, context).await.map_err(|error| Failed { step, source: error.into_inner() }.into())
            })
        });
        Pipeline { name, count, answers, fault, run }
    }

    fn target(&mut self, topic: String, event: String) -> Arc<(String, String)> {
        if let Err(error) = check::topic(&topic) {
            self.refuse(format!("cannot pipe: {error}"));
        }
        if event.is_empty() {
            self.refuse(format!("the event that is piped to `{topic}` has no name"));
        }
        Arc::new((topic, event))
    }

    fn answer(&mut self, topic: String, event: String) -> Arc<(String, String)> {
        if let Err(error) = check::topic(&topic) {
            self.refuse(format!("cannot await a response: {error}"));
        }
        if event.is_empty() {
            self.refuse(format!("the response that is awaited from `{topic}` has no name"));
        }
        self.answers.push((topic.clone(), event.clone()));
        Arc::new((topic, event))
    }

    fn refuse(&mut self, reason: String) {
        let name = &self.name;
        self.fault.get_or_insert_with(|| format!("`{name}` {reason}"));
    }
}

impl<In: DeserializeOwned + Send + 'static, Out: Send + 'static> Task for Pipeline<In, Out> {
    fn kind(&self) -> Kind {
        Kind::Pipeline
    }

    fn pipeline(&self) -> Option<&Arc<str>> {
        Some(&self.name)
    }

    fn check(&self) -> Result<()> {
        self.fault.as_ref().map_or(Ok(()), |reason| Err(Error::setting("pipeline", reason)))
    }

    fn start(
        &self,
        record: &Record,
        context: Context,
    ) -> Result<BoxFuture<Result<(), HandlerError>>, serde_json::Error> {
        let message = read::message(record)?;
        let done = (self.run)(message, context);
        Ok(Box::pin(async move { done.await.map(drop) }))
    }
}

impl<In, Out> fmt::Debug for Pipeline<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("name", &self.name).field("answers", &self.answers).finish_non_exhaustive()
    }
}

/// Which pipeline failed, and where.
#[derive(Debug, thiserror::Error)]
#[error("pipeline `{}`, {}: {source}", step.0, step.1)]
struct Failed {
    step: Arc<(Arc<str>, Box<str>)>,
    source: BoxError,
}
