//! The threads that serve a producer's client, and its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::producer::{Producer as _, PurgeConfig};

use super::Client;
use super::context::Context;
use super::flusher::Flusher;
use crate::client;
use crate::error::{Error, Result};
use crate::native;
use crate::sync::Bell;

/// How long a client and its threads may take to end.
pub(super) const CLOSE: Duration = Duration::from_secs(3);

/// How long the thread that takes events waits for them, to serve what is no event.
const POLL: Duration = Duration::from_millis(50);

/// See [`Start`]: the first answer may be of the broker that is let go of, and so may the next.
const ANSWERS: usize = 3;

/// After so many questions librdkafka has looked by itself.
const ASKS: usize = 5;

/// How long each of them may take, and how late the end is noticed.
const PATIENCE: Duration = Duration::from_millis(100);

/// The threads of a client: one takes its events where senders do not, one flushes while somebody waits. The client ends
/// with them.
pub(super) struct Threads {
    stop: Arc<AtomicBool>,
    bell: Arc<Bell>,
    poller: thread::JoinHandle<()>,
    flusher: Arc<Flusher>,
    /// Disconnected once these have ended, and what [`Start`] began.
    ended: Mutex<Receiver<()>>,
}

impl Threads {
    pub(super) fn start(client: &Arc<Client>) -> Result<(Self, Arc<Flusher>, Start)> {
        let (alive, ended) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let bell = Arc::new(Bell::default());
        let flusher = Arc::new(Flusher::new(Arc::clone(&client.context().reports)));
        let poller = spawn("kafka-envelope-poll", &alive, client, {
            let (stop, bell, rung) = (Arc::clone(&stop), Arc::clone(&bell), Arc::clone(&bell));
            let events = native::Events::listen(client, move || rung.ring());
            let events = events.ok_or_else(|| Error::Closed("librdkafka gave no queue".into()))?;
            move |client| {
                poll(client, &stop, &bell);
                drop(events);
            }
        })?;
        let threads = Self { stop, bell, poller, flusher: Arc::clone(&flusher), ended: Mutex::new(ended) };
        // If this one cannot be started, dropping `threads` stops the other.
        let flushes = spawn("kafka-envelope-flush", &alive, client, {
            let flusher = Arc::clone(&flusher);
            move |client| flusher.run(|timeout| native::flush(client.client(), timeout).is_ok())
        });
        if let Err(error) = flushes {
            drop(alive);
            return Err(error);
        }
        let start = Start { client: Arc::clone(client), alive, stop: Arc::clone(&threads.stop) };
        Ok((threads, flusher, start))
    }

    /// Whether this is the thread that takes the client's events: it cannot wait for them.
    pub(super) fn is_poller(&self) -> bool {
        thread::current().id() == self.poller.thread().id()
    }

    pub(super) fn poller_ended(&self) -> bool {
        self.poller.is_finished()
    }
}

impl Drop for Threads {
    /// Ends the client, within a bound.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.bell.ring();
        self.flusher.stop();
        if self.is_poller() {
            return;
        }
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(CLOSE) == Err(RecvTimeoutError::Timeout) {
            client::guarded(|| log::error!("a producer's client does not end within {CLOSE:?}: left to itself"));
        }
    }
}

/// Gets a producer its id as soon as it has a connection, once it has a topic.
///
/// Without one an idempotent producer sends nothing. librdkafka looks for a broker that gives it one whenever metadata come,
/// else every 500 ms. The first come from a broker of `bootstrap.servers`, which it then lets go of before it has a
/// connection to another: 510 ms to the first acknowledgement. Where metadata are asked for again it takes 56.
pub(super) struct Start {
    client: Arc<Client>,
    alive: Sender<()>,
    stop: Arc<AtomicBool>,
}

impl Start {
    pub(super) fn begin(self, topic: &Arc<native::Topic<Context>>) {
        let (topic, stop) = (Arc::clone(topic), self.stop);
        let started = spawn("kafka-envelope-start", &self.alive, &self.client, move |_| {
            let mut answers = 0;
            for _ in 0..ASKS {
                if answers == ANSWERS || stop.load(Ordering::Relaxed) {
                    return;
                }
                answers += usize::from(topic.ask_metadata(PATIENCE));
            }
        });
        if let Err(error) = started {
            client::guarded(|| log::warn!("the first message waits for half a second: {error}"));
        }
    }
}

fn spawn(
    name: &str,
    alive: &Sender<()>,
    client: &Arc<Client>,
    run: impl FnOnce(&Client) + Send + 'static,
) -> Result<thread::JoinHandle<()>> {
    let (alive, client) = (alive.clone(), Arc::clone(client));
    let body = move || {
        client::guarded(|| run(&client));
        // Only now: its end may take long.
        drop(client);
        drop(alive);
    };
    let builder = thread::Builder::new().name(name.to_owned());
    builder.spawn(body).map_err(|error| KafkaError::ClientCreation(format!("cannot start a thread: {error}")).into())
}

/// Takes the client's events until the producer's end, and the reports of what is given up then.
///
/// Not by rdkafka's `poll` with a timeout: that uses up its time whatever arrives, and the last millisecond of it spinning.
fn poll(client: &Client, stop: &AtomicBool, bell: &Bell) {
    let context = client.context();
    let tell = || client::guarded(|| context.meter.tell(context.outstanding()));
    while !stop.load(Ordering::Relaxed) {
        if let Some(time) = context.stand_back(POLL) {
            take(client, bell, time);
        }
        tell();
        context.bootstrap.serve(client.client());
    }
    // What was left to it.
    context.stand_back(Duration::ZERO);
    let deadline = Instant::now() + CLOSE / 3;
    if context.outstanding() > 0 {
        client.purge(PurgeConfig::default().queue().inflight());
    }
    while context.outstanding() > 0 && Instant::now() < deadline {
        take(client, bell, POLL);
    }
    tell();
}

/// Waits for events, but no longer than this, and takes them, for as long.
fn take(client: &Client, bell: &Bell, at_most: Duration) {
    if native::main_events(client.client()) == 0 {
        bell.wait(at_most);
    }
    let begin = Instant::now();
    loop {
        client::guarded(|| client.poll(Duration::ZERO));
        if native::main_events(client.client()) == 0 || begin.elapsed() >= at_most {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn events_ring_the_bell() {
        let bell = Arc::new(Bell::default());
        let managed = [("bootstrap.servers", "localhost:1")];
        // An event of itself, again and again.
        let settings = Settings::producer().client_id("test").map([("statistics.interval.ms", "10")]);
        let client: Arc<Client> = Arc::new(settings.resolve(&managed).unwrap().create(Context::default()).unwrap());
        let rung = Arc::clone(&bell);
        let events = native::Events::listen(&client, move || rung.ring()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        for _ in 0..3 {
            while !bell.take_ring() {
                assert!(Instant::now() < deadline);
                // It is rung for the first of several.
                client.poll(Duration::ZERO);
            }
        }
        drop(events);
    }
}
