//! How the values that a filter maps are put together.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::error::HandlerError;

/// A builder of the user's own.
type Custom = dyn Fn(Vec<(&str, Value)>) -> Result<Value, HandlerError> + Send + Sync;

/// How data or extra are put together from pairs of target and value.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Shape {
    /// An object: `{"level": 3}`.
    #[default]
    Map,
    /// A list of texts: `["level=3"]`.
    KeyValue,
    /// A list of pairs: `[["level", 3]]`.
    Pairs,
    /// See [`Shape::custom`].
    Custom(Arc<Custom>),
}

impl Shape {
    /// A builder of one's own: it gets the pairs in the mapping's order.
    pub fn custom(build: impl Fn(Vec<(&str, Value)>) -> Result<Value, HandlerError> + Send + Sync + 'static) -> Self {
        Self::Custom(Arc::new(build))
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Map => "Map",
            Self::KeyValue => "KeyValue",
            Self::Pairs => "Pairs",
            Self::Custom(_) => "Custom",
        })
    }
}
