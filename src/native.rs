//! What rdkafka does not offer, on librdkafka itself. The only `unsafe` of the crate stands here.
//!
//! [`Reader`] is a consumer whose records arrive on a queue of their own, so that rebalances, errors and commit answers
//! never wait behind records. Every callback from librdkafka only rings a bell: nothing in it can panic.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::util::IntoOpaque as _;

type Callback = Box<dyn Fn() + Send + Sync>;

// Brokers send codes that the bindings' enum lacks, so these are numbers here.
unsafe extern "C" {
    #[link_name = "rd_kafka_event_error"]
    fn event_error(event: *mut rd::rd_kafka_event_t) -> i32;
    #[link_name = "rd_kafka_error_code"]
    fn code_of(error: *const rd::rd_kafka_error_t) -> i32;
    #[link_name = "rd_kafka_metadata"]
    fn metadata(
        client: *mut rd::rd_kafka_t,
        all_topics: i32,
        topic: *mut rd::rd_kafka_topic_t,
        answer: *mut *const rd::rd_kafka_metadata_t,
        timeout: i32,
    ) -> i32;
}

/// Called by librdkafka's threads when a queue that was empty gets its first entry.
unsafe extern "C" fn ring(_: *mut rd::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: `opaque` is the `Callback` that `Queue::on_event` boxed; it lives until after the callback is disabled.
    let callback = unsafe { &*opaque.cast::<Callback>() };
    callback();
}

fn error_code(raw: i32) -> Option<Code> {
    match RDKafkaRespErr::try_from(raw) {
        Ok(RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR) => None,
        Ok(error) => Some(error.into()),
        Err(_) => Some(Code::Unknown),
    }
}

/// An error code that a function returned. The bindings have made it an enum by then: they are of the same version as
/// the librdkafka that is compiled in, so it is one of theirs.
fn returned(error: RDKafkaRespErr) -> Option<Code> {
    (error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| error.into())
}

/// Reads an error code from memory as the number it is in C: brokers send codes that the enum lacks.
///
/// # Safety
/// `error` points to an initialized `rd_kafka_resp_err_t`.
unsafe fn read_error(error: *const rd::rd_kafka_resp_err_t) -> Option<Code> {
    // SAFETY: the C enum is a 32-bit integer, and the caller says that it is initialized.
    error_code(unsafe { error.cast::<i32>().read() })
}

/// # Safety
/// `text` is null or a C string that outlives `'a`.
unsafe fn text<'a>(text: *const c_char) -> std::borrow::Cow<'a, str> {
    if text.is_null() {
        return "".into();
    }
    // SAFETY: not null, and by the caller's word a C string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy()
}

/// # Safety
/// `data` is null or points to `len` bytes that outlive `'a`.
unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: not null, and by the caller's word so many bytes.
    (!data.is_null()).then(|| unsafe { slice::from_raw_parts(data.cast::<u8>(), len) })
}

fn millis(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}

/// A handle on a librdkafka queue. Has to go before its client does; [`Reader`] and [`Events`] see to that.
struct Queue {
    queue: NonNull<rd::rd_kafka_queue_t>,
    callback: Option<Box<Callback>>,
}

// SAFETY: librdkafka's queues are guarded by their own lock, and the callback is `Send + Sync`.
unsafe impl Send for Queue {}

impl Queue {
    fn new<C: ConsumerContext>(client: &Client<C>) -> Option<Self> {
        // SAFETY: the client lives through the call.
        let queue = unsafe { rd::rd_kafka_queue_new(client.native_ptr()) };
        Some(Self { queue: NonNull::new(queue)?, callback: None })
    }

    fn as_ptr(&self) -> *mut rd::rd_kafka_queue_t {
        self.queue.as_ptr()
    }

    /// Calls back when the queue turns from empty to not empty: drain it before waiting for the next call.
    fn on_event(&mut self, callback: impl Fn() + Send + Sync + 'static) {
        let callback: Box<Callback> = Box::new(Box::new(callback));
        // SAFETY: the box has a stable address and is kept in `self` until `drop` disabled the callback.
        unsafe {
            rd::rd_kafka_queue_cb_event_enable(self.as_ptr(), Some(ring), ptr::from_ref(&*callback) as *mut c_void);
        }
        self.callback = Some(callback);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and the client still lives. Disabling takes the queue's lock, under which the
        // callback runs, so none is running afterwards and the box may go.
        unsafe {
            rd::rd_kafka_queue_cb_event_enable(self.as_ptr(), None, ptr::null_mut());
            rd::rd_kafka_queue_destroy(self.as_ptr());
        }
    }
}

