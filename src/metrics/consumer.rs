//! What a consumer measures.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::metrics::{Counter, Histogram, Label, Unit, counter, describe_counter, describe_histogram, gauge, histogram};

use crate::fault::Fault;
#[cfg(any(feature = "app", feature = "export", feature = "stream"))]
use crate::metrics::Fates;
use crate::metrics::names::{
    self, CLIENT, ERROR_TYPE, GROUP, OPERATION, OPERATION_TYPE, PARTITION, REBALANCE, SYSTEM, TOPIC,
};
use crate::metrics::share::Share;
use crate::metrics::{FATES, Fate, Statistics, with};
use crate::sync::lock;

/// What the time of a commit says of it.
const COMMIT: [(&str, &str); 2] = [(OPERATION, "commit"), (OPERATION_TYPE, "settle")];

/// The handles of a consumer. Cheap to clone; by default it measures nothing.
#[derive(Clone, Default)]
pub(crate) struct ConsumerMeter(Option<Arc<Handles>>);

struct Handles {
    labels: Vec<Label>,
    batch_size: Histogram,
    process: Process,
    commit: Histogram,
    failed_commits: Counter,
    assigned: Counter,
    revoked: Counter,
    lost: Counter,
    topics: Mutex<HashMap<String, Arc<[Counter; FATES]>>>,
    state: Mutex<State>,
    python: Option<Python>,
}

/// The time of handlers.
struct Process {
    ok: Histogram,
    failed: Histogram,
    undecodable: Histogram,
}

#[derive(Default)]
struct State {
    stalled: Share,
    unhealthy: Share,
}

/// The Python library's metrics.
struct Python {
    seconds: Histogram,
    count: Counter,
}

/// The handles of a partition that is owned. The lag is 0 without it.
#[derive(Default)]
pub(crate) struct PartitionMeter {
    consumed: Option<Counter>,
    lag: Share,
}

/// The handles of a stream worker's agent.
#[cfg(feature = "stream")]
pub(crate) struct AgentMeter {
    batch_size: Histogram,
    process: Process,
}

impl ConsumerMeter {
    /// `python`: the service's name, for the Python library's names.
    pub(crate) fn new(client: &str, group: &str, python: Option<&str>) -> Self {
        names::describe();
        let labels = with(&[], &[(SYSTEM, "kafka"), (CLIENT, client), (GROUP, group)]);
        let commit = with(&labels, &[(OPERATION, "commit")]);
        let rebalance = |kind| counter!(names::REBALANCES, with(&labels, &[(REBALANCE, kind)]));
        let state = State {
            stalled: Share::of(gauge!(names::STALLED, labels.clone())),
            unhealthy: Share::of(gauge!(names::UNHEALTHY, labels.clone())),
        };
        Self(Some(Arc::new(Handles {
            batch_size: histogram!(names::BATCH_SIZE, with(&labels, &[(OPERATION, "process")])),
            process: Process::new(&labels),
            failed_commits: counter!(names::FAILED_COMMITS, commit),
            commit: histogram!(names::OPERATION_DURATION, with(&labels, &COMMIT)),
            assigned: rebalance("assigned"),
            revoked: rebalance("revoked"),
            lost: rebalance("lost"),
            topics: Mutex::default(),
            state: Mutex::new(state),
            python: python.map(Python::new),
            labels,
        })))
    }

    /// What a client of this consumer's says of itself.
    pub(crate) fn statistics(&self) -> Statistics {
        self.0.as_ref().map_or_else(Statistics::default, |handles| Statistics::new(&handles.labels, true))
    }

    /// A partition is ours from now on.
    pub(crate) fn partition(&self, topic: &str, partition: i32) -> PartitionMeter {
        let Some(handles) = &self.0 else { return PartitionMeter::default() };
        // From here on its counters are there: a first failure is a change, too.
        handles.topic(topic);
        let labels = with(&handles.labels, &[(TOPIC, topic), (PARTITION, &partition.to_string())]);
        let lag = Share::of(gauge!(names::LAG, labels.clone()));
        let consumed = Some(counter!(names::CONSUMED, with(&labels, &[(OPERATION, "poll")])));
        PartitionMeter { consumed, lag }
    }

    #[cfg(feature = "stream")]
    pub(crate) fn agent(&self, name: &str) -> AgentMeter {
        let labels = self.0.as_ref().map(|handles| &*handles.labels).unwrap_or_default();
        let labels = with(labels, &[(names::AGENT, name)]);
        let batch_size = histogram!(names::BATCH_SIZE, with(&labels, &[(OPERATION, "process")]));
        AgentMeter { batch_size, process: Process::new(&labels) }
    }

    pub(crate) fn add(&self, topic: &str, fate: Fate, records: usize) {
        if let Some(handles) = self.0.as_ref().filter(|_| records > 0) {
            handles.topic(topic)[fate as usize].increment(records as u64);
        }
    }

    /// All of these, which are forgotten.
    #[cfg(any(feature = "app", feature = "export", feature = "stream"))]
    pub(crate) fn tell(&self, fates: &mut Fates) {
        let told = fates.0.drain(..);
        let Some(handles) = &self.0 else { return };
        for (topic, counts) in told {
            let counters = handles.topic(&topic);
            for (counter, count) in counters.iter().zip(counts).filter(|(_, count)| *count > 0) {
                counter.increment(count);
            }
        }
    }

