//! What an agent does, for the log.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// How often an agent's statistics are logged.
const INTERVAL: Duration = Duration::from_secs(10);

/// The calls of an agent since the last time that they were logged.
pub(super) struct Statistics {
    name: String,
    since: Instant,
    calls: u64,
    elements: u64,
    /// Of one call.
    most_elements: usize,
    time: Duration,
    longest: Duration,
}

impl Statistics {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            since: Instant::now(),
            calls: 0,
            elements: 0,
            most_elements: 0,
            time: Duration::ZERO,
            longest: Duration::ZERO,
        }
    }

    /// A call has ended that began then, with so many elements.
    pub(super) fn called(&mut self, elements: usize, began: Instant) {
        let time = began.elapsed();
        self.calls += 1;
        self.elements += elements as u64;
        self.most_elements = self.most_elements.max(elements);
        self.time += time;
        self.longest = self.longest.max(time);
    }

    /// When they are to be logged.
    pub(super) fn due(&self) -> Instant {
        self.since + INTERVAL
    }

    /// Logs them and starts anew. So many elements wait for the agent.
    pub(super) fn log(&mut self, waiting: usize) {
        log::info!("{self}, {waiting} elements wait");
        *self = Self::new(&self.name);
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, since, calls, elements, most_elements, time, longest } = self;
        let mean = time.checked_div(u32::try_from(*calls).unwrap_or(u32::MAX)).unwrap_or_default();
        write!(
            f,
            "agent `{name}`, last {:.1?}: {calls} calls with {elements} elements, at most {most_elements} at once; \
             {time:.1?} in calls, {mean:.1?} each, at most {longest:.1?}",
            since.elapsed()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_are_summed_until_they_are_logged() {
        let mut statistics = Statistics::new("window");
        for (elements, millis) in [(100, 10), (60, 30)] {
            let began = Instant::now();
            tokio::time::advance(Duration::from_millis(millis)).await;
            statistics.called(elements, began);
        }
        let text = "agent `window`, last 40.0ms: 2 calls with 160 elements, at most 100 at once; \
                    40.0ms in calls, 20.0ms each, at most 30.0ms";
        assert_eq!(statistics.to_string(), text);
        statistics.log(0);
        assert_eq!(
            statistics.to_string(),
            "agent `window`, last 0.0ns: 0 calls with 0 elements, at most 0 at once; 0.0ns in calls, 0.0ns each, at most 0.0ns"
        );
    }
}