/// One partition of a commit.
#[derive(Debug)]
pub(crate) struct Offset<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) next_offset: i64,
    pub(crate) leader_epoch: Option<i32>,
}

/// What the broker answered to a commit.
#[derive(Debug)]
pub(crate) struct CommitReply {
    pub(crate) sequence: u64,
    pub(crate) error: Option<Code>,
    /// Each partition of the commit with its own error.
    pub(crate) partitions: Vec<(String, i32, Option<Code>)>,
}

/// A topic's id, which a topic of the same name made later does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicId(pub(crate) i64, pub(crate) i64);

/// What comes out of the reply queue.
#[derive(Debug)]
pub(crate) enum Reply {
    Commit(CommitReply),
    /// The topics that were asked for and exist, or why the broker does not tell of them.
    Topics(Vec<(String, Result<TopicId, Code>)>),
    /// Of the partitions that were asked for, those whose log's end the broker told.
    Ends(Vec<(String, i32, i64)>),
}

/// What a group has committed of a partition.
#[derive(Debug)]
pub(crate) struct CommittedOffset {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// None: nothing.
    pub(crate) next_offset: Option<i64>,
    /// Of the record before, where whoever committed knew it.
    pub(crate) leader_epoch: Option<i32>,
}

/// How long a question about topics or the ends of their logs may stay without an answer.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// A list of partitions that goes back to librdkafka on drop.
struct Partitions(*mut rd::rd_kafka_topic_partition_list_t);

impl Partitions {
    fn new<'a>(partitions: impl Iterator<Item = (&'a str, i32, i64)>) -> Self {
        // SAFETY: the list is ours; the entry it gives is written before anything else is added.
        unsafe {
            let list = rd::rd_kafka_topic_partition_list_new(0);
            for (topic, partition, offset) in partitions {
                let Ok(topic) = CString::new(topic) else { continue };
                let entry = rd::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), partition);
                (*entry).offset = offset;
            }
            Self(list)
        }
    }
}

impl Drop for Partitions {
    fn drop(&mut self) {
        // SAFETY: ours, and given back once.
        unsafe { rd::rd_kafka_topic_partition_list_destroy(self.0) }
    }
}

/// Options of an admin request, which go back to librdkafka on drop.
struct AdminOptions(*mut rd::rd_kafka_AdminOptions_t);

impl AdminOptions {
    fn new<C: ConsumerContext>(client: &Client<C>, operation: rd::rd_kafka_admin_op_t) -> Self {
        // SAFETY: the client lives. A refused timeout leaves the default, of which no text is asked for.
        unsafe {
            let options = rd::rd_kafka_AdminOptions_new(client.native_ptr(), operation);
            rd::rd_kafka_AdminOptions_set_request_timeout(options, millis(QUESTION_TIMEOUT), ptr::null_mut(), 0);
            Self(options)
        }
    }
}

impl Drop for AdminOptions {
    fn drop(&mut self) {
        // SAFETY: ours, and given back once.
        unsafe { rd::rd_kafka_AdminOptions_destroy(self.0) }
    }
}

/// A consumer with a queue of its own for records, and one for answers to commits and questions.
pub(crate) struct Reader<C: ConsumerContext> {
    // The order matters: queues go before the client, a full one would keep its destruction waiting for ever.
    records: Queue,
    replies: Queue,
    consumer: BaseConsumer<C>,
    taken: Vec<*mut rd::rd_kafka_message_t>,
}

// SAFETY: `taken` holds pointers only within `take`; everything else is `Send`.
unsafe impl<C: ConsumerContext> Send for Reader<C> {}

