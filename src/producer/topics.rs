//! Topics by their names.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rdkafka::error::KafkaError;

use super::Client;
use super::context::Context;
use super::threads::Start;
use crate::error::Result;
use crate::native;
use crate::settings::check;
use crate::sync::lock;

pub(super) type Topic = native::Topic<Context>;

/// So many are kept. Who sends to more looks them up again.
const KEPT: usize = 1_000;

/// The topics that were sent to: checked and looked up once, not for each record.
pub(super) struct Topics {
    client: Arc<Client>,
    /// By name.
    known: RwLock<Vec<(String, Arc<Topic>)>>,
    /// Until the first of them is looked up.
    start: Mutex<Option<Start>>,
}

impl Topics {
    pub(super) fn new(client: &Arc<Client>, start: Option<Start>) -> Self {
        Self { client: Arc::clone(client), known: RwLock::default(), start: Mutex::new(start) }
    }

    pub(super) fn get(&self, name: &str) -> Result<Arc<Topic>> {
        if let Some(topic) = self.known(name) {
            return Ok(topic);
        }
        check::topic(name)?;
        Ok(self.look_up(name)?)
    }

    /// A topic whose name was checked.
    pub(super) fn checked(&self, name: &str) -> Result<Arc<Topic>, KafkaError> {
        self.known(name).map_or_else(|| self.look_up(name), Ok)
    }

    fn known(&self, name: &str) -> Option<Arc<Topic>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let place = place(&known, name).ok()?;
        known.get(place).map(|(_, topic)| Arc::clone(topic))
    }

    fn look_up(&self, name: &str) -> Result<Arc<Topic>, KafkaError> {
        let topic = Arc::new(Topic::new(&self.client, name)?);
        let start = lock(&self.start).take();
        if let Some(start) = start {
            start.begin(&topic);
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        if let Err(place) = place(&known, name) {
            known.insert(place, (name.to_owned(), Arc::clone(&topic)));
        }
        Ok(topic)
    }
}

fn place(known: &[(String, Arc<Topic>)], name: &str) -> Result<usize, usize> {
    known.binary_search_by(|(known, _)| known.as_str().cmp(name))
}
