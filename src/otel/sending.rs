//! The spans of producers, and what records take along of them.

use std::sync::Arc;

use opentelemetry::Context;
use opentelemetry::trace::{Span as _, SpanContext, SpanKind, TraceContextExt as _, TraceFlags};

use super::on::{Tracing, builder, context, message_count, parent};
use super::spans::{Span, start};
use crate::trace_context::{Carried, TraceContext, Traced};

/// What the records of a call take along.
#[derive(Debug, Default)]
pub(crate) struct Injected {
    /// The call's span, or the current one where the call has none.
    context: Option<TraceContext>,
    /// Records that have one of what caused them keep that: they are of several traces.
    keeps: bool,
}

impl Injected {
    /// What is added to a record that carries this.
    pub(crate) fn of<'a>(&'a self, carried: Carried<'a>) -> Option<&'a TraceContext> {
        match carried {
            Carried::Given(_) => None,
            Carried::Caused(context) if self.keeps => Some(context),
            Carried::Caused(context) => self.context.as_ref().or(Some(context)),
            Carried::Nothing => self.context.as_ref(),
        }
    }
}

impl Tracing {
    /// The current span for records that are sent later.
    pub(crate) fn current() -> Injected {
        Injected { context: Context::map_current(|current| written(current.span().span_context())), keeps: false }
    }

    /// A call begins to send records, so many of them where they are a batch.
    pub(crate) fn send<'a>(
        &self,
        topic: Option<&str>,
        count: Option<usize>,
        records: impl Iterator<Item = Carried<'a>> + Clone,
    ) -> (Span, Injected) {
        let Some(tracer) = &self.tracer else { return (Span::default(), Self::current()) };
        let traced = |carried| match carried {
            Carried::Given(traced) => traced,
            Carried::Caused(context) => Some(context.as_traced()),
            Carried::Nothing => None,
        };
        let mut contexts = records.clone().filter_map(traced);
        let mut first: Option<Traced<'a>> = None;
        let is_one_trace = contexts.all(|context| context.trace_id() == first.get_or_insert(context).trace_id());
        let mut keeps = false;
        let parent = parent(|| {
            keeps = !is_one_trace;
            first.filter(|_| is_one_trace).and_then(context)
        });
        // By whether its context is the one that records are made with.
        let is_given = |carried| matches!(carried, Carried::Given(_)) || keeps && matches!(carried, Carried::Caused(_));
        let kind = if records.clone().all(is_given) { SpanKind::Client } else { SpanKind::Producer };
        let mut attributes = self.own.to_vec();
        attributes.extend(count.map(message_count));
        let builder = builder(tracer, "send", "send", topic.map(Arc::from), kind, attributes);
        let mut span = start(tracer, builder, &parent);
        if let Some(span) = span.as_mut().filter(|span| span.is_recording()) {
            for context in records.filter(|carried| is_given(*carried)).filter_map(traced).filter_map(context) {
                span.add_link(context, Vec::new());
            }
        }
        let own = span.as_ref().and_then(|span| written(span.span_context()));
        let context = own.or_else(|| written(parent.span().span_context()));
        (Span(span), Injected { context, keeps })
    }
}

fn written(context: &SpanContext) -> Option<TraceContext> {
    let flags = context.trace_flags() & TraceFlags::SAMPLED;
    let parent = || format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id());
    context.is_valid().then(|| TraceContext::new(parent(), context.trace_state().header()))
}
