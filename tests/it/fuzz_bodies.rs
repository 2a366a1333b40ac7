//! What the fuzz targets do with their bytes. A test runs the same over a bounded number of inputs.

#![allow(dead_code, clippy::unwrap_used)] // Each fuzz target uses one of these, and a failing unwrap is a finding.

use chrono::DateTime;
use kafka_envelope::envelope::MAX_HISTORY_DEPTH;
use kafka_envelope::{Error, History, Ref, pack, stage_latencies};
use serde_json::Value;
use serde_json::value::RawValue;

/// Reads `bytes` as an envelope. What can be read is written again, as the history of another message.
pub(crate) fn unpack(bytes: &[u8]) {
    let envelope = match kafka_envelope::unpack(bytes) {
        Ok(envelope) => envelope,
        Err(error) => return check(&error),
    };
    // serde_json did not look at it itself, perhaps.
    let item = envelope.item().get();
    assert_eq!(serde_json::from_str::<&RawValue>(item).unwrap().get(), item);
    if let Err(error) = envelope.payload::<Value>() {
        check(&error);
    }
    let Some(text) = envelope.history() else { return };
    assert!(!envelope.history_dropped());
    let history: History = serde_json::from_str(text.get()).unwrap();
    assert!(history.depth() < MAX_HISTORY_DEPTH);
    let from = Ref { history: Some(history), ..Ref::new("t", 0, 0) };
    let packed = pack("fuzz", envelope.item(), &[from]).unwrap();
    let again = kafka_envelope::unpack(&packed).unwrap();
    assert_eq!(again.item().get(), envelope.item().get());
    assert!(again.history().map_or(again.history_dropped(), |level| level.get().contains(text.get())));
}

/// Reads `bytes` as a history, and goes through it in each way there is.
pub(crate) fn history(bytes: &[u8]) {
    let Ok(history) = serde_json::from_slice::<History>(bytes) else { return };
    assert!(history.depth() > 0);
    match history.stage() {
        Ok(stage) => {
            let deepest = stage.refs.iter().filter_map(|from| Some(from.history.as_ref()?.depth())).max();
            assert!(history.depth() > deepest.unwrap_or(0));
        }
        Err(error) => check(&error),
    }
    let from = Ref { history: Some(history), ..Ref::new("t", 0, 0) };
    match stage_latencies("fuzz", &from, None, DateTime::UNIX_EPOCH) {
        Ok(latencies) => {
            assert!(latencies.stages.iter().all(|(_, took)| took.num_nanoseconds() >= Some(0) || took.num_days() > 0))
        }
        Err(error) => check(&error),
    }
    pack("fuzz", &(), &[from]).unwrap();
}

/// An error says where, and shows little of what it was given.
fn check(error: &Error) {
    assert!(error.to_string().chars().count() < 200, "{error}");
    assert!(matches!(error, Error::Decode { .. }), "{error}");
}
