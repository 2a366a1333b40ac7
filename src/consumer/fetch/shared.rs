//! Who is at work: the fetch thread, but for the moments in which a caller that waits for records takes them itself.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};

use crate::consumer::fetch::Fetch;
use crate::consumer::link::Link;
use crate::error::Result;
use crate::sync::lock;

#[derive(Clone)]
pub(in crate::consumer) struct Shared {
    link: Arc<Link>,
    place: Arc<Mutex<Place>>,
}

struct Place {
    /// None: it has ended.
    fetch: Option<Fetch>,
    /// The panic of a caller that took records. It ends the fetch thread, as one of its own does, and nothing is taken before
    /// that.
    panic: Option<Box<dyn Any + Send>>,
}

impl Shared {
    pub(in crate::consumer) fn new(fetch: Fetch) -> Self {
        let link = Arc::clone(&fetch.link);
        Self { link, place: Arc::new(Mutex::new(Place { fetch: Some(fetch), panic: None })) }
    }

    /// Runs until the consumer is closed, then sends the last commit and ends the client, see [`Fetch::end`].
    pub(in crate::consumer) fn run(self, done: &SyncSender<Result<()>>) {
        let confirmed = catch_unwind(AssertUnwindSafe(|| self.work()));
        let Some(fetch) = lock(&self.place).fetch.take() else { return };
        let confirmed = confirmed.unwrap_or_else(|panic| Err(fetch.panicked(&*panic)));
        fetch.end(confirmed, done);
    }

    fn work(&self) -> Result<()> {
        loop {
            let patience = {
                let mut place = lock(&self.place);
                if let Some(panic) = place.panic.take() {
                    resume_unwind(panic);
                }
                match place.fetch.as_mut().map_or(ControlFlow::Break(Ok(())), Fetch::work) {
                    ControlFlow::Continue(patience) => patience,
                    ControlFlow::Break(confirmed) => return confirmed,
                }
            };
            self.link.bell.wait(patience);
        }
    }

    /// For a caller that waits: takes the records that came. The fetch thread is told of them where it is at work just now,
    /// and where there is more to do than to take them.
    pub(in crate::consumer) fn take(&self) {
        let is_all = self.place.try_lock().is_ok_and(|mut place| {
            let Place { fetch, panic } = &mut *place;
            let Some(fetch) = fetch.as_mut().filter(|_| panic.is_none()) else { return true };
            catch_unwind(AssertUnwindSafe(|| fetch.take_alone())).unwrap_or_else(|caught| {
                *panic = Some(caught);
                false
            })
        });
        if !is_all {
            self.link.bell.ring();
        }
    }
}

impl Fetch {
    /// Takes records without the rest of a turn. Returns whether that was all there is to do.
    pub(super) fn take_alone(&mut self) -> bool {
        if self.watch.is_overdue() {
            return false;
        }
        self.take();
        self.hold_back();
        let is_paused = self.lanes.iter().any(|lane| lane.is_paused);
        self.is_drained && !is_paused && self.lanes.out_of_place().next().is_none()
    }
}

#[cfg(test)]
impl Shared {
    /// Does this as the fetch thread, at work.
    pub(super) fn while_at_work<R>(&self, work: impl FnOnce(&mut Fetch) -> R) -> R {
        work(lock(&self.place).fetch.as_mut().unwrap())
    }

    pub(super) fn taken(&self) -> Option<Fetch> {
        lock(&self.place).fetch.take()
    }
}
