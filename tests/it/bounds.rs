//! Which types may cross threads. Compiling is the test.

use kafka_envelope::testing::EmbeddedBroker;
use kafka_envelope::{Batch, Consumer, Error, History, Message, Pending, Producer, Ref, Stopper};
use serde_json::Value;

fn send<T: Send>() {}
fn shared<T: Clone + Send + Sync + 'static>() {}
fn sync<T: Send + Sync>() {}

#[test]
fn threads_may_share_what_they_need() {
    send::<Consumer>();
    shared::<Stopper>();
    shared::<Producer>();
    shared::<Ref>();
    shared::<History>();
    sync::<Batch<'static, Value>>();
    sync::<Message<Value>>();
    sync::<Pending>();
    sync::<EmbeddedBroker>();
    sync::<Error>();
}
