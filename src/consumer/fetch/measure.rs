//! What the fetch thread shows of its work, apart from rebalances.

use rdkafka::consumer::Consumer as _;

use crate::consumer::fetch::Fetch;
use crate::consumer::lanes::Lanes;
use crate::consumer::ledger::{PartitionId, TopicPartition};
use crate::fault::Fault;
use crate::metrics::{self, PartitionMeter, Timer};
use crate::otel::{Processed, Span};

/// The commit in flight: since when, and its span.
#[derive(Default)]
pub(super) struct CommitSight(Option<(Timer, Span)>);

impl Fetch {
    /// A commit of what these attempts have handled is sent. Not under the link's lock: what it is told to is foreign code.
    pub(super) fn commit_begins(&mut self, names: &[TopicPartition], mut processed: Processed) {
        let span = self.options.sight.tracing.commit(names.iter().map(|name| &name.topic), &mut processed);
        self.commit_sight = CommitSight(Some((Timer::start(), span)));
    }

    /// It was answered, or could not be sent.
    pub(super) fn commit_ended(&mut self, fault: Option<Fault<'_>>) {
        let Some((timer, mut span)) = self.commit_sight.0.take() else { return };
        self.options.sight.meter.committed(timer.took(), fault);
        if let Some(fault) = fault {
            span.failed(fault);
        }
        span.end();
    }

    /// Partitions that are new have their handles from now on. Not under the link's lock: an exporter is foreign code.
    pub(super) fn measure_lanes(&mut self) {
        for lane in self.lanes.iter_mut().filter(|lane| !lane.meter.is_on()) {
            lane.meter = self.options.sight.meter.partition(&lane.topic, lane.partition);
        }
    }

    /// One round of records was taken.
    pub(super) fn measure_round(lanes: &mut Lanes, round: &[(PartitionId, i64, Option<i32>)]) {
        if metrics::IS_ON {
            for run in round.chunk_by(|(one, ..), (next, ..)| one == next) {
                if let Some(lane) = run.first().and_then(|(id, ..)| lanes.get_mut(*id)) {
                    lane.meter.consumed(run.len());
                }
            }
        }
    }

    /// The lag, where librdkafka has told of its partitions.
    pub(super) fn measure_lag(&mut self) {
        let partitions = self.reader.consumer().context().statistics.take();
        let (committed_only, starts_at_end) = (self.options.committed_only, self.options.resets_to_end);
        for told in partitions {
            let Some(lane) = self.lanes.named(&told.topic, told.partition) else { continue };
            let (own, is_open) = {
                let ledger = &self.link.lock().ledger;
                let floor = ledger.floor(lane.id);
                (floor, ledger.is_open(lane.id) || floor < ledger.watermark(lane.id))
            };
            if let Some(lag) = told.lag(own.or(lane.start.committed), committed_only, starts_at_end, is_open) {
                lane.meter.lag(lag);
            }
        }
    }

    /// Nothing is owned any more.
    pub(super) fn measure_end(&mut self) {
        for lane in self.lanes.iter_mut() {
            lane.meter = PartitionMeter::default();
        }
    }
}
