//! The threads that serve a producer's client, and its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::producer::{Producer as _, PurgeConfig};

use super::Client;
use super::flusher::Flusher;
use crate::client;
use crate::error::Result;
use crate::native;

/// How long a client and its threads may take to end.
pub(super) const CLOSE: Duration = Duration::from_secs(3);

/// rdkafka's `poll` uses up its time whatever arrives, so this is how late its thread notices the end.
const POLL: Duration = Duration::from_millis(50);

/// So many answers get a producer id: the first is of a broker that librdkafka lets go of, the next may be, too.
const ANSWERS: usize = 3;

/// How often to ask for them. Without an answer each takes as long as `POLL`; after half a second librdkafka tries by itself.
const ASKS: usize = 10;

/// The threads of a client: one takes its events where senders do not, one flushes while somebody waits, one lives as long
/// as it starts. The client ends with them.
pub(super) struct Threads {
    stop: Arc<AtomicBool>,
    poller: thread::JoinHandle<()>,
    flusher: Arc<Flusher>,
    /// Disconnected once all have ended.
    ended: Mutex<Receiver<()>>,
}

impl Threads {
    pub(super) fn start(client: &Arc<Client>) -> Result<(Self, Arc<Flusher>)> {
        let (alive, ended) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let flusher = Arc::new(Flusher::new(Arc::clone(&client.context().reports)));
        let poller = spawn("kafka-envelope-poll", &alive, client, {
            let stop = Arc::clone(&stop);
            move |client| poll(client, &stop)
        })?;
        let threads = Self { stop, poller, flusher: Arc::clone(&flusher), ended: Mutex::new(ended) };
        // If these cannot be started, dropping `threads` stops the other.
        spawn("kafka-envelope-flush", &alive, client, {
            let flusher = Arc::clone(&flusher);
            move |client| flusher.run(|timeout| native::flush(client.client(), timeout).is_ok())
        })?;
        spawn("kafka-envelope-start", &alive, client, {
            let stop = Arc::clone(&threads.stop);
            move |client| start(client, &stop)
        })?;
        Ok((threads, flusher))
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

/// Gets the client its producer id as soon as it has a connection. Without one an idempotent producer sends nothing, and
/// librdkafka looks for a broker to ask whenever metadata come, else every 500 ms. It asks for them once, of a broker of
/// `bootstrap.servers`, and has no connection to another by then: 510 ms to the first acknowledgement, instead of 56.
fn start(client: &Client, stop: &AtomicBool) {
    let mut answers = 0;
    for _ in 0..ASKS {
        if answers == ANSWERS || stop.load(Ordering::Relaxed) {
            return;
        }
        answers += usize::from(native::ask_metadata(client.client(), POLL));
    }
}

/// Takes the client's events until the producer's end, and the reports of what is given up then.
fn poll(client: &Client, stop: &AtomicBool) {
    let context = client.context();
    let tell = || client::guarded(|| context.meter.tell(context.outstanding()));
    while !stop.load(Ordering::Relaxed) {
        if let Some(time) = context.stand_back(POLL) {
            client::guarded(|| client.poll(time));
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
        client.poll(POLL / 10);
    }
    tell();
}