    /// So many records were handed over at once.
    pub(crate) fn batch(&self, records: usize) {
        if let Some(handles) = &self.0 {
            handles.batch_size.record(records as f64);
        }
    }

    /// A handler worked for so long on so many messages, and failed in this way.
    pub(crate) fn processed(&self, took: Duration, messages: impl FnOnce() -> usize, failed: Option<Fault<'_>>) {
        let Some(handles) = &self.0 else { return };
        handles.process.record(took, failed);
        // The Python library counts only what went well.
        if let Some(python) = handles.python.as_ref().filter(|_| failed.is_none()) {
            python.seconds.record(took);
            python.count.increment(messages() as u64);
        }
    }

    /// A commit was answered.
    pub(crate) fn committed(&self, took: Duration, failed: Option<Fault<'_>>) {
        let Some(handles) = &self.0 else { return };
        match failed {
            None => handles.commit.record(took),
            Some(fault) => {
                handles.failed_commits.increment(1);
                let labels = with(&with(&handles.labels, &COMMIT), &[(ERROR_TYPE, &fault.kind())]);
                histogram!(names::OPERATION_DURATION, labels).record(took);
            }
        }
    }

    pub(crate) fn assigned(&self) {
        if let Some(handles) = &self.0 {
            handles.assigned.increment(1);
        }
    }

    pub(crate) fn revoked(&self, is_lost: bool) {
        if let Some(handles) = &self.0 {
            let counter = if is_lost { &handles.lost } else { &handles.revoked };
            counter.increment(1);
        }
    }

    pub(crate) fn health(&self, is_healthy: bool, stalled: usize) {
        if let Some(handles) = &self.0 {
            let mut state = lock(&handles.state);
            state.unhealthy.set(u64::from(!is_healthy));
            state.stalled.set(stalled as u64);
        }
    }
}

impl Handles {
    fn topic(&self, topic: &str) -> Arc<[Counter; FATES]> {
        let mut topics = lock(&self.topics);
        if let Some(counters) = topics.get(topic) {
            return Arc::clone(counters);
        }
        let labels = with(&self.labels, &[(OPERATION, "process"), (TOPIC, topic)]);
        let failed = |why| counter!(names::FAILED, with(&labels, &[(ERROR_TYPE, why)]));
        let of = |fate| match fate {
            Fate::Handled => counter!(names::HANDLED, labels.clone()),
            Fate::Failed => failed("handler"),
            Fate::Undecodable => failed("undecodable"),
            Fate::Retried => counter!(names::RETRIED, labels.clone()),
            Fate::DeadLettered => counter!(names::DEAD_LETTERED, labels.clone()),
            Fate::Skipped => counter!(names::SKIPPED, labels.clone()),
        };
        let all = [Fate::Handled, Fate::Failed, Fate::Undecodable, Fate::Retried, Fate::DeadLettered, Fate::Skipped];
        let counters = Arc::new(all.map(of));
        topics.insert(topic.to_owned(), Arc::clone(&counters));
        counters
    }
}

impl Process {
    fn new(labels: &[Label]) -> Self {
        let labels = with(labels, &[(OPERATION, "process")]);
        let failed = |why| histogram!(names::PROCESS_DURATION, with(&labels, &[(ERROR_TYPE, why)]));
        Self {
            ok: histogram!(names::PROCESS_DURATION, labels.clone()),
            failed: failed("handler"),
            undecodable: failed("undecodable"),
        }
    }

    fn record(&self, took: Duration, failed: Option<Fault<'_>>) {
        let histogram = match failed {
            None => &self.ok,
            Some(Fault::Unreadable) => &self.undecodable,
            Some(_) => &self.failed,
        };
        histogram.record(took);
    }
}

impl Python {
    fn new(service: &str) -> Self {
        let (seconds, count) = names::python(service);
        describe_histogram!(seconds.clone(), Unit::Seconds, "Time spent in handlers that succeeded");
        describe_counter!(count.clone(), Unit::Count, "Messages of handlers that succeeded");
        Self { seconds: histogram!(seconds), count: counter!(count) }
    }
}

impl PartitionMeter {
    pub(crate) fn is_on(&self) -> bool {
        self.consumed.is_some()
    }

    pub(crate) fn consumed(&self, records: usize) {
        if let Some(consumed) = &self.consumed {
            consumed.increment(records as u64);
        }
    }

    pub(crate) fn lag(&mut self, lag: u64) {
        self.lag.set(lag);
    }
}

#[cfg(feature = "stream")]
impl AgentMeter {
    /// A call with so many elements took so long.
    pub(crate) fn called(&self, took: Duration, elements: usize, has_failed: bool) {
        self.batch_size.record(elements as f64);
        let Process { ok, failed, .. } = &self.process;
        if has_failed { failed } else { ok }.record(took);
    }
}

impl fmt::Debug for ConsumerMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerMeter").finish_non_exhaustive()
    }
}

impl fmt::Debug for PartitionMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionMeter").finish_non_exhaustive()
    }
}
