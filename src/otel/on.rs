//! The spans of consumers, and what all spans say.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::global::{self, BoxedTracer};
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    Tracer as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};

use super::spans::{Processed, Processing, Span, start};
use crate::error::Error;
use crate::fault::Fault;
use crate::message::Headers;
use crate::message::arena::{Arena, Record as Place, Source};
#[cfg(any(feature = "app", feature = "stream"))]
use crate::message::record::Record;
use crate::trace_context::Traced;

/// Makes a client's spans, with the global tracer provider as it is when the client is built. Without one nothing is
/// traced, and nothing looked at for it.
#[derive(Clone, Default)]
pub(crate) struct Tracing {
    pub(super) tracer: Option<Arc<BoxedTracer>>,
    /// What each span says of the client.
    pub(super) own: Arc<[KeyValue]>,
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracing").field("is_on", &self.tracer.is_some()).finish_non_exhaustive()
    }
}

/// Whether spans go anywhere. The API cannot be asked. But its no-op tracer gives each span its parent's context, and all
/// others none while telemetry is suppressed.
fn is_heard(tracer: &BoxedTracer) -> bool {
    let parent =
        SpanContext::new(TraceId::from(1), SpanId::from(1), TraceFlags::NOT_SAMPLED, true, TraceState::default());
    let asked = Context::new().with_remote_span_context(parent.clone()).with_telemetry_suppressed();
    tracer.build_with_context(SpanBuilder::from_name("probe"), &asked).span_context() != &parent
}

impl Tracing {
    /// Whether anybody hears of spans.
    pub(crate) fn is_on(&self) -> bool {
        self.tracer.is_some()
    }

    /// That of the client with this id, and of its group where it is a consumer.
    pub(crate) fn new(client: &str, group: Option<&str>) -> Self {
        let scope = InstrumentationScope::builder("kafka-envelope").with_version(env!("CARGO_PKG_VERSION")).build();
        let tracer = global::tracer_with_scope(scope);
        if !is_heard(&tracer) {
            return Self::default();
        }
        let of = |name: &'static str, value: &str| KeyValue::new(name, Arc::from(value));
        let mut own = vec![of("messaging.client.id", client)];
        own.extend(group.map(|group| of("messaging.consumer.group.name", group)));
        Self { tracer: Some(Arc::new(tracer)), own: own.into() }
    }

    /// A consumer begins to wait for records.
    pub(crate) fn polling(&self) -> Polling {
        Polling { tracing: self.clone(), since: self.tracer.is_some().then(SystemTime::now) }
    }

    /// An attempt to handle these records begins.
    pub(crate) fn process(&self, arena: &Arena) -> Processing {
        let Some(tracer) = &self.tracer else { return Processing::default() };
        let records = arena.records();
        let headers = || records.iter().map(|record| Headers::of(arena, record));
        let mut attributes = self.of_batch(arena);
        if let [one] = records {
            attributes.extend(place(arena.source(one), one));
        }
        let traced = |headers: Headers<'_>| Traced::of(headers.iter()).and_then(context);
        let builder = builder(tracer, "process", "process", topic(arena), SpanKind::Consumer, attributes);
        let parent = parent(|| one_trace(headers()));
        let Some(mut span) = start(tracer, builder, &parent) else { return Processing::default() };
        if span.is_recording() {
            for (record, headers) in records.iter().zip(headers()) {
                if let Some(context) = traced(headers) {
                    span.add_link(context, place(arena.source(record), record).into());
                }
            }
        }
        Processing(Some(parent.with_span(span)))
    }

    /// A handler begins with one record.
    #[cfg(feature = "app")]
    pub(crate) fn process_one(&self, record: &Record) -> Processing {
        self.process_each(None, std::slice::from_ref(record), None)
    }

    /// An agent begins with so many elements, which came of these records.
    #[cfg(feature = "stream")]
    pub(crate) fn process_elements(
        &self,
        agent: &str,
        records: impl FnOnce() -> Vec<Record>,
        count: usize,
    ) -> Processing {
        if self.tracer.is_none() {
            return Processing::default();
        }
        self.process_each(Some(agent), &records(), Some(count))
    }

    #[cfg(any(feature = "app", feature = "stream"))]
    fn process_each(&self, agent: Option<&str>, records: &[Record], count: Option<usize>) -> Processing {
        let Some(tracer) = &self.tracer else { return Processing::default() };
        let place = |record: &Record| {
            [
                KeyValue::new("messaging.destination.partition.id", record.partition().to_string()),
                KeyValue::new("messaging.kafka.offset", record.offset()),
            ]
        };
        let mut attributes = self.own.to_vec();
        attributes.extend(agent.map(|agent| KeyValue::new("messaging.process.agent.name", agent.to_owned())));
        attributes.extend(count.map(message_count));
        if let [one] = records {
            attributes.extend(place(one));
        }
        let topic =
            records.first().map(Record::topic).filter(|topic| records.iter().all(|other| other.topic() == *topic));
        let topic = topic.map(Arc::from);
        let builder = builder(tracer, "process", "process", topic, SpanKind::Consumer, attributes);
        let parent = parent(|| one_trace(records.iter().map(Record::headers)));
        let Some(mut span) = start(tracer, builder, &parent) else { return Processing::default() };
        if span.is_recording() {
            for record in records {
                if let Some(context) = Traced::of(record.headers().iter()).and_then(context) {
                    span.add_link(context, place(record).into());
                }
            }
        }
        Processing(Some(parent.with_span(span)))
    }

