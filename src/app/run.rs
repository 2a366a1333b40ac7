//! An app that runs.

/// An event app.
#[derive(Debug)]
pub struct App;

/// What an app has done so far.
#[derive(Clone, Debug)]
pub struct Counts;
