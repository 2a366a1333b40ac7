//! Who waits for which response.

use crate::app::cache::ResponseCache;

/// Who waits for which response.
pub(super) struct Responses;

impl Responses {
    /// `answers`: the topics and events that are responses.
    pub(super) fn new(answers: Vec<(String, String)>, cache: Option<impl ResponseCache>) -> Self {
        let _ = (answers, cache.is_some());
        Self
    }

    /// The topics from which responses come.
    pub(super) fn topics(&self) -> Vec<String> {
        todo!()
    }

    /// Responses that nobody waited for any more.
    pub(super) fn late(&self) -> u64 {
        todo!()
    }
}
