//! Notices topics that were deleted and made anew.
//!
//! librdkafka goes on at its old position in the new topic, and skips what stands before it, where the new topic has
//! outgrown that position (a FIXME in its `rdkafka_topic.c`). Only the topic's id tells; so it is asked for, now and then.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::native::TopicId;

/// Until the next look. What a topic made anew got handled in that time is handled again.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);
/// The same while a partition waits for its topic's id.
pub(super) const SHORT_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct TopicIds {
    /// All ids that a topic had. Kept when partitions go away, since a topic may be made anew right then; and the old
    /// ones, since a broker may be behind.
    known: HashMap<String, Vec<TopicId>>,
    /// When it was asked last, or answered.
    at: Option<Instant>,
    asked: bool,
    /// Something happened since it was asked, of which the answer may not tell.
    hurried: bool,
}

impl TopicIds {
    /// Whether another topic of this name would be noticed.
    pub(super) fn knows(&self, topic: &str) -> bool {
        self.known.contains_key(topic)
    }

    /// Whether to ask now, so long after the last answer. The answer is to be given to [`TopicIds::answered`].
    pub(super) fn is_due(&self, now: Instant, interval: Duration) -> bool {
        !self.asked && self.at.is_none_or(|at| now.duration_since(at) >= interval)
    }

    /// Whether an answer is still to come.
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    pub(super) fn asked(&mut self) {
        (self.asked, self.hurried) = (true, false);
    }

    /// What the ids are now should be known soon: an assignment came, or a topic may have been made anew.
    pub(super) fn hurry(&mut self) {
        (self.at, self.hurried) = (None, true);
    }

    /// Whether the answer that is to come was asked for before the last [`TopicIds::hurry`].
    pub(super) fn is_outdated(&self) -> bool {
        self.hurried
    }

    /// Takes the answer, and returns the topics whose id is a new one.
    pub(super) fn answered(&mut self, ids: Vec<(String, TopicId)>, now: Instant) -> Vec<String> {
        self.asked = false;
        self.at = (!self.hurried).then_some(now);
        let is_other = |(topic, id): (String, TopicId)| {
            let known = self.known.entry(topic.clone()).or_default();
            let is_other = !known.is_empty() && !known.contains(&id);
            if !known.contains(&id) {
                log::debug!("topic {topic} has the id {id:?}");
                known.push(id);
            }
            is_other.then_some(topic)
        };
        ids.into_iter().filter_map(is_other).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_id_is_told_once() {
        let (mut ids, start) = (TopicIds::default(), Instant::now());
        let answer = |id| vec![("t".to_owned(), TopicId(0, id)), ("other".to_owned(), TopicId(0, 9))];
        assert!(ids.is_due(start, INTERVAL));
        ids.asked();
        assert!(!ids.is_due(start + INTERVAL, INTERVAL), "one question at a time");
        assert!(!ids.knows("t"));
        assert!(ids.answered(answer(1), start).is_empty());
        assert!(ids.knows("t"));
        assert!(!ids.is_due(start, INTERVAL) && ids.is_due(start + INTERVAL, INTERVAL));
        assert_eq!(ids.answered(answer(2), start), ["t"]);
        assert!(ids.answered(Vec::new(), start).is_empty(), "no answer, no news");
        assert!(ids.answered(answer(2), start).is_empty());
        assert!(ids.answered(answer(1), start).is_empty(), "a broker that is behind");
        ids.hurry();
        assert!(ids.is_due(start, INTERVAL));
    }

    #[test]
    fn who_hurries_during_a_question_has_another_one_asked() {
        let (mut ids, start) = (TopicIds::default(), Instant::now());
        ids.asked();
        assert!(!ids.is_outdated());
        ids.hurry();
        assert!(ids.is_outdated() && !ids.is_due(start, INTERVAL), "one question at a time");
        assert!(ids.answered(Vec::new(), start).is_empty());
        assert!(ids.is_due(start, INTERVAL));
        ids.asked();
        assert!(!ids.is_outdated());
    }
}
