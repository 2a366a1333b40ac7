//! What data clients and workers stand on: a consumer that reads the topics which the filters name.

use std::fmt;
use std::sync::Arc;

use arc_swap::Guard;

use crate::consumer::{Consumer, ConsumerBuilder};
use crate::envelope::Ref;
use crate::error::Result;
use crate::export::exports::{Exports, Form};
use crate::export::filter_client::Following;
use crate::export::filters::Filters;
use crate::message::arena::{Arena, Record};

/// A consumer, and the filters for what it reads.
pub(super) struct Source {
    pub(super) consumer: Consumer,
    pub(super) lens: Lens,
}

/// What records are seen through.
pub(super) struct Lens {
    following: Arc<Following>,
    form: Form,
}

impl Source {
    /// Nothing is read before the filters are in sync: a record that came before its filter would be lost for it.
    pub(super) fn start(consumer: ConsumerBuilder, mut following: Following, form: Form) -> Result<Self> {
        let mut consumer = consumer.topics_change().build()?;
        let subscription = consumer.subscription();
        following.on_sources(move |sources| subscription.set(sources.iter().cloned()));
        let following = Arc::new(following);
        let guide = Arc::clone(&following);
        consumer.guided_by(move || guide.failure());
        Ok(Self { consumer, lens: Lens { following, form } })
    }
}

impl Lens {
    /// The filters as they are now, for all records of one batch.
    pub(super) fn filters(&self) -> Guard<Arc<Filters>> {
        self.following.filters()
    }

    /// Adds what the filters make of a record.
    pub(super) fn add(&self, exports: &mut Exports, filters: &Filters, arena: &Arena, record: &Record) {
        let source = arena.source(record);
        let key = arena.key(record).map(|key| String::from_utf8_lossy(key).into_owned());
        let reference = Ref { key, ..Ref::new(&*source.topic, source.partition, record.offset) };
        // An empty value is no message, as everywhere in this crate.
        let value = arena.value(record).filter(|value| !value.is_empty());
        exports.add(filters, reference, value, &self.form);
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("consumer", &self.consumer)
            .field("form", &self.lens.form)
            .finish_non_exhaustive()
    }
}
