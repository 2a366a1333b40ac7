//! A worker that runs: it reads, keeps count of what is done, and ends in order.

use std::fmt;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, channel, unbounded_channel};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout};

use crate::consumer::{After, Backoff, Consumer, Flow, Health, Policies, Tally, first_of};
use crate::error::{Error, Result};
use crate::message::arena::Arena;
use crate::message::record::{Parts, Record};
use crate::metrics::{ConsumerMeter, Fate};
use crate::producer::Delivery;
use crate::stream::attempts::{ATTEMPT, Attempts};
use crate::stream::builder::{Start, WorkerBuilder};
use crate::stream::feed::Feed;
use crate::stream::origin::{Done, Ended, Origins};
use crate::stream::sinks::Sinks;
use crate::stream::stage::{Letter, Shared, skip};

/// The most records that are taken at once.
const TAKE: usize = 500;
/// So many dead letters may be on their way before no more records are taken.
const LETTERS: usize = 1000;
/// How long the client's end may take.
const CLOSE: Duration = Duration::from_secs(5);
/// How long the end waits for agents that were given up to be dropped.
const ABORT: Duration = Duration::from_millis(500);

/// Reads a topic as a member of a group and passes its messages through a chain of agents. Offsets are committed once
/// every agent is done with all that came of a record.
#[must_use = "a worker does nothing until `run_until`"]
pub struct Worker {
    pub(super) brokers: String,
    pub(super) consumer: Consumer,
    pub(super) feed: Box<dyn Feed>,
    pub(super) agents: Vec<Start>,
    pub(super) sinks: Sinks,
    pub(super) backoff: Backoff,
    pub(super) drain: Duration,
}

impl Worker {
    /// A builder for a worker of this topic, on these brokers, as a member of this group.
    ///
    /// The first agent gets the elements of each record's list, one by one: of a map only the keys. Where a record is one
    /// message, say [`WorkerBuilder::whole`].
    pub fn builder<In: DeserializeOwned + Send + 'static>(
        topic: &str,
        brokers: &str,
        group: &str,
    ) -> WorkerBuilder<In> {
        WorkerBuilder::new(topic, brokers, group)
    }

    /// The health of the worker's consumer, to be asked while it runs.
    #[must_use]
    pub fn health(&self) -> Health {
        self.consumer.health()
    }

    /// Connects to sinks and brokers, joins the group, and works until `shutdown` is ready or something fails for good.
    /// Then nothing more is read; what is on its way, incomplete batches too, goes through the chain within the drain's
    /// time, what is done is committed, and the sinks are closed. What the drain's time is too short for is logged, and
    /// comes again.
    ///
    /// # Errors
    /// - [`Error::Unreachable`], or a sink's own error: it could not be connected, see
    ///   [`WorkerBuilder::connect_backoff`].
    /// - The first failure that the policies do not let pass: [`Error::Handler`] of an agent, [`Error::Undecodable`],
    ///   [`Error::DeadLetter`]; [`Error::Partition`] and [`Error::Kafka`] where Kafka itself cannot go on.
    /// - [`Error::NotCommitted`] and [`Error::Closed`] where the end did not go well.
    pub async fn run_until(mut self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let mut shutdown = pin!(shutdown);
        let connected = tokio::select! {
            () = &mut shutdown => Ok(false),
            connected = self.connect() => connected.map(|()| true),
        };
        let Self { consumer, feed, agents, sinks, drain, .. } = self;
        let (letters, given_up) = channel(16);
        let (failures, failed) = unbounded_channel();
        let (policies, sight) = (consumer.policies(), consumer.sight());
        let meter = sight.meter.clone();
        let shared = Arc::new(Shared { sinks: sinks.clone(), policies, sight, letters, failures });
        let mut run = Run {
            tally: consumer.tally(),
            meter,
            policies: consumer.policies(),
            consumer,
            feed: Some(feed),
            taken: None,
            stages: JoinSet::new(),
            failed,
            given_up,
            letters: JoinSet::new(),
            done: Arc::new(Done::default()),
        };
        let worked = match connected {
            Ok(true) => {
                for start in agents {
                    run.stages.spawn(start(Arc::clone(&shared)));
                }
                drop(shared);
                let worked = run.work(shutdown).await;
                first_of(worked, run.finish(drain).await)
            }
            connected => connected.map(drop),
        };
        let ended = first_of(worked, run.close().await);
        first_of(ended, sinks.close(CLOSE).await)
    }

    /// # Errors
    /// The last attempt's.
    async fn connect(&mut self) -> Result<()> {
        self.sinks.connect(self.backoff).await?;
        let mut attempts = Attempts::new("consumer", self.backoff);
        while let Err(error) = self.consumer.reach(&self.brokers, ATTEMPT).await {
            attempts.again(error).await?;
        }
        Ok(())
    }
}

