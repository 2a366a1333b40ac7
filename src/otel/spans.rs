//! Spans from their beginning to their end, and what they say of failures.

use std::fmt;

use opentelemetry::global::{BoxedSpan, BoxedTracer};
use opentelemetry::trace::{Span as _, SpanBuilder, SpanContext, Status, TraceContextExt as _};
use opentelemetry::{Context, ContextGuard, KeyValue};

use crate::client::guarded;
use crate::fault::Fault;

/// The most bytes of an error's text in a span.
const LONGEST: usize = 1_024;
/// So many batches that wait for a commit are remembered, as many as may wait unless a service says more.
const REMEMBERED: usize = 256;

/// None: the tracer provider panicked.
pub(super) fn start(tracer: &BoxedTracer, builder: SpanBuilder, parent: &Context) -> Option<BoxedSpan> {
    let mut span = None;
    guarded(|| span = Some(builder.start_with_context(tracer, parent)));
    span
}

fn bounded(mut text: String) -> String {
    let end = (0..=LONGEST.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    text
}

/// A span that is current nowhere. It ends with its value.
#[derive(Default)]
pub(crate) struct Span(pub(super) Option<BoxedSpan>);

impl Span {
    pub(crate) fn failed(&mut self, fault: Fault<'_>) {
        let Some(span) = self.0.as_mut().filter(|span| span.is_recording()) else { return };
        guarded(|| {
            span.set_attribute(KeyValue::new("error.type", fault.kind()));
            span.set_status(Status::error(bounded(fault.text())));
        });
    }

    pub(crate) fn acknowledged(&mut self, partition: i32, offset: i64) {
        let Some(span) = self.0.as_mut().filter(|span| span.is_recording()) else { return };
        guarded(|| {
            span.set_attribute(KeyValue::new("messaging.destination.partition.id", partition.to_string()));
            if offset >= 0 {
                span.set_attribute(KeyValue::new("messaging.kafka.offset", offset));
            }
        });
    }

    pub(crate) fn end(&mut self) {
        if let Some(mut span) = self.0.take() {
            guarded(|| {
                span.end();
                drop(span);
            });
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Span")
    }
}

/// A span that is current while something runs. It ends with its value.
#[derive(Debug, Default)]
pub(crate) struct Processing(pub(super) Option<Context>);

impl Processing {
    /// It is current on this thread from now on.
    fn enter(&self) -> Option<ContextGuard> {
        self.0.clone().map(Context::attach)
    }

    pub(crate) fn run<R>(&self, run: impl FnOnce() -> R) -> R {
        let _current = self.enter();
        run()
    }

    /// It is current whenever the future is polled.
    #[cfg(feature = "tokio")]
    pub(crate) async fn during<F: Future>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|task| {
            let _current = self.enter();
            future.as_mut().poll(task)
        })
        .await
    }

    pub(crate) fn failed(&self, fault: Fault<'_>) {
        let Some(context) = self.0.as_ref().filter(|context| context.span().is_recording()) else { return };
        guarded(|| {
            context.span().set_attribute(KeyValue::new("error.type", fault.kind()));
            context.span().set_status(Status::error(bounded(fault.text())));
        });
    }

    pub(crate) fn end(self) {}
}

impl Drop for Processing {
    fn drop(&mut self) {
        if let Some(context) = self.0.take() {
            guarded(|| context.span().end());
        }
    }
}

/// Attempts that handled what is not committed yet.
#[derive(Debug, Default)]
pub(crate) struct Processed(pub(super) Vec<SpanContext>);

impl Processed {
    pub(crate) fn push(&mut self, processing: &Processing) {
        let contexts = processing.0.iter().map(|context| context.span().span_context().clone());
        let room = REMEMBERED - self.0.len();
        self.0.extend(contexts.filter(SpanContext::is_valid).take(room));
    }
}

/// A function for another thread, with what is current on this one.
#[cfg(any(feature = "app", feature = "stream"))]
pub(crate) fn here<R>(call: impl FnOnce() -> R) -> impl FnOnce() -> R {
    let current = Context::current();
    move || {
        let _current = current.attach();
        call()
    }
}
