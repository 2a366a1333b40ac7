//! The quickstart on Apache Kafka. Apart from the other examples, which are tested where there is no Kafka, too.

use crate::examples::{check_quickstart, run};
use crate::support::shared_broker;

#[test]
fn the_quickstart_does_the_same_on_apache_kafka() {
    check_quickstart(&run("quickstart", Some(shared_broker())));
}