impl<C: ConsumerContext> fmt::Debug for Reader<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl<C: ConsumerContext> Reader<C> {
    /// Wraps a consumer. Whenever the queue that was empty gets something, `records_came` is called for the one with
    /// records, and `wake` for each other. None: out of memory.
    pub(crate) fn new(
        mut consumer: BaseConsumer<C>,
        records_came: impl Fn() + Send + Sync + 'static,
        wake: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Option<Self> {
        let mut records = Queue::new(consumer.client())?;
        let mut replies = Queue::new(consumer.client())?;
        records.on_event(records_came);
        replies.on_event(wake.clone());
        consumer.set_nonempty_callback(wake);
        Some(Self { records, replies, consumer, taken: Vec::new() })
    }

    pub(crate) fn consumer(&self) -> &BaseConsumer<C> {
        &self.consumer
    }

    /// How many events wait on the main queue.
    pub(crate) fn events(&self) -> usize {
        // SAFETY: the client lives; the handle got is given back.
        unsafe {
            let queue = rd::rd_kafka_queue_get_consumer(self.consumer.client().native_ptr());
            if queue.is_null() {
                return 0;
            }
            let length = rd::rd_kafka_queue_length(queue);
            rd::rd_kafka_queue_destroy(queue);
            length
        }
    }

    /// Lets the partition's records arrive on the record queue. To be called before each assignment, because a
    /// partition that stops being fetched loses its forward.
    pub(crate) fn forward(&self, topic: &str, partition: i32) {
        let Ok(topic) = CString::new(topic) else { return };
        // SAFETY: client and record queue live; the partition's handle is given back. The forward itself holds a
        // reference on our queue.
        unsafe {
            let client = self.consumer.client().native_ptr();
            let queue = rd::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition);
            if !queue.is_null() {
                rd::rd_kafka_queue_forward(queue, self.records.as_ptr());
                rd::rd_kafka_queue_destroy(queue);
            }
        }
    }

