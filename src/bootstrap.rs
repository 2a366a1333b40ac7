//! Bootstrap servers are added once more where librdkafka may have forgotten them.
//!
//! An answer that names no broker, because all are fenced for a moment, makes librdkafka 2.12 give up those that it
//! knows. It then wants to begin with the bootstrap servers again; but the end of that same answer can cancel this, and
//! keeps it from being wanted ever again (#5301). Such a client knows no broker any more.
//!
//! Clients of `low_level` belong to their users, and those of the program `kafka-envelope` have time limits instead.

use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::sync::lock;
use crate::{client, native};

/// How long beyond a client's longest pause between two tries to connect.
const GRACE: Duration = Duration::from_secs(5);
const LEAST: Duration = Duration::from_secs(15);

/// Watches over a client that says that all brokers are down.
///
/// While they are, it says so again after each try to connect; a client that has none to try says it once. So it is
/// helped some time after it last said so, and only once: librdkafka keeps a copy of what is added for as long as the
/// client lives. Where a try takes long because nobody refuses it, that is a copy for each such try.
#[derive(Debug, Default)]
pub(crate) struct Bootstrap {
    down_since: Mutex<Option<Instant>>,
    wait: OnceLock<Duration>,
}

impl Bootstrap {
    /// An error of the client as a whole.
    pub(crate) fn hear(&self, error: &KafkaError) {
        if error.rdkafka_error_code() == Some(Code::AllBrokersDown) {
            self.down(Instant::now());
        }
    }

    /// Adds the client's bootstrap servers once that is due. To be called every second or so.
    pub(crate) fn serve<C: ClientContext>(&self, client: &Client<C>) {
        let wait = *self.wait.get_or_init(|| {
            let longest = native::property(client, "reconnect.backoff.max.ms").and_then(|millis| millis.parse().ok());
            LEAST.max(Duration::from_millis(longest.unwrap_or(0)) + GRACE)
        });
        // Who wants none of it gets none.
        let is_wanted = || native::property(client, "metadata.recovery.strategy").is_none_or(|set| set != "none");
        if self.is_due(Instant::now(), wait) && is_wanted() {
            client::guarded(|| log::debug!("all brokers were down: the bootstrap servers are added once more"));
            native::add_bootstrap_servers(client);
        }
    }

    /// Nobody was heard for long, which is all that a client notices whose brokers were all taken out of its metadata. Where
    /// that goes on, the servers are added again and again.
    pub(crate) fn fear(&self) {
        lock(&self.down_since).get_or_insert_with(Instant::now);
    }

    fn down(&self, now: Instant) {
        *lock(&self.down_since) = Some(now);
    }

    /// True once for each time without a word.
    fn is_due(&self, now: Instant, wait: Duration) -> bool {
        let mut down_since = lock(&self.down_since);
        down_since.take_if(|since| now.saturating_duration_since(*since) >= wait).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_afraid_is_helped_and_is_helped_again_where_that_goes_on() {
        let bootstrap = Bootstrap::default();
        let after = |wait| Instant::now() + wait;
        for _ in 0..3 {
            bootstrap.fear();
            assert!(!bootstrap.is_due(Instant::now(), LEAST));
            let first = *bootstrap.down_since.lock().unwrap();
            bootstrap.fear();
            assert_eq!(*bootstrap.down_since.lock().unwrap(), first, "fear does not put it off");
            assert!(bootstrap.is_due(after(LEAST), LEAST));
            assert!(!bootstrap.is_due(after(LEAST * 2), LEAST));
        }
    }

    #[test]
    fn it_is_due_once_after_the_last_word() {
        let (bootstrap, start, second) = (Bootstrap::default(), Instant::now(), Duration::from_secs(1));
        bootstrap.hear(&KafkaError::Global(Code::BrokerTransportFailure));
        assert!(!bootstrap.is_due(Instant::now() + LEAST, LEAST));
        bootstrap.hear(&KafkaError::Global(Code::AllBrokersDown));
        assert!(bootstrap.is_due(Instant::now() + LEAST, LEAST));
        for seconds in (0..100).step_by(10) {
            bootstrap.down(start + second * seconds);
            assert!(!bootstrap.is_due(start + second * (seconds + 9), LEAST));
        }
        assert!(!bootstrap.is_due(start + second * 104, LEAST));
        assert!(bootstrap.is_due(start + second * 105, LEAST));
        assert!(!bootstrap.is_due(start + second * 300, LEAST));
    }
}