/// A dead letter's record, where it came from, and what became of it.
type Buried = (Arena, Origins, Result<Delivery>);

/// Records, the first of which begun so far.
struct Taken {
    arena: Arena,
    begun: usize,
    /// Behind them, all batches are to be released.
    is_flushing: bool,
}

/// A worker at work.
struct Run {
    consumer: Consumer,
    tally: Tally,
    policies: Policies,
    meter: ConsumerMeter,
    /// None: nothing more is read.
    feed: Option<Box<dyn Feed>>,
    /// What was taken of Kafka and waits for the feed to be empty.
    taken: Option<Taken>,
    stages: JoinSet<()>,
    failed: UnboundedReceiver<Error>,
    given_up: Receiver<Letter>,
    letters: JoinSet<Buried>,
    done: Arc<Done>,
}

impl Run {
    async fn work(&mut self, mut shutdown: impl Future<Output = ()> + Send + Unpin) -> Result<()> {
        loop {
            self.tell();
            self.read()?;
            let Self { consumer, feed: Some(feed), taken, stages, failed, given_up, letters, done, .. } = self else {
                return Ok(());
            };
            let is_empty = feed.is_empty();
            let is_free = is_empty && taken.is_none() && letters.len() < LETTERS;
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                Some(error) = failed.recv() => return Err(error),
                Some(ended) = stages.join_next() => stage_ended(ended)?,
                () = done.changed() => {}
                Some(letter) = given_up.recv() => self.bury(letter)?,
                Some(buried) = letters.join_next() => self.buried(buried)?,
                // Where the first agent has ended, its error comes.
                _ = feed.send(), if !is_empty => {}
                flow = consumer.flow(if is_free { TAKE } else { 0 }) => match flow? {
                    Flow::Records(arena) => *taken = Some(Taken { arena, begun: 0, is_flushing: false }),
                    Flow::Revoking => {
                        feed.flush();
                        if let Some(taken) = taken {
                            taken.is_flushing = true;
                        }
                    }
                    Flow::Stopped => return Ok(()),
                },
            }
        }
    }

    /// Gives the feed of what was taken as much as it should have: few records may be many elements.
    fn read(&mut self) -> Result<()> {
        let Some(mut taken) = self.taken.take() else { return Ok(()) };
        if self.feed.as_ref().is_some_and(|feed| feed.is_empty()) {
            while let Some(place) = taken.arena.records().get(taken.begun) {
                if self.feed.as_ref().is_none_or(|feed| feed.is_full()) {
                    break;
                }
                taken.begun += 1;
                self.begin(&Parts::of(&taken.arena, place).share())?;
            }
        }
        if taken.begun < taken.arena.records().len() {
            self.taken = Some(taken);
            return Ok(());
        }
        if let Some(feed) = self.feed.as_mut().filter(|_| taken.is_flushing) {
            feed.flush();
        }
        self.consumer.recycle(taken.arena);
        Ok(())
    }

    fn begin(&mut self, record: &Record) -> Result<()> {
        if !self.tally.begin(record.tag()) {
            return Ok(());
        }
        let origins = self.done.origin(record.clone());
        // A tombstone, or nothing, as everywhere in this crate: it is done.
        if record.value().is_none_or(<[u8]>::is_empty) {
            origins.done();
            return Ok(());
        }
        let Some(feed) = &mut self.feed else { return Ok(()) };
        let Err(source) = feed.read(record, &origins) else {
            origins.done();
            return Ok(());
        };
        let error = undecodable(record, source);
        self.meter.add(record.topic(), Fate::Undecodable, 1);
        match self.policies.after_unreadable() {
            After::Stop | After::Again(_) => Err(error),
            After::Skip => {
                Consumer::log_skip(&record.to_arena(1), &error);
                skip(&self.meter, origins);
                Ok(())
            }
            After::Bury => self.bury(Letter { origins, error }),
        }
    }

    /// A dead letter for each record that has none yet and did not go to another worker. They are done once all are
    /// acknowledged.
    fn bury(&mut self, Letter { origins, error }: Letter) -> Result<()> {
        for record in origins.give_up().into_iter().filter(|record| self.tally.is_current(record.tag())) {
            let arena = record.to_arena(1);
            let letter = self.consumer.bury(&arena, &error)?;
            let origins = origins.clone();
            self.letters.spawn(async move { (arena, origins, letter.await) });
        }
        origins.done();
        Ok(())
    }

    fn buried(&mut self, buried: Result<Buried, JoinError>) -> Result<()> {
        let (arena, origins, outcome) =
            buried.map_err(|error| Error::Closed(format!("a dead letter was not written: {error}")))?;
        self.consumer.buried(&arena, outcome)?;
        self.consumer.count(Fate::DeadLettered, &arena);
        origins.done();
        Ok(())
    }

    /// Tells the consumer what is done.
    fn tell(&mut self) {
        let Ended { tags, done, mut fates } = self.done.take();
        self.tally.end(&tags, &done);
        self.meter.tell(&mut fates);
    }

    /// What is on its way goes through the chain, but for no longer than this.
    async fn finish(&mut self, drain: Duration) -> Result<()> {
        let since = Instant::now();
        let mut outcome = Ok(());
        loop {
            self.tell();
            // The first agent sees the end of its input once what waits has gone, and then the next.
            self.feed = self.feed.take().filter(|feed| !feed.is_empty());
            let Self { feed, stages, given_up, letters, done, .. } = self;
            if stages.is_empty() && letters.is_empty() && given_up.is_empty() {
                break;
            }
            let next = async {
                tokio::select! {
                    Some(ended) = stages.join_next() => Next::Stage(ended),
                    Some(letter) = given_up.recv() => Next::Letter(letter),
                    Some(buried) = letters.join_next() => Next::Buried(Box::new(buried)),
                    is_sent = sent(feed) => if is_sent { Next::Done } else { Next::Nobody },
                    () = done.changed() => Next::Done,
                }
            };
            let settled = match timeout(drain.saturating_sub(since.elapsed()), next).await {
                Ok(Next::Stage(ended)) => stage_ended(ended),
                Ok(Next::Letter(letter)) => self.bury(letter),
                Ok(Next::Buried(buried)) => self.buried(*buried),
                Ok(Next::Done) => Ok(()),
                Ok(Next::Nobody) => {
                    self.feed = None;
                    Ok(())
                }
                Err(_) => {
                    log::warn!("agents did not end within {drain:?}: what is on its way comes again");
                    break;
                }
            };
            outcome = first_of(outcome, settled);
        }
        self.feed = None;
        self.stages.abort_all();
        let _ = timeout(ABORT, async { while self.stages.join_next().await.is_some() {} }).await;
        while let Ok(error) = self.failed.try_recv() {
            outcome = first_of(outcome, Err(error));
        }
        outcome
    }

    /// What is done is committed, and the consumer leaves its group.
    async fn close(mut self) -> Result<()> {
        let confirmed = self.consumer.confirm_async(true).await;
        let consumer = self.consumer;
        let closed = tokio::task::spawn_blocking(move || consumer.close(CLOSE)).await;
        first_of(
            confirmed,
            closed.unwrap_or_else(|error| Err(Error::Closed(format!("the consumer did not close: {error}")))),
        )
    }
}

enum Next {
    Stage(Result<(), JoinError>),
    Letter(Letter),
    Buried(Box<Result<Buried, JoinError>>),
    /// Something has moved on.
    Done,
    /// The first agent has ended.
    Nobody,
}

async fn sent(feed: &mut Option<Box<dyn Feed>>) -> bool {
    match feed {
        Some(feed) => feed.send().await,
        None => pending().await,
    }
}

fn stage_ended(ended: Result<(), JoinError>) -> Result<()> {
    ended.map_err(|error| Error::Closed(format!("an agent has failed: {error}")))
}

fn undecodable(record: &Record, source: serde_json::Error) -> Error {
    record.undecodable(source)
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("consumer", &self.consumer).field("sinks", &self.sinks).finish_non_exhaustive()
    }
}
