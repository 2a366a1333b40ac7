//! Runs handlers, several in one task for as long as they do not wait.

use std::any::Any;
use std::future::{pending, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::app::context::{Context, Handled};
use crate::app::emitter::Emitter;
use crate::app::schedule::Unit;
use crate::app::slot::Slot;
use crate::app::task::{BoxFuture, Router, Task};
use crate::consumer::{Observed, Sight};
use crate::error::{BoxError, HandlerError, panic_text};
use crate::fault::Fault;
use crate::message::record::Record;

/// What is asked of every record before anything handles it.
pub(super) type Gate = Arc<dyn Fn(Context) -> BoxFuture<Answer> + Send + Sync>;

/// What begins.
pub(super) struct Begun {
    pub(super) unit: Unit,
    /// Its place among the router's tasks. None: the gate is asked.
    pub(super) task: Option<usize>,
    pub(super) record: Record,
    pub(super) slot: Slot,
    pub(super) attempt: u32,
}

/// What all tasks share.
pub(super) struct Service {
    pub(super) emitter: Emitter,
    pub(super) router: Arc<dyn Router>,
    pub(super) gate: Option<Gate>,
    pub(super) sight: Sight,
}

/// What has begun and goes on by itself.
pub(super) struct Waiting {
    unit: Unit,
    handling: BoxFuture<Answer>,
    context: Context,
    observed: Observed,
}

/// What a handler answers.
pub(super) type Answer = Result<(), HandlerError>;

/// What became of those that share a task.
pub(super) struct Shared {
    /// Also how long each took.
    pub(super) ended: Vec<(Unit, Outcome, Duration)>,
    pub(super) waiting: Vec<Waiting>,
}

/// How a handler has ended.
pub(super) enum Outcome {
    Ok,
    Unreadable(serde_json::Error),
    /// It answered with this.
    Failed(BoxError),
    Panicked(BoxError),
}

impl Outcome {
    pub(super) fn fault(&self) -> Option<Fault<'_>> {
        match self {
            Self::Ok => None,
            Self::Unreadable(_) => Some(Fault::Unreadable),
            Self::Failed(error) | Self::Panicked(error) => Some(Fault::Handler(&**error)),
        }
    }
}

/// Begins all of these, one after the other. What has to wait goes on beside the others.
pub(super) async fn handle(service: Arc<Service>, begun: Vec<Begun>) -> Shared {
    let (mut ended, mut waiting) = (Vec::with_capacity(begun.len()), Vec::new());
    let is_alone = begun.len() == 1;
    for Begun { unit, task, record, slot, attempt } in begun {
        let task = task.and_then(|place| service.router.task(place));
        // What the gate is asked is no handling yet.
        let processing = task.map(|_| service.sight.tracing.process_one(&record)).unwrap_or_default();
        let observed = Observed::begin(processing);
        let pipeline = task.and_then(Task::pipeline).cloned();
        let context = Context::new(&service.emitter, Handled::new(record, slot, attempt, pipeline));
        let outcome = match start(task, service.gate.as_ref(), &context) {
            Err(outcome) => outcome,
            Ok(mut handling) => match observed.during(poll_once(&mut handling)).await {
                Some(outcome) => outcome,
                None if is_alone => observed.during(outcome(handling)).await,
                None => {
                    waiting.push(Waiting { unit, handling, context, observed });
                    continue;
                }
            },
        };
        context.end();
        let took = observed.end(outcome.fault());
        ended.push((unit, outcome, took));
    }
    Shared { ended, waiting }
}

fn start(task: Option<&dyn Task>, gate: Option<&Gate>, context: &Context) -> Result<BoxFuture<Answer>, Outcome> {
    let start = || match (task, gate) {
        (Some(task), _) => task.start(context.record(), context.clone()),
        (None, Some(gate)) => Ok(gate(context.clone())),
        (None, None) => Ok(Box::pin(ready(Ok(()))) as BoxFuture<_>),
    };
    match catch_unwind(AssertUnwindSafe(start)) {
        Ok(begun) => begun.map_err(Outcome::Unreadable),
        Err(panic) => Err(panicked(&*panic)),
    }
}

/// None: it has to wait.
async fn poll_once(handling: &mut BoxFuture<Answer>) -> Option<Outcome> {
    poll_fn(|task| match poll(handling, task) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

async fn outcome(mut handling: BoxFuture<Answer>) -> Outcome {
    poll_fn(|task| poll(&mut handling, task)).await
}

/// A panic is an outcome, and so is one of the drop at the end.
fn poll(handling: &mut BoxFuture<Answer>, task: &mut std::task::Context<'_>) -> Poll<Outcome> {
    let polled = catch_unwind(AssertUnwindSafe(|| {
        let answer = handling.as_mut().poll(task);
        if answer.is_ready() {
            *handling = Box::pin(pending());
        }
        answer
    }));
    match polled {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(Ok(()))) => Poll::Ready(Outcome::Ok),
        Ok(Poll::Ready(Err(error))) => Poll::Ready(Outcome::Failed(error.into_inner())),
        Err(panic) => Poll::Ready(panicked(&*panic)),
    }
}

impl Waiting {
    pub(super) async fn wait(self) -> Shared {
        let Self { unit, handling, context, observed } = self;
        let outcome = observed.during(outcome(handling)).await;
        context.end();
        let took = observed.end(outcome.fault());
        Shared { ended: vec![(unit, outcome, took)], waiting: Vec::new() }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Outcome {
    Outcome::Panicked(format!("it panicked: {}", panic_text(panic)).into())
}
