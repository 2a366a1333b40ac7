//! An app that runs.

/// An event app.
#[derive(Debug)]
pub struct App;
