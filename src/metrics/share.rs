//! Gauges that several have a part in.

use ::metrics::Gauge;

/// One's part of a gauge, which is the sum of all parts. It is taken back at the end.
#[derive(Debug)]
pub(super) struct Share {
    gauge: Gauge,
    part: u64,
}

impl Share {
    pub(super) fn of(gauge: Gauge) -> Self {
        Self { gauge, part: 0 }
    }

    pub(super) fn set(&mut self, part: u64) {
        if part != self.part {
            self.gauge.increment(part as f64 - self.part as f64);
            self.part = part;
        }
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::of(Gauge::noop())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}
