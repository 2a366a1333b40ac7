//! SIGINT and SIGTERM, for what runs until it is told to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::{Failure, Result};

/// Whether a signal has come since this was made. The first one is only noted; a second one ends the process at once.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn new() -> Result<Self> {
        let has_come = Arc::new(AtomicBool::new(false));
        let refused = |error| Failure::new(format_args!("the system refuses handlers of signals: {error}"));
        for signal in [SIGINT, SIGTERM] {
            // In this order: it asks whether there was one before.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&has_come)).map_err(refused)?;
            flag::register(signal, Arc::clone(&has_come)).map_err(refused)?;
        }
        Ok(Self(has_come))
    }

    pub(crate) fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
