//! Which dead letters are meant.

use chrono::{DateTime, FixedOffset};

use crate::dlt::letter::Letter;

#[derive(Debug, clap::Args)]
pub(crate) struct Filter {
    /// Letters whose error's type or text holds this
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Letters that came from this topic
    #[arg(long, value_name = "TOPIC")]
    from_topic: Option<String>,
    /// Letters with this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Letters written at this time or later, as 2026-01-31T10:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<FixedOffset>>,
    /// Letters written before this time
    #[arg(long, value_name = "TIME")]
    until: Option<DateTime<FixedOffset>>,
}

impl Filter {
    pub(crate) fn passes(&self, letter: &Letter<'_>) -> bool {
        let Self { error, from_topic, key, since, until } = self;
        let has = |text: &String| letter.class().contains(text) || letter.message().contains(text);
        error.as_ref().is_none_or(has)
            && from_topic
                .as_ref()
                .is_none_or(|topic| letter.origin.as_ref().is_some_and(|origin| origin.topic == *topic))
            && key.as_ref().is_none_or(|key| letter.key == Some(key.as_bytes()))
            && since.is_none_or(|since| letter.at.is_some_and(|at| at >= since))
            && until.is_none_or(|until| letter.at.is_some_and(|at| at < until))
    }
}
