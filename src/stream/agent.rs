//! One step of a worker's chain.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::consumer::Backoff;
use crate::error::{Error, HandlerError, Result};
use crate::otel;
use crate::stream::sinks::Sinks;

type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

/// What an agent of a user's answers.
type Answer<Out> = BoxFuture<Result<Option<Out>, HandlerError>>;

/// A call under way.
pub(super) type Answering<Out> = BoxFuture<Result<Outputs<Out>, HandlerError>>;

/// What an agent makes of what it gets.
pub(super) type Calling<In, Out> = Arc<dyn Fn(In, Sinks) -> Answering<Out> + Send + Sync>;

/// What goes on to the next agent.
#[derive(Debug, Default)]
pub(super) enum Outputs<T> {
    #[default]
    None,
    One(T),
    Many(Vec<T>),
}

/// How an agent is called.
pub(super) enum Work<In, Out> {
    Each(Calling<In, Out>),
    Batched { size: usize, call: Calling<Vec<In>, Out> },
}

/// The most elements that a window has room for on purpose.
const MOST_KEPT: usize = 10_000_000;

/// One step of a worker's chain: a function that gets one element, or a batch of them, and gives the next agent one, none
/// or, with [`Agent::atomic_send`], many.
#[must_use]
pub struct Agent<In, Out> {
    pub(super) name: String,
    pub(super) work: Work<In, Out>,
    pub(super) timeout: Option<Duration>,
    pub(super) max_age: Option<Duration>,
    pub(super) concurrency: usize,
    pub(super) statistics: bool,
    pub(super) retried: Retried,
    retries: Vec<Backoff>,
}

/// How many elements were given to an agent again, until somebody takes the number.
#[derive(Clone, Default)]
pub(super) struct Retried(Arc<AtomicUsize>);

impl Retried {
    fn add(&self, elements: usize) {
        self.0.fetch_add(elements, Ordering::Relaxed);
    }

    pub(super) fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl<In: Send + 'static, Out: Send + 'static> Agent<In, Out> {
    fn with(name: impl Into<String>, work: Work<In, Out>) -> Self {
        let name = name.into();
        Self {
            name,
            work,
            timeout: None,
            max_age: None,
            concurrency: 1,
            statistics: false,
            retried: Retried::default(),
            retries: Vec::new(),
        }
    }

    /// An agent that gets one element at a time. `None` gives the next agent nothing.
    pub fn new<F, Fut>(name: impl Into<String>, agent: F) -> Self
    where
        F: Fn(In, Sinks) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Out>, HandlerError>> + Send + 'static,
    {
        Self::with(name, Work::Each(called(agent)))
    }

    /// An agent that gets up to `size` elements at a time: as soon as there are so many, when [`Agent::timeout`] or
    /// [`Agent::max_age`] is over, at the worker's end, and before what would wait for them for ever: when partitions go to
    /// another worker, or so much of them is taken and not done that no more is read
    /// ([`max_window`](crate::ConsumerBuilder::max_window), which has room for all batches up to 10,000,000 elements).
    pub fn batched<F, Fut>(name: impl Into<String>, size: usize, agent: F) -> Self
    where
        F: Fn(Vec<In>, Sinks) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Out>, HandlerError>> + Send + 'static,
    {
        Self::with(name, Work::Batched { size, call: called(agent) })
    }

    /// As [`Agent::new`], on a thread that may block: for what takes the processor long. What it sends it waits for with
    /// `tokio::runtime::Handle::current().block_on`; better an agent behind it sends.
    pub fn blocking<F>(name: impl Into<String>, agent: F) -> Self
    where
        F: Fn(In, Sinks) -> Result<Option<Out>, HandlerError> + Send + Sync + 'static,
    {
        Self::with(name, Work::Each(called(on_a_thread(agent))))
    }

    /// As [`Agent::batched`], on a thread that may block.
    pub fn batched_blocking<F>(name: impl Into<String>, size: usize, agent: F) -> Self
    where
        F: Fn(Vec<In>, Sinks) -> Result<Option<Out>, HandlerError> + Send + Sync + 'static,
    {
        Self::with(name, Work::Batched { size, call: called(on_a_thread(agent)) })
    }

    /// So long after its last element a batch that is not full is released. Never, unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// So long after its first element a batch that is not full is released. Never, unless set.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// So many calls run at once, 1 unless set. With more, what they give goes on as they end, in no order.
    ///
    /// They take turns on one thread wherever they wait; those of [`Agent::blocking`] have a thread each.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls;
        self
    }

    /// Whether the log tells every 10 seconds how many calls there were with how many elements, how long they took, and
    /// how many elements wait for this agent.
    pub fn statistics(mut self, statistics: bool) -> Self {
        self.statistics = statistics;
        self
    }

    /// The next agent gets the elements of what this one gives one by one; of a map its pairs.
    pub fn atomic_send(self) -> Agent<In, Out::Item>
    where
        Out: IntoIterator,
        Out::Item: Send + 'static,
    {
        let work = match self.work {
            Work::Each(call) => Work::Each(split(call)),
            Work::Batched { size, call } => Work::Batched { size, call: split(call) },
        };
        let Self { name, timeout, max_age, concurrency, statistics, retried, retries, .. } = self;
        Agent { name, work, timeout, max_age, concurrency, statistics, retried, retries }
    }

