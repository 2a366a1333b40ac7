//! Exports: filters that arrive on a topic say which fields of which messages go into a sink.

mod exports;
mod fields;
mod filter;
mod filters;
mod index;
mod mapping;
mod python;
mod shape;
mod shared_map;
mod strict;

pub use exports::{Export, Exports, Form};
pub use filters::Filters;
pub use shape::{CustomShape, Shape};
