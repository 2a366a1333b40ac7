//! An agent at work: elements in, elements out.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::consumer::{After, Policies, Sight};
use crate::error::{BoxError, Error, panic_text};
use crate::metrics::{self, AgentMeter, ConsumerMeter, Fate};
use crate::stream::agent::{Agent, Calling, Outputs, Retried, Work};
use crate::stream::calls::{Call, Calls, Ended};
use crate::stream::gather::{Batches, Each, Gather, Portion, Share};
use crate::stream::origin::Origins;
use crate::stream::queue::{Item, Message, Receiver, Sender};
use crate::stream::sinks::Sinks;
use crate::stream::statistics::Statistics;

/// What is given up: a dead letter for each of its records, one however many of its elements are.
pub(super) struct Letter {
    pub(super) origins: Origins,
    pub(super) error: Error,
}

/// What all agents of a worker share.
pub(super) struct Shared {
    pub(super) sinks: Sinks,
    pub(super) policies: Policies,
    pub(super) sight: Sight,
    pub(super) letters: mpsc::Sender<Letter>,
    /// What agents answered, where the policies do not let it pass. It is told at once: a stage that fails ends only when
    /// the next one has what it made before.
    pub(super) failures: mpsc::UnboundedSender<Error>,
}

/// A stage ends before its input does: it has failed, or the next one has ended.
struct Gone;

/// What makes an agent finish all that it has.
#[derive(Clone, Copy, PartialEq)]
enum Release {
    Flush,
    /// Nothing more comes.
    Last,
}

enum Next<In, Out> {
    /// Something of what was made.
    Sent,
    Ended(Ended<Out>),
    /// A batch's time is up.
    Due,
    Statistics,
    Input(Option<Message<In>>),
}

/// Works until the input ends, or the agent fails for good.
pub(super) async fn run<In, Out>(agent: Agent<In, Out>, input: Receiver<In>, output: Sender<Out>, shared: Arc<Shared>)
where
    In: Send + 'static,
    Out: Send + 'static,
{
    let Agent { name, work, timeout, max_age, concurrency, statistics, retried, .. } = agent;
    let statistics = statistics.then(|| Statistics::new(&name));
    let (meter, calls) = (shared.sight.meter.agent(&name), Calls::new(concurrency));
    let stage = Stage { name, input, output, shared, calls, statistics, meter, retried };
    // Why it ended before its input was told.
    let _ = match work {
        Work::Each(call) => stage.work(&call, Each::new()).await,
        Work::Batched { size, call } => stage.work(&call, Batches::new(size, timeout, max_age)).await,
    };
}

/// Takes what the last agent gives: it is done.
pub(super) async fn last<T: Send + 'static>(mut input: Receiver<T>) {
    while let Some(message) = input.recv().await {
        if let Message::Items(items) = message {
            items.into_iter().for_each(|item| item.origins.done());
        }
    }
}

struct Stage<In, Out> {
    name: String,
    input: Receiver<In>,
    output: Sender<Out>,
    shared: Arc<Shared>,
    calls: Calls<Out>,
    statistics: Option<Statistics>,
    meter: AgentMeter,
    retried: Retried,
}

impl<In, Out> Stage<In, Out> {
    async fn work<G: Gather<In>>(mut self, call: &Calling<G::Input, Out>, mut gather: G) -> Result<(), Gone> {
        let mut release: Option<Release> = None;
        loop {
            while self.is_free() {
                let Some(Portion { input, share }) = gather.next(release.is_some()) else { break };
                let began = (metrics::IS_ON || self.statistics.is_some()).then(Instant::now);
                let tracing = &self.shared.sight.tracing;
                let processing = tracing.process_elements(&self.name, || share.origins.records(), share.elements);
                let answering = call(input, self.shared.sinks.made_of(share.origins.first()));
                if let Some(ended) = self.calls.begin(Call::new(answering, share, began, processing)).await {
                    self.settle(ended).await?;
                }
            }
            let is_idle = self.calls.is_empty() && self.output.is_empty();
            if let Some(what) = release.take_if(|_| is_idle) {
                if what == Release::Last {
                    self.log();
                    return Ok(());
                }
                self.output.flush().await.then_some(()).ok_or(Gone)?;
            }
            let due = gather.due().filter(|_| self.is_free());
            let wants_more = release.is_none() && gather.has_room();
            let Self { input, output, calls, statistics, .. } = &mut self;
            // Calls that are under way are asked whatever else has to wait: one that is not could miss its own deadlines.
            let next = tokio::select! {
                biased;
                is_sent = output.send(), if !output.is_empty() => match is_sent {
                    true => Next::Sent,
                    false => return Err(Gone),
                },
                Some(ended) = calls.next() => Next::Ended(ended),
                () = at(due) => Next::Due,
                () = at(statistics.as_ref().map(Statistics::due)) => Next::Statistics,
                message = input.recv(), if wants_more => Next::Input(message),
            };
            match next {
                Next::Ended(ended) => self.settle(ended).await?,
                Next::Statistics => self.log(),
                Next::Input(Some(Message::Items(items))) => gather.add(items),
                Next::Input(Some(Message::Flush)) => release = Some(Release::Flush),
                Next::Input(None) => release = Some(Release::Last),
                Next::Sent | Next::Due => {}
            }
        }
    }

