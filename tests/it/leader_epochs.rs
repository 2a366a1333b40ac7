//! A partition gets another leader, or the same in a new epoch, and librdkafka asks where the old epoch ended.

use std::sync::mpsc::channel;
use std::thread;

use kafka_envelope::{Batch, Consumer};

use crate::support::proxy::{FETCH, Fate, OFFSET_FOR_LEADER_EPOCH, Proxy};
use crate::support::{PATIENCE, create_topic, eventually, group, keep_logs, logged, produce_numbers};

/// librdkafka may hold the answer against a position that it has come to since it asked, take the log for cut off there, and
/// throw away all before it that nobody took yet. Here the answer itself says so.
#[test]
fn records_that_librdkafka_throws_away_are_read_again() {
    let topic = read_where_the_epoch_is_said_to_end_at(800, Epoch::First);
    assert_eq!(logged(&["DEBUG", &topic, "came instead of"]).len(), 1);
}

/// Where more was taken already it goes back. What was taken is not handled again, nor does a commit go back.
#[test]
fn records_to_which_librdkafka_goes_back_are_not_handled_again() {
    check_that_nothing_comes_again(Epoch::Later);
}

/// The log of a topic made anew would begin with that epoch, too: its id tells that it is the same.
#[test]
fn nor_are_those_of_the_first_epoch() {
    check_that_nothing_comes_again(Epoch::First);
}

fn check_that_nothing_comes_again(epoch: Epoch) {
    let topic = read_where_the_epoch_is_said_to_end_at(20, epoch);
    assert_eq!(logged(&["DEBUG", &topic, "20 comes again instead of"]).len(), 1);
    assert!(logged(&[&topic, "starts again"]).is_empty());
}

/// Which one it is that is said to end.
#[derive(PartialEq)]
enum Epoch {
    First,
    Later,
}

/// Reads a thousand records of two epochs, of which the second begins with the last 200, each once. While the first batch is
/// being handled the leader's epoch rises, and the broker says that the first one ended there.
fn read_where_the_epoch_is_said_to_end_at(end: i64, epoch: Epoch) -> String {
    keep_logs();
    let (proxy, mut broker) = Proxy::start();
    let direct = broker.bootstrap().to_owned();
    let topic = create_topic(&direct, 1);
    if epoch == Epoch::Later {
        broker.stop();
        broker.restart();
    }
    produce_numbers(&direct, &topic, 0, 0..800);
    broker.stop();
    broker.restart();
    produce_numbers(&direct, &topic, 0, 800..1_000);

    // The last commit is waited for, and may need a connection that was refused meanwhile.
    let asking = [("topic.metadata.refresh.interval.ms", "500"), ("reconnect.backoff.max.ms", "500")];
    let builder = Consumer::builder("reader", proxy.address(), &group()).topics([&topic]).batch_size(50).config(asking);
    let mut consumer = builder.idle_timeout(PATIENCE).build().unwrap();
    let stopper = consumer.stopper();
    let (begin, has_begun) = channel();
    let (go_on, may_go_on) = channel();
    let reader = thread::spawn(move || {
        let mut handled = Vec::new();
        let handler = |batch: &Batch<u64>| {
            if handled.is_empty() {
                begin.send(()).unwrap();
                may_go_on.recv().unwrap();
            }
            handled.extend(batch.iter().map(|record| record.payload));
            if handled.last() == Some(&999) {
                stopper.stop();
            }
            Ok(())
        };
        consumer.run(handler).unwrap();
        handled
    });
    has_begun.recv_timeout(PATIENCE).unwrap();
    eventually(PATIENCE, "the topic's id is known", || {
        (!logged(&["DEBUG", &topic, "has the id"]).is_empty()).then_some(())
    });
    // All the rest is fetched by now, and waits behind the first batch.
    proxy.treat(OFFSET_FOR_LEADER_EPOCH, 1, Fate::EndsAt(end));
    broker.stop();
    broker.restart();
    eventually(PATIENCE, "the end of the epoch is told", || (proxy.treated() > 0).then_some(()));
    proxy.treat_none();
    let before = proxy.asked(FETCH);
    eventually(PATIENCE, "it fetches again", || (proxy.asked(FETCH) > before).then_some(()));
    go_on.send(()).unwrap();
    assert_eq!(reader.join().unwrap(), (0..1_000).collect::<Vec<u64>>());
    topic
}
