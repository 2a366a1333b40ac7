//! The filters that are in force, as one value: cheap to clone, changed by `put` and `delete`.

use serde_json::Value;

use crate::envelope::Ref;
use crate::error::Result;
use crate::export::exports::{Exports, Form};

/// A set of filters. Clones share what did not change.
#[derive(Clone, Debug, Default)]
pub struct Filters {}

impl Filters {
    /// Adds a filter, given as its JSON text, and returns its id. `topic` checks and all rules are those of the module.
    ///
    /// # Errors
    /// [`Error::Filter`](crate::Error::Filter); nothing is changed then.
    pub fn put(&mut self, _filter: &str) -> Result<String> {
        todo!()
    }

    /// Takes a filter away. False: there was none with this id.
    pub fn delete(&mut self, _id: &str) -> bool {
        todo!()
    }

    /// How many filters there are.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The topics that the filters name, sorted, each once.
    #[must_use]
    pub fn sources(&self) -> Vec<String> {
        todo!()
    }

    /// A filter's `args`. `None`: no such filter; `Some(Value::Null)`: it has none.
    #[must_use]
    pub fn args(&self, _id: &str) -> Option<Value> {
        todo!()
    }

    /// What the filters make of one record.
    #[must_use]
    pub fn export(&self, _record: Ref, _value: &[u8], _form: &Form) -> Exports {
        todo!()
    }

    /// The same, added to others. None: a tombstone.
    #[allow(dead_code)]
    pub(super) fn export_into(&self, _exports: &mut Exports, _record: Ref, _value: Option<&[u8]>, _form: &Form) {
        todo!()
    }
}
