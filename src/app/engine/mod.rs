//! Takes records, gives them to handlers, and says of each when it is done.

mod end;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};

use crate::app::counts::{Count, Counts};
use crate::app::emitter::Emitter;
use crate::app::handling::{Begun, Gate, Outcome, Service, Shared, handle};
use crate::app::schedule::{End, Schedule, Unit};
use crate::app::slot::{Slot, Slots};
use crate::app::task::{Kind, Route, Router};
use crate::consumer::{After, Consumer, Policies, Tally, first_of};
use crate::error::{Error, Result};
use crate::message::arena::Arena;
use crate::message::record::{Parts, Record};
use crate::metrics::{self, Fate, Fates};
use crate::producer::Delivery;

pub(super) use end::{CLOSE, Owned, on_thread};

/// The most records that are taken at once.
const TAKE: usize = 500;
/// The most that share a task.
const SHARE: usize = 16;

/// What the builder says.
pub(super) struct Options {
    pub(super) max_concurrent_tasks: usize,
    pub(super) max_concurrent_pipelines: usize,
    /// How long the end waits for what is being handled.
    pub(super) drain: Duration,
    /// Whether a partition's records are handled one after the other, whatever their keys.
    pub(super) in_order: bool,
    pub(super) gate: Option<Gate>,
}

/// See the module's own words.
pub(super) struct Engine {
    consumer: Owned,
    tally: Tally,
    policies: Policies,
    service: Arc<Service>,
    drain: Duration,
    counts: Counts,
    /// What the service's meter is told next.
    fates: Fates,
    schedule: Schedule,
    handlers: Slots,
    pipelines: Slots,
    freed: Arc<Notify>,
    running: JoinSet<Ended>,
    /// What begins again after a pause.
    retries: BinaryHeap<Reverse<(Instant, Unit)>>,
    /// Of the runtime.
    threads: usize,
    /// What the tally is told next.
    ended: Vec<u64>,
    done: Vec<(u64, i64)>,
}

/// What has come to an end.
enum Ended {
    Handlers(Shared),
    Letter { job: Option<usize>, record: Record, arena: Arena, outcome: Result<Delivery> },
}

