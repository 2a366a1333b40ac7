//! Sends events.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::context::Handled;
use crate::app::event::Event;
use crate::app::form::Form;
use crate::app::responses::Responses;
use crate::error::Result;
use crate::producer::{Delivery, Producer};

/// Sends events, from anywhere. Cheap to clone.
#[derive(Clone)]
pub struct Emitter {
    shared: Arc<Shared>,
    handled: Option<Arc<Handled>>,
}

/// What all emitters of an app share.
pub(super) struct Shared {
    pub(super) app: String,
    pub(super) app_id: String,
    pub(super) producer: Producer,
    pub(super) form: Form,
    pub(super) responses: Responses,
}

impl Emitter {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, handled: None }
    }

    pub(super) fn during(&self, handled: &Arc<Handled>) -> Self {
        Self { shared: Arc::clone(&self.shared), handled: Some(Arc::clone(handled)) }
    }

    /// The app's id.
    #[must_use]
    pub fn app_id(&self) -> &str {
        &self.shared.app_id
    }

    /// Sends an event and waits until it is acknowledged.
    pub fn emit<T: Serialize>(
        &self,
        topic: &str,
        event: Event<T>,
    ) -> impl Future<Output = Result<Delivery>> + Send + use<'_, T> {
        let _ = (topic, event, &self.handled);
        async { todo!() }
    }

    /// Sends an event and waits for the response.
    pub fn emit_with_response<R: DeserializeOwned, T: Serialize>(
        &self,
        topic: &str,
        event: Event<T>,
        timeout: Duration,
    ) -> impl Future<Output = Result<R>> + Send + use<'_, R, T> {
        let _ = (topic, event, timeout);
        async { todo!() }
    }
}

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emitter").field("app", &self.shared.app).finish_non_exhaustive()
    }
}
