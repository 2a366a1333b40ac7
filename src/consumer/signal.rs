//! Stopping on SIGINT and SIGTERM.

use std::process;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::consumer::Consumer;
use crate::error::{Error, Result};

impl Consumer {
    /// Stops on SIGINT and SIGTERM: the batch in hand is finished and committed, then `process` or `run` returns. A
    /// second signal ends the process at once, with 128 and the signal's number as its exit code.
    ///
    /// # Errors
    /// [`Error::Setting`] where the system refuses the signal handlers.
    pub fn stop_on_signals(&self) -> Result<()> {
        let refused = |error: std::io::Error| Error::setting("stop_on_signals", error.to_string());
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(refused)?;
        let stopper = self.stopper();
        let work = move || {
            let mut stopping = false;
            for signal in signals.forever() {
                if stopping {
                    process::exit(128 + signal);
                }
                stopping = true;
                log::info!("signal {signal}: stopping after the batch in hand; another one exits at once");
                stopper.stop();
            }
        };
        thread::Builder::new().name("kafka-envelope signals".into()).spawn(work).map_err(refused)?;
        Ok(())
    }
}
