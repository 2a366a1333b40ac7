//! What was made of a message.

use std::collections::HashSet;
use std::ops::ControlFlow;

use indicatif::ProgressBar;
use kafka_envelope::{Ref, low_level};

use crate::failure::{Result, warn};
use crate::reader::{Position, Reader};
use crate::trace::Place;
use crate::trace::graph::Graph;

/// What was made of a message, as far as it stands in these topics.
pub(crate) fn scan(
    reader: &Reader<'_>,
    topics: &[String],
    of: &Ref,
    millis: Option<i64>,
    bar: &ProgressBar,
) -> Result<Graph> {
    let mut ways = Ways::new(of, topics);
    let mut others = 0_u64;
    for topic in topics {
        let partitions = reader.partitions(topic)?;
        let from = match millis {
            // Clocks differ: from a minute before.
            Some(millis) => reader.offsets_at(topic, &partitions, millis.saturating_sub(60_000).max(0))?,
            None => partitions.iter().map(|partition| Position { partition: *partition, offset: 0 }).collect(),
        };
        let each = |record: &rdkafka::message::BorrowedMessage<'_>| {
            bar.inc(1);
            match low_level::unpack(record) {
                Ok(Some(message)) => ways.add(message.reference),
                Ok(None) => {}
                Err(_) => others += 1,
            }
            Ok(ControlFlow::Continue(()))
        };
        reader.scan(topic, &from, false, each, || Ok(()))?;
    }
    ways.follow();
    if others > 0 {
        warn(format_args!("{others} records are no envelopes, and tell no source"));
    }
    Ok(ways.graph)
}

/// The ways from a message to those that were made of it.
struct Ways<'a> {
    topics: HashSet<&'a str>,
    graph: Graph,
    /// Those on no way, so far: their histories break off at messages that may be found on one.
    open: Vec<Ref>,
}

impl<'a> Ways<'a> {
    fn new(of: &Ref, topics: &'a [String]) -> Self {
        let mut graph = Graph::default();
        let first = graph.node(of);
        if let Some(history) = &of.history {
            graph.tell(first, history);
        }
        Self { topics: topics.iter().map(String::as_str).collect(), graph, open: Vec::new() }
    }

    fn add(&mut self, message: Ref) {
        if !self.trace_back(&message) && self.breaks_off(&message) {
            self.open.push(message);
        }
    }

    /// Topics and partitions are read in any order: what breaks off at a message may be read before that one.
    fn follow(&mut self) {
        loop {
            let open = std::mem::take(&mut self.open);
            let count = open.len();
            self.open = open.into_iter().filter(|message| !self.trace_back(message)).collect();
            if self.open.len() == count {
                return;
            }
        }
    }

    /// Notes on which ways a message came from the first one. False: on none.
    fn trace_back(&mut self, message: &Ref) -> bool {
        // As deep as a history may be.
        let mut is_on_way = self.graph.find(&Place::of(message)).is_some();
        let Some(stage) = message.history.as_ref().and_then(|history| history.stage().ok()) else { return is_on_way };
        for source in &stage.refs {
            if self.trace_back(source) {
                is_on_way = true;
                self.graph.made_of(message, source);
            }
        }
        is_on_way
    }

    fn breaks_off(&self, message: &Ref) -> bool {
        match message.history.as_ref().and_then(|history| history.stage().ok()) {
            Some(stage) => stage.refs.iter().any(|source| self.breaks_off(source)),
            None => self.topics.contains(&*message.topic),
        }
    }
}
