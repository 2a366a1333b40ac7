//! The calls of an agent that are under way.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::error::{BoxError, HandlerError, panic_text};
use crate::fault::Fault;
use crate::otel::Processing;
use crate::stream::agent::{Answering, Outputs};
use crate::stream::gather::Share;

/// What became of a call.
pub(super) struct Ended<Out> {
    /// What the agent said, or its panic.
    pub(super) answer: Result<Result<Outputs<Out>, HandlerError>, Box<dyn Any + Send>>,
    pub(super) share: Share,
    pub(super) began: Option<Instant>,
}

/// So many calls at once.
pub(super) struct Calls<Out> {
    limit: usize,
    running: FuturesUnordered<Call<Out>>,
}

impl<Out> Calls<Out> {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, running: FuturesUnordered::new() }
    }

    pub(super) fn has_room(&self) -> bool {
        self.running.len() < self.limit
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Begins a call. Most end at once: these do not cost what it takes to wait for several.
    pub(super) async fn begin(&mut self, mut call: Call<Out>) -> Option<Ended<Out>> {
        match poll_fn(|task| Poll::Ready(Pin::new(&mut call).poll(task))).await {
            Poll::Ready(ended) => Some(ended),
            Poll::Pending => {
                self.running.push(call);
                None
            }
        }
    }

    /// Waits for the next one to end. None: none is under way. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Ended<Out>> {
        self.running.next().await
    }
}

/// One call, under way.
pub(super) struct Call<Out> {
    answering: Answering<Out>,
    /// None once it has ended.
    share: Option<Share>,
    began: Option<Instant>,
    processing: Processing,
}

impl<Out> Call<Out> {
    pub(super) fn new(answering: Answering<Out>, share: Share, began: Option<Instant>, processing: Processing) -> Self {
        Self { answering, share: Some(share), began, processing }
    }
}

impl<Out> Future for Call<Out> {
    type Output = Ended<Out>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Ended<Out>> {
        let Self { answering, processing, .. } = &mut *self;
        let poll = || processing.run(|| answering.as_mut().poll(task));
        let answer = match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(answer)) => Ok(answer),
            Err(panic) => Err(panic),
        };
        let processing = std::mem::take(processing);
        match &answer {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => processing.failed(Fault::Handler(error.get_ref())),
            Err(panic) => {
                let error = BoxError::from(format!("it panicked: {}", panic_text(&**panic)));
                processing.failed(Fault::Handler(&*error));
            }
        }
        processing.end();
        // Nobody polls what has ended.
        let Some(share) = self.share.take() else { return Poll::Pending };
        Poll::Ready(Ended { answer, share, began: self.began })
    }
}
