//! Stopping on SIGINT and SIGTERM.

use std::process;
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::consumer::Consumer;
use crate::consumer::link::{Link, lock};
use crate::error::{Error, Result};

/// The consumers that a signal stops, and whether one has. One thread serves them all.
static CONSUMERS: Mutex<Vec<(Weak<Link>, bool)>> = Mutex::new(Vec::new());

impl Consumer {
    /// Stops on SIGINT and SIGTERM: the batch in hand is finished and committed, then `process` or `run` returns. A
    /// second signal ends the process at once, with 128 and the signal's number as its exit code. Once no consumer is
    /// left that asked for this, a signal does again what it does by default.
    ///
    /// # Errors
    /// [`Error::Setting`] where the system refuses the signal handlers.
    pub fn stop_on_signals(&self) -> Result<()> {
        let mut consumers = lock(&CONSUMERS);
        let is_first = consumers.is_empty();
        consumers.retain(|(consumer, _)| consumer.strong_count() > 0);
        if is_first {
            serve().map_err(|error| Error::setting("stop_on_signals", error.to_string()))?;
        }
        consumers.push((Arc::downgrade(&self.link), false));
        Ok(())
    }
}

fn serve() -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let work = move || {
        for signal in signals.forever() {
            let mut consumers = lock(&CONSUMERS);
            let is_alive = |link: &Arc<Link>| !link.lock().ended;
            let alive: Vec<_> = consumers
                .iter_mut()
                .filter_map(|(link, signalled)| Some((link.upgrade().filter(is_alive)?, signalled)))
                .collect();
            if alive.is_empty() {
                // Ends the process, unless the signal is one that does not.
                let _ = emulate_default_handler(signal);
            }
            if alive.iter().any(|(_, signalled)| **signalled) {
                process::exit(128 + signal);
            }
            for (consumer, signalled) in alive {
                *signalled = true;
                consumer.stop();
            }
            log::info!("signal {signal}: stopping after the batch in hand; another one exits at once");
        }
    };
    thread::Builder::new().name("kafka-envelope signals".into()).spawn(work).map(drop)
}
