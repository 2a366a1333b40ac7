//! How the values that a filter maps are put together.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde_json::Value;

use crate::error::{HandlerError, panic_text};
use crate::export::python;

/// What [`Shape::custom`] is given.
type Build = dyn Fn(Vec<(&str, Value)>) -> Result<Value, HandlerError> + Send + Sync;

/// How data or extra are put together from targets and their values.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Shape {
    /// An object: `{"level": 3, "unit": "m"}`.
    #[default]
    Map,
    /// A list of texts: `["level=3", "unit=m"]`. Values are spelled as Python spells them: `True`, `None`, `5.0`.
    KeyValue,
    /// A list of pairs: `[["level", 3], ["unit", "m"]]`.
    Pairs,
    /// One's own, made by [`Shape::custom`].
    Custom(CustomShape),
}

/// A builder of the user's own, see [`Shape::custom`].
#[derive(Clone)]
pub struct CustomShape(Arc<Build>);

impl Shape {
    /// A shape of one's own. The function gets targets and values in the order of the mapping; its error, or its panic,
    /// becomes that of the result.
    ///
    /// ```
    /// use kafka_envelope::export::Shape;
    ///
    /// let values = Shape::custom(|pairs| Ok(pairs.into_iter().map(|(_, value)| value).collect()));
    /// ```
    pub fn custom(build: impl Fn(Vec<(&str, Value)>) -> Result<Value, HandlerError> + Send + Sync + 'static) -> Self {
        Self::Custom(CustomShape(Arc::new(build)))
    }

    /// Puts the pairs together.
    ///
    /// # Errors
    /// What one's own builder said.
    pub(super) fn build(&self, pairs: Vec<(&str, Value)>) -> Result<Value, String> {
        Ok(match self {
            Self::Map => pairs.into_iter().map(|(target, value)| (target.to_owned(), value)).collect(),
            Self::KeyValue => {
                pairs.into_iter().map(|(target, value)| format!("{target}={}", python::text(&value))).collect()
            }
            Self::Pairs => pairs.into_iter().map(|(target, value)| Value::from(vec![target.into(), value])).collect(),
            Self::Custom(CustomShape(build)) => match catch_unwind(AssertUnwindSafe(|| build(pairs))) {
                Ok(built) => built.map_err(|error| error.to_string())?,
                Err(panic) => return Err(format!("it panicked: {}", panic_text(&*panic))),
            },
        })
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

impl fmt::Debug for CustomShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomShape")
    }
}
