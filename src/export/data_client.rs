//! Exports that are asked for.

use std::time::Duration;

use crate::consumer::{Health, Stopper};
use crate::error::{Error, Result};
use crate::export::builder::DataClientBuilder;
use crate::export::exports::Exports;
use crate::export::filter_client::FilterClient;
use crate::export::source::Source;

/// Reads the topics that the filters name, as a member of a group, and gives what the filters make of their records.
///
/// ```
/// # use kafka_envelope::testing::EmbeddedBroker;
/// use std::time::Duration;
///
/// use kafka_envelope::export::{DataClient, FilterClient};
/// use kafka_envelope::low_level;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = EmbeddedBroker::start()?;
/// # let brokers = broker.bootstrap_servers();
/// # broker.create_topic("filters", 1)?;
/// # broker.create_topic("readings", 1)?;
/// # let producer = low_level::create_producer(brokers, [("linger.ms", "0")])?;
/// let put = r#"{"method": "put", "timestamp": 1700000000, "payload":
///     {"id": "levels", "source": "readings", "mappings": {"level:data": "tank.level"}}}"#;
/// low_level::produce(&producer, "filters", None, None, put.as_bytes())?;
/// low_level::produce(&producer, "readings", None, None, br#"{"tank": {"level": 3}}"#)?;
///
/// let filters = FilterClient::builder("filters", brokers).start()?;
/// let mut data = DataClient::builder("exports", brokers, &filters).start()?;
/// # use rdkafka::producer::Producer as _;
/// # use kafka_envelope::rdkafka;
/// # producer.flush(Duration::from_secs(30))?;
/// let exports = data.get_exports_batch(Duration::from_secs(60), 500)?.ok_or("nothing came")?;
/// assert_eq!(exports.results[0].filter_ids, ["levels"]);
/// assert_eq!(exports.results[0].data["level"], 3);
/// data.store_offsets()?;
/// data.close(Duration::from_secs(10))?;
/// # Ok(())
/// # }
/// ```
///
/// # Offsets
/// At least once: what was handed out counts as done when the next is asked for, or when
/// [`DataClient::store_offsets`] says so; with [`handle_offsets`](DataClientBuilder::handle_offsets) only when that says
/// so. It is committed then, in the background and never before. What is not done comes again: after a crash, and after
/// an end, since neither dropping nor [`DataClient::close`] makes anything done.
///
/// Of at most 256 calls' records that are done the commit may not be confirmed, or of 128,000 records where calls ask for
/// less than 500; then a call waits. A partition that goes to another member waits up to 30 seconds until what was
/// handed out of it is done; else the other gets it, too. One of which 100,000 offsets were handed out beyond the first
/// that is not done is not read on meanwhile.
///
/// # Topics
/// Those that the filters name, once the filters are in sync. When these change, so does the subscription, within a
/// second; partitions of topics that stay are kept, except in groups with an eager strategy. A topic that does not exist
/// yet is read once it does; one that is named again goes on where it was left. What is still read of a topic that no
/// filter names any more has no result. If the filter client ends by an error, calls answer with it; if it was stopped, the filters
/// stay as they are; where that was before they were in sync, calls answer with an error, too.
///
/// # End
/// [`DataClient::close`] says what went wrong; dropping does the same within 5 seconds, and logs.
#[derive(Debug)]
pub struct DataClient {
    source: Source,
    handle_offsets: bool,
}

impl DataClient {
    /// A builder for a client that is a member of this group, on these brokers, with the filters of that client.
    ///
    /// `brokers` is a comma-separated list of `host:port`.
    pub fn builder(group: &str, brokers: &str, filters: &FilterClient) -> DataClientBuilder {
        DataClientBuilder::new(group, brokers, filters)
    }

    pub(super) fn new(source: Source, handle_offsets: bool) -> Self {
        Self { source, handle_offsets }
    }

    /// What the filters make of the next record: [`DataClient::get_exports_batch`] with a limit of one.
    ///
    /// # Errors
    /// As there.
    pub fn get_exports(&mut self, timeout: Duration) -> Result<Option<Exports>> {
        self.get_exports_batch(timeout, 1)
    }

    /// What the filters make of the next records, up to `limit` of them: of those that are there, or of the first that
    /// come. Without results where no filter matches. All are seen through the same filters.
    ///
    /// `None`: nothing came in time, or the client was stopped. While the group rebalances nothing comes.
    ///
    /// Records that cannot be read are among the [errors](Exports::errors), and count as handed out.
    ///
    /// # Errors
    /// [`Error::Setting`] for a limit of zero, [`Error::Partition`] and [`Error::Kafka`] where Kafka itself cannot go on,
    /// and whatever ended the filter client.
    pub fn get_exports_batch(&mut self, timeout: Duration, limit: usize) -> Result<Option<Exports>> {
        if limit == 0 {
            return Err(Error::setting("limit", "must be at least 1"));
        }
        let Source { consumer, lens } = &mut self.source;
        if !self.handle_offsets {
            // Where the client is beyond use, the pull says why.
            let _ = consumer.all_done();
        }
        let Some(arena) = consumer.pull(limit, timeout)? else { return Ok(None) };
        let filters = lens.filters();
        let mut exports = Exports::default();
        for record in arena.records() {
            lens.add(&mut exports, &filters, arena, record);
        }
        Ok(Some(exports))
    }

    /// All records that were handed out so far are done. Returns at once: their commit goes on in the background, and is
    /// not lost when the client is dropped or closed. Records of partitions that went to another member meanwhile are
    /// not committed: the other gets them.
    ///
    /// # Errors
    /// [`Error::Kafka`] and [`Error::Closed`] where the client can commit nothing any more.
    pub fn store_offsets(&mut self) -> Result<()> {
        self.source.consumer.all_done()
    }

    /// Stops this client from elsewhere: a call that waits returns, and later ones return at once.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.source.consumer.stopper()
    }

    /// Whether it was stopped, so that no more comes.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.source.consumer.is_stopped()
    }

    /// This client's health, to be asked from elsewhere.
    #[must_use]
    pub fn health(&self) -> Health {
        self.source.consumer.health()
    }

    /// Commits what is done, leaves the group and ends the client, within this time.
    ///
    /// # Errors
    /// [`Error::NotCommitted`] where records that are done could not be committed, [`Error::Closed`] where the client did
    /// not end in time and is left to the end of the process.
    pub fn close(self, deadline: Duration) -> Result<()> {
        self.source.consumer.close(deadline)
    }
}
