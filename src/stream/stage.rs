//! An agent at work: elements in, elements out, between two queues that hold so many and no more.

use std::any::Any;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep_until};

use crate::consumer::{After, Policies, caught};
use crate::error::{BoxError, Error, HandlerError, Result, panic_text};
use crate::stream::agent::{Agent, Outputs, Work};
use crate::stream::origin::Origins;
use crate::stream::sinks::Sinks;

/// The most elements that go from one agent to the next at once, and how often so many may wait.
pub(super) const CHUNK: usize = 256;
const WAITING: usize = 4;

/// What goes from one agent to the next.
pub(super) enum Message<T> {
    Items(Vec<Item<T>>),
    /// What is kept back for a batch is to be released.
    Flush,
}

/// An element on its way.
pub(super) struct Item<T> {
    pub(super) value: T,
    pub(super) origins: Origins,
}

/// What is given up: a dead letter for each of its records.
pub(super) struct Letter {
    pub(super) origins: Origins,
    pub(super) error: Error,
}

/// What all agents of a worker share.
pub(super) struct Shared {
    pub(super) sinks: Sinks,
    pub(super) policies: Policies,
    pub(super) letters: Sender<Letter>,
}

/// A queue between two agents.
pub(super) fn queue<T>() -> (Sender<Message<T>>, Receiver<Message<T>>) {
    channel(WAITING)
}

/// Why a stage ends before its input does.
enum End {
    /// The next agent has ended.
    Gone,
    Failed(Error),
}

type Answer<Out> = Result<Result<Outputs<Out>, HandlerError>, Box<dyn Any + Send>>;

/// Works until the input ends.
///
/// # Errors
/// What the agent answered, where the policies do not let it pass.
pub(super) async fn run<In, Out>(
    agent: Agent<In, Out>,
    input: Receiver<Message<In>>,
    output: Sender<Message<Out>>,
    shared: Arc<Shared>,
) -> Result<()>
where
    In: Send + 'static,
    Out: Send + 'static,
{
    let Agent { name, work, timeout, max_age, .. } = agent;
    let out = Way { name, output, waiting: Vec::new(), shared };
    let ended = match work {
        Work::Each(call) => each(call, input, out).await,
        Work::Batched { size, call } => {
            let batch =
                Batch { size, timeout, max_age, values: Vec::new(), origins: Vec::new(), first: None, last: None };
            batched(call, batch, input, out).await
        }
    };
    match ended {
        Ok(()) | Err(End::Gone) => Ok(()),
        Err(End::Failed(error)) => Err(error),
    }
}

/// Takes what the last agent gives: it is done.
pub(super) async fn sink<T: Send + 'static>(mut input: Receiver<Message<T>>) {
    while let Some(message) = input.recv().await {
        if let Message::Items(items) = message {
            items.into_iter().for_each(|item| item.origins.done());
        }
    }
}

async fn each<In, Out>(
    call: super::agent::Call<In, Out>,
    mut input: Receiver<Message<In>>,
    mut out: Way<Out>,
) -> Result<(), End> {
    while let Some(message) = input.recv().await {
        let Message::Items(items) = message else {
            out.flush().await?;
            continue;
        };
        for Item { value, origins } in items {
            let mut calling = pin!(caught(call(value, out.shared.sinks.clone())));
            let answer = match poll_fn(|task| Poll::Ready(calling.as_mut().poll(task))).await {
                Poll::Ready(answer) => answer,
                Poll::Pending => {
                    // What is there does not wait for this one.
                    out.send().await?;
                    calling.await
                }
            };
            out.settle(answer, origins).await?;
        }
        out.send().await?;
    }
    Ok(())
}

/// What is kept back until it is released.
struct Batch<In> {
    size: usize,
    timeout: Option<Duration>,
    max_age: Option<Duration>,
    values: Vec<In>,
    origins: Vec<Origins>,
    /// When its first and its last element came.
    first: Option<Instant>,
    last: Option<Instant>,
}

