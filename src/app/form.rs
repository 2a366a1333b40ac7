//! In which form an app's records stand in Kafka, both ways.

use std::collections::HashSet;

/// See the module's own words.
#[derive(Clone, Debug, Default)]
pub(super) struct Form {
    /// A record's key is its event's name; else that stands in the value, as `event`.
    pub(super) key_as_event: bool,
    /// The topics whose values are envelopes, with the message as their item. All others carry the message itself.
    pub(super) envelopes: HashSet<String>,
}
