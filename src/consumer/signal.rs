//! Stopping on SIGINT and SIGTERM.

use crate::consumer::Consumer;
use crate::consumer::link::Link;
use crate::error::{Error, Result};
use crate::signal::{self, Stop};

impl Consumer {
    /// Stops on SIGINT and SIGTERM: the batch in hand is finished and committed, then `process` or `run` returns. A
    /// second signal ends the process at once, with 128 and the signal's number as its exit code. Once no consumer is
    /// left that asked for this, a signal does again what it does by default.
    ///
    /// # Errors
    /// [`Error::Setting`] where the system refuses the signal handlers.
    pub fn stop_on_signals(&self) -> Result<()> {
        signal::stops(&self.link).map_err(|error| Error::setting("stop_on_signals", error.to_string()))
    }
}

impl Stop for Link {
    fn stop(&self) {
        Link::stop(self);
    }

    fn has_ended(&self) -> bool {
        self.lock().ended
    }
}
