//! Reads the topics that responses come from, beside everything else: a response never waits for a handler.

use std::fmt::Display;
use std::str;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::app::emitter::{EVENT_ID, Shared};
use crate::app::form::Form;
use crate::app::json;
use crate::app::read::{Said, read};
use crate::app::record::Parts;
use crate::app::responses::{BATCH, Response, Responses};
use crate::app::task::Route;
use crate::consumer::{Consumer, caught};
use crate::error::{Result, panic_text};

/// So many responses may be on their way to the cache; then reading waits for it, but not for long, and not again before
/// it is quicker: those who wait in this process come first.
const KEEPING: usize = 4_096;
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the end waits for the cache.
const LAST: Duration = Duration::from_secs(5);

/// Records that are done: each an ownership and an offset.
type Done = Vec<(u64, i64)>;

/// Gives every response to whoever waits for it, until the consumer is stopped. A record is done once its response is in
/// the cache, or cannot be kept there.
///
/// # Errors
/// Those of the consumer.
pub(super) async fn run(consumer: &mut Consumer, shared: Arc<Shared>) -> Result<()> {
    let tally = consumer.tally();
    let mut keeping = Keeping::default();
    loop {
        let taken = tokio::select! {
            Some(done) = keeping.next() => {
                tally.end(&[], &done);
                continue;
            }
            taken = consumer.take(BATCH) => taken?,
        };
        let Some(arena) = taken else { break };
        let records = arena.records();
        let done: Done = records.iter().map(|record| (arena.source(record).tag, record.offset)).collect();
        let parts = records.iter().map(|record| Parts::of(&arena, record));
        let found = parts.filter_map(|parts| response(&shared.form, &shared.responses, &parts));
        let keep: Vec<_> = found.filter_map(|response| shared.responses.arrived(response)).collect();
        consumer.recycle(arena);
        if keep.is_empty() {
            tally.end(&[], &done);
        } else if !keeping.has_room(keep.len(), |done| tally.end(&[], &done)).await {
            log::warn!("{} responses are not kept for other replicas: the cache does not keep up", keep.len());
            tally.end(&[], &done);
        } else {
            let shared = Arc::clone(&shared);
            keeping.add(keep.len(), done, async move { shared.responses.keep(keep).await });
        }
    }
    while let Ok(Some(done)) = timeout(LAST, keeping.next()).await {
        tally.end(&[], &done);
    }
    // So that what is done now is committed.
    consumer.confirm_async(true).await
}

/// What is on its way to the cache.
#[derive(Default)]
struct Keeping {
    batches: JoinSet<(usize, Done, Duration)>,
    count: usize,
    /// The last that came back took longer than anybody waits for it, or none came for so long.
    is_slow: bool,
}

impl Keeping {
    fn add(&mut self, count: usize, done: Done, keep: impl Future<Output = ()> + Send + 'static) {
        self.count += count;
        let since = Instant::now();
        self.batches.spawn(async move {
            // Its records are done all the same, or nothing behind them would ever be committed.
            if let Err(panic) = caught(keep).await {
                log::error!("{count} responses may not be kept for other replicas: {}", panic_text(&*panic));
            }
            (count, done, since.elapsed())
        });
    }

    /// Whether there is room for so many more, perhaps after a pause. What has come back meanwhile is done.
    async fn has_room(&mut self, count: usize, end: impl Fn(Done)) -> bool {
        while self.count + count > KEEPING {
            if self.is_slow {
                return false;
            }
            match timeout(PATIENCE, self.next()).await {
                Ok(Some(done)) => end(done),
                _ => self.is_slow = true,
            }
        }
        true
    }

    /// The next that is there. None: nothing is on its way.
    async fn next(&mut self) -> Option<Done> {
        while let Some(kept) = self.batches.join_next().await {
            if let Ok((count, done, took)) = kept {
                self.count -= count;
                self.is_slow = took > PATIENCE;
                return Some(done);
            }
        }
        None
    }
}

/// What a record says, where it is a response. Others, whose events are none, are somebody else's.
fn response(form: &Form, responses: &Responses, parts: &Parts) -> Option<Response> {
    let unreadable = |reason: &dyn Display| {
        responses.count_unreadable();
        log::warn!("{} is no response: {reason}", parts.place());
    };
    let Said { event, message, .. } = match read(form, parts) {
        Ok(said) => said,
        Err(Route::NoEvent(reason)) => {
            unreadable(&reason);
            return None;
        }
        Err(Route::Unreadable(error)) => {
            unreadable(&error);
            return None;
        }
        // A tombstone.
        Err(_) => return None,
    };
    if !responses.is_answer(parts.topic(), &event) {
        return None;
    }
    let Some(event_id) = parts.headers().get(EVENT_ID).and_then(|id| str::from_utf8(id).ok()) else {
        unreadable(&"it has no header `event_id` that is a text");
        return None;
    };
    let message = message.within(parts.value().unwrap_or_default());
    let kept = responses.keeps(parts.timestamp()).then(|| json::recode(&String::from_utf8_lossy(message))).transpose();
    let kept = kept.unwrap_or_else(|error| {
        log::warn!("{} cannot be kept for other replicas: {error}", parts.place());
        None
    });
    Some(Response {
        topic: parts.topic().to_owned(),
        event: event.into_owned(),
        event_id: event_id.to_owned(),
        message: message.to_vec(),
        kept,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache's error whose text panics, for one.
    #[tokio::test]
    async fn what_panics_on_its_way_to_the_cache_is_done() {
        let mut keeping = Keeping::default();
        keeping.add(2, vec![(1, 5), (1, 6)], async { panic!("it has no text") });
        assert_eq!(keeping.next().await, Some(vec![(1, 5), (1, 6)]));
        assert_eq!((keeping.count, keeping.next().await), (0, None));
    }

    /// Else every batch would be as late, and those who wait for the next later and later.
    #[tokio::test]
    async fn a_cache_that_hangs_is_waited_for_once() {
        let mut keeping = Keeping::default();
        keeping.add(KEEPING, Vec::new(), std::future::pending());
        assert!(!keeping.has_room(1, drop).await);
        assert_eq!(timeout(PATIENCE / 2, keeping.has_room(1, drop)).await, Ok(false));
        keeping.is_slow = false;
        keeping.count = KEEPING - 1;
        keeping.add(1, Vec::new(), async {});
        assert!(keeping.has_room(1, drop).await, "one came back in time");
    }
}