    /// Takes up to `limit` records and errors without waiting. Fewer than `limit`: the queue was drained, and
    /// `records_came` tells of the next.
    pub(crate) fn take(&mut self, limit: usize, mut each: impl FnMut(Taken<'_>)) -> usize {
        self.taken.resize(limit, ptr::null_mut());
        // SAFETY: the queue lives, and `taken` has room for `limit` pointers.
        let count =
            unsafe { rd::rd_kafka_consume_batch_queue(self.records.as_ptr(), 0, self.taken.as_mut_ptr(), limit) };
        let count = usize::try_from(count).unwrap_or(0);
        // Taken out of `self` first: if `each` panicked, the rest would be given back all the same.
        let messages: Vec<_> = self.taken.drain(..count).filter_map(NonNull::new).map(Message).collect();
        for message in messages {
            each(message.view());
        }
        count
    }

    /// Sends a commit. Its answer comes by [`Reader::reply`] with the same sequence number.
    pub(crate) fn commit<'a>(&self, offsets: impl Iterator<Item = Offset<'a>>, sequence: u64) -> Result<(), Code> {
        // SAFETY: the list is made, filled and given back here; librdkafka copies it. The opaque is a number that is
        // never followed as a pointer.
        unsafe {
            let list = rd::rd_kafka_topic_partition_list_new(0);
            for offset in offsets {
                let Ok(topic) = CString::new(offset.topic) else { continue };
                let entry = rd::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), offset.partition);
                (*entry).offset = offset.next_offset;
                if let Some(leader_epoch) = offset.leader_epoch {
                    rd::rd_kafka_topic_partition_set_leader_epoch(entry, leader_epoch);
                }
            }
            let client = self.consumer.client().native_ptr();
            let opaque = sequence as usize as *mut c_void;
            let error = rd::rd_kafka_commit_queue(client, list, self.replies.as_ptr(), None, opaque);
            rd::rd_kafka_topic_partition_list_destroy(list);
            returned(error).map_or(Ok(()), Err)
        }
    }

    /// Asks for the ids of these topics. The answer comes by [`Reader::reply`], an empty one where it failed.
    pub(crate) fn ask_topic_ids<'a>(&self, topics: impl Iterator<Item = &'a str>) {
        let topics: Vec<_> = topics.filter_map(|topic| CString::new(topic).ok()).collect();
        let mut names: Vec<_> = topics.iter().map(|topic| topic.as_ptr()).collect();
        let client = self.consumer.client();
        let options = AdminOptions::new(client, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        // SAFETY: client, options and queue live through the calls. librdkafka copies the names into a collection, which is
        // given back here.
        unsafe {
            let collection = rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            rd::rd_kafka_DescribeTopics(client.native_ptr(), collection, options.0, self.replies.as_ptr());
            rd::rd_kafka_TopicCollection_destroy(collection);
        }
    }

    /// Asks for the ends of these partitions' logs: with `committed_only` as far as transactions are decided. The answer
    /// comes by [`Reader::reply`], without those that could not be told.
    pub(crate) fn ask_ends<'a>(&self, partitions: impl Iterator<Item = (&'a str, i32)>, committed_only: bool) {
        use rd::rd_kafka_IsolationLevel_t as Level;
        let latest = rd::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64;
        let partitions = Partitions::new(partitions.map(|(topic, partition)| (topic, partition, latest)));
        let level = match committed_only {
            true => Level::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
            false => Level::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
        };
        let client = self.consumer.client();
        let options = AdminOptions::new(client, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS);
        // SAFETY: client, list, options and queue live through the calls, and librdkafka copies what it needs. An error
        // that comes back is ours to give back, and none is as well.
        unsafe {
            rd::rd_kafka_error_destroy(rd::rd_kafka_AdminOptions_set_isolation_level(options.0, level));
            rd::rd_kafka_ListOffsets(client.native_ptr(), partitions.0, options.0, self.replies.as_ptr());
        }
    }

    /// What the group has committed for these partitions, without those that the broker does not tell. Waits for the
    /// answer, at most for `timeout`.
    ///
    /// Not by librdkafka's admin request, which would not have to be waited for: where that times out before its
    /// coordinator can be asked, 2.12 frees it, uses it again once the coordinator is back, and aborts the process (#3663).
    pub(crate) fn committed<'a>(
        &self,
        partitions: impl Iterator<Item = (&'a str, i32)>,
        timeout: Duration,
    ) -> Vec<CommittedOffset> {
        let partitions = Partitions::new(partitions.map(|(topic, partition)| (topic, partition, 0)));
        // SAFETY: client and list live through the calls, and nobody else has the list.
        unsafe {
            let error = rd::rd_kafka_committed(self.consumer.client().native_ptr(), partitions.0, millis(timeout));
            if returned(error).is_some() {
                return Vec::new();
            }
            entries(partitions.0)
                .iter()
                .filter(|entry| read_error(&raw const entry.err).is_none())
                .map(|entry| CommittedOffset {
                    topic: text(entry.topic).into_owned(),
                    partition: entry.partition,
                    next_offset: Some(entry.offset).filter(|at| *at >= 0),
                    leader_epoch: Some(rd::rd_kafka_topic_partition_get_leader_epoch(entry))
                        .filter(|epoch| *epoch >= 0),
                })
                .collect()
        }
    }

    /// Where the log starts and ends, as the last answer to a fetch told. Without the network.
    pub(crate) fn watermarks(&self, topic: &str, partition: i32) -> (Option<i64>, Option<i64>) {
        let Ok(topic) = CString::new(topic) else { return (None, None) };
        let (mut low, mut high) = (-1, -1);
        let client = self.consumer.client().native_ptr();
        // SAFETY: client and topic live through the call, which writes the two numbers or neither.
        unsafe {
            rd::rd_kafka_get_watermark_offsets(client, topic.as_ptr(), partition, &raw mut low, &raw mut high);
        }
        // What is not known is negative.
        (Some(low).filter(|low| *low >= 0), Some(high).filter(|high| *high >= 0))
    }

    /// The offset after the last that was taken of the partition, marks of transactions included.
    pub(crate) fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        let partitions = Partitions::new([(topic, partition, -1)].into_iter());
        let client = self.consumer.client().native_ptr();
        // SAFETY: client and list live; the list's one entry, where it was made, is read.
        unsafe {
            rd::rd_kafka_position(client, partitions.0);
            let entry = entries(partitions.0).first()?;
            Some(entry.offset).filter(|offset| *offset >= 0)
        }
    }

    /// The next answer, where one has come.
    pub(crate) fn reply(&self) -> Option<Reply> {
        // SAFETY: the event is ours until it is destroyed at the end; what it holds belongs to it and is only read.
        unsafe {
            let event = rd::rd_kafka_queue_poll(self.replies.as_ptr(), 0);
            if event.is_null() {
                return None;
            }
            let reply = match rd::rd_kafka_event_type(event) {
                rd::RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT => Reply::Topics(topic_ids(event)),
                rd::RD_KAFKA_EVENT_LISTOFFSETS_RESULT => Reply::Ends(ends(event)),
                _ => Reply::Commit(commit_reply(event)),
            };
            rd::rd_kafka_event_destroy(event);
            Some(reply)
        }
    }
}

/// # Safety
/// `list` is null or a list that outlives `'a`.
unsafe fn entries<'a>(list: *const rd::rd_kafka_topic_partition_list_t) -> &'a [rd::rd_kafka_topic_partition_t] {
    // SAFETY: by the caller's word a list, which holds so many entries.
    unsafe {
        match list.as_ref() {
            Some(list) if !list.elems.is_null() => {
                slice::from_raw_parts(list.elems, usize::try_from(list.cnt).unwrap_or(0))
            }
            _ => &[],
        }
    }
}

