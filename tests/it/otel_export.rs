//! Spans of export workers: those of a batch consumer.

use std::time::Duration;

use kafka_envelope::export::ExportWorker;

use crate::support::exports::{FilterTopic, produce_json};
use crate::support::traces::{Spans, alone, assert_child, assert_root, attribute, failure};
use crate::support::{PATIENCE, TestTopic, group, shared_broker};

/// The wait for records, each attempt, and the commit of what was handled. Nothing else came, and no other wait is told.
#[test]
fn a_batch_of_exports_is_traced_as_its_records() {
    alone("otel_export::a_batch_of_exports_is_traced_as_its_records", || {
        let (spans, topic) = (Spans::keep(), TestTopic::new(shared_broker(), 1));
        let filters = FilterTopic::of(&[&topic]);
        produce_json(&topic, 0, 0..3);
        let mut worker = ExportWorker::builder(&group(), shared_broker(), &filters.client())
            .consumer(|consumer| consumer.batch_size(3).linger(Duration::from_secs(5)))
            .start()
            .unwrap();
        let stopper = worker.stopper();
        worker
            .run(|exports| {
                assert_eq!(exports.results.len(), 3);
                stopper.stop();
                Ok(())
            })
            .unwrap();
        worker.close(PATIENCE).unwrap();

        let of = |operation: &str| spans.one(&format!("{operation} {}", &*topic));
        let (polled, processed, committed) = (of("poll"), of("process"), of("commit"));
        assert_root(&polled);
        assert_root(&processed);
        assert_child(&committed, &processed);
        assert!(polled.end_time <= processed.start_time);
        for span in [&polled, &processed] {
            assert_eq!(attribute(span, "messaging.batch.message_count").as_deref(), Some("3"));
            assert_eq!(failure(span), None);
        }
    });
}