    /// A call that fails, by an error or a panic, is made again with the same input, up to [`Backoff::attempts`] times in
    /// all. Never, unless set.
    pub fn retry(mut self, backoff: Backoff) -> Self
    where
        In: Clone + Sync,
    {
        self.work = match self.work {
            Work::Each(call) => Work::Each(retried(&self.name, call, backoff, &self.retried, |_| 1)),
            Work::Batched { size, call } => {
                Work::Batched { size, call: retried(&self.name, call, backoff, &self.retried, Vec::len) }
            }
        };
        self.retries.push(backoff);
        self
    }

    /// How many elements wait in its batches, one being filled included; of more nobody has so many on purpose.
    pub(super) fn keeps_back(&self) -> usize {
        match self.work {
            Work::Each(_) => 0,
            Work::Batched { size, .. } => size.saturating_mul(self.concurrency.saturating_add(1)).min(MOST_KEPT),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::setting("agent", format!("`{}` {reason}", self.name)));
        if self.name.is_empty() {
            return refuse("has no name");
        }
        if self.concurrency == 0 {
            return refuse("makes no call at a time");
        }
        match self.retries.as_slice() {
            [] => {}
            [backoff] => backoff.check("retry")?,
            _ => return refuse("says `retry` twice: its attempts would be multiplied"),
        }
        match &self.work {
            Work::Batched { size: 0, .. } => refuse("has batches of no element"),
            Work::Each(_) if self.timeout.is_some() || self.max_age.is_some() => {
                refuse("has no batch that `timeout` or `max_age` could release")
            }
            _ => Ok(()),
        }
    }
}

fn called<In, Out, F, Fut>(agent: F) -> Calling<In, Out>
where
    In: Send + 'static,
    F: Fn(In, Sinks) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<Out>, HandlerError>> + Send + 'static,
{
    let agent = Arc::new(agent);
    Arc::new(move |input, sinks| {
        let agent = Arc::clone(&agent);
        // What a function does before its first await belongs to the call as well.
        Box::pin(async move { agent(input, sinks).await.map(|output| output.map_or(Outputs::None, Outputs::One)) })
    })
}

/// A function that may block, as one that does not.
fn on_a_thread<In, Out, F>(agent: F) -> impl Fn(In, Sinks) -> Answer<Out> + Send + Sync
where
    In: Send + 'static,
    Out: Send + 'static,
    F: Fn(In, Sinks) -> Result<Option<Out>, HandlerError> + Send + Sync + 'static,
{
    let agent = Arc::new(agent);
    move |input, sinks| {
        let agent = Arc::clone(&agent);
        Box::pin(async move {
            match spawn_blocking(otel::here(move || agent(input, sinks))).await {
                Ok(answer) => answer,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(error) => Err(error.into()),
                },
            }
        })
    }
}

fn split<In: 'static, Out>(call: Calling<In, Out>) -> Calling<In, Out::Item>
where
    Out: IntoIterator + 'static,
    Out::Item: Send + 'static,
{
    Arc::new(move |input, sinks| {
        let calling = call(input, sinks);
        Box::pin(async move {
            Ok(match calling.await? {
                Outputs::None => Outputs::None,
                Outputs::One(output) => Outputs::Many(output.into_iter().collect()),
                Outputs::Many(outputs) => Outputs::Many(outputs.into_iter().flatten().collect()),
            })
        })
    })
}

fn retried<In, Out>(
    name: &str,
    call: Calling<In, Out>,
    backoff: Backoff,
    retried: &Retried,
    elements: fn(&In) -> usize,
) -> Calling<In, Out>
where
    In: Clone + Send + Sync + 'static,
    Out: Send + 'static,
{
    let name: Arc<str> = name.into();
    let retried = retried.clone();
    Arc::new(move |input, sinks| {
        let (name, call, retried) = (Arc::clone(&name), Arc::clone(&call), retried.clone());
        Box::pin(async move {
            let mut failures = 0;
            loop {
                let answer = crate::consumer::caught(call(input.clone(), sinks.clone())).await;
                let error = match answer {
                    Ok(Ok(outputs)) => return Ok(outputs),
                    Ok(Err(error)) => error,
                    Err(panic) => format!("it panicked: {}", crate::error::panic_text(&*panic)).into(),
                };
                failures += 1;
                if failures >= backoff.attempts {
                    return Err(error);
                }
                let pause = backoff.pause(failures);
                let of = backoff.attempts;
                retried.add(elements(&input));
                log::warn!("agent `{name}`: attempt {failures} of {of}, again in {pause:?}: {error}");
                tokio::time::sleep(pause).await;
            }
        })
    })
}

impl<In, Out> fmt::Debug for Agent<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("name", &self.name)
            .field("timeout", &self.timeout)
            .field("max_age", &self.max_age)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}