/// # Safety
/// `event` is the answer to a question for the ends of logs.
unsafe fn ends(event: *mut rd::rd_kafka_event_t) -> Vec<(String, i32, i64)> {
    // SAFETY: the event lives through the call, and so does what it holds. Null is looked for at each step.
    unsafe {
        let result = rd::rd_kafka_event_ListOffsets_result(event);
        let mut count = 0;
        let infos = match result.is_null() {
            true => ptr::null_mut(),
            false => rd::rd_kafka_ListOffsets_result_infos(result, &raw mut count),
        };
        let infos = if infos.is_null() { &[] } else { slice::from_raw_parts(infos, count) };
        let end = |info: &*const rd::rd_kafka_ListOffsetsResultInfo_t| {
            let entry = rd::rd_kafka_ListOffsetsResultInfo_topic_partition(*info).as_ref()?;
            let fails = read_error(&raw const entry.err).is_some() || entry.offset < 0;
            (!fails).then(|| (text(entry.topic).into_owned(), entry.partition, entry.offset))
        };
        infos.iter().filter_map(end).collect()
    }
}

/// # Safety
/// `event` is the answer to a commit.
unsafe fn commit_reply(event: *mut rd::rd_kafka_event_t) -> CommitReply {
    // SAFETY: the event lives through the call, and so do its list and the list's texts.
    unsafe {
        let error = event_error(event);
        let entries = entries(rd::rd_kafka_event_topic_partition_list(event));
        let partition = |entry: &rd::rd_kafka_topic_partition_t| {
            (text(entry.topic).into_owned(), entry.partition, read_error(&raw const entry.err))
        };
        CommitReply {
            sequence: rd::rd_kafka_event_opaque(event) as usize as u64,
            error: error_code(error),
            partitions: entries.iter().map(partition).collect(),
        }
    }
}

/// # Safety
/// `event` is the answer to a question for topics.
unsafe fn topic_ids(event: *mut rd::rd_kafka_event_t) -> Vec<(String, Result<TopicId, Code>)> {
    // SAFETY: the event lives through the call, and so does what it describes. Null is looked for at each step.
    unsafe {
        let result = rd::rd_kafka_event_DescribeTopics_result(event);
        let mut count = 0;
        let topics = if result.is_null() {
            ptr::null_mut()
        } else {
            rd::rd_kafka_DescribeTopics_result_topics(result, &raw mut count)
        };
        let topics = if topics.is_null() { &[] } else { slice::from_raw_parts(topics, count) };
        let id = |topic: &*const rd::rd_kafka_TopicDescription_t| {
            let name = text(rd::rd_kafka_TopicDescription_name(*topic)).into_owned();
            let error = rd::rd_kafka_TopicDescription_error(*topic);
            let id = rd::rd_kafka_TopicDescription_topic_id(*topic);
            let error = if error.is_null() { None } else { error_code(code_of(error)) };
            if let Some(code) = error {
                return Some((name, Err(code)));
            }
            if id.is_null() {
                return None;
            }
            let (most, least) =
                (rd::rd_kafka_Uuid_most_significant_bits(id), rd::rd_kafka_Uuid_least_significant_bits(id));
            // A broker without topic ids answers zero.
            (most != 0 || least != 0).then_some((name, Ok(TopicId(most, least))))
        };
        topics.iter().filter_map(id).collect()
    }
}

/// Sends without waiting for more records to share a request, until every record has its delivery report or the time is
/// over. Another thread has to poll meanwhile. Unlike rdkafka's own `flush` it returns as soon as that is so.
pub(crate) fn flush<C: ClientContext>(client: &Client<C>, timeout: Duration) -> Result<(), Code> {
    // SAFETY: the client lives through the call.
    returned(unsafe { rd::rd_kafka_flush(client.native_ptr(), millis(timeout)) }).map_or(Ok(()), Err)
}

/// A property as the client has it.
pub(crate) fn property<C: ClientContext>(client: &Client<C>, name: &str) -> Option<String> {
    let name = CString::new(name).ok()?;
    // SAFETY: the client lives, and its configuration with it. Without a place for the value only its size is told, a
    // NUL included; a value ends with one.
    unsafe {
        let configuration = rd::rd_kafka_conf(client.native_ptr());
        let mut size = 0;
        let known = |found| found == rd::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK;
        known(rd::rd_kafka_conf_get(configuration, name.as_ptr(), ptr::null_mut(), &raw mut size)).then_some(())?;
        let mut value = vec![0_u8; size];
        let place = value.as_mut_ptr().cast::<c_char>();
        known(rd::rd_kafka_conf_get(configuration, name.as_ptr(), place, &raw mut size)).then_some(())?;
        CStr::from_bytes_until_nul(&value).ok()?.to_str().map(str::to_owned).ok()
    }
}

