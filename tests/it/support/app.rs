//! Event apps: what the Python app did, records with headers, and an app that runs.

use std::sync::{Arc, Mutex, OnceLock};

use kafka_envelope::app::{App, AppBuilder, Counts};
use rdkafka::message::{Header, Headers as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, block_in_place, spawn_blocking};

use super::{PATIENCE, TestTopic, eventually, kafka, unique};

/// What `kafka-python-app` really wrote and did.
pub(crate) fn vectors() -> &'static Value {
    static VECTORS: OnceLock<Value> = OnceLock::new();
    VECTORS.get_or_init(|| {
        let text = include_str!("../../data/app_wire.json");
        serde_json::from_str(text).unwrap()
    })
}

/// The vectors' case of this kind and name.
pub(crate) fn vector(kind: &str, name: &str) -> &'static Value {
    let cases = vectors()[kind].as_array().unwrap();
    cases.iter().find(|case| case["name"] == name).unwrap()
}

/// An app of a name, and so a group, of its own.
pub(crate) fn app(broker: &str) -> (String, AppBuilder) {
    let name = unique("app");
    (name.clone(), App::builder(&name, broker))
}

/// An app that runs until it is stopped.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<kafka_envelope::Result<()>>,
    pub(crate) counts: Counts,
}

impl Running {
    pub(crate) fn start(app: App) -> Running {
        let counts = app.counts();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(app.run_until(async { drop(stopped.await) }));
        Running { stop, task, counts }
    }

    /// Lets it end in order.
    pub(crate) async fn stop(self) -> kafka_envelope::Result<()> {
        self.stop_and(|| {}).await
    }

    /// The same, and does this once it was told to end.
    pub(crate) async fn stop_and(self, then: impl FnOnce()) -> kafka_envelope::Result<()> {
        let _ = self.stop.send(());
        then();
        self.task.await.unwrap()
    }

    /// Waits until it has ended by itself, which is an error.
    pub(crate) async fn error(self) -> kafka_envelope::Error {
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap_err()
    }
}

/// `eventually` within a test on tokio.
pub(crate) fn soon<T>(what: &str, poll: impl FnMut() -> Option<T>) -> T {
    block_in_place(|| eventually(PATIENCE, what, poll))
}

/// Waits until so many records are handled, and no longer.
pub(crate) fn handled(running: &Running, records: u64) {
    let counts = &running.counts;
    soon(&format!("{records} records are handled, now {counts:?}"), || (counts.handled() >= records).then_some(()));
    assert_eq!(counts.handled(), records);
}

/// What handlers called, in order.
#[derive(Clone, Default)]
pub(crate) struct Calls<T = Value>(Arc<Mutex<Vec<T>>>);

impl<T: Clone> Calls<T> {
    pub(crate) fn push(&self, call: T) {
        self.0.lock().unwrap().push(call);
    }

    pub(crate) fn get(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for so many.
    pub(crate) fn wait(&self, count: usize) -> Vec<T> {
        soon(&format!("{count} calls"), || Some(self.get()).filter(|calls| calls.len() >= count))
    }
}

/// The bytes that a vector means: a text, an object with a text or base64, or null.
pub(crate) fn bytes(value: &Value) -> Option<Vec<u8>> {
    let text = value.as_str().or_else(|| value["text"].as_str());
    match (text, value["base64"].as_str()) {
        (Some(text), _) => Some(text.as_bytes().to_vec()),
        (None, Some("/w==")) => Some(vec![0xff]),
        (None, Some(other)) => panic!("not known: {other}"),
        (None, None) => None,
    }
}

/// Produces a vector's record, with `key`, `value` and `headers`, to partition 0, and waits until it is there.
pub(crate) async fn produce(broker: &str, topic: &str, record: &Value) {
    produce_all(broker, topic, std::slice::from_ref(record)).await;
}

/// The same for several, in this order.
pub(crate) async fn produce_all(broker: &str, topic: &str, records: &[Value]) {
    let producer: BaseProducer =
        kafka::client(broker).remove("enable.auto.commit").set("max.in.flight", "1").create().unwrap();
    for record in records {
        let (key, value) = (bytes(&record["key"]), bytes(&record["value"]));
        let mut headers = OwnedHeaders::new();
        for header in record["headers"].as_array().into_iter().flatten() {
            let value = bytes(&header[1]);
            headers = headers.insert(Header { key: header[0].as_str().unwrap(), value: value.as_ref() });
        }
        let mut new: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(0).headers(headers);
        (new.key, new.payload) = (key.as_deref(), value.as_deref());
        assert_eq!(
            producer.send(new).map_err(|(error, _)| error.rdkafka_error_code()),
            Ok::<_, Option<RDKafkaErrorCode>>(())
        );
    }
    spawn_blocking(move || producer.flush(PATIENCE)).await.unwrap().unwrap();
}

/// A topic's records, once there are so many.
pub(crate) fn records(broker: &str, topic: &TestTopic, count: usize) -> Vec<OwnedMessage> {
    soon(&format!("{count} records of {}", &**topic), || {
        Some(kafka::consume_all(broker, topic)).filter(|records| records.len() >= count)
    })
}

/// A record's headers as vectors write them.
pub(crate) fn headers(record: &OwnedMessage) -> Value {
    use rdkafka::Message as _;
    let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
    headers
        .map(|header| {
            let value = match header.value.map(std::str::from_utf8) {
                None => Value::Null,
                Some(Ok(text)) => json!({"text": text}),
                Some(Err(_)) => json!({"base64": "/w=="}),
            };
            json!([header.key, value])
        })
        .collect()
}
