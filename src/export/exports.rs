//! What filters make of records.

use serde_json::Value;

use crate::envelope::Ref;
use crate::error::Error;
use crate::export::shape::Shape;

/// What exports look like.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Form {
    pub(super) data: Shape,
    pub(super) extra: Shape,
    pub(super) data_ignore_missing_keys: bool,
    pub(super) extra_ignore_missing_keys: bool,
    pub(super) envelopes: bool,
}

/// What came of some records.
#[derive(Debug, Default)]
pub struct Exports {
    /// All records that were read, matched or not.
    pub records: Vec<Ref>,
    /// The results.
    pub results: Vec<Export>,
    /// Records that could not be read.
    pub errors: Vec<Error>,
}

/// One result.
#[derive(Debug)]
#[non_exhaustive]
pub struct Export {
    /// The record that it comes from.
    pub reference: Ref,
    /// The filters that share it.
    pub filter_ids: Vec<String>,
    /// The data.
    pub data: Value,
    /// The extra.
    pub extra: Value,
    /// Why data and extra are null.
    pub error: Option<Error>,
}
