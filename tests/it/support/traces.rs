//! Spans that are kept in memory. The tracer provider is the process's own, so each test has a process of its own.

use opentelemetry::trace::{SpanId, Status, TraceContextExt as _};
use opentelemetry::{Context, global};
use opentelemetry_sdk::trace::{InMemorySpanExporter, Sampler, SdkTracerProvider, SpanData};

use super::{PATIENCE, Worker, eventually};

/// Runs a test's body in a process of its own. `test` is the test's path from this binary's root.
#[track_caller]
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    match Worker::arguments::<()>(test) {
        Some(()) => body(),
        None => {
            let status = Worker::spawn(test, &()).wait(2 * PATIENCE);
            assert!(status.success(), "{test} failed in its own process, see above: {status}");
        }
    }
}

/// The spans of this process.
#[derive(Clone)]
pub(crate) struct Spans(InMemorySpanExporter);

impl Spans {
    pub(crate) fn keep() -> Self {
        Self::sampled(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
    }

    pub(crate) fn sampled(sampler: Sampler) -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider =
            SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).with_sampler(sampler).build();
        global::set_tracer_provider(provider);
        Self(exporter)
    }

    pub(crate) fn all(&self) -> Vec<SpanData> {
        self.0.get_finished_spans().unwrap()
    }

    pub(crate) fn named(&self, name: &str) -> Vec<SpanData> {
        self.all().into_iter().filter(|span| span.name == name).collect()
    }

    /// Those of this name, once there are so many.
    #[track_caller]
    pub(crate) fn wait(&self, name: &str, count: usize) -> Vec<SpanData> {
        let spans = eventually(PATIENCE, &format!("{count} spans `{name}`"), || {
            Some(self.named(name)).filter(|spans| spans.len() >= count)
        });
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans
    }

    #[track_caller]
    pub(crate) fn one(&self, name: &str) -> SpanData {
        self.wait(name, 1).remove(0)
    }
}

/// A span's attribute as a text.
pub(crate) fn attribute(span: &SpanData, name: &str) -> Option<String> {
    span.attributes.iter().find(|attribute| attribute.key.as_str() == name).map(|found| found.value.to_string())
}

/// That it is this one's child.
#[track_caller]
pub(crate) fn assert_child(span: &SpanData, parent: &SpanData) {
    assert_eq!(span.parent_span_id, parent.span_context.span_id(), "{} is a child of {}", span.name, parent.name);
    assert_eq!(span.span_context.trace_id(), parent.span_context.trace_id());
}

#[track_caller]
pub(crate) fn assert_root(span: &SpanData) {
    assert_eq!(span.parent_span_id, SpanId::INVALID, "{} has no parent", span.name);
}

/// The spans that it is linked to.
pub(crate) fn links(span: &SpanData) -> Vec<SpanId> {
    span.links.iter().map(|link| link.span_context.span_id()).collect()
}

/// Its error's kind and text.
pub(crate) fn failure(span: &SpanData) -> Option<(String, String)> {
    match &span.status {
        Status::Error { description } => Some((attribute(span, "error.type").unwrap(), description.to_string())),
        _ => None,
    }
}

/// The `traceparent` that says of this span.
pub(crate) fn traceparent(span: &SpanData) -> String {
    let context = &span.span_context;
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags())
}

/// The span that is current here.
pub(crate) fn current() -> SpanId {
    Context::current().span().span_context().span_id()
}