impl Engine {
    pub(super) fn new(
        consumer: Consumer,
        options: Options,
        emitter: Emitter,
        router: Arc<dyn Router>,
        counts: Counts,
    ) -> Self {
        let freed = Arc::new(Notify::new());
        Self {
            tally: consumer.tally(),
            policies: consumer.policies(),
            fates: Fates::default(),
            schedule: Schedule::new(options.in_order, options.gate.is_some()),
            service: Arc::new(Service { emitter, router, gate: options.gate, sight: consumer.sight() }),
            consumer: Owned(Some(consumer)),
            drain: options.drain,
            counts,
            handlers: Slots::new(options.max_concurrent_tasks, Arc::clone(&freed)),
            pipelines: Slots::new(options.max_concurrent_pipelines, Arc::clone(&freed)),
            freed,
            running: JoinSet::new(),
            retries: BinaryHeap::new(),
            threads: 1,
            ended: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Handles records until `shutdown` is ready, the consumer is stopped, or something fails for good. Then what is
    /// being handled is finished within the drain's time, and what is done is committed.
    ///
    /// # Errors
    /// What failed; else [`Error::NotCommitted`] or [`Error::Closed`] where the end did not go well.
    pub(super) async fn run_until(mut self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        self.threads = Handle::current().metrics().num_workers().max(1);
        let outcome = self.work(shutdown).await;
        let drained = self.finish().await;
        let closed = self.close().await;
        first_of(first_of(outcome, drained), closed)
    }

    async fn work(&mut self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let mut shutdown = pin!(shutdown);
        let freed = Arc::clone(&self.freed);
        loop {
            // Before anything begins that ended together with it.
            if poll_fn(|task| Poll::Ready(shutdown.as_mut().poll(task).is_ready())).await {
                return Ok(());
            }
            self.start()?;
            self.tell();
            let retry = self.retries.peek().map(|Reverse((at, ..))| *at);
            let room = self.schedule.room().min(TAKE);
            let Self { consumer: Owned(Some(consumer)), running, .. } = self else { return Ok(()) };
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                Some(ended) = running.join_next(), if !running.is_empty() => {
                    self.settle_all(ended)?;
                }
                taken = consumer.take(room) => match taken? {
                    Some(arena) => {
                        self.accept(arena)?;
                        // Others have their turn, where records never cease to be there.
                        yield_now().await;
                    }
                    None => return Ok(()),
                },
                () = freed.notified() => {}
                () = at(retry) => self.wake_retries(),
            }
        }
    }

    /// What was taken is queued, where there is something to do with it.
    fn accept(&mut self, arena: Arena) -> Result<()> {
        for place in arena.records() {
            let mut parts = Parts::of(&arena, place);
            let route = self.service.router.route(&mut parts);
            let record = parts.share();
            match route {
                Route::Tasks(tasks) => {
                    self.schedule.push(record, tasks);
                    continue;
                }
                Route::Nothing => self.fates.add(record.topic(), Fate::Handled, 1),
                Route::Unhandled => {
                    self.counts.add(Count::Unhandled);
                    self.fates.add(record.topic(), Fate::Handled, 1);
                }
                Route::NoEvent(why) => {
                    log::warn!("{} is skipped: {why}", record.place());
                    self.counts.add(Count::WithoutEvent);
                    self.fates.add(record.topic(), Fate::Skipped, 1);
                }
                Route::Unreadable(source) => {
                    let error = record.undecodable(source);
                    self.fates.add(record.topic(), Fate::Undecodable, 1);
                    match self.policies.after_unreadable() {
                        After::Stop | After::Again(_) => return Err(error),
                        After::Skip => self.skip(&record, 0, &error),
                        After::Bury => {
                            self.bury(None, record, 0, &error)?;
                            continue;
                        }
                    }
                }
            }
            self.done.push((record.tag(), record.offset()));
        }
        self.consumer()?.recycle(arena);
        Ok(())
    }

    fn consumer(&self) -> Result<&Consumer> {
        self.consumer.0.as_ref().ok_or_else(|| Error::Closed("the consumer has ended".into()))
    }

    /// Begins whatever there is a place for.
    fn start(&mut self) -> Result<()> {
        let mut begun = Vec::new();
        for kind in [Kind::Handler, Kind::Pipeline] {
            while self.schedule.is_ready(kind) {
                let slots = match kind {
                    Kind::Handler => &self.handlers,
                    Kind::Pipeline => &self.pipelines,
                };
                let Some(slot) = slots.take() else { break };
                let Some(unit) = self.schedule.pop(kind) else { break };
                begun.extend(self.begin(unit, slot)?);
            }
        }
        // Many at a time share a task for as long as they do not wait: its switch costs more than most handlers do.
        let share = (begun.len() / self.threads).clamp(1, SHARE);
        let mut begun = begun.into_iter();
        while begun.len() > 0 {
            let share: Vec<_> = begun.by_ref().take(share).collect();
            let service = Arc::clone(&self.service);
            self.running.spawn(async { Ended::Handlers(handle(service, share).await) });
        }
        Ok(())
    }

    fn begin(&mut self, unit: Unit, slot: Slot) -> Result<Option<Begun>> {
        let Some(job) = self.schedule.job_mut(unit.job) else { return Ok(None) };
        if !self.tally.begin(job.record.tag()) {
            job.end = End::Gone;
            return self.unit_ended(unit).map(|()| None);
        }
        let (record, attempt) = (job.record.clone(), job.failures(unit).saturating_add(1));
        let task = (unit.task < job.tasks.len()).then_some(job.tasks.first + unit.task);
        let slot = slot.of(self.tally.clone(), record.tag());
        Ok(Some(Begun { unit, task, record, slot, attempt }))
    }

    /// Everything that has ended by now, to the last, whatever fails: what is done is not to come again.
    fn settle_all(&mut self, first: Result<Ended, JoinError>) -> Result<()> {
        let mut outcome = Ok(());
        let mut next = first;
        loop {
            match next {
                Ok(Ended::Handlers(Shared { ended, waiting })) => {
                    for one in waiting {
                        self.running.spawn(async { Ended::Handlers(one.wait().await) });
                    }
                    for (unit, ended, took) in ended {
                        self.measure(unit, &ended, took);
                        outcome = first_of(outcome, self.settle(unit, ended));
                    }
                }
                Ok(Ended::Letter { job, record, arena, outcome: letter }) => {
                    self.ended.push(record.tag());
                    outcome = first_of(outcome, self.letter_ended(job, &record, &arena, letter));
                }
                // Of whom it is not known, so that its records would wait for ever.
                Err(error) => outcome = first_of(outcome, Err(Error::Closed(format!("a task has failed: {error}")))),
            }
            match self.running.try_join_next() {
                Some(ended) => next = ended,
                None => return outcome,
            }
        }
    }

    fn letter_ended(
        &mut self,
        job: Option<usize>,
        record: &Record,
        arena: &Arena,
        outcome: Result<Delivery>,
    ) -> Result<()> {
        self.consumer()?.buried(arena, outcome)?;
        if let Some(job) = job {
            self.schedule.remove(job);
        }
        self.counts.add(Count::DeadLettered);
        self.fates.add(record.topic(), Fate::DeadLettered, 1);
        self.done.push((record.tag(), record.offset()));
        Ok(())
    }

    fn settle(&mut self, unit: Unit, outcome: Outcome) -> Result<()> {
        let is_gate = self.schedule.is_gate(unit);
        let Some(job) = self.schedule.job_mut(unit.job) else { return Ok(()) };
        self.ended.push(job.record.tag());
        let (after, error) = match outcome {
            Outcome::Ok if is_gate => {
                self.schedule.open_gate(unit.job);
                return Ok(());
            }
            Outcome::Ok => return self.unit_ended(unit),
            Outcome::Failed(reason) if is_gate => {
                log::warn!("{} is rejected: {reason}", job.record.place());
                job.end = End::Rejected;
                return self.unit_ended(unit);
            }
            Outcome::Unreadable(source) => (self.policies.after_unreadable(), job.record.undecodable(source)),
            Outcome::Failed(source) | Outcome::Panicked(source) => {
                let failures = job.failed(unit);
                let after = self.policies.after_failure(failures);
                let error = Error::Handler { batch: job.record.to_arena(0).reference().to_string(), source };
                if let After::Again(pause) = after {
                    log::warn!("attempt {failures}, again in {pause:?}: {error}");
                }
                (after, error)
            }
        };
        match after {
            After::Stop => return Err(error),
            After::Again(pause) => {
                self.counts.add(Count::Retried);
                self.fates.add(job.record.topic(), Fate::Retried, 1);
                self.retries.push(Reverse((Instant::now() + pause, unit)));
                return Ok(());
            }
            After::Skip | After::Bury if matches!(job.end, End::Done) => {
                job.end = End::GivenUp { error, is_letter: after == After::Bury };
            }
            After::Skip | After::Bury => {}
        }
        self.unit_ended(unit)
    }

    /// A task has ended for good, and perhaps its job with it.
    fn unit_ended(&mut self, unit: Unit) -> Result<()> {
        if !self.schedule.ended(unit) {
            return Ok(());
        }
        let Some(job) = self.schedule.job_mut(unit.job) else { return Ok(()) };
        let (record, failures) = (job.record.clone(), job.most_failures());
        match std::mem::take(&mut job.end) {
            End::Done => {
                self.counts.add(Count::Handled);
                self.fates.add(record.topic(), Fate::Handled, 1);
            }
            End::Rejected => {
                self.counts.add(Count::Rejected);
                self.fates.add(record.topic(), Fate::Skipped, 1);
            }
            End::GivenUp { error, is_letter: false } => self.skip(&record, failures, &error),
            End::GivenUp { error, is_letter: true } => return self.bury(Some(unit.job), record, failures, &error),
            End::Gone => {
                self.schedule.remove(unit.job);
                return Ok(());
            }
        }
        self.schedule.remove(unit.job);
        self.done.push((record.tag(), record.offset()));
        Ok(())
    }

    fn skip(&mut self, record: &Record, failures: u32, error: &Error) {
        Consumer::log_skip(&record.to_arena(failures), error);
        self.counts.add(Count::Skipped);
        self.fates.add(record.topic(), Fate::Skipped, 1);
    }

    /// A handler took so long, and came to this.
    fn measure(&mut self, unit: Unit, outcome: &Outcome, took: Duration) {
        if !metrics::IS_ON || self.schedule.is_gate(unit) {
            return;
        }
        let failed = match outcome {
            Outcome::Ok => None,
            Outcome::Unreadable(_) => Some(Fate::Undecodable),
            Outcome::Failed(_) | Outcome::Panicked(_) => Some(Fate::Failed),
        };
        if let (Some(failed), Some(job)) = (failed, self.schedule.job_mut(unit.job)) {
            self.fates.add(job.record.topic(), failed, 1);
        }
        self.service.sight.meter.processed(took, || 1, outcome.fault());
    }

    /// The record is done once its letter is acknowledged: only then the next of its lane begins. A revocation waits for
    /// that.
    fn bury(&mut self, job: Option<usize>, record: Record, failures: u32, error: &Error) -> Result<()> {
        if !self.tally.begin(record.tag()) {
            if let Some(job) = job {
                self.schedule.remove(job);
            }
            return Ok(());
        }
        let arena = record.to_arena(failures);
        let letter = self.consumer()?.bury(&arena, error).inspect_err(|_| self.ended.push(record.tag()))?;
        self.running.spawn(async move { Ended::Letter { outcome: letter.await, job, record, arena } });
        Ok(())
    }

    fn wake_retries(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, unit))) = self.retries.pop() {
            if at > now {
                self.retries.push(Reverse((at, unit)));
                return;
            }
            self.schedule.again(unit);
        }
    }

    /// Tells the consumer what has ended and what is done.
    fn tell(&mut self) {
        self.tally.end(&self.ended, &self.done);
        self.service.sight.meter.tell(&mut self.fates);
        self.ended.clear();
        self.done.clear();
    }
}

/// At that time; never, where there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
