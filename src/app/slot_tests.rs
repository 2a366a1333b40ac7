use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;

fn slots(limit: usize) -> Slots {
    Slots::new(limit, Arc::new(Notify::new()))
}

#[tokio::test]
async fn a_place_is_free_while_its_owner_waits_and_goes_back_before_anybody_new() {
    let slots = slots(1);
    let slot = Arc::new(slots.take().unwrap());
    assert!(slots.take().is_none());
    let (answer, answered) = oneshot::channel::<u32>();
    let asking = tokio::spawn({
        let slot = Arc::clone(&slot);
        async move { slot.lend(answered).await }
    });
    slots.freed.notified().await;
    let other = slots.take().unwrap();
    answer.send(7).unwrap();
    let mut asking = asking;
    assert!(timeout(Duration::from_millis(20), &mut asking).await.is_err(), "the place is taken");
    other.end();
    assert_eq!(asking.await.unwrap().unwrap(), 7);
    assert!(slots.take().is_none(), "its owner has it again");
    slot.end();
    assert!(slots.take().is_some());
}

#[tokio::test]
async fn with_several_waits_the_place_comes_back_after_the_last() {
    let slots = slots(1);
    let slot = slots.take().unwrap();
    let (answer, answered) = oneshot::channel::<()>();
    let first = slot.lend(async {});
    let second = slot.lend(answered);
    let both = async {
        tokio::join!(second, async {
            first.await;
            // The other one still waits, so whoever is to answer it gets the place.
            drop(slots.take().unwrap());
            answer.send(()).unwrap();
        })
    };
    both.await.0.unwrap();
    assert!(slots.take().is_none());
}

#[tokio::test]
async fn a_wait_that_is_dropped_or_comes_late_keeps_nobody_out() {
    let slots = slots(1);
    let slot = slots.take().unwrap();
    assert!(timeout(Duration::from_millis(1), slot.lend(std::future::pending::<()>())).await.is_err());
    slot.lend(async {}).await;
    assert!(slots.take().is_none(), "the next wait gives it back to its owner");
    slot.end();
    // As of a task that somebody left running.
    slot.lend(async {}).await;
    assert!(slots.take().is_some());
}

/// The first wait wants the place back when the second begins and ends: one place is enough for both.
#[tokio::test]
async fn waits_of_one_task_that_come_back_together_need_one_place() {
    let slots = slots(1);
    let slot = slots.take().unwrap();
    let other = Mutex::new(None);
    let both = async {
        tokio::join!(slot.lend(async { *lock(&other) = slots.take() }), slot.lend(async {}), async {
            lock(&other).take().unwrap().end();
        })
    };
    timeout(Duration::from_secs(5), both).await.unwrap();
    assert!(slots.take().is_none(), "its owner has it again");
}
