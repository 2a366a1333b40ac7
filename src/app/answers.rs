//! Reads the topics that responses come from, beside everything else: a response never waits for a handler.

use std::sync::Arc;

use crate::app::emitter::Shared;
use crate::consumer::Consumer;
use crate::error::Result;

/// Gives every response to whoever waits for it, until the consumer is stopped.
pub(super) async fn read(consumer: &mut Consumer, shared: Arc<Shared>) -> Result<()> {
    let _ = (consumer, shared);
    todo!()
}
