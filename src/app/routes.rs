//! Which handlers and pipelines an event of a topic has.

use std::sync::Arc;

use crate::app::form::Form;
use crate::app::record::Parts;
use crate::app::task::{Route, Router, Task};
use crate::error::Result;

/// What was registered, until it is checked.
#[derive(Default)]
pub(super) struct Registrations;

/// Which handlers and pipelines an event of a topic has.
pub(super) struct Routes;

impl Registrations {
    /// A handler of this event: from this topic, or from all.
    pub(super) fn handler(&mut self, event: String, topic: Option<String>, task: Arc<dyn Task>) {
        let _ = (event, topic, task);
    }

    /// A pipeline by `event` or `topic.event`.
    pub(super) fn pipeline(&mut self, event: String, task: Arc<dyn Task>) {
        let _ = (event, task);
    }

    pub(super) fn payload<T: serde::de::DeserializeOwned>(&mut self, topic: String) {
        let _ = topic;
    }

    /// Checks and sorts it.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting)
    pub(super) fn build(self, topics: &[String], form: Form) -> Result<Routes> {
        let _ = (topics, form);
        todo!()
    }
}

impl Router for Routes {
    fn route(&self, parts: &mut Parts) -> Route {
        let _ = parts;
        todo!()
    }
}