/// Adds the client's bootstrap servers to the brokers that it tries. Those that it has stay as they are. librdkafka keeps
/// a copy of the list with each call.
pub(crate) fn add_bootstrap_servers<C: ClientContext>(client: &Client<C>) {
    let Some(servers) = property(client, "bootstrap.servers").and_then(|servers| CString::new(servers).ok()) else {
        return;
    };
    // SAFETY: client and list live through the call, which copies the list.
    unsafe { rd::rd_kafka_brokers_add(client.native_ptr(), servers.as_ptr()) };
}

/// Adds a partition to a list, with an offset and the leader epoch of the record before.
pub(crate) fn add_with_epoch(
    list: &mut TopicPartitionList,
    topic: &str,
    partition: i32,
    offset: i64,
    leader_epoch: i32,
) {
    let Ok(topic) = CString::new(topic) else { return };
    // SAFETY: the list lives through the call, and the entry it gives is written before anything else is added.
    unsafe {
        let entry = rd::rd_kafka_topic_partition_list_add(list.ptr(), topic.as_ptr(), partition);
        (*entry).offset = offset;
        rd::rd_kafka_topic_partition_set_leader_epoch(entry, leader_epoch);
    }
}

/// The generation in which the consumer is a member of its group; none where it is none.
pub(crate) fn generation<C: ConsumerContext>(client: &Client<C>) -> Option<i32> {
    // SAFETY: the client lives; the metadata got are given back, and the member's id is read before that.
    unsafe {
        let metadata = rd::rd_kafka_consumer_group_metadata(client.native_ptr());
        if metadata.is_null() {
            return None;
        }
        let generation = rd::rd_kafka_consumer_group_metadata_generation_id(metadata);
        let named = !text(rd::rd_kafka_consumer_group_metadata_member_id(metadata)).is_empty();
        rd::rd_kafka_consumer_group_metadata_destroy(metadata);
        (named && generation > 0).then_some(generation)
    }
}

/// How many events wait to be polled from the client's main queue.
pub(crate) fn main_events<C: ClientContext>(client: &Client<C>) -> usize {
    // SAFETY: the client lives; the handle got is given back.
    unsafe {
        let queue = rd::rd_kafka_queue_get_main(client.native_ptr());
        if queue.is_null() {
            return 0;
        }
        let length = rd::rd_kafka_queue_length(queue);
        rd::rd_kafka_queue_destroy(queue);
        length
    }
}

/// Hears of events on the main queue of a producer, which it keeps alive.
pub(crate) struct Events<C: ProducerContext> {
    /// Goes before its client.
    _queue: Queue,
    _client: Arc<BaseProducer<C>>,
}

impl<C: ProducerContext> Events<C> {
    /// `came` is called whenever the queue that was empty gets an event. None: out of memory.
    pub(crate) fn listen(client: &Arc<BaseProducer<C>>, came: impl Fn() + Send + Sync + 'static) -> Option<Self> {
        // SAFETY: the client lives; the handle got is given back where the `Queue` is dropped.
        let queue = unsafe { rd::rd_kafka_queue_get_main(client.client().native_ptr()) };
        let mut queue = Queue { queue: NonNull::new(queue)?, callback: None };
        queue.on_event(came);
        Some(Self { _queue: queue, _client: Arc::clone(client) })
    }
}

/// Whether an error has put the client beyond use.
pub(crate) fn is_fatal<C: ClientContext>(client: &Client<C>) -> bool {
    // SAFETY: the client lives; without a buffer no text is written.
    returned(unsafe { rd::rd_kafka_fatal_error(client.native_ptr(), ptr::null_mut(), 0) }).is_some()
}

/// A record that librdkafka is to copy.
pub(crate) struct Outgoing<'a, H> {
    /// None: by the key, any where that is null.
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// Names without a NUL byte.
    pub(crate) headers: H,
    /// In milliseconds; else the time of sending.
    pub(crate) timestamp: Option<i64>,
}

/// A topic to send to. rdkafka's own `send` copies the topic's name for each record and looks it up under a lock.
pub(crate) struct Topic<C: ProducerContext> {
    topic: NonNull<rd::rd_kafka_topic_t>,
    /// Lives at least as long.
    producer: Arc<BaseProducer<C>>,
}

// SAFETY: librdkafka guards its topics with locks of their own.
unsafe impl<C: ProducerContext> Send for Topic<C> {}
// SAFETY: as above.
unsafe impl<C: ProducerContext> Sync for Topic<C> {}

