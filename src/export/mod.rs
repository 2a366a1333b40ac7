//! Exports: filters that arrive on a topic say which fields of which messages go into a sink.

mod exports;
mod filters;
mod shape;
mod strict;

pub use exports::{Export, Exports, Form};
pub use filters::Filters;
pub use shape::Shape;
