//! What can be said of an app before it runs.

/// Builds an [`App`](crate::app::App).
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct AppBuilder;
