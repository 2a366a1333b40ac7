//! SIGINT and SIGTERM, for everything that asks for them.

use std::process;
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::sync::lock;

/// Something that a signal stops.
pub(crate) trait Stop: Send + Sync {
    fn stop(&self);

    /// There is nothing left to stop.
    fn has_ended(&self) -> bool;
}

struct Entry {
    who: Weak<dyn Stop>,
    is_signalled: bool,
}

/// Who is stopped by a signal. One thread serves them all.
static ENTRIES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// From now on a signal stops this one, as long as it lives. A second signal ends the process.
///
/// # Errors
/// The system refuses the signal handlers.
pub(crate) fn stops<S: Stop + 'static>(who: &Arc<S>) -> std::io::Result<()> {
    let mut entries = lock(&ENTRIES);
    let is_first = entries.is_empty();
    entries.retain(|entry| entry.who.strong_count() > 0);
    if is_first {
        serve()?;
    }
    let who: Weak<S> = Arc::downgrade(who);
    entries.push(Entry { who, is_signalled: false });
    Ok(())
}

fn serve() -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let work = move || {
        for signal in signals.forever() {
            let mut entries = lock(&ENTRIES);
            let alive: Vec<_> = entries
                .iter_mut()
                .filter_map(|entry| {
                    let who = entry.who.upgrade().filter(|who| !who.has_ended())?;
                    Some((who, &mut entry.is_signalled))
                })
                .collect();
            if alive.is_empty() {
                // Ends the process, unless the signal is one that does not.
                let _ = emulate_default_handler(signal);
            }
            if alive.iter().any(|(_, is_signalled)| **is_signalled) {
                process::exit(128 + signal);
            }
            for (who, is_signalled) in alive {
                *is_signalled = true;
                who.stop();
            }
            log::info!("signal {signal}: stopping after what is in hand; another one exits at once");
        }
    };
    thread::Builder::new().name("kafka-envelope signals".into()).spawn(work).map(drop)
}

#[cfg(feature = "tokio")]
mod shutdown {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::Notify;

    use super::{Stop, stops};

    /// Ready at SIGINT or SIGTERM, for whatever runs until a future is: `App::run_until`,
    /// [`Consumer::run_async_until`](crate::Consumer::run_async_until). Signals count from the call on. A second signal
    /// ends the process at once.
    ///
    /// Never ready, with an error in the log, where the system refuses the signal handlers.
    ///
    /// ```no_run
    /// # async fn run(mut consumer: kafka_envelope::Consumer) -> Result<(), kafka_envelope::Error> {
    /// use kafka_envelope::{Batch, shutdown_signal};
    ///
    /// consumer.run_async_until(async |batch: &Batch<u32>| Ok(()), shutdown_signal()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn shutdown_signal() -> impl Future<Output = ()> + Send + 'static {
        let signalled = Arc::new(Signalled::default());
        if let Err(error) = stops(&signalled) {
            log::error!("signals do not shut this down: {error}");
        }
        async move { signalled.came().await }
    }

    #[derive(Default)]
    struct Signalled {
        has_come: AtomicBool,
        came: Notify,
    }

    impl Signalled {
        async fn came(&self) {
            while !self.has_come.load(Ordering::Acquire) {
                self.came.notified().await;
            }
        }
    }

    impl Stop for Signalled {
        fn stop(&self) {
            self.has_come.store(true, Ordering::Release);
            self.came.notify_one();
        }

        fn has_ended(&self) -> bool {
            false
        }
    }
}

#[cfg(feature = "tokio")]
pub use shutdown::shutdown_signal;
