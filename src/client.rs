//! What the contexts of producers and consumers share: where librdkafka's logs and errors go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::metrics::{self, Statistics};
use crate::refusal::{Refusal, RefusalKind, Standing};
use crate::sync::lock;

/// Under which name librdkafka's own words stand in the log.
const TARGET: &str = "librdkafka";

/// How long a text is not repeated.
const QUIET: Duration = Duration::from_secs(10);

/// So many different texts are remembered.
const REMEMBERED: usize = 64;

/// Runs what may hold code of the user's, a logger, a waker or a tracer provider: a panic of theirs must not end a thread that answers
/// librdkafka.
pub(crate) fn guarded(run: impl FnOnce()) {
    // The panic hook has reported it. The payload's own `Drop` could panic again.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        std::mem::forget(panic);
    }
}

/// What a client as a whole last had to say of itself, and what it is refused.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    last: Mutex<Option<String>>,
    pub(crate) refusals: Standing,
    /// The consumer's group.
    group: Option<String>,
}

impl Trouble {
    pub(crate) fn of_group(group: &str) -> Self {
        Self { group: Some(group.to_owned()), ..Self::default() }
    }

    /// An error of a client as a whole. librdkafka goes on by itself, unless it is fatal.
    pub(crate) fn hear(&self, error: &KafkaError, reason: &str) {
        let is_all_down = error.rdkafka_error_code() == Some(Code::AllBrokersDown);
        match Refusal::of(error, reason) {
            Some(refusal) => {
                debug(error, reason);
                let subject = match (refusal.kind, refusal.subject) {
                    (RefusalKind::Group, None) => self.group.clone(),
                    (_, subject) => subject,
                };
                self.refusals.met(Refusal { subject, ..refusal });
            }
            // Who is refused everywhere has said so.
            None if is_all_down && self.refusals.connection() => debug(error, reason),
            None => self::error(error, reason),
        }
        // That no broker is left tells nothing that the error before it did not.
        if !is_all_down {
            *lock(&self.last) = Some(reason.to_owned());
        }
    }

    #[cfg(feature = "stream")]
    pub(crate) fn get(&self) -> Option<String> {
        let refusal = self.refusals.first().map(|refusal| refusal.to_string());
        refusal.or_else(|| lock(&self.last).clone())
    }
}

fn debug(error: &KafkaError, reason: &str) {
    guarded(|| log::debug!(target: TARGET, "{error}: {reason}"));
}

/// What every context does with librdkafka's logs and statistics, and what this one does with errors of the client as a whole:
/// a function of the context, the error and the reason. Where there is none, `trouble` and `bootstrap` hear of them, and
/// `statistics` of statistics: fields of the context.
macro_rules! client_context {
    ($context:ty) => {
        $crate::client::client_context!(
            $context,
            |context, error, reason| {
                context.trouble.hear(error, reason);
                context.bootstrap.hear(error);
            },
            |context| Some(&context.statistics)
        );
    };
    ($context:ty, $error:expr) => {
        $crate::client::client_context!($context, $error, |_| None);
    };
    ($context:ty, $error:expr, $statistics:expr) => {
        impl rdkafka::client::ClientContext for $context {
            fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, text: &str) {
                $crate::client::log(level, facility, text);
            }

            fn stats_raw(&self, statistics: &[u8]) {
                let heard_by: fn(&$context) -> Option<&$crate::metrics::Statistics> = $statistics;
                $crate::client::statistics(statistics, heard_by(self));
            }

            fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
                let heard: fn(&$context, &rdkafka::error::KafkaError, &str) = $error;
                heard(self, &error, reason);
            }
        }
    };
}

pub(crate) use client_context;

/// A line of librdkafka's own log.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    use RDKafkaLogLevel as Level;
    let level = match level {
        // Comes as an error of the client, too.
        Level::Error if facility == "FAIL" => log::Level::Debug,
        Level::Emerg | Level::Alert | Level::Critical | Level::Error => log::Level::Error,
        Level::Warning => log::Level::Warn,
        Level::Notice | Level::Info => log::Level::Info,
        Level::Debug => log::Level::Debug,
    };
    guarded(|| log::log!(target: TARGET, level, "{facility}: {text}"));
}

/// An error of a client as a whole. librdkafka goes on by itself, unless it is fatal.
pub(crate) fn error(error: &KafkaError, reason: &str) {
    let fatal = error.rdkafka_error_code() == Some(Code::Fatal);
    let level = if fatal { log::Level::Error } else { log::Level::Warn };
    // What follows tells how often and after what time: a repetition all the same.
    let stem = reason.split(" (after ").next().unwrap_or(reason);
    guarded(|| {
        if let Some(repeated) = repeats(stem) {
            log::log!(target: TARGET, level, "{error}: {reason}{repeated}");
        }
    });
}

/// Statistics, which come where `statistics.interval.ms` is set. Where they are heard anyway they are no news.
pub(crate) fn statistics(json: &[u8], heard_by: Option<&Statistics>) {
    let level = if metrics::IS_ON && heard_by.is_some() { log::Level::Trace } else { log::Level::Debug };
    guarded(|| {
        if let Some(statistics) = heard_by {
            statistics.hear(json);
        }
        log::log!(target: TARGET, level, "statistics: {}", String::from_utf8_lossy(json));
    });
}

/// A text to log with what is to be added to it; none while it would only repeat itself.
pub(crate) fn repeats(text: &str) -> Option<String> {
    static RECENT: Mutex<Recent> = Mutex::new(Recent(Vec::new()));
    lock(&RECENT).say(text, Instant::now())
}

/// Texts, when they were last logged, and how often they were held back since.
struct Recent(Vec<(String, Instant, u64)>);

impl Recent {
    fn say(&mut self, text: &str, now: Instant) -> Option<String> {
        let known = self.0.iter_mut().find(|(known, ..)| known == text);
        let Some((_, last, held_back)) = known else {
            if self.0.len() >= REMEMBERED {
                self.0.remove(0);
            }
            self.0.push((text.to_owned(), now, 0));
            return Some(String::new());
        };
        if now.duration_since(*last) < QUIET {
            *held_back += 1;
            return None;
        }
        *last = now;
        Some(match std::mem::take(held_back) {
            0 => String::new(),
            count => format!(" ({count} more since the last such line)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_not_repeated_for_a_while() {
        let mut recent = Recent(Vec::new());
        let start = Instant::now();
        assert_eq!(recent.say("down", start).as_deref(), Some(""));
        assert_eq!(recent.say("down", start + QUIET / 2), None);
        assert_eq!(recent.say("other", start + QUIET / 2).as_deref(), Some(""));
        assert_eq!(recent.say("down", start + QUIET).as_deref(), Some(" (1 more since the last such line)"));
        assert_eq!(recent.say("down", start + QUIET * 2).as_deref(), Some(""));
    }

    #[test]
    fn memory_of_texts_is_bounded() {
        let mut recent = Recent(Vec::new());
        let now = Instant::now();
        for number in 0..1_000 {
            recent.say(&number.to_string(), now);
        }
        assert_eq!(recent.0.len(), REMEMBERED);
    }

    #[test]
    fn a_panic_of_the_users_stays_outside() {
        guarded(|| panic!("of a logger"));
    }
}
