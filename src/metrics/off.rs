//! What stands in the place of metrics without the feature `metrics`: nothing.

#[path = "fate.rs"]
mod fate;

use std::time::Duration;

use crate::error::Result;
use crate::fault::Fault;
pub(crate) use fate::Fate;

/// Whether anything is measured.
pub(crate) const IS_ON: bool = false;

#[derive(Debug, Default)]
#[allow(dead_code)]
pub(crate) struct Fates(());

#[derive(Clone, Copy, Debug)]
pub(crate) struct Timer(());

#[derive(Clone, Debug, Default)]
pub(crate) struct ConsumerMeter(());

#[derive(Debug, Default)]
pub(crate) struct PartitionMeter(());

#[derive(Clone, Debug, Default)]
#[allow(dead_code)]
pub(crate) struct AgentMeter(());

#[derive(Debug, Default)]
pub(crate) struct ProducerMeter(());

#[derive(Debug, Default)]
pub(crate) struct Statistics(());

/// There is none.
#[derive(Debug)]
pub(crate) struct PartitionStatistics {
    pub(crate) topic: String,
    pub(crate) partition: i32,
}

#[allow(dead_code)]
impl Fates {
    pub(crate) fn add(&mut self, _: &str, _: Fate, _: usize) {}
}

#[allow(dead_code)]
impl Timer {
    pub(crate) fn start() -> Self {
        Self(())
    }

    pub(crate) fn took(self) -> Duration {
        Duration::ZERO
    }
}

#[allow(dead_code)]
impl ConsumerMeter {
    pub(crate) fn new(_: &str, _: &str, _: Option<&str>) -> Self {
        Self(())
    }

    pub(crate) fn statistics(&self) -> Statistics {
        Statistics(())
    }

    pub(crate) fn partition(&self, _: &str, _: i32) -> PartitionMeter {
        PartitionMeter(())
    }

    pub(crate) fn agent(&self, _: &str) -> AgentMeter {
        AgentMeter(())
    }

    pub(crate) fn add(&self, _: &str, _: Fate, _: usize) {}

    pub(crate) fn tell(&self, _: &mut Fates) {}

    pub(crate) fn batch(&self, _: usize) {}

    pub(crate) fn processed(&self, _: Duration, _: impl FnOnce() -> usize, _: Option<Fault<'_>>) {}

    pub(crate) fn committed(&self, _: Duration, _: Option<Fault<'_>>) {}

    pub(crate) fn assigned(&self) {}

    pub(crate) fn revoked(&self, _: bool) {}

    pub(crate) fn health(&self, _: bool, _: usize) {}
}

impl PartitionMeter {
    pub(crate) fn is_on(&self) -> bool {
        true
    }

    pub(crate) fn consumed(&self, _: usize) {}

    pub(crate) fn lag(&mut self, _: u64) {}
}

#[allow(dead_code)]
impl AgentMeter {
    pub(crate) fn called(&self, _: Duration, _: usize, _: bool) {}
}

impl ProducerMeter {
    pub(crate) fn new(_: &str) -> Self {
        Self(())
    }

    pub(crate) fn statistics(&self) -> Statistics {
        Statistics(())
    }

    pub(crate) fn reported<'a>(&self, _: impl FnOnce() -> &'a str, _: Option<Fault<'_>>) {}

    pub(crate) fn tell(&self, _: usize) {}

    pub(crate) fn sent<T>(&self, _: Timer, _: &Result<T>) {}
}

impl Statistics {
    pub(crate) fn hear(&self, _: &[u8]) {}

    pub(crate) fn take(&self) -> [PartitionStatistics; 0] {
        []
    }
}

impl PartitionStatistics {
    pub(crate) fn lag(&self, _: Option<i64>, _: bool, _: bool, _: bool) -> Option<u64> {
        None
    }
}