    /// Whether a call may begin.
    fn is_free(&self) -> bool {
        self.calls.has_room() && !self.output.is_full()
    }

    fn log(&mut self) {
        if let Some(statistics) = &mut self.statistics {
            statistics.log(self.input.waiting());
        }
    }

    async fn settle(&mut self, ended: Ended<Out>) -> Result<(), Gone> {
        let Ended { answer, share: Share { origins, elements, bytes }, began } = ended;
        if let Some(began) = began {
            self.measure(began, elements, matches!(answer, Ok(Ok(_))), &origins);
        }
        let outputs = match answer {
            Ok(Ok(outputs)) => outputs,
            Ok(Err(error)) => return self.failed(error.into_inner(), origins).await,
            Err(panic) => return self.failed(format!("it panicked: {}", panic_text(&*panic)).into(), origins).await,
        };
        match outputs {
            Outputs::None => origins.done(),
            Outputs::One(value) => self.output.push(Item { value, origins, bytes }),
            Outputs::Many(values) => {
                let bytes = bytes / values.len().max(1);
                for value in values {
                    self.output.push(Item { value, origins: origins.clone(), bytes });
                }
                origins.done();
            }
        }
        Ok(())
    }

    /// A call with so many elements of these records has ended.
    fn measure(&mut self, began: Instant, elements: usize, is_ok: bool, origins: &Origins) {
        if let Some(statistics) = &mut self.statistics {
            statistics.called(elements, began);
        }
        if metrics::IS_ON {
            self.meter.called(began.elapsed(), elements, !is_ok);
            let retried = self.retried.take();
            let failed = retried + if is_ok { 0 } else { elements };
            // A worker's records are of one topic, unless that is a pattern.
            if let Some(record) = (failed > 0).then(|| origins.records()).and_then(|records| records.into_iter().next())
            {
                self.shared.sight.meter.add(record.topic(), Fate::Failed, failed);
                self.shared.sight.meter.add(record.topic(), Fate::Retried, retried);
            }
        }
    }

    /// The agent failed on elements of these records.
    async fn failed(&mut self, source: BoxError, origins: Origins) -> Result<(), Gone> {
        let source = format!("agent `{}`: {source}", self.name).into();
        let error = Error::Handler { batch: origins.reference().to_string(), source };
        // Attempts are the agent's own, see `Agent::retry`.
        match self.shared.policies.after_failure(u32::MAX) {
            After::Stop | After::Again(_) => {
                let _ = self.shared.failures.send(error);
                // What was made before goes on.
                while !self.output.is_empty() && self.output.send().await {}
                Err(Gone)
            }
            After::Skip => {
                log::error!("skipped: {error}");
                skip(&self.shared.sight.meter, origins);
                Ok(())
            }
            After::Bury => self.shared.letters.send(Letter { origins, error }).await.map_err(|_| Gone),
        }
    }
}

/// Nothing is to be done any more with elements that are given up.
pub(super) fn skip(meter: &ConsumerMeter, origins: Origins) {
    if metrics::IS_ON {
        for record in origins.give_up() {
            meter.add(record.topic(), Fate::Skipped, 1);
        }
    }
    origins.done();
}

/// At that time; never, where there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
