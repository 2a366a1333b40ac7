//! Who waits for which response.

use std::sync::Arc;

use crate::app::cache::AnyCache;
use crate::app::counts::Counts;

/// Who waits for which response.
pub(super) struct Responses;

impl Responses {
    /// `answers`: the topics and events that are responses to anybody who waits; `piped`: those that only pipelines wait for.
    pub(super) fn new(
        answers: Vec<(String, String)>,
        piped: Vec<(String, String)>,
        cache: Option<Arc<dyn AnyCache>>,
        counts: Counts,
    ) -> Self {
        let _ = (answers, piped, cache.is_some(), counts);
        Self
    }

    /// The topics from which responses come.
    pub(super) fn topics(&self) -> Vec<String> {
        todo!()
    }
}
