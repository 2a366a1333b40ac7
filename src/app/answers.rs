//! Reads the topics that responses come from, beside everything else: a response never waits for a handler.

use std::fmt::Display;
use std::str;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::app::emitter::{EVENT_ID, Shared};
use crate::app::form::Form;
use crate::app::read::{Said, read};
use crate::app::responses::{BATCH, Keep, Response, Responses};
use crate::app::task::Route;
use crate::consumer::{Consumer, Tally, caught};
use crate::error::{Result, panic_text};
use crate::message::arena::Arena;
use crate::message::record::Parts;
use crate::metrics::Fate;
use crate::python::json;

/// So many bytes may be on their way to the cache; then reading waits for it, but not for long, and not again before it is
/// quicker: those who wait in this process come first.
const KEEPING: usize = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the end waits for the cache.
const LAST: Duration = Duration::from_secs(5);

/// Records that are done, each an ownership and an offset, and the ownerships that were begun with them: their revocation
/// waits for that.
#[derive(Debug, Default, PartialEq)]
struct Done {
    begun: Vec<u64>,
    records: Vec<(u64, i64)>,
}

impl Done {
    fn begin(arena: &Arena, tally: &Tally) -> Self {
        let records = arena.records().iter().map(|record| (arena.source(record).tag, record.offset)).collect();
        let tags = arena.ranges(arena.records().len()).map(|(source, _)| source.tag);
        Self { begun: tags.filter(|tag| tally.begin(*tag)).collect(), records }
    }

    fn end(self, tally: &Tally) {
        tally.end(&self.begun, &self.records);
    }
}

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
                done.end(&tally);
                continue;
            }
            taken = consumer.take(BATCH) => taken?,
        };
        let Some(arena) = taken else { break };
        let done = Done::begin(&arena, &tally);
        let parts = arena.records().iter().map(|record| Parts::of(&arena, record));
        let found = parts.filter_map(|parts| response(&shared.form, &shared.responses, &parts));
        let keep: Vec<_> = found.filter_map(|response| shared.responses.arrived(response)).collect();
        consumer.count(Fate::Handled, &arena);
        consumer.recycle(arena);
        let bytes = keep.iter().map(Keep::size).sum();
        if keep.is_empty() {
            done.end(&tally);
        } else if !keeping.has_room(bytes, |done| done.end(&tally)).await {
            log::warn!("{} responses are not kept for other replicas: the cache does not keep up", keep.len());
            done.end(&tally);
        } else {
            let shared = Arc::clone(&shared);
            keeping.add(bytes, done, async move { shared.responses.keep(keep).await });
        }
    }
    while let Ok(Some(done)) = timeout(LAST, keeping.next()).await {
        done.end(&tally);
    }
    // So that what is done now is committed.
    consumer.confirm_async(true).await
}

/// What is on its way to the cache.
#[derive(Default)]
struct Keeping {
    batches: JoinSet<(usize, Done, Duration)>,
    bytes: usize,
    /// The last that came back took longer than anybody waits for it, or none came for so long.
    is_slow: bool,
}

impl Keeping {
    fn add(&mut self, bytes: usize, done: Done, keep: impl Future<Output = ()> + Send + 'static) {
        self.bytes += bytes;
        let since = Instant::now();
        self.batches.spawn(async move {
            // Its records are done all the same, or nothing behind them would ever be committed.
            if let Err(panic) = caught(keep).await {
                log::error!("responses may not be kept for other replicas: {}", panic_text(&*panic));
            }
            (bytes, done, since.elapsed())
        });
    }

    /// Whether there is room for so many more, perhaps after a pause: always, where nothing is on its way. What has come
    /// back meanwhile is done.
    async fn has_room(&mut self, bytes: usize, end: impl Fn(Done)) -> bool {
        while self.bytes > 0 && self.bytes + bytes > KEEPING {
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
            if let Ok((bytes, done, took)) = kept {
                self.bytes -= bytes;
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
        let done = || Done { begun: vec![1], records: vec![(1, 5), (1, 6)] };
        keeping.add(2, done(), async { panic!("it has no text") });
        assert_eq!(keeping.next().await, Some(done()));
        assert_eq!((keeping.bytes, keeping.next().await), (0, None));
    }

    /// Else every batch would be as late, and those who wait for the next later and later.
    #[tokio::test]
    async fn a_cache_that_hangs_is_waited_for_once() {
        let mut keeping = Keeping::default();
        assert!(keeping.has_room(2 * KEEPING, drop).await, "one that is too large has its turn");
        keeping.add(KEEPING, Done::default(), std::future::pending());
        assert!(!keeping.has_room(1, drop).await);
        assert_eq!(timeout(PATIENCE / 2, keeping.has_room(1, drop)).await, Ok(false));
        keeping.is_slow = false;
        keeping.bytes = KEEPING - 1;
        keeping.add(1, Done::default(), async {});
        assert!(keeping.has_room(1, drop).await, "one came back in time");
    }
}