    /// A commit is sent for these topics, of what these attempts have handled: it is part of the one, or linked to all.
    pub(crate) fn commit<'t>(&self, topics: impl Iterator<Item = &'t Arc<str>>, processed: &mut Processed) -> Span {
        let contexts = std::mem::take(&mut processed.0);
        let Some(tracer) = &self.tracer else { return Span::default() };
        let builder = builder(tracer, "commit", "settle", only(topics), SpanKind::Client, self.own.to_vec());
        let none = Context::new();
        Span(match contexts.as_slice() {
            [one] => start(tracer, builder, &none.with_remote_span_context(one.clone())),
            all => {
                let links = all.iter().map(|context| Link::with_context(context.clone())).collect();
                start(tracer, builder.with_links(links), &none)
            }
        })
    }

    /// A transaction begins to be committed, with the offsets of these records.
    pub(crate) fn transaction(&self, arena: &Arena, processing: &Processing) -> Processing {
        let (Some(tracer), Some(parent)) = (&self.tracer, &processing.0) else { return Processing::default() };
        let builder = builder(tracer, "commit", "settle", topic(arena), SpanKind::Client, self.of_batch(arena));
        Processing(start(tracer, builder, parent).map(|span| parent.with_span(span)))
    }

    fn of_batch(&self, arena: &Arena) -> Vec<KeyValue> {
        let mut attributes = self.own.to_vec();
        attributes.push(message_count(arena.records().len()));
        attributes
    }
}

/// With the attributes that are needed for the decision whether a span is sampled.
pub(super) fn builder(
    tracer: &BoxedTracer,
    operation: &'static str,
    kind: &'static str,
    topic: Option<Arc<str>>,
    span_kind: SpanKind,
    mut attributes: Vec<KeyValue>,
) -> SpanBuilder {
    attributes.extend([
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.operation.name", operation),
        KeyValue::new("messaging.operation.type", kind),
    ]);
    let builder = match &topic {
        Some(topic) => tracer.span_builder(format!("{operation} {topic}")),
        None => tracer.span_builder(operation),
    };
    attributes.extend(topic.map(|topic| KeyValue::new("messaging.destination.name", topic)));
    builder.with_kind(span_kind).with_attributes(attributes)
}

pub(super) fn message_count(count: usize) -> KeyValue {
    KeyValue::new("messaging.batch.message_count", i64::try_from(count).unwrap_or(i64::MAX))
}

fn place(source: &Source, record: &Place) -> [KeyValue; 2] {
    [
        KeyValue::new("messaging.destination.partition.id", source.partition.to_string()),
        KeyValue::new("messaging.kafka.offset", record.offset),
    ]
}

/// The topic of all of these records, where it is one.
fn topic(arena: &Arena) -> Option<Arc<str>> {
    only(arena.ranges(arena.records().len()).map(|(source, _)| &source.topic))
}

fn only<'t>(mut topics: impl Iterator<Item = &'t Arc<str>>) -> Option<Arc<str>> {
    let first = topics.next()?;
    topics.all(|other| other == first).then(|| Arc::clone(first))
}

/// The current context with its span, where there is one; else with this one.
pub(super) fn parent(otherwise: impl FnOnce() -> Option<SpanContext>) -> Context {
    let current = Context::current();
    if current.span().span_context().is_valid() {
        return current;
    }
    match otherwise() {
        Some(context) => current.with_remote_span_context(context),
        None => current,
    }
}

/// The first record's context, where all records are of its trace.
fn one_trace<'a>(mut all: impl Iterator<Item = Headers<'a>>) -> Option<SpanContext> {
    let first = Traced::of(all.next()?.iter())?;
    all.all(|headers| Traced::of(headers.iter()).is_some_and(|other| other.trace_id() == first.trace_id()))
        .then(|| context(first))?
}

pub(super) fn context(traced: Traced<'_>) -> Option<SpanContext> {
    let trace = TraceId::from_hex(traced.trace_id()).ok()?;
    let span = SpanId::from_hex(traced.span_id()).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(traced.flags(), 16).ok()?) & TraceFlags::SAMPLED;
    let state = traced.state().and_then(|state| state.parse().ok()).unwrap_or_default();
    Some(SpanContext::new(trace, span, flags, true, state))
}

/// A wait for records.
pub(crate) struct Polling {
    tracing: Tracing,
    since: Option<SystemTime>,
}

impl Polling {
    /// These came, nothing, or nothing comes any more. Nothing is no span: a quiet topic would be full of them.
    pub(crate) fn taken(self, taken: Result<Option<&Arena>, &Error>) {
        let (Some(tracer), Some(since)) = (&self.tracing.tracer, self.since) else { return };
        let (topic, attributes) = match taken {
            Ok(Some(arena)) => (topic(arena), self.tracing.of_batch(arena)),
            Ok(None) => return,
            Err(_) => (None, self.tracing.own.to_vec()),
        };
        let builder = builder(tracer, "poll", "receive", topic, SpanKind::Client, attributes).with_start_time(since);
        let mut span = Span(start(tracer, builder, &Context::current()));
        if let Err(error) = taken {
            span.failed(Fault::Error(error));
        }
    }
}