impl<In> Batch<In> {
    /// When it is released at the latest.
    fn due(&self) -> Option<Instant> {
        let by = |since: Option<Instant>, time: Option<Duration>| since?.checked_add(time?);
        by(self.last, self.timeout).into_iter().chain(by(self.first, self.max_age)).min()
    }

    fn push(&mut self, Item { value, origins }: Item<In>, now: Instant) {
        self.values.push(value);
        self.origins.push(origins);
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    fn is_full(&self) -> bool {
        self.values.len() >= self.size
    }

    fn take(&mut self) -> (Vec<In>, Origins) {
        (self.first, self.last) = (None, None);
        let origins = std::mem::take(&mut self.origins);
        (std::mem::take(&mut self.values), Origins::merged(origins))
    }
}

async fn batched<In, Out>(
    call: super::agent::Call<Vec<In>, Out>,
    mut batch: Batch<In>,
    mut input: Receiver<Message<In>>,
    mut out: Way<Out>,
) -> Result<(), End> {
    loop {
        let due = batch.due();
        let message = tokio::select! {
            message = input.recv() => message,
            () = at(due) => {
                out.release(&call, &mut batch).await?;
                continue;
            }
        };
        match message {
            Some(Message::Items(items)) => {
                let now = Instant::now();
                for item in items {
                    batch.push(item, now);
                    if batch.is_full() {
                        out.release(&call, &mut batch).await?;
                    }
                }
            }
            Some(Message::Flush) => {
                out.release(&call, &mut batch).await?;
                out.flush().await?;
            }
            None => return out.release(&call, &mut batch).await,
        }
    }
}

/// The way to the next agent.
struct Way<T> {
    name: String,
    output: Sender<Message<T>>,
    waiting: Vec<Item<T>>,
    shared: Arc<Shared>,
}

impl<T> Way<T> {
    async fn release<In>(&mut self, call: &super::agent::Call<Vec<In>, T>, batch: &mut Batch<In>) -> Result<(), End> {
        if batch.values.is_empty() {
            return Ok(());
        }
        let (values, origins) = batch.take();
        let answer = caught(call(values, self.shared.sinks.clone())).await;
        self.settle(answer, origins).await?;
        self.send().await
    }

    async fn settle(&mut self, answer: Answer<T>, origins: Origins) -> Result<(), End> {
        let outputs = match answer {
            Ok(Ok(outputs)) => outputs,
            Ok(Err(error)) => return self.failed(error.into_inner(), origins).await,
            Err(panic) => return self.failed(format!("it panicked: {}", panic_text(&*panic)).into(), origins).await,
        };
        match outputs {
            Outputs::None => origins.done(),
            Outputs::One(value) => self.push(value, origins).await?,
            Outputs::Many(values) => {
                for value in values {
                    self.push(value, origins.clone()).await?;
                }
                origins.done();
            }
        }
        Ok(())
    }

    async fn push(&mut self, value: T, origins: Origins) -> Result<(), End> {
        self.waiting.push(Item { value, origins });
        if self.waiting.len() >= CHUNK { self.send().await } else { Ok(()) }
    }

    async fn send(&mut self) -> Result<(), End> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let items = std::mem::take(&mut self.waiting);
        self.output.send(Message::Items(items)).await.map_err(|_| End::Gone)
    }

    async fn flush(&mut self) -> Result<(), End> {
        self.send().await?;
        self.output.send(Message::Flush).await.map_err(|_| End::Gone)
    }

    /// The agent failed on elements of these records.
    async fn failed(&mut self, source: BoxError, origins: Origins) -> Result<(), End> {
        let source = format!("agent `{}`: {source}", self.name).into();
        let error = Error::Handler { batch: origins.reference().to_string(), source };
        // Attempts are the agent's own, see `Agent::retry`.
        match self.shared.policies.after_failure(u32::MAX) {
            After::Stop | After::Again(_) => {
                // What was made before goes on.
                let _ = self.send().await;
                Err(End::Failed(error))
            }
            After::Skip => {
                log::error!("skipped: {error}");
                origins.done();
                Ok(())
            }
            After::Bury => self.shared.letters.send(Letter { origins, error }).await.map_err(|_| End::Gone),
        }
    }
}

/// At that time; never, where there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
