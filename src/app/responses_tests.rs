use tokio::time::{Instant, timeout};

use super::*;
use crate::app::{MemoryCache, ResponseCache};
use crate::error::HandlerError;

const SECOND: Duration = Duration::from_secs(1);

fn answers() -> Vec<(String, String)> {
    [("rsp", "priced"), ("rsp", "sold"), ("other", "priced")].map(|(t, e)| (t.to_owned(), e.to_owned())).into()
}

fn without_cache() -> Responses {
    Responses::new(answers(), Vec::new(), None, Counts::default())
}

fn with_cache(cache: impl ResponseCache) -> Responses {
    Responses::new(answers(), Vec::new(), Some(Arc::new(cache)), Counts::default())
}

fn response(topic: &str, event: &str, event_id: &str) -> Response {
    let message = format!(r#"{{"event":"{event}","from":"{topic}"}}"#);
    Response {
        topic: topic.to_owned(),
        event: event.to_owned(),
        event_id: event_id.to_owned(),
        kept: Some(crate::python::json::recode(&message).unwrap()),
        message: message.into_bytes(),
    }
}

fn priced() -> Wanted {
    Wanted::Event { topic: "rsp".to_owned(), event: "priced".to_owned(), is_in_message: true }
}

async fn text(waiter: &mut Waiter<'_>) -> String {
    String::from_utf8(timeout(SECOND, waiter.answer(|_| false)).await.unwrap().unwrap().message).unwrap()
}

/// Never answers.
struct Silent;

impl ResponseCache for Silent {
    async fn get(&self, _: &str) -> Result<Option<Vec<u8>>, HandlerError> {
        std::future::pending().await
    }

    async fn set(&self, _: &str, _: &[u8], _: Duration) -> Result<(), HandlerError> {
        std::future::pending().await
    }
}

/// Fails, or panics.
struct Broken;

impl ResponseCache for Broken {
    async fn get(&self, _: &str) -> Result<Option<Vec<u8>>, HandlerError> {
        Err("out of order".into())
    }

    async fn set(&self, _: &str, _: &[u8], _: Duration) -> Result<(), HandlerError> {
        panic!("out of order")
    }
}

#[test]
fn keys_are_those_of_the_python_app() {
    let expected = "a3cea552f3859b756c8c0f94e4fa78261b84d6f21609df55a7c5195e7565670a";
    assert_eq!(key("2d5b1d3c-7b1f-4f66-8a55-9c3e6a1b0c0d"), expected);
}

#[tokio::test(start_paused = true)]
async fn a_response_wakes_the_one_who_waits_for_it() {
    let responses = without_cache();
    let mut waiter = responses.wait("1", &Wanted::Any);
    let mut other = responses.wait("2", &Wanted::Any);
    let start = Instant::now();
    assert!(responses.arrived(response("rsp", "sold", "1")).unwrap().event_id == "1");
    assert!(text(&mut waiter).await.contains("sold"));
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(timeout(SECOND, other.answer(|_| false)).await.is_err());
    assert_eq!(responses.counts.late_responses(), 0);
}

#[tokio::test(start_paused = true)]
async fn of_one_question_each_takes_the_event_that_it_waits_for() {
    let responses = without_cache();
    let sold = Wanted::Event { topic: "rsp".to_owned(), event: "sold".to_owned(), is_in_message: true };
    let (mut first, mut second) = (responses.wait("1", &priced()), responses.wait("1", &sold));
    let mut third = responses.wait("1", &priced());
    for (topic, event) in [("other", "priced"), ("rsp", "sold"), ("rsp", "priced")] {
        responses.arrived(response(topic, event, "1"));
    }
    assert_eq!(text(&mut first).await, r#"{"event":"priced","from":"rsp"}"#);
    assert_eq!(text(&mut second).await, r#"{"event":"sold","from":"rsp"}"#);
    assert!(timeout(SECOND, third.answer(|_| false)).await.is_err(), "each response is one waiter's");
    assert_eq!(responses.counts.late_responses(), 1, "that of the other topic");
}

/// What only pipelines wait for is no answer to others.
#[tokio::test(start_paused = true)]
async fn a_response_of_a_pipeline_is_not_anybodys() {
    let piped = vec![("rsp".to_owned(), "priced".to_owned())];
    let only_piped = Responses::new(Vec::new(), piped.clone(), None, Counts::default());
    assert!(only_piped.is_answer("rsp", "priced") && !only_piped.is_asking());
    assert_eq!(only_piped.topics(), ["rsp"]);
    let mut any = only_piped.wait("1", &Wanted::Any);
    let mut its = only_piped.wait("1", &priced());
    only_piped.arrived(response("rsp", "priced", "1"));
    assert!(text(&mut its).await.contains("priced"));
    assert!(timeout(SECOND, any.answer(|_| false)).await.is_err());
    assert!(Responses::new(answers(), piped, None, Counts::default()).is_for_all(&response("rsp", "priced", "1")));
}

/// With the name in the key, the message's own `event` is a field like any other.
#[test]
fn a_kept_answer_is_known_by_its_event_only_where_that_names_it() {
    let wanted = |is_in_message| Wanted::Event { topic: "rsp".to_owned(), event: "priced".to_owned(), is_in_message };
    let other = br#"{"event": "other"}"#;
    assert!(!wanted(true).may_be(other) && wanted(false).may_be(other));
    assert!(
        [&br#"{"event": "priced"}"#[..], br#"{"event": 5}"#, b"[]", b"{}"]
            .iter()
            .all(|value| wanted(true).may_be(value))
    );
}

#[tokio::test(start_paused = true)]
async fn a_response_that_nobody_waits_for_any_more_is_late() {
    let responses = without_cache();
    let mut waiter = responses.wait("1", &Wanted::Any);
    assert!(timeout(SECOND, waiter.answer(|_| false)).await.is_err());
    // The time is up, and nobody looked yet.
    responses.arrived(response("rsp", "priced", "1"));
    drop(waiter);
    responses.arrived(response("rsp", "priced", "1"));
    responses.arrived(response("rsp", "priced", "never asked"));
    assert_eq!(responses.counts.late_responses(), 3);
    assert!(lock(&responses.state).waiting.is_empty());
}

#[tokio::test(start_paused = true)]
async fn with_a_cache_only_an_own_question_has_late_responses() {
    let responses = with_cache(MemoryCache::default());
    responses.arrived(response("rsp", "priced", "another replica's"));
    let mut waiter = responses.wait("mine", &Wanted::Any);
    assert!(timeout(SECOND, waiter.answer(|_| false)).await.is_err());
    drop(waiter);
    assert_eq!(responses.counts.late_responses(), 0);
    responses.arrived(response("rsp", "priced", "mine"));
    assert_eq!(responses.counts.late_responses(), 1);
    for id in 0..REMEMBERED {
        lock(&responses.state).unanswered.note(id.to_string());
    }
    responses.arrived(response("rsp", "priced", "mine"));
    assert_eq!(responses.counts.late_responses(), 1, "forgotten by now");
    responses.arrived(response("rsp", "priced", "0"));
    assert_eq!(responses.counts.late_responses(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_response_reaches_another_replica_through_the_cache() {
    let cache = MemoryCache::default();
    let [asking, reading] = [(); 2].map(|()| with_cache(cache.clone()));
    let mut waiter = asking.wait("1", &priced());
    let answers = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let keep = reading.arrived(response("rsp", "priced", "1"));
        reading.keep(keep.into_iter().collect()).await;
        Instant::now()
    };
    let (kept, answer) = tokio::join!(answers, text(&mut waiter));
    assert_eq!(answer, r#"{"event": "priced", "from": "rsp"}"#);
    assert!(kept.elapsed() <= LONGEST_PAUSE);
}

#[tokio::test(start_paused = true)]
async fn a_second_wait_does_not_get_what_the_cache_has_for_the_first() {
    let cache = MemoryCache::default();
    let responses = with_cache(cache.clone());
    let first = response("rsp", "sold", "1");
    responses.keep(responses.arrived(first).into_iter().collect()).await;
    let mut waiter = responses.wait("1", &priced());
    assert!(timeout(SECOND, waiter.answer(|_| false)).await.is_err(), "an event that nobody waits for");
    // The same event once more: told by what was taken.
    let second = response("rsp", "priced", "1");
    let taken = second.kept.clone().unwrap();
    responses.keep(responses.arrived(second).into_iter().collect()).await;
    let mut waiter = responses.wait("1", &priced());
    assert!(timeout(SECOND, waiter.answer(|value| value == taken)).await.is_err());
    assert!(timeout(SECOND, waiter.answer(|_| false)).await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_broken_cache_fails_those_who_wait_and_nobody_else() {
    let responses = with_cache(Broken);
    let mut waiter = responses.wait("1", &Wanted::Any);
    let error = waiter.answer(|_| false).await.unwrap_err();
    assert_eq!(error.to_string(), "the cache failed: out of order");
    let keep = responses.arrived(response("rsp", "priced", "2"));
    responses.keep(keep.into_iter().collect()).await;
}

/// Panics, before there is a future.
struct Panicking;

impl ResponseCache for Panicking {
    fn get(&self, _: &str) -> impl Future<Output = Result<Option<Vec<u8>>, HandlerError>> + Send {
        panic!("out of order");
        #[expect(unreachable_code, reason = "it says the type")]
        async {
            Ok(None)
        }
    }

    async fn set(&self, _: &str, _: &[u8], _: Duration) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_panics_is_an_error_of_the_call() {
    let responses = with_cache(Panicking);
    let error = responses.wait("1", &Wanted::Any).answer(|_| false).await.unwrap_err();
    assert_eq!(error.to_string(), "the cache panicked: out of order");
}

#[tokio::test(start_paused = true)]
async fn a_silent_cache_holds_nobody_up_for_long() {
    let responses = with_cache(Silent);
    let mut waiter = responses.wait("1", &Wanted::Any);
    let keep: Vec<_> =
        (1..=3 * SETS).filter_map(|id| responses.arrived(response("rsp", "priced", &id.to_string()))).collect();
    assert!(text(&mut waiter).await.contains("priced"), "it came directly");
    let start = Instant::now();
    responses.keep(keep).await;
    assert_eq!(start.elapsed(), 3 * PATIENCE);
}

#[test]
fn an_old_response_is_not_kept() {
    let responses = with_cache(MemoryCache::default());
    let ago = |time: TimeDelta| Some((Utc::now() - time).timestamp_millis());
    assert!(!responses.keeps(ago(OLD + TimeDelta::seconds(1))));
    assert!(responses.keeps(ago(OLD - TimeDelta::seconds(1))) && responses.keeps(None));
}