impl<C: ProducerContext> Topic<C> {
    pub(crate) fn new(producer: &Arc<BaseProducer<C>>, name: &str) -> Result<Self, KafkaError> {
        let name = CString::new(name)?;
        // SAFETY: the client lives, and librdkafka copies the name.
        let topic = unsafe { rd::rd_kafka_topic_new(producer.client().native_ptr(), name.as_ptr(), ptr::null_mut()) };
        match NonNull::new(topic) {
            Some(topic) => Ok(Self { topic, producer: Arc::clone(producer) }),
            // SAFETY: it reads what the call above has left for this thread.
            None => Err(KafkaError::MessageProduction(unsafe { rd::rd_kafka_last_error() }.into())),
        }
    }

    /// Has librdkafka ask a broker for the topic's metadata, as soon as it has a connection, and heed the answer. False:
    /// there was none in time.
    pub(crate) fn ask_metadata(&self, timeout: Duration) -> bool {
        let mut answer = ptr::null();
        // SAFETY: client and topic live and belong together; an answer that is given is given back.
        unsafe {
            let client = self.producer.client().native_ptr();
            let error = metadata(client, 0, self.topic.as_ptr(), &raw mut answer, millis(timeout));
            if !answer.is_null() {
                rd::rd_kafka_metadata_destroy(answer);
            }
            error == 0
        }
    }

    /// Gives librdkafka a record to copy. What goes with it comes back where it is not taken, else with its report.
    pub(crate) fn produce<'a, H>(
        &self,
        record: &Outgoing<'a, H>,
        opaque: C::DeliveryOpaque,
    ) -> Result<(), (Code, C::DeliveryOpaque)>
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        let headers = Headers::of(record.headers.clone());
        let data = |bytes: Option<&[u8]>| {
            bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr().cast::<c_void>(), bytes.len()))
        };
        let ((value, value_len), (key, key_len)) = (data(record.value), data(record.key));
        let opaque = opaque.into_ptr();
        // SAFETY: client and topic live and belong together. Each type is followed by what librdkafka reads for it. Key
        // and value are copied; the headers are its own if it takes the record.
        let error = unsafe {
            rd::rd_kafka_producev(
                self.producer.client().native_ptr(),
                rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_RKT,
                self.topic.as_ptr(),
                rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION,
                record.partition.unwrap_or(-1),
                rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
                rd::RD_KAFKA_MSG_F_COPY,
                rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE,
                value,
                value_len,
                rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY,
                key,
                key_len,
                rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_OPAQUE,
                opaque,
                rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_TIMESTAMP,
                record.timestamp.unwrap_or(0),
                rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADERS,
                headers.as_ref().map_or(ptr::null_mut(), |headers| headers.0.as_ptr()),
                rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_END,
            )
        };
        match returned(error) {
            None => {
                std::mem::forget(headers);
                Ok(())
            }
            // SAFETY: made above, and librdkafka keeps nothing of a record that it does not take.
            Some(code) => Err((code, unsafe { C::DeliveryOpaque::from_ptr(opaque) })),
        }
    }
}

impl<C: ProducerContext> Drop for Topic<C> {
    fn drop(&mut self) {
        // SAFETY: got from librdkafka, given back once, and its client still lives.
        unsafe { rd::rd_kafka_topic_destroy(self.topic.as_ptr()) }
    }
}

/// A record's headers.
struct Headers(NonNull<rd::rd_kafka_headers_t>);

impl Headers {
    /// None where there are none.
    fn of<'a>(headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> Option<Self> {
        let mut all = None;
        for (name, value) in headers {
            // SAFETY: it only allocates.
            let made = || unsafe { NonNull::new(rd::rd_kafka_headers_new(1)) };
            let Self(headers) = match &all {
                Some(all) => all,
                None => all.insert(Self(made()?)),
            };
            let (value, length) = value.map_or((ptr::null(), 0), |value| (value.as_ptr(), value.len()));
            // SAFETY: name and value are copied, with the lengths that they have. Headers of our own are never read-only,
            // for which alone it fails.
            unsafe {
                rd::rd_kafka_header_add(
                    headers.as_ptr(),
                    name.as_ptr().cast(),
                    name.len() as isize,
                    value.cast(),
                    length as isize,
                );
            }
        }
        all
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        // SAFETY: got from librdkafka, and not given to it with a record.
        unsafe { rd::rd_kafka_headers_destroy(self.0.as_ptr()) }
    }
}

