//! The refusals that a client meets now, each reported once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::Refusal;
use crate::client;
use crate::sync::lock;

/// So often one that lasts is reported again.
const REMINDER: Duration = Duration::from_secs(600);
/// One of a connection that was met within this time stands, though another connection is answered: a broker that refuses
/// is tried again after ten seconds (`reconnect.backoff.max.ms`), and takes its time to say so.
const LATELY: Duration = Duration::from_secs(15);
/// One of a connection, or of a topic without its name, that was not met for so long is over: it would be met every few seconds.
const FORGOTTEN: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct Met {
    refusal: Refusal,
    last: Instant,
    /// When it was last reported; none where that was held back, because another of the same text had just been.
    logged: Option<Instant>,
}

impl Met {
    /// Whether it is of the same thing, whatever the words. One broker's is as good as another's: they have the same to say.
    fn is_of(&self, other: &Refusal) -> bool {
        self.refusal.kind == other.kind && (other.kind.is_of_connection() || self.refusal.subject == other.subject)
    }
}

/// Clones are of one client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    met: Arc<Mutex<Vec<Met>>>,
    /// Whether there may be one, to be asked often.
    any: Arc<AtomicBool>,
}

impl Standing {
    fn lock(&self) -> MutexGuard<'_, Vec<Met>> {
        lock(&self.met)
    }

    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Whether such a refusal stands.
    pub(crate) fn has(&self, is_it: impl Fn(&Refusal) -> bool) -> bool {
        self.any() && self.lock().iter().any(|met| is_it(&met.refusal))
    }

    /// A refusal was met, perhaps again.
    pub(crate) fn met(&self, refusal: Refusal) {
        let now = Instant::now();
        let mut all = self.lock();
        self.any.store(true, Ordering::Relaxed);
        let is_news = match all.iter_mut().find(|met| met.is_of(&refusal)) {
            None => {
                all.push(Met { refusal: refusal.clone(), last: now, logged: Some(now) });
                true
            }
            Some(met) => {
                met.last = now;
                let is_late = met.logged.is_none_or(|logged| logged + REMINDER <= now);
                if is_late {
                    met.logged = Some(now);
                }
                is_late
            }
        };
        drop(all);
        if is_news {
            self.report(refusal);
        }
    }

    /// Says it, with what is wrong with a certificate where that can be seen: that takes time, and a thread.
    fn report(&self, refusal: Refusal) {
        #[cfg(feature = "ssl")]
        if refusal.address().is_some() {
            let (standing, plain) = (self.clone(), refusal.clone());
            let examine = move || {
                let examined = plain.clone().examined();
                for met in standing.lock().iter_mut().filter(|met| met.is_of(&plain)) {
                    met.refusal = examined.clone();
                }
                standing.say(&examined);
            };
            if std::thread::Builder::new().name("kafka-envelope certificate".into()).spawn(examine).is_ok() {
                return;
            }
        }
        self.say(&refusal);
    }

    fn say(&self, refusal: &Refusal) {
        client::guarded(|| {
            let text = refusal.to_string();
            match client::repeats(&text) {
                Some(repeated) => log::error!("{text}{repeated}"),
                None => {
                    for met in self.lock().iter_mut().filter(|met| met.is_of(refusal)) {
                        met.logged = None;
                    }
                }
            }
        });
    }

    /// What these were is granted now.
    pub(crate) fn over(&self, is_over: impl Fn(&Refusal) -> bool) {
        if !self.any() {
            return;
        }
        let mut over = Vec::new();
        let mut all = self.lock();
        all.retain(|met| {
            let stands = !is_over(&met.refusal);
            if !stands {
                over.push(met.refusal.clone());
            }
            stands
        });
        self.any.store(!all.is_empty(), Ordering::Relaxed);
        drop(all);
        for refusal in over {
            client::guarded(|| log::info!("no longer refused: {refusal}"));
        }
    }

    /// A broker answers. Others may have refused right now, or another connection to it, so what was met lately stands.
    pub(crate) fn answered(&self) {
        self.over_since(LATELY, |refusal| refusal.kind.is_of_connection());
    }

    /// Those that were last met this long ago, or longer, are over.
    pub(crate) fn over_since(&self, age: Duration, is_over: impl Fn(&Refusal) -> bool) {
        if self.any() {
            let old: Vec<_> =
                self.lock().iter().filter(|met| met.last.elapsed() >= age).map(|met| met.refusal.clone()).collect();
            self.over(|refusal| old.contains(refusal) && is_over(refusal));
        }
    }

    pub(crate) fn all(&self) -> Vec<Refusal> {
        if !self.any() {
            return Vec::new();
        }
        let fades = |refusal: &Refusal| refusal.kind.is_of_connection() || refusal.is_of_some_topic();
        let stands = |met: &&Met| !fades(&met.refusal) || met.last.elapsed() < FORGOTTEN;
        self.lock().iter().filter(stands).map(|met| met.refusal.clone()).collect()
    }

    pub(crate) fn first(&self) -> Option<Refusal> {
        self.all().into_iter().next()
    }

    pub(crate) fn connection(&self) -> bool {
        self.has(|refusal| refusal.kind.is_of_connection())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::RefusalKind;

    #[test]
    fn one_of_a_kind_stands_until_it_is_over() {
        use rdkafka::types::RDKafkaErrorCode as Code;
        let standing = Standing::default();
        let topic = |name| Refusal::of_right(Code::TopicAuthorizationFailed, name).unwrap();
        for refusal in [topic("a"), topic("b"), topic("a")] {
            standing.met(refusal);
        }
        assert_eq!(standing.all(), [topic("a"), topic("b")]);
        standing.over_since(Duration::from_secs(60), |_| true);
        assert_eq!(standing.all().len(), 2);
        standing.over(|refusal| refusal.subject.as_deref() == Some("a"));
        assert_eq!(standing.all(), [topic("b")]);
        assert!(standing.any() && !standing.connection());
        standing.over(|_| true);
        assert!(!standing.any() && standing.first().is_none());
    }

    #[test]
    fn one_that_was_held_back_is_told_when_it_is_met_again_in_whatever_words() {
        let standing = Standing::default();
        let met = |reason: &str| {
            let refusal = Refusal {
                kind: RefusalKind::Group,
                subject: Some("held back".into()),
                reason: reason.into(),
                advice: "",
            };
            standing.met(refusal);
            standing.lock()[0].logged.is_some()
        };
        for reason in ["one", "other"] {
            assert!(met(reason), "{reason} is told");
            standing.over(|_| true);
        }
        for reason in ["one", "other", "one"] {
            assert!(!met(reason), "{reason} was told just now");
        }
        assert!(met("a third"));
    }
}
