//! What is committed of a chain that splits records and merges their elements, as somebody outside sees it at any moment, and
//! what comes again after a kill.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kafka_envelope::HandlerError;
use kafka_envelope::stream::{Agent, Sinks, Worker as StreamWorker};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::support::PATIENCE;
use super::support::{TestTopic, Worker, committed, emit, kafka, produce_raw_batch, shared_broker, unique};

const RECORDS: u32 = 3_000;
const ELEMENTS: u32 = 3;

/// A record's number, which is its offset, and the element's in it.
type Element = (u32, u32);

#[derive(Serialize, Deserialize)]
struct Config {
    bootstrap: String,
    topic: String,
    group: String,
}

#[derive(Serialize, Deserialize)]
enum Line {
    /// The first agent got it.
    Got(Element),
    /// The last agent is done with them, at that time.
    Handled(u128, Vec<Element>),
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()
}

/// What goes no further is done with, too.
fn goes_on((record, element): Element) -> bool {
    record % 7 != 0 || element != 1
}

#[test]
fn a_worker() {
    let Some(config) = Worker::arguments::<Config>("stream_kills::a_worker") else { return };
    let first = Agent::new("first", |element: Element, _: Sinks| async move {
        emit(&Line::Got(element));
        if !goes_on(element) {
            emit(&Line::Handled(now(), vec![element]));
        }
        Ok::<_, HandlerError>(Some(element).filter(|element| goes_on(*element)))
    });
    // Four elements of two records or three, which go on one by one.
    let fours = Agent::batched("fours", 4, |elements: Vec<Element>, _: Sinks| async move {
        tokio::task::yield_now().await;
        Ok::<_, HandlerError>(Some(elements))
    });
    let fives = Agent::batched("fives", 5, |elements: Vec<Element>, _: Sinks| async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok::<_, HandlerError>(Some(elements))
    });
    let last = Agent::blocking("last", |elements: Vec<Element>, _: Sinks| {
        emit(&Line::Handled(now(), elements));
        Ok::<_, HandlerError>(None::<()>)
    });
    let worker = StreamWorker::builder::<Element>(&config.topic, &config.bootstrap, &config.group)
        // A killed member's place is soon free.
        .config([("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500")])
        .agent(first)
        .agent(fours.atomic_send())
        .agent(fives)
        .agent(last)
        .build()
        .unwrap();
    Runtime::new().unwrap().block_on(worker.run_until(kafka_envelope::shutdown_signal())).unwrap();
}

/// Somebody who looks at what is committed.
struct Watcher {
    client: BaseConsumer,
    topic: TopicPartitionList,
    /// What was committed, at the latest at that time.
    seen: Vec<(u32, u128)>,
}

impl Watcher {
    fn new(topic: &str, group: &str) -> Self {
        let client = kafka::client(shared_broker()).set("group.id", group).create().unwrap();
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(topic, 0);
        Self { client, topic: wanted, seen: Vec::new() }
    }

    fn look(&mut self) {
        let Ok(answer) = self.client.committed_offsets(self.topic.clone(), PATIENCE) else { return };
        if let Offset::Offset(offset) = answer.elements()[0].offset() {
            self.seen.push((offset.try_into().unwrap(), now()));
        }
    }

    /// When each element was first done with is in `handled`.
    fn check(&self, handled: &HashMap<Element, u128>) {
        for (committed, at) in &self.seen {
            for element in (0..*committed).flat_map(|record| (0..ELEMENTS).map(move |element| (record, element))) {
                let done = handled.get(&element);
                assert!(done.is_some_and(|done| done <= at), "{committed} at {at}, but {element:?} at {done:?}");
            }
        }
        assert!(self.seen.is_sorted(), "it goes back: {:?}", self.seen);
    }
}

/// Never a record of which one element is still somewhere. From what is committed on, each comes again.
#[test]
fn no_record_is_committed_before_its_last_element_is_done() {
    let (topic, group) = (TestTopic::new(shared_broker(), 1), unique("group"));
    let records = (0..RECORDS).map(|n| format!("[[{n}, 0], [{n}, 1], [{n}, 2]]"));
    produce_raw_batch(shared_broker(), &topic, records.map(|value| (0, None::<&str>, Some(value))));
    let config = Config { bootstrap: shared_broker().into(), topic: topic.to_string(), group: group.clone() };
    let mut watcher = Watcher::new(&topic, &group);
    let mut handled: HashMap<Element, u128> = HashMap::new();
    for run in 0..4 {
        let start = committed(shared_broker(), &group, &topic, 0).unwrap_or(0) as u32;
        let mut worker = Worker::spawn("stream_kills::a_worker", &config);
        let Line::Got(first) = worker.next::<Line>(PATIENCE) else { panic!("the first is got") };
        assert_eq!(first, (start, 0), "run {run}");
        let mut note = |line: Line| {
            let Line::Handled(at, elements) = line else { return 0 };
            for element in &elements {
                handled.entry(*element).or_insert(at);
            }
            elements.len()
        };
        let (mut count, enough) = (0, if run == 3 { usize::MAX } else { 1_300 + 7 * run });
        while count < enough {
            count += note(worker.next(PATIENCE));
            while let Ok(line) = worker.try_next(Duration::ZERO) {
                count += note(line);
            }
            watcher.look();
            // What is left at the end is no whole batch.
            let all = ((RECORDS - start) * ELEMENTS) as usize;
            if run == 3 && count + 10 > all {
                break;
            }
        }
        if run == 3 {
            worker.sigterm();
            assert!(worker.wait(PATIENCE).success());
        } else {
            worker.kill9();
        }
        let _ = worker.rest().into_iter().map(note).sum::<usize>();
        watcher.look();
        watcher.check(&handled);
    }
    assert_eq!(handled.len(), (RECORDS * ELEMENTS) as usize);
    assert_eq!(committed(shared_broker(), &group, &topic, 0), Some(i64::from(RECORDS)));
    assert!(watcher.seen.len() > 20, "{} looks", watcher.seen.len());
}