/// Whether a record whose delivery failed may stand in the log all the same.
pub(crate) fn possibly_persisted(message: &BorrowedMessage<'_>) -> bool {
    // SAFETY: the message lives, and its status is a 32-bit integer in C.
    let status = unsafe {
        let status = rd::rd_kafka_message_status(message.ptr());
        (&raw const status).cast::<i32>().read()
    };
    status != rd::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED as i32
}

/// How long the first rebalance of a group waits for more members on the mock cluster that the client carries.
pub(crate) fn mock_rebalance_delay<C: ClientContext>(client: &Client<C>, delay: Duration) {
    // SAFETY: the client lives, and the cluster with it.
    unsafe {
        let cluster = rd::rd_kafka_handle_mock_cluster(client.native_ptr());
        if !cluster.is_null() {
            rd::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, millis(delay));
        }
    }
}

/// A message that librdkafka gets back on drop.
struct Message(NonNull<rd::rd_kafka_message_t>);

impl Message {
    fn view(&self) -> Taken<'_> {
        // SAFETY: the message lives as long as `self`, which `view` borrows.
        let message = unsafe { self.0.as_ref() };
        // SAFETY: `err` is part of the message.
        match unsafe { read_error(&raw const message.err) } {
            None => Taken::Record(Record { message }),
            Some(code) => {
                // SAFETY: a topic lives as long as its message, and so does the error's text.
                let (topic, reason) = unsafe {
                    let topic = (!message.rkt.is_null()).then(|| rd::rd_kafka_topic_name(message.rkt));
                    (topic.map(|topic| text(topic)), text(rd::rd_kafka_message_errstr(message)))
                };
                let (topic, reason) = (topic.map(|topic| topic.into_owned()), reason.into_owned());
                Taken::Error { topic, partition: message.partition, offset: message.offset, code, reason }
            }
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: taken from librdkafka, and given back once.
        unsafe { rd::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

/// What comes out of the record queue.
#[derive(Debug)]
pub(crate) enum Taken<'a> {
    Record(Record<'a>),
    /// An error of one partition, between its records.
    Error {
        topic: Option<String>,
        partition: i32,
        offset: i64,
        code: Code,
        reason: String,
    },
}

/// A record in librdkafka's memory.
pub(crate) struct Record<'a> {
    message: &'a rd::rd_kafka_message_t,
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.topic(), self.partition(), self.offset())
    }
}

impl<'a> Record<'a> {
    /// A number that tells topics apart while records of one `take` live.
    pub(crate) fn topic_handle(&self) -> usize {
        self.message.rkt.addr()
    }

    pub(crate) fn topic(&self) -> std::borrow::Cow<'a, str> {
        // SAFETY: a record has a topic, which lives as long as it.
        unsafe { text(rd::rd_kafka_topic_name(self.message.rkt)) }
    }

    pub(crate) fn partition(&self) -> i32 {
        self.message.partition
    }

    pub(crate) fn offset(&self) -> i64 {
        self.message.offset
    }

    pub(crate) fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: key and length belong together and to the message.
        unsafe { bytes(self.message.key, self.message.key_len) }
    }

    pub(crate) fn value(&self) -> Option<&'a [u8]> {
        // SAFETY: payload and length belong together and to the message.
        unsafe { bytes(self.message.payload, self.message.len) }
    }

    /// The bytes of key and value.
    pub(crate) fn len(&self) -> usize {
        self.message.key_len + self.message.len
    }

    /// Milliseconds since 1970, where the record has a timestamp, and whether that is when the broker appended it.
    pub(crate) fn timestamp(&self) -> Option<(i64, bool)> {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives; what is written is one of the three that the enum has.
        let millis = unsafe { rd::rd_kafka_message_timestamp(self.message, &raw mut kind) };
        let is_appended = kind == rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME;
        (millis >= 0).then_some((millis, is_appended))
    }

    pub(crate) fn leader_epoch(&self) -> Option<i32> {
        // SAFETY: the message lives.
        let epoch = unsafe { rd::rd_kafka_message_leader_epoch(self.message) };
        (epoch >= 0).then_some(epoch)
    }

    /// Calls `each` with every header in order.
    pub(crate) fn headers(&self, mut each: impl FnMut(&str, Option<&[u8]>)) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message lives, and its headers belong to it.
        let error = unsafe { rd::rd_kafka_message_headers(self.message, &raw mut headers) };
        if returned(error).is_some() || headers.is_null() {
            return;
        }
        for index in 0.. {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: `headers` lives as long as the message; an index past the end is answered with an error.
            unsafe {
                let error = rd::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size);
                if returned(error).is_some() {
                    return;
                }
                each(&text(name), bytes(value, size));
            }
        }
    }
}
