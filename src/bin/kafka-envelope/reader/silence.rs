//! Nothing comes: whether brokers have gone, or only have nothing to give.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use kafka_envelope::Error;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;

use super::Reader;
use crate::connection::is_silent;
use crate::failure::Result;

/// How long nothing comes until brokers are asked whether they are there. What asks for records may hold the answer back
/// for about as long.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long nothing has come of which something is still to come.
#[derive(Default)]
pub(super) struct Silence {
    since: Option<Instant>,
    /// Since when brokers are in trouble.
    troubled: Option<Instant>,
    /// The answer of those who were asked.
    asked: Option<Receiver<Result<(), KafkaError>>>,
}

impl Silence {
    /// Something came.
    pub(super) fn ends(&mut self) {
        if self.since.is_some() || self.troubled.is_some() {
            *self = Self::default();
        }
    }

    /// An error came that may pass.
    pub(super) fn troubles(&mut self, error: &Error) {
        log::warn!("{error}");
        self.troubled.get_or_insert_with(Instant::now);
    }

    /// Nothing came. An error where the brokers of these partitions do not say either where they end: of a broker that takes
    /// what it is sent, and answers nothing, librdkafka tells only after a minute and more.
    pub(super) fn goes_on(&mut self, reader: &Reader<'_>, topic: &str, open: impl Fn() -> Vec<i32>) -> Result {
        let timeout = reader.connection.timeout();
        if self.troubled.is_some_and(|since| since.elapsed() > timeout) {
            return Err(reader.connection.unreachable(reader.consumer.context()));
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let Some(asked) = &self.asked else {
            if since.elapsed() > PATIENCE {
                self.asked = Some(ask(reader, topic, open()));
            }
            return Ok(());
        };
        match asked.try_recv() {
            Err(TryRecvError::Empty) => Ok(()),
            Ok(Err(error)) if is_silent(&error) && since.elapsed() <= timeout => {
                self.asked = None;
                Ok(())
            }
            Ok(Err(error)) if is_silent(&error) || !Error::from(error.clone()).is_retriable() => {
                reader.answered(Err(error))
            }
            Ok(_) | Err(TryRecvError::Disconnected) => {
                // They are there, and may take their time.
                self.since = None;
                self.asked = None;
                Ok(())
            }
        }
    }
}

/// Asks beside the reading, so that a signal is seen meanwhile.
fn ask(reader: &Reader<'_>, topic: &str, open: Vec<i32>) -> Receiver<Result<(), KafkaError>> {
    let (answer, asked) = channel();
    let (consumer, topic) = (Arc::clone(&reader.consumer), topic.to_owned());
    let timeout = reader.connection.timeout() + PATIENCE;
    thread::spawn(move || {
        let mut answers = open.iter().map(|partition| consumer.fetch_watermarks(&topic, *partition, timeout));
        // Whoever asked may have gone.
        let _ = answer.send(answers.try_for_each(|answer| answer.map(drop)));
    });
    asked
}
