//! Nothing: what is left of spans without the feature.

use std::sync::Arc;

use crate::error::Error;
use crate::fault::Fault;
use crate::message::arena::Arena;
#[cfg(any(feature = "app", feature = "stream"))]
use crate::message::record::Record;
use crate::trace_context::{Carried, TraceContext};

#[derive(Clone, Debug, Default)]
pub(crate) struct Tracing(());

impl Tracing {
    pub(crate) fn new(_: &str, _: Option<&str>) -> Self {
        Self(())
    }

    pub(crate) fn is_on(&self) -> bool {
        false
    }

    pub(crate) fn polling(&self) -> Polling {
        Polling(())
    }

    pub(crate) fn process(&self, _: &Arena) -> Processing {
        Processing(())
    }

    #[cfg(feature = "app")]
    pub(crate) fn process_one(&self, _: &Record) -> Processing {
        Processing(())
    }

    #[cfg(feature = "stream")]
    pub(crate) fn process_elements(&self, _: &str, _: impl FnOnce() -> Vec<Record>, _: usize) -> Processing {
        Processing(())
    }

    pub(crate) fn commit<'t>(&self, _: impl Iterator<Item = &'t Arc<str>>, _: &mut Processed) -> Span {
        Span(())
    }

    pub(crate) fn transaction(&self, _: &Arena, _: &Processing) -> Processing {
        Processing(())
    }

    pub(crate) fn current() -> Injected {
        Injected(())
    }

    pub(crate) fn send<'a>(
        &self,
        _: Option<&str>,
        _: Option<usize>,
        _: impl Iterator<Item = Carried<'a>> + Clone,
    ) -> (Span, Injected) {
        (Span(()), Injected(()))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Span(());

impl Span {
    pub(crate) fn failed(&mut self, _: Fault<'_>) {}

    pub(crate) fn acknowledged(&mut self, _: i32, _: i64) {}

    pub(crate) fn end(&mut self) {}
}

#[derive(Debug, Default)]
pub(crate) struct Injected(());

impl Injected {
    pub(crate) fn of<'a>(&'a self, carried: Carried<'a>) -> Option<&'a TraceContext> {
        match carried {
            Carried::Caused(context) => Some(context),
            Carried::Nothing | Carried::Given(_) => None,
        }
    }
}

pub(crate) struct Polling(());

impl Polling {
    pub(crate) fn taken(self, _: Result<Option<&Arena>, &Error>) {}
}

#[derive(Debug, Default)]
pub(crate) struct Processing(());

impl Processing {
    pub(crate) fn run<R>(&self, run: impl FnOnce() -> R) -> R {
        run()
    }

    #[cfg(feature = "tokio")]
    pub(crate) async fn during<F: Future>(&self, future: F) -> F::Output {
        future.await
    }

    pub(crate) fn failed(&self, _: Fault<'_>) {}

    pub(crate) fn end(self) {}
}

#[derive(Debug, Default)]
pub(crate) struct Processed(());

impl Processed {
    pub(crate) fn push(&mut self, _: &Processing) {}
}

#[cfg(any(feature = "app", feature = "stream"))]
pub(crate) fn here<R>(call: impl FnOnce() -> R) -> impl FnOnce() -> R {
    call
}
