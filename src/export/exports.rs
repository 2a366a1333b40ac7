//! What filters make of records.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::envelope::{self, History, Ref};
use crate::error::{Error, HandlerError, Result};
use crate::export::fields::Fields;
use crate::export::filters::Filters;
use crate::export::mapping::{Fault, Half, Mapped, Mapping};
use crate::export::shape::Shape;

/// What messages and results look like.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Form {
    data: Shape,
    extra: Shape,
    data_ignore_missing_keys: bool,
    extra_ignore_missing_keys: bool,
    envelopes: bool,
}

impl Form {
    /// How data are put together, [`Shape::Map`] unless set.
    pub fn data(mut self, shape: Shape) -> Self {
        self.data = shape;
        self
    }

    /// How extra are put together, [`Shape::Map`] unless set.
    pub fn extra(mut self, shape: Shape) -> Self {
        self.extra = shape;
        self
    }

    /// Whether a key that a message lacks is left out of the data, instead of being the result's error. No unless set.
    pub fn data_ignore_missing_keys(mut self, ignore: bool) -> Self {
        self.data_ignore_missing_keys = ignore;
        self
    }

    /// Whether a key that a message lacks is left out of extra, instead of being the result's error. No unless set.
    pub fn extra_ignore_missing_keys(mut self, ignore: bool) -> Self {
        self.extra_ignore_missing_keys = ignore;
        self
    }

    /// Whether messages are [envelopes](crate::envelope), of which filters see the item. Unless set they are JSON as it
    /// is.
    pub fn envelopes(mut self, envelopes: bool) -> Self {
        self.envelopes = envelopes;
        self
    }

    /// Data and extra of a message.
    fn build(&self, mapping: &Mapping, message: &Fields<'_>) -> Result<(Value, Value), Fault> {
        let ignores = |half| match half {
            Half::Data => self.data_ignore_missing_keys,
            Half::Extra => self.extra_ignore_missing_keys,
        };
        let Mapped { data, extra } = mapping.apply(message, ignores)?;
        let fault = |half| move |reason| Fault { half, target: None, reason };
        let data = self.data.build(data).map_err(fault(Half::Data))?;
        let extra = self.extra.build(extra).map_err(fault(Half::Extra))?;
        Ok((data, extra))
    }
}

/// What came of some records.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Exports {
    /// All records that were read, in order, whether a filter matched or not.
    pub records: Vec<Ref>,
    /// The results, in the order of their records: none, one or several of each.
    pub results: Vec<Export>,
    /// Records that are not JSON, or no envelopes where these are expected: [`Error::Undecodable`].
    pub errors: Vec<Error>,
}

/// What filters that share their mappings make of one record.
#[derive(Debug)]
#[non_exhaustive]
pub struct Export {
    /// The record.
    pub reference: Ref,
    /// The filters, in the order in which they were put.
    pub filter_ids: Vec<String>,
    /// What the mappings say of data. Null where there is an error.
    pub data: Value,
    /// What the mappings say of extra. Null where there is an error.
    pub extra: Value,
    /// [`Error::Mapping`]: the message lacks a key, or a path leads nowhere.
    pub error: Option<Error>,
    /// The record's place among [`Exports::records`].
    pub(super) record: usize,
}

impl Exports {
    /// The data of each filter by its id, in the order of the records. Results with an error are left out.
    #[must_use]
    pub fn by_export_id(&self) -> BTreeMap<&str, Vec<&Value>> {
        let mut data: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for export in self.results.iter().filter(|export| export.error.is_none()) {
            for id in &export.filter_ids {
                data.entry(&**id).or_default().push(&export.data);
            }
        }
        data
    }

    /// The last data of each filter by its id: of one record, all there are. Results with an error are left out.
    #[must_use]
    pub fn latest_by_export_id(&self) -> BTreeMap<&str, &Value> {
        self.by_export_id().into_iter().filter_map(|(id, data)| Some((id, *data.last()?))).collect()
    }

    /// Calls `handle` with each result until one fails. The error then carries the result's index, so that an
    /// [`ExportWorker`](super::ExportWorker) commits the records before that of the result.
    ///
    /// # Errors
    /// The first error of `handle`, as [`HandlerError::at`].
    pub fn each(&self, mut handle: impl FnMut(&Export) -> Result<(), HandlerError>) -> Result<(), HandlerError> {
        self.results
            .iter()
            .enumerate()
            .try_for_each(|(index, export)| handle(export).map_err(|error| HandlerError::at(index, error)))
    }

    /// Adds what the filters make of a record. No value: a tombstone.
    pub(super) fn add(&mut self, filters: &Filters, mut record: Ref, value: Option<&[u8]>, form: &Form) {
        let Some(value) = value else { return self.records.push(record) };
        match read(value, form.envelopes) {
            Ok((message, history)) => {
                record.history = history;
                if let Some(message) = message {
                    self.add_results(filters, &record, &message, form);
                }
            }
            Err(source) => self.errors.push(undecodable(&record, source)),
        }
        self.records.push(record);
    }

    fn add_results(&mut self, filters: &Filters, record: &Ref, message: &Fields<'_>, form: &Form) {
        for group in filters.find(&record.topic, message) {
            let built = form.build(&group[0].mapping, message);
            let filter_ids = group.iter().map(|filter| filter.id.to_string()).collect();
            let (data, extra, error) = match built {
                Ok((data, extra)) => (data, extra, None),
                Err(fault) => (Value::Null, Value::Null, Some(unmapped(record, fault))),
            };
            let reference = record.clone();
            self.results.push(Export { reference, filter_ids, data, extra, error, record: self.records.len() });
        }
    }
}

/// The message's own level where it is an object, and its history.
fn read(value: &[u8], is_envelope: bool) -> Result<(Option<Fields<'_>>, Option<History>), serde_json::Error> {
    if !is_envelope {
        return Ok((envelope::decode_plain(value, Fields::of)?, None));
    }
    let envelope = envelope::decode_raw(value)?;
    Ok((Fields::of(envelope.item.get())?, envelope.history.and_then(History::from_checked_text)))
}

fn undecodable(record: &Ref, source: serde_json::Error) -> Error {
    let key = record.key.as_deref().map(str::as_bytes);
    Error::undecodable(&record.topic, record.partition, record.offset, key, source)
}

fn unmapped(record: &Ref, fault: Fault) -> Error {
    Error::Mapping {
        topic: record.topic.clone(),
        partition: record.partition,
        offset: record.offset,
        target: fault.target(),
        reason: fault.reason,
    }
}
